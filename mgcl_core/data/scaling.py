"""Scaling of audio and vision features (decision 18)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..support.errors import RunError
from ..support.files import atomic
from .corpus import Split

_CHUNK_CLIPS = 256


@dataclass(frozen=True)
class Scaler:
    """z-scores of audio and vision per dimension, clipped to ±10.

    Attributes:
        statistics: ``audio_mean`` (Da,), ``audio_std`` (Da,), ``vision_mean`` (Dv,), ``vision_std`` (Dv,).
        limit: largest absolute value of a scaled feature.
    """

    statistics: dict[str, np.ndarray]
    limit: float = 10.0

    @classmethod
    def fit(cls, train: Split) -> Scaler:
        """Fit to the valid steps of the training split; a constant dimension keeps its scale."""
        statistics = {}
        for name in ("audio", "vision"):
            mean, std = _moments(getattr(train, name), getattr(train, f"{name}_mask"))
            statistics[f"{name}_mean"] = mean.astype(np.float32)
            statistics[f"{name}_std"] = np.where(std > 1e-8, std, 1.0).astype(np.float32)
        return cls(statistics)

    def apply(self, name: str, values: np.ndarray) -> np.ndarray:
        """Scale a copy of features.

        Args:
            name: "audio" or "vision".
            values: (N, L, D).

        Returns:
            (N, L, D) float32.
        """
        scaled = np.asarray(values, dtype=np.float32) - self.statistics[f"{name}_mean"]
        scaled /= self.statistics[f"{name}_std"]
        return np.clip(scaled, -self.limit, self.limit, out=scaled)

    def save(self, path: Path) -> None:
        """Write the statistics as safetensors."""
        with atomic(path) as temporary:
            save_file(self.statistics, temporary)

    @classmethod
    def load(cls, path: Path) -> Scaler:
        """Read what `save` wrote.

        Raises:
            RunError: The file is missing or damaged, or its statistics cannot scale anything.
        """
        try:
            statistics = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"the scaler {path} cannot be read: {error}") from error
        expected = {f"{name}_{kind}" for name in ("audio", "vision") for kind in ("mean", "std")}
        if set(statistics) != expected:
            raise RunError(f"the scaler {path} holds {sorted(statistics)}, not {sorted(expected)}")
        for name, values in statistics.items():
            if not np.isfinite(values).all() or (name.endswith("_std") and (values <= 0).any()):
                raise RunError(f"the scaler {path}: {name} holds numbers by which nothing can be scaled")
        return cls(statistics)


def _moments(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) over the valid steps of (N, L, D), in float64.

    Two passes over chunks of clips: the features of a large corpus do not fit into memory as float64.
    """

    def valid_steps() -> Iterator[np.ndarray]:
        for start in range(0, len(values), _CHUNK_CLIPS):
            clips = slice(start, start + _CHUNK_CLIPS)
            yield np.asarray(values[clips], dtype=np.float64)[mask[clips]]  # (steps, D)

    count = max(1, int(mask.sum()))
    mean = sum(steps.sum(axis=0) for steps in valid_steps()) / count
    variance = sum(((steps - mean) ** 2).sum(axis=0) for steps in valid_steps()) / count
    return mean, np.sqrt(variance)
