"""Splits whose clips lack something: text is encoded again, and all else is `mgcl_core.data.absence.lose`.

For the evaluation (`robustness`), and for training under ``regime="dropout"``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..data.absence import Loss, Words, lose, selection_loss, training_loss
from ..data.batches import Batch, DeviceSplit
from ..data.corpus import EncoderName
from ..data.text_model import lost_words
from ..encoders import TextEncoder
from ..support.runtime import derive_seed
from .frozen_features import encode_frozen
from .runs import Run
from .splits import StudySplits

_TEXT_MODEL, _EMBEDDINGS = "text model", EncoderName("micro", "T")  # as it comes, not fine-tuned


class _SplitWithOtherBatches:
    """A split in all but its batches."""

    split: DeviceSplit

    def __getattr__(self, name: str) -> Any:
        if name == "split":  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.split, name)

    def __len__(self) -> int:
        return len(self.split)


class LossySplit(_SplitWithOtherBatches):
    """A split of which every batch is what ``loss`` leaves of it (`lose`); in all else that split.

    Args:
        split: the complete clips, with what the system reads of frozen encoders.
        loss: what they lose.
        words: how lost words are marked; None where text is features.
        features: of frozen encoders, where steps are lost, computed from what is left.
        text: contextual embeddings (N, L, D), likewise.
    """

    def __init__(
        self,
        split: DeviceSplit,
        loss: Loss,
        words: Words | None,
        *,
        features: dict[str, Tensor] | None = None,
        text: Tensor | None = None,
    ):
        self.split, self.loss, self.words = copy.copy(split), loss, words
        self._encoded = text is not None
        if features is not None:
            self.split.features = features
        if text is not None:
            self.split.text = text

    def batches(self, size: int, *, seed: int | None = None, **how: Any) -> Iterator[Batch]:
        """As `DeviceSplit.batches`."""
        for batch in self.split.batches(size, seed=seed, **how):
            left = lose(batch, self.loss, self.words)
            # Embeddings of [UNK] are what the text model makes of it: zero only where the whole text is absent.
            yield replace(left, text=batch.text) if self._encoded else left


class Reader:
    """What ``run`` reads of clips that lack something.

    Args:
        splits: of its study.
        run: its parents in stage one are finished.
        kept: encodings by what encodes them, for runs that share them under one loss; the caller empties it.
    """

    def __init__(self, splits: StudySplits, run: Run, kept: dict[str, dict[str, Tensor]] | None = None):
        self.splits, self.run, self.kept = splits, run, kept
        config = run.config
        self.words = lost_words(config.text_model) if config.reads_words else None
        self._encoders: dict[str, nn.Module] = {}

    def prepare(self) -> Reader:
        """Load what encodes; later it would be loaded in the middle of an epoch, and draw on its random numbers."""
        for key in self._needed():
            self._encoder(key)
        return self

    def read(self, split: DeviceSplit, loss: Loss) -> LossySplit:
        """``split`` (`Study.split` of this run) without what ``loss`` takes."""
        if loss.modalities:  # what is left of the clips was encoded already
            return LossySplit(split, loss, self.words)
        bare = copy.copy(split)
        bare.features, bare.text = {}, split.text if self.words is None else None
        left = LossySplit(bare, loss, self.words)
        encoded = {key: self._encode(key, left) for key in self._needed()}
        text = encoded.pop(_TEXT_MODEL, {}).get(str(_EMBEDDINGS))
        features = {name: values for of_parent in encoded.values() for name, values in of_parent.items()}
        return LossySplit(split, loss, self.words, features=features, text=text)

    def _needed(self) -> list[str]:
        """Frozen encoders by the names of their runs; the text model as it comes, where its embeddings are read."""
        own = self.words is None or self.splits.own_text_dim
        embeds = self.run.stage.reads_text_embeddings and not own
        return [parent.name for parent in self.run.frozen_parents] + [_TEXT_MODEL] * embeds

    def _encoder(self, key: str) -> nn.Module:
        if key not in self._encoders:
            parents = {parent.name: parent for parent in self.run.frozen_parents}
            if key in parents:
                shapes = self.splits.shapes(parents[key])
                self._encoders[key] = parents[key].build(shapes, self.splits.device, trained=True).encoder
            else:
                self._encoders[key] = TextEncoder(self.run.config.text_model).to(self.splits.device)
        return self._encoders[key]

    def _encode(self, key: str, left: LossySplit) -> dict[str, Tensor]:
        if self.kept is not None and key in self.kept:
            return self.kept[key]
        parents = {parent.name: parent for parent in self.run.frozen_parents}
        name, config = _EMBEDDINGS, self.run.config.override({"micro": "sequence"})
        if key in parents:
            name, config = parents[key].stage.encoder, parents[key].config
        encoded = encode_frozen(self._encoder(key), name, left, config)
        if self.kept is not None:
            self.kept[key] = encoded
        return encoded


class DropoutSplit(_SplitWithOtherBatches):
    """The training split of ``regime="dropout"``: in every shuffled pass other clips lose other steps.

    What is lost follows from the seed of the order, which is that of the epoch, so a resumed run repeats it. Read in
    the order of the file, as what prepares a system reads it, the clips are complete.
    """

    def __init__(self, split: DeviceSplit, reader: Reader):
        # Another run may be handed the same split with other features meanwhile.
        self.split, self.reader = copy.copy(split), reader

    def batches(self, size: int, *, seed: int | None = None, **how: Any) -> Iterator[Batch]:
        """As `DeviceSplit.batches`."""
        chosen = self.split
        if seed is not None:
            chosen = self.reader.read(self.split, training_loss(self.split, derive_seed(seed, "loss")))
        yield from chosen.batches(size, seed=seed, **how)


def under_regime(splits: StudySplits, run: Run, train: DeviceSplit, valid: DeviceSplit) -> tuple[Any, Any]:
    """The splits that ``run`` learns from and is judged on, as its settings ``regime`` and ``epoch_on`` say."""
    config = run.config
    if not run.stage.has_regime or not config.loses_steps:
        return train, valid
    reader = Reader(splits, run).prepare()
    if config.epoch_on == "masked":
        valid = reader.read(valid, selection_loss(splits.corpus.sha256, "valid", valid))
    return DropoutSplit(train, reader) if config.regime == "dropout" else train, valid
