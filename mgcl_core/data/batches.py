"""Batches on the device: seeded order, and trimming to the longest valid step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .corpus import MODALITIES, Split
from .scaling import Scaler


@dataclass
class Batch:
    """B clips on one device, trimmed to the longest valid step of each modality.

    Attributes:
        index: (B,) rows of the split.
        tokens: (B, 3, L) int64 token ids, attention mask, token types.
        text: (B, L, D) the file's own contextual embeddings, or None.
        audio: (B, La, Da), zero at padding.
        audio_mask: (B, La) padding mask, True at valid steps.
        vision: (B, Lv, Dv), zero at padding.
        vision_mask: (B, Lv) padding mask, True at valid steps.
        labels: (B,) y, or None when predicting.
        unimodal_labels: (3, B) y_T, y_V, y_A (y where the corpus has none), or None when predicting.
        features: outputs of frozen encoders by name, `mgcl_core.encoders.encode`.
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

    @property
    def present(self) -> Tensor:
        """(3, B), True where a clip has T, V, A at all (decision 19)."""
        return _present(self.tokens, self.vision_mask, self.audio_mask)

    def parts(self, size: int) -> Iterator[Batch]:
        """Iterate over the clips, at most ``size`` at a time, padded as the whole batch is."""
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


class DeviceSplit:
    """A split as tensors on ``device``, indexed per batch.

    Args:
        split: The clips.
        device: Where the tensors live.
        scaler: Scaling of audio and vision, or None for the file's own values.
        tokens: (N, 3, L) to use instead of the file's ``text_bert``.
        labelled: Whether batches carry labels where the split has any; with False none can be read.
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
        self.present = _present(self.tokens, self.vision_mask, self.audio_mask)  # (3, N)
        # Lengths are kept off the device: trimming must not wait for it.
        self._lengths = {
            "T": _last_valid(self.tokens[:, 1] > 0),
            "V": _last_valid(self.vision_mask),
            "A": _last_valid(self.audio_mask),
        }

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray | None = None) -> Batch:
        """Take the clips ``rows`` (all when None) as one trimmed batch."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        index = torch.as_tensor(rows, device=self.device)
        steps = {modality: max(1, int(lengths[rows].max())) for modality, lengths in self._lengths.items()}
        trimmed = {f"micro_{modality}{suffix}": steps[modality] for modality in MODALITIES for suffix in ("", "_mask")}
        features = {
            name: _to_float32(values[index, : trimmed[name]] if name in trimmed else values[index])
            for name, values in self.features.items()
        }
        return Batch(
            index=index,
            tokens=self.tokens[index, :, : steps["T"]],
            text=None if self.text is None else _to_float32(self.text[index, : steps["T"]]),
            audio=self.audio[index, : steps["A"]],
            audio_mask=self.audio_mask[index, : steps["A"]],
            vision=self.vision[index, : steps["V"]],
            vision_mask=self.vision_mask[index, : steps["V"]],
            labels=self.labels[index] if self.labelled else None,
            unimodal_labels=self.unimodal_labels[:, index] if self.labelled else None,
            features=features,
        )

    def batches(self, size: int, *, seed: int | None = None, buckets: int = 1) -> Iterator[Batch]:
        """Iterate over all clips in batches.

        The order is a function of the seed alone, so that a resumed epoch repeats the batches of the one that was lost.

        Args:
            size: Clips in a batch; the last batch may be smaller.
            seed: Seed of the shuffle, or None for the order of the file.
            buckets: Above 1, the shuffled clips of that many batches are sorted by length before they are cut into
                batches, and the batches are shuffled: less padding, but clips of similar length are always together.
        """
        order = np.arange(len(self))
        cuts = np.arange(size, len(order), size)
        if seed is not None:
            generator = np.random.Generator(np.random.PCG64(seed))
            order = generator.permutation(order)
            if buckets > 1:
                longest = np.maximum(self._lengths["A"], self._lengths["V"])[order]
                drawn = np.arange(len(order)) // (size * buckets)
                batches = np.split(order[np.lexsort((longest, drawn))], cuts)
                yield from (self.batch(batches[number]) for number in generator.permutation(len(batches)))
                return
        yield from (self.batch(rows) for rows in np.split(order, cuts))

    def batch_count(self, size: int) -> int:
        """Count the batches of ``batches(size)``."""
        return -(-len(self) // size)


def _present(tokens: Tensor, vision_mask: Tensor, audio_mask: Tensor) -> Tensor:
    return torch.stack([(tokens[:, 1] > 0).any(1), vision_mask.any(1), audio_mask.any(1)])


def _tensor(values: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    # np.array copies, so that a memory map is neither shared nor written to.
    return torch.from_numpy(np.array(values)).to(device=device, dtype=dtype)


def _to_float32(values: Tensor) -> Tensor:
    """Frozen features may be kept in half precision."""
    return values.float() if values.dtype == torch.float16 else values


def _last_valid(mask: Tensor) -> np.ndarray:
    """(N, L) bool → (N,) number of steps up to the last valid one, 0 where there is none."""
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * steps).amax(dim=1).cpu().numpy()
