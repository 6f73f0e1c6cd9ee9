"""Scaling of audio and vision features (decision 18), and what is unusual about their dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..support.errors import RunError
from ..support.files import atomic
from .corpus import Split

_CHUNK_CLIPS = 256
#: Steps that quantiles are taken of, evenly spread over the valid ones: CH-SIMS's vision has fewer, MOSEI's audio 100
#: times as many, and more would move no quantile by as much as a hundredth of a deviation.
_SAMPLE_STEPS = 100_000
_SAMPLE_BYTES = 1 << 26  # dimensions are handled a few at a time, so that their copies take no more
#: Widths of a standard normal distribution between the quartiles, and between the 5 and 95 percentiles.
_QUARTILE_RANGE, _WIDE_RANGE = 1.349, 3.290


@dataclass(frozen=True)
class Scaler:
    """Audio and vision, (value − centre) / scale per dimension, clipped to ±10.

    Attributes:
        statistics: ``audio_center`` (Da,), ``audio_scale`` (Da,), ``vision_center`` (Dv,), ``vision_scale`` (Dv,).
        limit: largest absolute value of a scaled feature.
    """

    statistics: dict[str, np.ndarray]
    limit: float = 10.0

    @classmethod
    def fit(cls, train: Split, kind: str = "robust") -> Scaler:
        """Fit to the valid steps of the training split; a constant dimension keeps its scale.

        Args:
            train: The training split.
            kind: "robust" takes median and range of quantiles, which outliers cannot move; "zscore" mean and standard
                deviation, which a single one can.
        """
        statistics = {}
        for name in ("audio", "vision"):
            values, mask = getattr(train, name), getattr(train, f"{name}_mask")
            center, scale = _moments(values, mask) if kind == "zscore" else _quantile_scale(sample_steps(values, mask))
            statistics[f"{name}_center"] = center.astype(np.float32)
            statistics[f"{name}_scale"] = np.where(scale > 1e-8, scale, 1.0).astype(np.float32)
        return cls(statistics)

    def apply(self, name: str, values: np.ndarray) -> np.ndarray:
        """Scale a copy of features.

        Args:
            name: "audio" or "vision".
            values: (N, L, D).

        Returns:
            (N, L, D) float32.
        """
        scaled = np.asarray(values, dtype=np.float32) - self.statistics[f"{name}_center"]
        with np.errstate(over="ignore"):  # what overflows is clipped
            scaled /= self.statistics[f"{name}_scale"]
        return np.clip(scaled, -self.limit, self.limit, out=scaled)

    def save(self, path: Path) -> None:
        """Write the statistics as safetensors."""
        with atomic(path) as temporary:
            save_file(self.statistics, temporary)

    @classmethod
    def load(cls, path: Path, widths: Mapping[str, int]) -> Scaler:
        """Read what `save` wrote.

        Args:
            path: The file.
            widths: How many dimensions "audio" and "vision" have.

        Raises:
            RunError: The file is missing or damaged, or its statistics cannot scale anything.
        """
        try:
            statistics = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"the scaler {path} cannot be read: {error}") from error
        expected = {f"{name}_{kind}" for name in ("audio", "vision") for kind in ("center", "scale")}
        if set(statistics) != expected:
            raise RunError(f"the scaler {path} holds {sorted(statistics)}, not {sorted(expected)}")
        for name, values in statistics.items():
            width = widths[name.partition("_")[0]]
            if values.shape != (width,) or values.dtype != np.float32:
                raise RunError(f"the scaler {path}: {name} is {values.dtype} {values.shape}, not float32 ({width},)")
            if not np.isfinite(values).all() or (name.endswith("_scale") and (values <= 0).any()):
                raise RunError(f"the scaler {path}: {name} holds numbers by which nothing can be scaled")
        return cls(statistics)


def unusual_dimensions(train: Split) -> pd.DataFrame:
    """Dimensions of audio and vision that a person should know of, by the valid training steps.

    *constant*: one value everywhere; *sparse*: zero in at least 90 % of the steps; *extreme*: some value lies more than
    1,000 scales (`Scaler`) from the median.

    Returns:
        Columns modality, kind, count, of (dimensions in all), and dimensions (the first ten, from 0).
    """
    rows = []
    for name in ("audio", "vision"):
        steps = sample_steps(getattr(train, name), getattr(train, f"{name}_mask"))  # (n, D)
        if not len(steps):
            continue
        center, scale = _quantile_scale(steps)
        lowest, highest = _range(getattr(train, name), getattr(train, f"{name}_mask"))
        constant = lowest == highest
        farthest = np.maximum(highest - center, center - lowest)
        kinds = {
            "constant": constant,
            "sparse": ((steps == 0).mean(axis=0) >= 0.9) & ~constant,
            "extreme": farthest > 1000 * np.where(scale > 1e-8, scale, 1.0),
        }
        for kind, flags in kinds.items():
            if flags.any():
                first = ", ".join(map(str, np.flatnonzero(flags)[:10])) + (", …" if flags.sum() > 10 else "")
                rows.append((name, kind, int(flags.sum()), len(flags), first))
    return pd.DataFrame(rows, columns=["modality", "kind", "count", "of", "dimensions"])


def sample_steps(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Valid steps (n, D) of (N, L, D): all, or at most `_SAMPLE_STEPS` that are evenly spread over them."""
    stride = -(-int(mask.sum()) // _SAMPLE_STEPS) or 1
    parts, seen = [np.empty((0, values.shape[2]), np.float32)], 0
    for start in range(0, len(values), _CHUNK_CLIPS):
        clips = slice(start, start + _CHUNK_CLIPS)
        clip, step = np.nonzero(mask[clips])
        taken = slice(-seen % stride, None, stride)
        seen += len(clip)
        parts.append(values[clips][clip[taken], step[taken]])
    return np.concatenate(parts)


def _quantile_scale(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and scale (D,) of steps (n, D); scale 0 where a dimension is constant but for less than 1 % of the steps.

    The scale is the standard deviation that a normal distribution with the same range would have: the larger of the
    range between the quartiles and that between the 5 and 95 percentiles, since action units are zero in most steps,
    and a quarter that is barely above zero must not set the scale of all others. Where both are 0, it is the deviation
    of the values cut off at the 1 and 99 percentiles.
    """
    center, scale = np.zeros(steps.shape[1]), np.zeros(steps.shape[1])
    if not len(steps):
        return center, scale
    block = max(1, _SAMPLE_BYTES // (8 * len(steps)))
    for start in range(0, steps.shape[1], block):
        dimensions = slice(start, start + block)
        part = steps[:, dimensions].astype(np.float64)
        lowest, low, first, median, third, high, highest = np.percentile(part, (1, 5, 25, 50, 75, 95, 99), axis=0)
        spread = np.maximum((third - first) / _QUARTILE_RANGE, (high - low) / _WIDE_RANGE)
        center[dimensions] = median
        scale[dimensions] = np.where(spread > 1e-8, spread, part.clip(lowest, highest).std(axis=0))
    return center, scale


def _range(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value (D,) over all valid steps of (N, L, D), of which there is at least one."""
    parts = []
    for start in range(0, len(values), _CHUNK_CLIPS):
        clips = slice(start, start + _CHUNK_CLIPS)
        if mask[clips].any():
            steps = values[clips][mask[clips]]
            parts.append((steps.min(axis=0), steps.max(axis=0)))
    lowest, highest = zip(*parts, strict=True)
    return np.min(lowest, axis=0), np.max(highest, axis=0)


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
