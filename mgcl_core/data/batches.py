"""Batches on the device: seeded order, and trimming to the longest valid step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..support.faces import Face
from .corpus import MODALITIES, Split
from .scaling import Scaler
from .valid_steps import masked_mean

AVERAGED_AT_ONCE = 256  # clips, so that no second copy of a split is made


@dataclass(repr=False)
class Batch(Face):
    """B clips on one device, trimmed to the longest valid step of each modality.

    Attributes:
        index: (B,) rows of the split.
        tokens: (B, 3, L) int64 token ids, attention mask, token types. Where text is features, the mask alone.
        text: (B, L, D) the file's own text features, or None.
        audio: (B, La, Da), zero at padding.
        audio_mask: (B, La) padding mask, True at valid steps.
        vision: (B, Lv, Dv), zero at padding.
        vision_mask: (B, Lv) padding mask, True at valid steps.
        labels: (B,) y, or None when predicting.
        unimodal_labels: (3, B) y_T, y_V, y_A (y where the corpus has none), or None when predicting.
        features: outputs of frozen encoders by name, `mgcl_core.encoders.encode`.
        counts: valid steps (B,) by the name of a mask, on the host. For an accelerator, which would make the host wait.
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
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def face(self) -> tuple[str, dict[str, object]]:
        facts = {
            name: "×".join(map(str, values.shape))
            for name, values in {**vars(self), **self.features}.items()
            if isinstance(values, Tensor)
        }
        return f"Batch of {len(self)} clips on {self.index.device}", facts

    @property
    def text_mask(self) -> Tensor:
        """(B, L) padding mask of the tokens and of ``text``, True at valid steps."""
        return self.tokens[:, 1] > 0

    @property
    def present(self) -> Tensor:
        """(3, B), True where a clip has T, V, A at all (decision 19)."""
        return _present(self.tokens, self.vision_mask, self.audio_mask)

    def cpu(self) -> Batch:
        """The same clips on the CPU."""
        tensors = {name: values.cpu() for name, values in vars(self).items() if isinstance(values, Tensor)}
        return replace(self, **tensors, features={name: values.cpu() for name, values in self.features.items()})

    def count(self, mask: str) -> int | None:
        """Valid steps of all clips under a mask; None where the host does not know."""
        return int(self.counts[mask].sum()) if mask in self.counts else None

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
                counts={name: values[rows] for name, values in self.counts.items()},
            )


class DeviceSplit:
    """A split as tensors, indexed per batch; batches are on ``device``.

    Args:
        split: The clips.
        device: Where batches are.
        scaler: Scaling of audio and vision, or None for the file's own values.
        tokens: (N, 3, L) to use instead of the file's ``text_bert``.
        labelled: Whether batches carry labels where the split has any; with False none can be read.
        room: Bytes on the device for audio and vision; what is larger stays in host memory (`place`). None: enough.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        *,
        scaler: Scaler | None = None,
        tokens: np.ndarray | None = None,
        labelled: bool = True,
        room: int | None = None,
    ):
        self.ids, self.device = split.ids, device
        self.labelled = labelled and split.labels is not None
        host = torch.device("cpu")
        tokens = _tensor(split.text_bert if tokens is None else tokens, host, torch.long)
        masks = {name: _tensor(getattr(split, name), host, torch.bool) for name in ("vision_mask", "audio_mask")}
        # Lengths and counts are kept off the device: no batch must wait for it.
        ends = zip(MODALITIES, (text_mask := tokens[:, 1] > 0, *masks.values()), strict=True)
        self._lengths = {modality: _last_valid(mask) for modality, mask in ends}
        self._counts = {name: mask.sum(1).numpy() for name, mask in {**masks, "text_mask": text_mask}.items()}
        self._counted: dict[str, Tensor] = {}  # the masks among the features whose counts these are too
        self.tokens = tokens.to(device)
        self.vision_mask, self.audio_mask = (mask.to(device) for mask in masks.values())
        self.text = None if split.text is None else place(_tensor(split.text, host, torch.float32), device, room)
        for name in ("vision", "audio"):
            values = getattr(split, name)
            values = _tensor(values if scaler is None else scaler.apply(name, values), host, torch.float32)
            # Padding holds zeros in any scale, so that what lies beyond a clip cannot matter.
            values *= masks[f"{name}_mask"][:, :, None]
            setattr(self, name, place(values, device, None if room is None else room - self.bytes_on_device()))
        if self.labelled:
            self.labels = _tensor(split.labels, device, torch.float32)
            unimodal = np.stack([split.labels] * 3) if split.unimodal_labels is None else split.unimodal_labels
            self.unimodal_labels = _tensor(unimodal, device, torch.float32)  # decision 17
        self.features: dict[str, Tensor] = {}
        self.present = _present(self.tokens, self.vision_mask, self.audio_mask)  # (3, N)

    audio: Tensor
    vision: Tensor

    def bytes_on_device(self) -> int:
        """Bytes of this split's tensors on an accelerator, features too."""
        tensors = [*vars(self).values(), *getattr(self, "features", {}).values()]
        return sum(item.nbytes for item in tensors if isinstance(item, Tensor) and item.device.type != "cpu")

    def __len__(self) -> int:
        return len(self.ids)

    def averaged(self) -> DeviceSplit:
        """The same clips with one step of audio and vision each, the mean over the valid ones: (N, 1, D).

        Computed once, for systems that read nothing else of a sequence.
        """
        split = copy.copy(self)
        split._lengths, split._counts, split._counted = dict(self._lengths), dict(self._counts), {}
        for modality, name in (("V", "vision"), ("A", "audio")):
            values, mask = getattr(self, name), getattr(self, f"{name}_mask")
            rows = zip(values.split(AVERAGED_AT_ONCE), mask.to(values.device).split(AVERAGED_AT_ONCE), strict=True)
            setattr(split, name, torch.cat([masked_mean(*part) for part in rows])[:, None])
            setattr(split, f"{name}_mask", mask.any(1, keepdim=True))
            # From the host's own counts: a run must not wait for the device here.
            split._lengths[modality] = split._counts[f"{name}_mask"] = (self._counts[f"{name}_mask"] > 0).astype(int)
        return split

    def batch(self, rows: np.ndarray | None = None, index: Tensor | None = None, *, trimmed: bool = True) -> Batch:
        """Take the clips ``rows`` (all when None) as one batch, ``trimmed`` to its longest clip or as long as the file.

        ``index`` are the same rows on the device.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        index = torch.as_tensor(rows, device=self.device) if index is None else index
        if trimmed:
            steps = {modality: max(1, int(lengths[rows].max())) for modality, lengths in self._lengths.items()}
        else:
            steps = {"T": self.tokens.shape[2], "V": self.vision.shape[1], "A": self.audio.shape[1]}
        trimmed = {f"micro_{modality}{suffix}": steps[modality] for modality in MODALITIES for suffix in ("", "_mask")}

        def take(values: Tensor, length: int | None = None) -> Tensor:
            if values.device.type == self.device.type:
                chosen = values[index] if length is None else values[index, :length]
            else:
                chosen = values[rows] if length is None else values[rows, :length]
                chosen = (chosen.pin_memory() if values.is_pinned() else chosen).to(self.device, non_blocking=True)
            return chosen.float() if chosen.dtype == torch.float16 else chosen  # features may be kept in half precision

        return Batch(
            index=index,
            tokens=self.tokens[index, :, : steps["T"]],
            text=None if self.text is None else take(self.text, steps["T"]),
            audio=take(self.audio, steps["A"]),
            audio_mask=self.audio_mask[index, : steps["A"]],
            vision=take(self.vision, steps["V"]),
            vision_mask=self.vision_mask[index, : steps["V"]],
            labels=self.labels[index] if self.labelled else None,
            unimodal_labels=self.unimodal_labels[:, index] if self.labelled else None,
            features={name: take(values, trimmed.get(name)) for name, values in self.features.items()},
            counts={name: counts[rows] for name, counts in self._known_counts().items()},
        )

    def _known_counts(self) -> dict[str, np.ndarray]:
        """Valid steps of every clip by the name of a mask, those of features too; on a CPU nobody asks."""
        if self.device.type == "cpu":
            return {}
        masks = {name: values for name, values in self.features.items() if name.endswith("_mask")}
        for name, values in masks.items():
            if self._counted.get(name) is not values:
                self._counted[name], self._counts[name] = values, values.sum(1).cpu().numpy()
        return {name: counts for name, counts in self._counts.items() if name in masks or not name.startswith("micro")}

    def batches(self, size: int, *, seed: int | None = None, buckets: int = 1, trimmed: bool = True) -> Iterator[Batch]:
        """Iterate over all clips in batches.

        The order is a function of the seed alone, so that a resumed epoch repeats the batches of the one that was lost.

        Args:
            size: Clips in a batch; the last batch may be smaller.
            seed: Seed of the shuffle, or None for the order of the file.
            buckets: Above 1, the shuffled clips of that many batches are sorted by length before they are cut into
                batches, and the batches are shuffled: less padding, but clips of similar length are always together.
            trimmed: As in `batch`.
        """
        order = np.arange(len(self))
        cuts = np.arange(size, len(order), size)
        batches = np.split(order, cuts)
        if seed is not None:
            generator = np.random.Generator(np.random.PCG64(seed))
            order = generator.permutation(order)
            batches = np.split(order, cuts)
            if buckets > 1:
                longest = np.maximum(self._lengths["A"], self._lengths["V"])[order]
                drawn = np.arange(len(order)) // (size * buckets)
                batches = np.split(order[np.lexsort((longest, drawn))], cuts)
                batches = [batches[number] for number in generator.permutation(len(batches))]
        # The whole order in one transfer: one per batch would make the host wait for each.
        sent = torch.as_tensor(np.concatenate(batches), device=self.device)
        for rows, index in zip(batches, sent.split([len(rows) for rows in batches]), strict=True):
            yield self.batch(rows, index, trimmed=trimmed)

    def batch_count(self, size: int) -> int:
        """Count the batches of ``batches(size)``."""
        return -(-len(self) // size)


def _present(tokens: Tensor, vision_mask: Tensor, audio_mask: Tensor) -> Tensor:
    return torch.stack([(tokens[:, 1] > 0).any(1), vision_mask.any(1), audio_mask.any(1)])


def _tensor(values: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    # np.array copies, so that a memory map is neither shared nor written to.
    return torch.from_numpy(np.array(values)).to(device=device, dtype=dtype)


def place(values: Tensor, device: torch.device, room: int | None = None) -> Tensor:
    """``values`` on the device, or in host memory (pinned, for CUDA) where they are larger than ``room`` bytes."""
    if room is None or values.nbytes <= room:
        return values.to(device)
    return values.pin_memory() if device.type == "cuda" else values


def _last_valid(mask: Tensor) -> np.ndarray:
    """(N, L) bool → (N,) number of steps up to the last valid one, 0 where there is none."""
    return (mask * torch.arange(1, mask.shape[1] + 1)).amax(dim=1).numpy()
