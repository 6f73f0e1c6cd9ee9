"""The valid steps of a padded batch, side by side, so that nothing is computed for padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Clips read together on a CPU: enough for its matrix products, few enough to be alike.
GROUP = 16
#: More steps than any clip has.
FAR = torch.iinfo(torch.long).max


class ValidSteps:
    """Where the valid steps of a batch lie.

    - ``mask`` (B, L), True where valid
    - ``rows`` (n,): places of the n valid steps among the B·L, in order; None on CUDA, where all B·L are kept, since
      counting them would make the device wait
    - ``times`` (n,): which step of its clip each of them is
    """

    def __init__(self, mask: Tensor):
        self.mask = mask
        self.rows = None if mask.is_cuda else mask.flatten().nonzero()[:, 0]
        times = torch.arange(mask.shape[1], device=mask.device)
        self.times = times.repeat(len(mask)) if self.rows is None else self.rows % mask.shape[1]

    def pack(self, values: Tensor) -> Tensor:
        """(B, L, …) → (n, …)."""
        values = values.flatten(0, 1)
        return values if self.rows is None else _Pack.apply(values, self.rows)

    def apart(self, shift: int) -> Tensor:
        """(n,): steps of time from packed step i to i + ``shift``; `FAR` unless both are valid and of one clip."""
        places = torch.arange(self.mask.numel(), device=self.mask.device) if self.rows is None else self.rows
        other = torch.arange(len(places), device=places.device) + shift
        inside = (other >= 0) & (other < len(places))
        other = other.clamp(0, max(0, len(places) - 1))
        apart = self.times[other] - self.times
        same_clip = places[other] - places == apart
        valid = self.mask.flatten()[places]
        return torch.where(inside & same_clip & valid & valid[other], apart, FAR)

    def mean(self, packed: Tensor) -> Tensor:
        """Mean over the valid steps of each clip: (n, d) → (B, d); zero where none is valid."""
        return masked_mean(self.unpack(packed), self.mask)

    def unpack(self, packed: Tensor) -> Tensor:
        """(n, …) → (B, L, …), on the CPU zero where not valid."""
        if self.rows is not None:
            packed = _Unpack.apply(packed, self.rows, self.mask.numel())
        return packed.unflatten(0, self.mask.shape)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid steps: (B, L, d) and (B, L) → (B, d); zero where no step is valid."""
    weight = mask.to(states.dtype)[:, :, None]
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def lengths(mask: Tensor) -> Tensor:
    """Steps up to the last valid one, at least one: (B, L) → (B,)."""
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * steps).amax(1).clamp_min(1)


def read_by_length(mask: Tensor, read: Callable[[Tensor, int], Tensor], size: int = GROUP) -> Tensor:
    """What ``read`` gives for all clips, read in groups of like length on a CPU, elsewhere all at once.

    Args:
        mask: (B, L), True where valid.
        read: given rows (G,) and the steps of the longest of them, something (G, …) for them.
        size: G, clips of a group.

    Returns:
        (B, …), in the order of the batch.
    """
    if mask.device.type != "cpu" or len(mask) <= size:
        return read(torch.arange(len(mask), device=mask.device), mask.shape[1])
    counts = lengths(mask)
    order = counts.argsort(descending=True, stable=True)
    parts = [read(rows, int(counts[rows[0]])) for rows in order.split(size)]
    return torch.cat(parts)[order.argsort()]


class _Pack(torch.autograd.Function):
    """Rows ``rows`` of (N, …). Each is taken once, so the gradient needs no sums, which torch's own would make."""

    @staticmethod
    def forward(ctx, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(values)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Unpack.apply(gradient, *ctx.saved_tensors, ctx.size), None


class _Unpack(torch.autograd.Function):
    """The reverse of `_Pack`: zero in all other rows."""

    @staticmethod
    def forward(ctx, packed: Tensor, rows: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(rows)
        return packed.new_zeros(size, *packed.shape[1:]).index_copy_(0, rows, packed)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Pack.apply(gradient, *ctx.saved_tensors), None, None
