"""Seconds of the two stages on the synthetic corpora that have the shapes of the real ones."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..data import Corpus, Split
from ..data.batches import Batch, DeviceSplit, Scaler
from ..model import MGCL, UnimodalRegressor, encoder_names, frozen_encoders
from ..system import System
from . import floors
from .compared import WORDS, save_random_bert
from .floors import Lengths, Work
from .measure import Rates, epochs, peak, row

SEQUENCE_ENCODERS = ("macro_A", "micro_A", "macro_V", "micro_V")


def split_of(split: Split, clips: int, device: torch.device, *, full_length: bool = False) -> DeviceSplit:
    """The first ``clips`` on the device; ``full_length`` makes every step valid."""
    cut = split.first(clips)
    if full_length:
        masks = {name: np.ones_like(getattr(cut, name)) for name in ("audio_mask", "vision_mask")}
        cut = dataclasses.replace(cut, **masks)
    return DeviceSplit(cut, device, scaler=Scaler.fit(cut))


def lengths_of(batch: Batch) -> Lengths:
    """Valid steps of a batch, words without [CLS] and [SEP] for text as stage two reads it."""
    text = (batch.tokens[:, 1] > 0).sum(1) - 2
    return Lengths(*(values.cpu().numpy() for values in (text, batch.vision_mask.sum(1), batch.audio_mask.sum(1))))


def work_of(train: DeviceSplit, valid: DeviceSplit, batch_size: int, work: Any) -> Work:
    """The floor's work of an epoch: ``work(lengths, train=…)`` of every batch, in file order."""
    total = Work()
    for split, training in ((train, True), (valid, False)):
        for batch in split.batches(batch_size):
            total += work(lengths_of(batch), train=training)
    return total


def stage_one(
    corpus: Corpus,
    config: Config,
    rate: Rates,
    device: torch.device,
    *,
    batches: int = 1,
    repeats: int = 3,
    names: tuple[str, ...] = SEQUENCE_ENCODERS,
    full_length: bool = False,
) -> Iterator[dict[str, Any]]:
    """An epoch of each audio and vision encoder."""
    size = config.sequence_batch_size
    splits = _shares(corpus, size * batches, device, full_length=full_length)
    for name in names:
        modality = name[-1]

        def work(lengths: Lengths, *, train: bool, modality: str = modality) -> Work:
            return floors.sequence_encoder(modality, lengths.of(modality), config, train=train)

        torch.manual_seed(1111)
        system = UnimodalRegressor(name, config).to(device)
        yield _epoch(
            f"stage one, {name}, epoch",
            system,
            corpus,
            splits,
            config,
            rate,
            work,
            size=size,
            repeats=repeats,
            full_length=full_length,
        )


def stage_one_text(
    corpus: Corpus,
    config: Config,
    rate: Rates,
    device: torch.device,
    *,
    batches: int = 1,
    repeats: int = 3,
    layers: int = 12,
) -> Iterator[dict[str, Any]]:
    """An epoch of both text encoders, with a bert-base of random weights (of fewer ``layers`` in tests)."""
    size = config.text_batch_size
    splits = _shares(corpus, size * batches, device)
    with tempfile.TemporaryDirectory() as folder:
        words = 1 + max(int(split.text_bert[:, 0].max()) for split in corpus.splits)
        save_random_bert(Path(folder), layers=layers, size=max(words, WORDS))
        config = config.override({"text_model": folder})
        for name in ("macro_T", "micro_T"):
            torch.manual_seed(1111)
            system = UnimodalRegressor(name, config, pretrained=False).to(device)
            shape = system.encoder.bert.config

            def work(
                lengths: Lengths, *, train: bool, shape: Any = shape, first_only: bool = name == "macro_T"
            ) -> Work:
                return floors.bert(
                    lengths.text + 2,
                    width=shape.hidden_size,
                    inner=shape.intermediate_size,
                    layers=shape.num_hidden_layers,
                    vocabulary=shape.vocab_size,
                    train=train,
                    first_only=first_only,
                )

            yield _epoch(
                f"stage one, {name}, epoch", system, corpus, splits, config, rate, work, size=size, repeats=repeats
            )


def stage_two(
    corpus: Corpus,
    config: Config,
    rate: Rates,
    device: torch.device,
    what: str,
    *,
    text_width: int = 768,
    batches: int = 3,
    repeats: int = 3,
    full_length: bool = False,
) -> dict[str, Any]:
    """An epoch of MGCL; frozen features are random numbers."""
    size = config.mgcl_batch_size
    splits = _shares(corpus, size * batches, device, full_length=full_length)
    for split in splits:
        split.features = random_features(split, config, text_width)
    frozen = frozen_encoders(config)
    torch.manual_seed(1111)
    system = MGCL(
        config,
        bound=corpus.bound,
        encoders=[name for name in encoder_names(config) if name not in frozen],
        text_width=text_width,
    ).to(device)

    def work(lengths: Lengths, *, train: bool) -> Work:
        return floors.stage_two(lengths, config, text_width, train=train)

    return _epoch(what, system, corpus, splits, config, rate, work, size=size, repeats=repeats, full_length=full_length)


def _shares(corpus: Corpus, clips: int, device: torch.device, *, full_length: bool = False) -> list[DeviceSplit]:
    """The first ``clips`` of training, and their share of validation."""
    clips = min(clips, len(corpus.train))
    valid_clips = max(1, round(clips * len(corpus.valid) / len(corpus.train)))
    return [
        split_of(part, count, device, full_length=full_length)
        for part, count in ((corpus.train, clips), (corpus.valid, valid_clips))
    ]


def _epoch(
    what: str,
    system: System,
    corpus: Corpus,
    splits: list[DeviceSplit],
    config: Config,
    rate: Rates,
    work: Any,
    *,
    size: int,
    repeats: int,
    full_length: bool = False,
) -> dict[str, Any]:
    """An epoch of ``system``, validation included, timed on ``splits`` (`_shares`) and scaled to all clips."""
    train, device = splits[0], splits[0].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = epochs(system, *splits, size, repeats, config.precision, config.length_buckets)
    return row(
        what,
        seconds,
        work_of(*splits, size, work),
        rate,
        times=len(corpus.train) / len(train),
        batch=size,
        corpus=corpus.name,
        lengths="full" if full_length else "as drawn",
        measured_clips=len(train),
        **peak(device),
    )


def random_features(split: DeviceSplit, config: Config, text_width: int) -> dict[str, torch.Tensor]:
    """Stand-ins for the features of frozen encoders, of their shapes and masks."""
    generator = torch.Generator(split.device).manual_seed(0)
    tokens = split.tokens[:, 1] > 0
    words = torch.zeros_like(tokens)
    words[:, 1:-1] = tokens[:, 1:-1] & tokens[:, 2:]  # without [CLS], the first token, and [SEP], the last
    masks = {"T": words, "V": split.vision_mask, "A": split.audio_mask}
    features = {}
    for name in frozen_encoders(config):
        kind, m = name.split("_")
        width, mask = text_width if m == "T" else config.width, masks[m]
        if kind == "macro":
            shape: tuple[int, ...] = (len(mask), width)
        elif config.micro == "pooled":
            shape, mask = (len(mask), 1, 2 * width), mask[:, :1] | True
        else:
            shape = (*mask.shape, width)
        features[name] = torch.randn(shape, generator=generator, device=split.device)
        if kind == "micro":
            features[f"{name}_mask"] = mask
    return features
