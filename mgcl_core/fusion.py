"""Cross modality-granularity fusion (section 3.3, equations 13-16)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .data.corpus import MODALITIES
from .data.valid_steps import masked_mean
from .shortcuts import SingleQueryAttention


class MTM(nn.Module):
    """The fusion module MTM(·) of equations 13-15 (decision 6).

    The macro feature of one modality is the query, the micro sequences of the two others are keys and values:
    multi-head attention, then a feed-forward layer, each with a residual and a layer normalisation.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.modality = nn.Parameter(torch.randn(2, width) * 0.02)  # one embedding for each source
        self.attention = SingleQueryAttention(width, heads, dropout=dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, macro: Tensor, sources: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Enhance a macro feature.

        Args:
            macro: (B, d).
            sources: two micro sequences (B, L, d).
            masks: their padding masks (B, L), True at valid steps. A clip without any keeps its macro feature.

        Returns:
            (B, d).
        """
        attended, _ = self._attend(macro, sources, masks, need_weights=False)
        hidden = self.attention_norm(macro + self.dropout(attended))
        return self.feedforward_norm(hidden + self.dropout(self.feedforward(hidden)))

    def weights(self, macro: Tensor, sources: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """Attention weights of each head on the steps of each source; arguments as for ``forward``.

        Returns:
            (B, heads, L) for each source. Over both sources they add up to 1; where a clip has no step, to 0.
        """
        _, weights = self._attend(macro, sources, masks, need_weights=True, average_attn_weights=False)
        return list(weights.split([source.shape[1] for source in sources], dim=-1))

    def _attend(
        self, macro: Tensor, sources: list[Tensor], masks: list[Tensor], **options: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, d), and the weights (B, heads, L1+L2) where they are asked for."""
        steps = [source + embedding for source, embedding in zip(sources, self.modality, strict=True)]
        steps, padding = torch.cat(steps, 1), ~torch.cat(masks, 1)  # (B, L1+L2, d), (B, L1+L2)
        nothing = padding.all(1, keepdim=True)  # (B, 1): both sources are absent, and attention would be NaN
        attended, weights = self.attention(macro[:, None], steps, steps, key_padding_mask=padding & ~nothing, **options)
        return attended[:, 0] * ~nothing, None if weights is None else weights[:, :, 0] * ~nothing[:, None]


class CMGF(nn.Module):
    """F of equation 16: the three enhanced macro features, concatenated.

    ``forward(macro (3, B, d), micro, masks)``, the last two lists over T, V, A of (B, L, d) and (B, L), gives (B, 3d).
    With ``gate`` (ours) each feature is multiplied by 0 to 2, as far as the three and what is present say to trust it.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, *, gate: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(MTM(width, heads, feedforward, dropout) for _ in MODALITIES)
        self.out_features = 3 * width
        self.gate = nn.Linear(3 * width + 3, 3) if gate else None
        if gate:  # starts as equation 16
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def forward(self, macro: Tensor, micro: list[Tensor], masks: list[Tensor]) -> Tensor:
        (T_a, V_a, A_a), (T_i, V_i, A_i), (T_mask, V_mask, A_mask) = macro, micro, masks
        text = self.blocks[0](T_a, [V_i, A_i], [V_mask, A_mask])  # eq. 13
        vision = self.blocks[1](V_a, [T_i, A_i], [T_mask, A_mask])  # eq. 14
        audio = self.blocks[2](A_a, [T_i, V_i], [T_mask, V_mask])  # eq. 15
        F = torch.cat([text, vision, audio], -1)  # eq. 16
        if self.gate is None:
            return F
        present = torch.stack([mask.any(1) for mask in masks], 1)  # (B, 3)
        trust = 2 * self.gate(torch.cat([F, present.to(F.dtype)], -1)).sigmoid()  # (B, 3)
        return (F.unflatten(-1, (3, -1)) * trust[:, :, None]).flatten(1)

    def weights(self, macro: Tensor, micro: list[Tensor], masks: list[Tensor]) -> dict[tuple[str, str], Tensor]:
        """Attention weights (B, heads, L) by query and source: ``["T", "V"]`` are those of T_a on the steps of V_i."""
        found = {}
        for position, (query, block) in enumerate(zip(MODALITIES, self.blocks, strict=True)):
            others = [other for other in range(len(MODALITIES)) if other != position]
            shares = block.weights(macro[position], [micro[k] for k in others], [masks[k] for k in others])
            found |= {(query, MODALITIES[k]): share for k, share in zip(others, shares, strict=True)}
        return found


class Concatenation(nn.Module):
    """The ablation w/o fusion: the six features side by side, micro ones pooled (decision 20). Gives (B, 6d)."""

    def __init__(self, width: int):
        super().__init__()
        self.out_features = 6 * width

    def forward(self, macro: Tensor, micro: list[Tensor], masks: list[Tensor]) -> Tensor:
        pooled = [masked_mean(states, mask) for states, mask in zip(micro, masks, strict=True)]
        return torch.cat([*macro, *pooled], -1)
