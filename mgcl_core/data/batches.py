"""Batches on the device: scaling, seeded order, and trimming to the longest valid step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ..support.errors import RunError
from ..support.files import atomic
from .corpus import Split


@dataclass
class Batch:
    """B clips on one device, trimmed to the longest valid step of each modality.

    - ``index`` (B,): rows of the split
    - ``tokens`` (B, 3, L) int64: token ids, attention mask, token types
    - ``text`` (B, L, D) or None: the file's own contextual embeddings
    - ``audio`` (B, La, Da), ``vision`` (B, Lv, Dv), zero where not valid
    - ``audio_mask`` (B, La), ``vision_mask`` (B, Lv), True where valid
    - ``labels`` (B,): y, or None when predicting
    - ``unimodal_labels`` (3, B): y_T, y_V, y_A (y where the corpus has none), or None when predicting
    - ``features``: outputs of frozen encoders by name, `mgcl_core.model.encode_frozen`
    """

    index: Tensor
    tokens: Tensor
    text: Tensor | None
    audio: Tensor
    audio_mask: Tensor
    vision: Tensor
    vision_mask: Tensor
    labels: Tensor | None = None
    unimodal_labels: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def parts(self, size: int) -> Iterator[Batch]:
        """The same clips, at most ``size`` at a time, padded as the whole batch is."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            cut = {
                name: None if (values := getattr(self, name)) is None else values[rows]
                for name in ("tokens", "text", "audio", "audio_mask", "vision", "vision_mask", "labels")
            }
            unimodal = None if self.unimodal_labels is None else self.unimodal_labels[:, rows]
            yield Batch(
                index=self.index[rows],
                unimodal_labels=unimodal,
                **cut,
                features={name: values[rows] for name, values in self.features.items()},
            )


@dataclass(frozen=True)
class Scaler:
    """z-scores of audio and vision per dimension, clipped to ±10 (decision 18)."""

    statistics: dict[str, np.ndarray]  # audio_mean (Da,), audio_std (Da,), vision_mean (Dv,), vision_std (Dv,)
    limit: float = 10.0

    @classmethod
    def fit(cls, train: Split) -> Scaler:
        """Statistics over the valid steps of the training split; a constant dimension keeps its scale."""
        statistics = {}
        for name in ("audio", "vision"):
            mean, std = _moments(getattr(train, name), getattr(train, f"{name}_mask"))
            statistics[f"{name}_mean"] = mean.astype(np.float32)
            statistics[f"{name}_std"] = np.where(std > 1e-8, std, 1.0).astype(np.float32)
        return cls(statistics)

    def save(self, path: Path) -> None:
        """Write the statistics as safetensors."""
        with atomic(path) as temporary:
            save_file(self.statistics, temporary)

    @classmethod
    def load(cls, path: Path) -> Scaler:
        """Read what `save` wrote.

        Raises:
            RunError: the file is missing or damaged, or holds statistics by which nothing can be scaled.
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

    def apply(self, name: str, values: np.ndarray) -> np.ndarray:
        """Scaled copy of ``values`` (N, L, D) of modality ``name``."""
        scaled = np.asarray(values, dtype=np.float32) - self.statistics[f"{name}_mean"]
        scaled /= self.statistics[f"{name}_std"]
        return np.clip(scaled, -self.limit, self.limit, out=scaled)


class DeviceSplit:
    """A split as tensors on ``device``, indexed per batch.

    Args:
        split: the clips.
        device: where the tensors live.
        scaler: scaling of audio and vision, or None for the file's own values.
        tokens: (N, 3, L) to use in place of the file's ``text_bert``.
        labelled: whether batches carry labels, where the split has any; False makes sure that none are seen.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        *,
        scaler: Scaler | None = None,
        tokens: np.ndarray | None = None,
        labelled: bool = True,
    ):
        self.ids, self.device = split.ids, device
        self.labelled = labelled and split.labels is not None
        self.tokens = _tensor(split.text_bert if tokens is None else tokens, device, torch.long)
        self.text = None if split.text is None else _tensor(split.text, device, torch.float32)
        self.audio_mask = _tensor(split.audio_mask, device, torch.bool)
        self.vision_mask = _tensor(split.vision_mask, device, torch.bool)
        self.audio, self.vision = (
            _tensor(values if scaler is None else scaler.apply(name, values), device, torch.float32)
            for name, values in (("audio", split.audio), ("vision", split.vision))
        )
        # Padding holds zeros in any scale, so that what lies beyond a clip cannot matter.
        self.audio *= self.audio_mask[:, :, None]
        self.vision *= self.vision_mask[:, :, None]
        if self.labelled:
            self.labels = _tensor(split.labels, device, torch.float32)
            unimodal = np.stack([split.labels] * 3) if split.unimodal_labels is None else split.unimodal_labels
            self.unimodal_labels = _tensor(unimodal, device, torch.float32)  # decision 17
        self.features: dict[str, Tensor] = {}
        # Lengths are kept off the device: trimming must not wait for it.
        self._lengths = {
            "text": _last_valid(self.tokens[:, 1] > 0),
            "audio": _last_valid(self.audio_mask),
            "vision": _last_valid(self.vision_mask),
        }

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray | None = None) -> Batch:
        """The clips ``rows`` (all when None) as one trimmed batch."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        index = torch.as_tensor(rows, device=self.device)
        text_steps, audio_steps, vision_steps = (
            max(1, int(self._lengths[name][rows].max())) for name in ("text", "audio", "vision")
        )
        steps = {"T": text_steps, "V": vision_steps, "A": audio_steps}
        features = {
            name: _full(values[index, : steps[name[6]]] if name.startswith("micro") else values[index])
            for name, values in self.features.items()
        }
        return Batch(
            index=index,
            tokens=self.tokens[index, :, :text_steps],
            text=None if self.text is None else _full(self.text[index, :text_steps]),
            audio=self.audio[index, :audio_steps],
            audio_mask=self.audio_mask[index, :audio_steps],
            vision=self.vision[index, :vision_steps],
            vision_mask=self.vision_mask[index, :vision_steps],
            labels=self.labels[index] if self.labelled else None,
            unimodal_labels=self.unimodal_labels[:, index] if self.labelled else None,
            features=features,
        )

    def batches(self, size: int, *, seed: int | None = None, buckets: int = 1) -> Iterator[Batch]:
        """All clips in batches of at most ``size``: in file order, or shuffled by ``seed``.

        With ``buckets`` above 1, the shuffled clips of that many batches are sorted by length before they are cut, and
        the batches shuffled in turn: less padding, but clips of like length always meet.

        The order is a function of the seed alone, so that a resumed epoch repeats the batches of the
        one that was lost.
        """
        order = np.arange(len(self))
        cuts = np.arange(size, len(order), size)
        if seed is not None:
            generator = np.random.Generator(np.random.PCG64(seed))
            order = generator.permutation(order)
            if buckets > 1:
                longest = np.maximum(self._lengths["audio"], self._lengths["vision"])[order]
                drawn = np.arange(len(order)) // (size * buckets)
                batches = np.split(order[np.lexsort((longest, drawn))], cuts)
                yield from (self.batch(batches[place]) for place in generator.permutation(len(batches)))
                return
        yield from (self.batch(rows) for rows in np.split(order, cuts))

    def steps(self, size: int) -> int:
        """Number of batches of ``batches(size)``."""
        return -(-len(self) // size)


def derive_seed(seed: int, *purpose: object) -> int:
    """An independent 63-bit seed for ``purpose`` (for example ``"order", epoch``) of a run's ``seed``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _tensor(values: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    # np.array copies, so that a memory map is neither shared nor written to.
    return torch.from_numpy(np.array(values)).to(device=device, dtype=dtype)


def _full(values: Tensor) -> Tensor:
    """Numbers that were kept in half precision as float32."""
    return values.float() if values.dtype == torch.float16 else values


def _last_valid(mask: Tensor) -> np.ndarray:
    """(N, L) bool → (N,) number of steps up to the last valid one, 0 where there is none."""
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * steps).amax(dim=1).cpu().numpy()


def _moments(values: np.ndarray, mask: np.ndarray, rows: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) over the valid steps of (N, L, D), in float64, ``rows`` clips at a time."""
    count, total = 0, np.zeros(values.shape[2])
    for start in range(0, len(values), rows):
        valid = np.asarray(values[start : start + rows], dtype=np.float64)[mask[start : start + rows]]  # (steps, D)
        count, total = count + len(valid), total + valid.sum(axis=0)
    mean = total / max(count, 1)
    squares = np.zeros_like(mean)
    for start in range(0, len(values), rows):
        valid = np.asarray(values[start : start + rows], dtype=np.float64)[mask[start : start + rows]]
        squares += ((valid - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(squares / max(count, 1))
