"""Micro enhancement: what the steps around each step add to it (section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .data.valid_steps import ValidSteps

#: Numbers that `MicroEnhancement` reads at a time on the CPU; as many as stay, with what becomes of them, in its cache.
BLOCK = 2**19
#: A linear map of packed steps: step i becomes the sum over shifts k of ``bands[k][i]`` (n, 1) times step i + k.
Bands = dict[int, Tensor]


class MicroEnhancement(nn.Module):
    """Temporal average pooling, differencing and concatenation (section 3.1, decision 4). No parameters.

    ``forward(packed (n, d), steps)``, the valid steps of a batch, gives for ``kind="sequence"`` (n, 3d): h_t, the mean
    of the valid steps in a window centred on t, and h_t − h_{t−1}; for ``kind="pooled"`` (B, 2d): the mean
    over t of h_t and of abs(h_t − h_{t−1}).
    """

    def __init__(self, kind: str, window: int):
        super().__init__()
        self.kind, self.window = kind, window
        self.factor = 3 if kind == "sequence" else 2  # output width in units of d

    def forward(self, packed: Tensor, steps: ValidSteps) -> Tensor:
        enhanced = _Enhance.apply(packed, self._average(steps, packed.dtype), self._difference(steps, packed.dtype))
        if self.kind == "sequence":
            return enhanced
        own, _, difference = enhanced.chunk(3, 1)
        return torch.cat([steps.mean(own), steps.mean(difference.abs())], -1)

    def _average(self, steps: ValidSteps, dtype: torch.dtype) -> Bands:
        """The mean of the steps near each step: those in the window that are valid."""
        half = self.window // 2
        near = {shift: steps.apart(shift).abs() <= half for shift in range(-half, half + 1)}
        count = torch.stack(list(near.values())).sum(0).clamp_min(1)
        return {shift: (is_near.to(dtype) / count.to(dtype))[:, None] for shift, is_near in near.items()}

    def _difference(self, steps: ValidSteps, dtype: torch.dtype) -> Bands:
        """h_t − h_{t−1}. The step before the first valid one is no step: the difference there is zero."""
        linked = (steps.apart(-1) == -1).to(dtype)[:, None]
        return {0: linked, -1: -linked}


class _Enhance(torch.autograd.Function):
    """Packed steps (n, d), side by side with what two maps make of them: (n, 3d). A block of steps at a time on the
    CPU, so that each is read from memory once, not once for each neighbour."""

    @staticmethod
    def forward(ctx, packed: Tensor, average: Bands, difference: Bands) -> Tensor:
        ctx.bands = average, difference
        enhanced = packed.new_empty(len(packed), 3 * packed.shape[1])
        own, mean, change = enhanced.chunk(3, 1)
        for start, stop in _blocks(packed):
            enhanced[start:stop] = 0
            own[start:stop] = packed[start:stop]
            _add(mean, average, packed, start, stop)
            _add(change, difference, packed, start, stop)
        return enhanced

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        own, mean, change = gradient.chunk(3, 1)
        result = own.clone()
        average, difference = ({-k: weights.roll(k, 0) for k, weights in bands.items()} for bands in ctx.bands)
        for start, stop in _blocks(own):
            _add(result, average, mean, start, stop)
            _add(result, difference, change, start, stop)
        return result, None, None


def _blocks(packed: Tensor) -> Iterator[tuple[int, int]]:
    size = max(1, len(packed) if packed.is_cuda else BLOCK // packed.shape[1])
    for start in range(0, len(packed), size):
        yield start, min(start + size, len(packed))


def _add(out: Tensor, bands: Bands, values: Tensor, start: int, stop: int) -> None:
    """Add to the steps from ``start`` to ``stop`` of ``out`` what ``bands`` make of ``values``."""
    for shift, weights in bands.items():
        first = max(start, -shift)
        last = max(first, min(stop, len(values) - shift))
        out[first:last].addcmul_(values[first + shift : last + shift], weights[first:last])
