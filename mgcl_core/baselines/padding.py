"""Reading clips in groups of like length, so that short ones are not padded to the longest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .recurrent import lengths

GROUP = 16


def read_by_length(mask: Tensor, read: Callable[[Tensor, int], Tensor], size: int = GROUP) -> Tensor:
    """Vectors of all clips, read in groups on a CPU, where work on padding costs most; elsewhere all at once.

    Args:
        mask: (B, L), True where valid.
        read: given rows (G,) and the steps of the longest of them, their vectors (G, …).
        size: G, clips of a group.

    Returns:
        (B, …), in the order of the batch.
    """
    if mask.device.type != "cpu":
        return read(torch.arange(len(mask), device=mask.device), mask.shape[1])
    counts = lengths(mask)
    order = counts.argsort(descending=True)
    parts = [read(rows, int(counts[rows[0]])) for rows in order.split(size)]
    return torch.cat(parts)[order.argsort()]
