"""Layout of padded batches: their valid steps packed together, and clips of similar length read together.

Padding is not computed, and results do not depend on it. An accelerator reads all clips as one group, in the order of
the batch, and is never asked for a number that the host can know: it would have to finish all its work first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: Clips of a group on a CPU: enough for its matrix products, few enough to be of similar length. Attention keeps
#: weights (L, L) of each clip, so its groups are smaller.
GROUP_SIZE, ATTENTION_GROUP_SIZE = 16, 8


class ValidSteps:
    """Where the valid steps of a batch lie, and their packing: clip by clip, on a CPU the longest first.

    Args:
        mask: (B, L), True at valid steps.
        count: How many are valid, where the host knows it. Without it an accelerator has to be asked.

    Attributes:
        mask: (B, L), True at valid steps.
        clips: (n,) the clip of each packed step.
        times: (n,) its step within the clip.
    """

    def __init__(self, mask: Tensor, count: int | None = None):
        self.mask = mask
        if mask.device.type != "cpu":
            valid = mask.flatten()
            # A stable sort leaves the valid ones in front, in their order, and its size is known.
            self._rows = (
                valid.nonzero().squeeze(1)
                if count is None
                else valid.byte().argsort(descending=True, stable=True)[:count]
            )
            self.clips, self.times = self._rows // mask.shape[1], self._rows % mask.shape[1]
            return
        counts = mask.sum(1)
        order = counts.argsort(descending=True, stable=True)
        place, self.times = mask[order].nonzero(as_tuple=True)
        self.clips = order[place]
        self._rows = self.clips * mask.shape[1] + self.times  # among the B·L
        self._counts = counts[order]

    def pack(self, values: Tensor) -> Tensor:
        """The valid steps of a padded batch: (B, L, …) → (n, …)."""
        return values.flatten(0, 1)[self._rows]

    def unpack(self, packed: Tensor) -> Tensor:
        """The padded batch, zero where not valid: (n, …) → (B, L, …)."""
        padded = packed.new_zeros(self.mask.numel(), *packed.shape[1:])
        return padded.index_copy_(0, self._rows, packed).unflatten(0, self.mask.shape)

    def mean(self, packed: Tensor) -> Tensor:
        """Mean over the valid steps of each clip: (n, d) → (B, d); zero where none is valid."""
        return masked_mean(self.unpack(packed), self.mask)

    def within(self, shift: int, reach: int) -> Tensor:
        """(n, 1) bool: whether the packed step ``shift`` places on is of its clip and at most ``reach`` steps away."""
        place = torch.arange(len(self.times), device=self.times.device) + shift
        inside = (place >= 0) & (place < len(self.times))  # rolling starts again at the other end
        same_clip = self.clips.roll(-shift) == self.clips
        near = (self.times.roll(-shift) - self.times).abs() <= reach
        return (inside & same_clip & near)[:, None]

    def groups(self, packed: Tensor) -> Iterator[tuple[Tensor, ValidSteps]]:
        """Cut (n, …) into groups of clips of similar length.

        Yields:
            The packed steps of a group, and where they lie in a batch of that group alone, (G, longest). Concatenated,
            the groups are in packed order again.
        """
        if self.mask.device.type != "cpu":
            yield packed, self
            return
        present = self._counts[self._counts > 0]  # attention among no steps would be NaN
        groups = present.split(ATTENTION_GROUP_SIZE) if len(present) else ()
        parts = packed.split([int(group.sum()) for group in groups])
        for part, counts in zip(parts, groups, strict=True):
            yield part, ValidSteps(torch.arange(int(counts[0]), device=counts.device) < counts[:, None])


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid steps: (B, L, d) and (B, L) → (B, d); zero where no step is valid."""
    weight = mask.to(states.dtype)[:, :, None]
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def lengths(mask: Tensor) -> Tensor:
    """Steps up to the last valid one, at least one: (B, L) → (B,)."""
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * steps).amax(1).clamp_min(1)


def read_by_length(mask: Tensor, read: Callable[[Tensor | slice, int], Tensor], size: int = GROUP_SIZE) -> Tensor:
    """Read clips in groups of similar length, on an accelerator all at once: batches are trimmed to their longest clip.

    Args:
        mask: (B, L), True where valid.
        read: given rows (G,) of the batch, or a slice of them, and the length of the longest, returns (G, …).
        size: G, clips of a group on a CPU.

    Returns:
        (B, …), in the order of the batch.
    """
    if mask.device.type != "cpu":
        return read(slice(None), mask.shape[1])
    counts = lengths(mask)
    order = counts.argsort(descending=True, stable=True)
    parts = [read(rows, int(counts[rows[0]])) for rows in order.split(size)]
    return torch.cat(parts)[order.argsort()]
