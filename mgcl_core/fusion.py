"""Cross modality-granularity fusion (section 3.3, equations 13-16)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.corpus import MODALITIES
from .data.valid_steps import masked_mean
from .dropout import Dropout


class MTM(nn.Module):
    """The fusion module MTM(·) of equations 13-15 (decision 6).

    The macro feature of one modality asks the micro sequences of the two others: multi-head
    attention, then a feed-forward layer, each with a residual and a layer normalisation.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.modality = nn.Parameter(torch.randn(2, width) * 0.02)  # one embedding for each source
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, macro: Tensor, sources: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Enhance ``macro`` (B, d) from two micro sequences (B, L, d) with masks (B, L), True where valid → (B, d)."""
        hidden = self.attention_norm(macro + self.dropout(self._attend(macro, sources, masks)))
        return self.feedforward_norm(hidden + self.dropout(self.feedforward(hidden)))

    def _attend(self, macro: Tensor, sources: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Multi-head attention of one query a clip over all steps of both sources → (B, d).

        With a single query, q·(W_k s) = (W_kᵀ q)·s and Σ w (W_v s) = W_v (Σ w s): neither keys nor values are made of
        the steps, whose projections would cost d for every h heads here. The bias of the keys moves all scores
        of a clip alike, which softmax does not see.
        """
        attention = self.attention
        heads, width = attention.num_heads, attention.head_dim
        query, key, value = (weight.view(heads, width, -1) for weight in attention.in_proj_weight.chunk(3))
        query_bias, _, value_bias = (bias.view(heads, width) for bias in attention.in_proj_bias.chunk(3))
        asked = torch.einsum("bd,hed->bhe", macro, query) + query_bias  # (B, h, d/h)
        asked = torch.einsum("bhe,hed->bhd", asked, key) / width**0.5  # (B, h, d)
        place = asked @ self.modality.T  # (B, h, 2): what a source's embedding adds to the scores of its steps
        scores = torch.cat([asked @ source.mT + place[:, :, i, None] for i, source in enumerate(sources)], -1)
        valid = torch.cat(masks, 1)[:, None]  # (B, 1, L1+L2)
        weights = scores.masked_fill(~valid, float("-inf")).softmax(-1)  # (B, h, L1+L2)
        weights = F.dropout(weights, attention.dropout, self.training)
        parts = weights.to(sources[0].dtype).split([source.shape[1] for source in sources], -1)
        mixed = sum(
            part @ source + part.sum(-1, keepdim=True) * embedding
            for part, source, embedding in zip(parts, sources, self.modality, strict=True)
        )  # (B, h, d)
        values = torch.einsum("bhd,hed->bhe", mixed, value) + weights.sum(-1, keepdim=True) * value_bias
        return attention.out_proj(values.flatten(1))


class CMGF(nn.Module):
    """F of equation 16: the three enhanced macro features, concatenated.

    ``forward(macro (3, B, d), micro, masks)``, the last two lists over T, V, A of (B, L, d) and (B, L), gives (B, 3d).
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.blocks = nn.ModuleList(MTM(width, heads, feedforward, dropout) for _ in MODALITIES)
        self.out_features = 3 * width

    def forward(self, macro: Tensor, micro: list[Tensor], masks: list[Tensor]) -> Tensor:
        enhanced = []
        for own, block in enumerate(self.blocks):  # F_en^1, F_en^2, F_en^3
            others = [other for other in range(3) if other != own]
            enhanced.append(block(macro[own], [micro[o] for o in others], [masks[o] for o in others]))
        return torch.cat(enhanced, -1)


class Concatenation(nn.Module):
    """The ablation w/o fusion: the six features side by side, micro ones pooled (decision 20). Gives (B, 6d)."""

    def __init__(self, width: int):
        super().__init__()
        self.out_features = 6 * width

    def forward(self, macro: Tensor, micro: list[Tensor], masks: list[Tensor]) -> Tensor:
        pooled = [masked_mean(states, mask) for states, mask in zip(micro, masks, strict=True)]
        return torch.cat([*macro, *pooled], -1)
