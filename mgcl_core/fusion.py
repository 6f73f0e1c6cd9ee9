"""Cross modality-granularity fusion (section 3.3, equations 13-16)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .corpus.data import MODALITIES
from .encoders import masked_mean


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
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Dropout(dropout),
                                         nn.Linear(feedforward, width))
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, macro: Tensor, sources: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Enhance ``macro`` (B, d) from two micro sequences (B, L, d) with masks (B, L), True where valid → (B, d)."""
        keys = torch.cat([source + self.modality[place] for place, source in enumerate(sources)], 1)  # (B, L1+L2, d)
        padding = ~torch.cat(masks, 1)
        attended, _ = self.attention(macro[:, None], keys, keys, key_padding_mask=padding, need_weights=False)
        hidden = self.attention_norm(macro + self.dropout(attended[:, 0]))
        return self.feedforward_norm(hidden + self.dropout(self.feedforward(hidden)))


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

