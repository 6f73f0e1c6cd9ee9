"""Splits whose clips lack something: text is encoded anew, and all else is `mgcl_core.data.absence.lose`.

For the evaluation (`robustness`), and for training under ``regime="dropout"``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.absence import Loss, Words, lose, selection_loss, training_loss
from ..data.batches import Batch, DeviceSplit
from ..data.corpus import EncoderName
from ..data.text_model import lost_words
from ..encoders import TextEncoder
from ..support.runtime import derive_seed
from .frozen_features import encode_frozen
from .runs import Run

if TYPE_CHECKING:
    from .study import Study

_EMBEDDINGS = EncoderName("micro", "T")  # of a text model as it comes


class LossySplit:
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

    def __getattr__(self, name: str) -> Any:
        if name == "split":  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.split, name)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int, *, seed: int | None = None, buckets: int = 1) -> Iterator[Batch]:
        """As `DeviceSplit.batches`."""
        for batch in self.split.batches(size, seed=seed, buckets=buckets):
            left = lose(batch, self.loss, self.words)
            # Embeddings of [UNK] are what the text model makes of it: zero only where the whole text is absent.
            yield replace(left, text=batch.text) if self._encoded else left


class Reader:
    """What ``run`` of ``study`` reads of clips that lack something.

    Args:
        study: of the run.
        run: its parents in stage one are finished.
        kept: encodings by what encodes them, for runs that share them under one loss; the caller empties it.
    """

    def __init__(self, study: Study, run: Run, kept: dict[str, dict[str, Tensor]] | None = None):
        self.study, self.run, self.kept = study, run, kept
        config = run.config
        self.words = lost_words(config.text_model) if config.reads_words else None
        self._encoders: dict[str, Any] = {}

    def read(self, split: DeviceSplit, loss: Loss) -> LossySplit:
        """``split`` (`Study.split` of this run) without what ``loss`` takes."""
        if loss.modalities:  # what is left of the clips was encoded already
            return LossySplit(split, loss, self.words)
        bare = copy.copy(split)
        bare.features, bare.text = {}, split.text if self.words is None else None
        left = LossySplit(bare, loss, self.words)
        features: dict[str, Tensor] = {}
        for parent in self.run.frozen_parents:
            build = lambda parent=parent: self.study.build(parent, trained=True).encoder  # noqa: E731
            features |= self._encode(parent.name, parent.stage.encoder, left, parent.config, build)
        text = None
        if split.text is not None and self.words is not None and not self.study.splits.own_text_dim:
            config = self.run.config.override({"micro": "sequence"})
            build = lambda: TextEncoder(config.text_model).to(self.study.device)  # noqa: E731
            text = self._encode("text model", _EMBEDDINGS, left, config, build)[str(_EMBEDDINGS)]
        return LossySplit(split, loss, self.words, features=features, text=text)

    def _encode(
        self, key: str, name: EncoderName, left: LossySplit, config: Any, build: Callable[[], torch.nn.Module]
    ) -> dict[str, Tensor]:
        if self.kept is not None and key in self.kept:
            return self.kept[key]
        if key not in self._encoders:
            self._encoders[key] = build()
        encoded = encode_frozen(self._encoders[key], name, left, config)
        if self.kept is not None:
            self.kept[key] = encoded
        return encoded


class DropoutSplit:
    """The training split of ``regime="dropout"``: in every shuffled pass other clips lose other steps.

    What is lost follows from the seed of the order, which is that of the epoch, so a resumed run repeats it. Read in
    the order of the file, as what prepares a system reads it, the clips are complete.
    """

    def __init__(self, split: DeviceSplit, reader: Reader):
        # Another run may be handed the same split with other features meanwhile.
        self.split, self.reader = copy.copy(split), reader

    def __getattr__(self, name: str) -> Any:
        if name == "split":  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.split, name)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, size: int, *, seed: int | None = None, buckets: int = 1) -> Iterator[Batch]:
        """As `DeviceSplit.batches`."""
        chosen = self.split
        if seed is not None:
            chosen = self.reader.read(self.split, training_loss(self.split, derive_seed(seed, "loss")))
        yield from chosen.batches(size, seed=seed, buckets=buckets)


def under_regime(study: Study, run: Run, train: DeviceSplit, valid: DeviceSplit) -> tuple[Any, Any]:
    """The splits that ``run`` learns from and is judged on, as its settings ``regime`` and ``epoch_on`` say."""
    config = run.config
    if not run.stage.has_regime or (config.regime == "complete" and config.epoch_on == "complete"):
        return train, valid
    reader = Reader(study, run)
    if config.epoch_on == "masked":
        valid = reader.read(valid, selection_loss(study.corpus.sha256, "valid", valid))
    return DropoutSplit(train, reader) if config.regime == "dropout" else train, valid
