"""Clips of different lengths as one array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class Padded:
    """Clips of different lengths that read as one array (N, L, D), zero beyond the end of each clip.

    Rows are padded when they are read, so that the whole array is never in memory.

    Args:
        clips: N arrays (l, D) of numbers, at least one.
        steps: L, at least as many as the longest clip has; that many when None.

    Attributes:
        shape: (N, L, D).
        dtype: A type that holds the numbers of all clips.
        numbers: How many the clips hold themselves.
    """

    ndim = 3

    def __init__(self, clips: Sequence[np.ndarray], steps: int | None = None):
        self.clips = clips
        self.shape = (len(clips), steps or max(1, *map(len, clips)), clips[0].shape[1])
        self.dtype = np.result_type(*{clip.dtype for clip in clips})
        self.numbers = sum(clip.size for clip in clips)

    @property
    def size(self) -> int:
        """How many numbers the padded array has."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, rows: slice) -> np.ndarray:
        clips = self.clips[rows]
        padded = np.zeros((len(clips), *self.shape[1:]), self.dtype)
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = clip
        return padded
