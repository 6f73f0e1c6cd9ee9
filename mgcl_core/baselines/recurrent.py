"""Recurrent layers over padded batches: the states that packed sequences would give, several times faster on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.valid_steps import lengths


def last_state(states: Tensor, mask: Tensor) -> Tensor:
    """State at the last valid step: (B, L, H), (B, L) → (B, H); that of the first step where none is valid."""
    return states[torch.arange(len(states), device=states.device), lengths(mask) - 1]


def reverse(values: Tensor, mask: Tensor) -> Tensor:
    """Each clip's steps (B, L, D) in reverse order, its padding where it was."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    turned = lengths(mask)[:, None] - 1 - steps
    return values.gather(1, torch.where(turned < 0, steps, turned)[:, :, None].expand_as(values))


class LSTM(nn.LSTM):
    """One layer over (B, L, D), in float32 also under autocast: most CPUs have no LSTM in bf16."""

    def __init__(self, in_features: int, hidden: int):
        super().__init__(in_features, hidden, batch_first=True)

    def forward(self, values: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with torch.autocast(values.device.type, enabled=False):
            return super().forward(values.float())


class BidirectionalLSTM(nn.Module):
    """One layer in both directions: (B, L, D), (B, L) → states (B, L, 2·H) and final states (B, 2, H)."""

    def __init__(self, in_features: int, hidden: int):
        super().__init__()
        self.onward = LSTM(in_features, hidden)
        self.backward = LSTM(in_features, hidden)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        onward, _ = self.onward(values)
        backward, _ = self.backward(reverse(values, mask))
        final = torch.stack([last_state(onward, mask), last_state(backward, mask)], 1)
        return torch.cat([onward, reverse(backward, mask)], -1), final
