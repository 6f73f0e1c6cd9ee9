"""What clips lose: the field's three protocols of missing modalities, their masks, and the one transform of a batch.

Every mask follows from one uniform number u per (data hash, split, clip, modality, step, draw). It is lost where
u ≤ rate, so the masks of a draw are nested in the rate, and those of modalities are independent of each other.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .batches import Batch, DeviceSplit
from .corpus import MODALITIES

DRAWS = 5
#: What is left of the modalities: all, then the six subsets.
SETS = ("TVA", *("".join(kept) for size in (1, 2) for kept in itertools.combinations(MODALITIES, size)))
#: Shares of missing modalities; with one kept, no more than two of three can be missing.
SET_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 2 / 3)
STEP_RATES = tuple(step / 10 for step in range(11))
PROTOCOLS = ("sets", "random-sets", "random-steps")


@dataclass(frozen=True)
class Condition:
    """One mask of a protocol.

    - ``level``: the modalities that are left ("TV"), or the rate
    - ``draw``: of the random numbers, counted from 0; -1 where nothing is random
    """

    level: str | float
    draw: int = -1

    @property
    def complete(self) -> bool:
        """Whether nothing is lost."""
        return self.level in ("TVA", 0.0)


@dataclass(frozen=True)
class Loss:
    """What the N clips of a split keep: ``kept`` maps a modality to (N, L) bool, of steps, or (N, 1), of all of it.

    ``modalities`` says which: whole modalities are absent in the sense of decision 19, lost steps are zeros or [UNK].
    """

    kept: dict[str, np.ndarray]
    modalities: bool


@dataclass(frozen=True)
class Words:
    """How a text model marks lost words: the id of [UNK], and the ids of [CLS], [SEP] and padding, which stay."""

    unknown: int
    special: tuple[int, ...]


def conditions(protocol: str) -> tuple[Condition, ...]:
    """Every mask of a protocol, one of `PROTOCOLS`; a rate at which all or nothing is lost has no draws."""
    if protocol == "sets":
        return tuple(map(Condition, SETS))
    rates = SET_RATES if protocol == "random-sets" else STEP_RATES
    drawn = [(rate, draw) for rate in rates for draw in (range(DRAWS) if 0 < rate < 1 else (-1,))]
    return tuple(Condition(*pair) for pair in drawn)


def uniform(origin: str, split: str, ids: Sequence[str], modality: str, steps: int, draw: int | str) -> np.ndarray:
    """(N, steps) numbers in [0, 1): functions of their names alone, whatever the order or number of clips and steps.

    Args:
        origin: SHA-256 of the data.
        split: its name.
        ids: of the N clips.
        modality: "T", "V" or "A", or "set" for one number a clip and modality.
        steps: L.
        draw: which of the masks, or what for.
    """
    rows = [
        hashlib.shake_256("\0".join((origin, split, clip, modality, str(draw))).encode()).digest(8 * steps)
        for clip in ids
    ]
    numbers = np.frombuffer(b"".join(rows), "<u8").reshape(len(ids), steps)
    return (numbers >> np.uint64(11)) * 2.0**-53


def loss_of(protocol: str, condition: Condition, origin: str, name: str, split: DeviceSplit) -> Loss:
    """What the clips of ``split``, called ``name``, of the data ``origin`` keep under a condition of a protocol."""
    level, draw = condition.level, condition.draw
    if protocol == "sets":
        return Loss({m: np.full((len(split), 1), m in level) for m in MODALITIES}, modalities=True)
    if protocol == "random-sets":
        there = split.present.cpu().numpy()  # (3, N)
        numbers = [uniform(origin, name, split.ids, f"set {m}", 1, draw)[:, 0] for m in MODALITIES]
        numbers = np.where(there, np.stack(numbers), -1.0)
        # The modality with the largest number is kept. Over the largest, the two others are uniform again, so that
        # each is lost at 3/2 of the rate, and of all three a share that is the rate.
        largest = numbers.max(0, keepdims=True)
        kept = (numbers > 1.5 * level * largest) | (numbers == largest)
        return Loss({m: row[:, None] for m, row in zip(MODALITIES, kept, strict=True)}, modalities=True)
    return Loss(
        {
            m: uniform(origin, name, split.ids, m, steps, draw) > level
            if 0 < level < 1
            else np.full((len(split), steps), level == 0)
            for m, steps in file_steps(split).items()
        },
        modalities=False,
    )


def training_loss(split: DeviceSplit, seed: int) -> Loss:
    """Of an epoch of the regime "dropout": half of the clips complete, the others at a rate drawn from U(0, 1)."""
    random = np.random.Generator(np.random.PCG64(seed))
    return _half_complete(
        random.permutation(len(split)) < len(split) // 2,
        random.random(len(split)),
        {m: random.random((len(split), steps)) for m, steps in file_steps(split).items()},
    )


def selection_loss(origin: str, name: str, split: DeviceSplit) -> Loss:
    """The same from hashed numbers, once for all: the mask under which an epoch may be chosen."""
    own = uniform(origin, name, split.ids, "clip", 2, "selection")  # (N, 2)
    numbers = {m: uniform(origin, name, split.ids, m, steps, "selection") for m, steps in file_steps(split).items()}
    return _half_complete(own[:, 0] < 0.5, own[:, 1], numbers)


def _half_complete(complete: np.ndarray, rates: np.ndarray, numbers: Mapping[str, np.ndarray]) -> Loss:
    kept = {m: (values > rates[:, None]) | complete[:, None] for m, values in numbers.items()}
    return Loss(kept, modalities=False)


def file_steps(split: DeviceSplit) -> dict[str, int]:
    """Steps of each modality, padding included."""
    return {"T": split.tokens.shape[2], "V": split.vision.shape[1], "A": split.audio.shape[1]}


def digest(losses: Collection[Loss]) -> str:
    """SHA-256 of masks, in the order given."""
    found = hashlib.sha256()
    for loss in losses:
        for modality in MODALITIES:
            found.update(np.packbits(loss.kept[modality]).tobytes())
    return found.hexdigest()


def lose(batch: Batch, loss: Loss, words: Words | None) -> Batch:
    """The batch as its clips are without what ``loss`` takes: the one transform, whichever system reads it.

    A lost step of audio or vision is zero, as the system reads it (that is, after scaling). A lost word is [UNK]; where
    text is features (``words`` None, or those of a file beside its tokens), they are zero. A modality of which no step
    is left is absent, as it is in a file (decision 19). Features of frozen encoders are zero where their modality is
    absent; of steps that are lost they are to be computed again, from the tokens that this gives.
    """
    rows = batch.index.cpu().numpy()
    kept = {m: torch.as_tensor(loss.kept[m][rows], device=batch.index.device) for m in MODALITIES}  # (B, L) or (B, 1)
    masks = {"T": batch.tokens[:, 1] > 0, "V": batch.vision_mask, "A": batch.audio_mask}
    stays = {m: mask & kept[m][:, : mask.shape[1]] for m, mask in masks.items()}  # valid and not lost, (B, L)
    tokens = batch.tokens
    if words is not None and not loss.modalities:
        ids, types = tokens[:, 0], tokens[:, 2]
        special = torch.isin(ids, torch.tensor(words.special, device=ids.device))
        stays["T"] = masks["T"] & (stays["T"] | special)
        ids = torch.where(masks["T"] & ~stays["T"], words.unknown, ids)
        tokens = torch.stack([ids, tokens[:, 1], types], 1)
    # Of a text model's tokens [CLS] and [SEP] are left at least.
    here = {m: stays[m].any(1) for m in MODALITIES}  # (B,)
    features = {key: _zeroed(values, here[key.split("_")[1]]) for key, values in batch.features.items()}
    return replace(
        batch,
        tokens=_zeroed(tokens, here["T"]),
        text=None if batch.text is None else batch.text * stays["T"][:, :, None],
        audio=batch.audio * stays["A"][:, :, None],
        audio_mask=_zeroed(batch.audio_mask, here["A"]),
        vision=batch.vision * stays["V"][:, :, None],
        vision_mask=_zeroed(batch.vision_mask, here["V"]),
        features=features,
        counts={},  # the host's, of the complete batch
    )


def _zeroed(values: Tensor, here: Tensor) -> Tensor:
    """``values`` (B, …), zero or False in the clips that are not ``here`` (B,)."""
    return values * here.reshape(-1, *[1] * (values.dim() - 1))
