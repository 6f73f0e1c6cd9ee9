"""Seconds of an epoch of the two stages, on synthetic corpora that have the shapes of the real ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..config import Config
from ..data import Corpus
from ..data.batches import Batch, DeviceSplit
from ..data.corpus import GRANULARITIES, EncoderName
from ..data.scaling import Scaler
from ..data.synthetic.random_bert import VOCABULARY, save_random_bert
from ..encoders import encoder_names, frozen_encoders
from ..model import MGCL
from ..stage_one import UnimodalRegressor
from ..support.provenance import peak_memory
from ..system import Shapes, System
from ..trainer import Schedule, fit
from . import floors
from .floors import Work
from .measure import Row, Setup, row

SEQUENCE_ENCODERS = tuple(EncoderName(granularity, modality) for modality in "AV" for granularity in GRANULARITIES)
TEXT_ENCODERS = tuple(EncoderName(granularity, "T") for granularity in GRANULARITIES)


def time_sequence_encoders(
    setup: Setup, *, clips: int = 128, names: Sequence[EncoderName] = SEQUENCE_ENCODERS
) -> Iterator[Row]:
    """Time an epoch of each audio and vision encoder.

    Args:
        setup: What to measure with.
        clips: Of the training split that are timed; the result is scaled to all of them.
        names: The encoders.

    Yields:
        One row per encoder.
    """
    config = setup.config
    splits = first_clips(setup.corpus, clips, setup.device)
    for name in names:

        def work(lengths: dict[str, np.ndarray], train: bool, modality: str = name.modality) -> Work:
            return floors.sequence_encoder(modality, lengths[modality], config, train=train)

        torch.manual_seed(1111)
        system = UnimodalRegressor(name, config)
        yield _time_epoch(setup, f"stage one, {name}, epoch", system, splits, work, config.sequence_batch_size)


def time_text_encoders(setup: Setup, *, clips: int = 64, layers: int = 12) -> Iterator[Row]:
    """Time an epoch of both text encoders, with a bert-base of random weights.

    Args:
        setup: What to measure with.
        clips: As in `time_sequence_encoders`.
        layers: Of the text model.

    Yields:
        One row per encoder.
    """
    splits = first_clips(setup.corpus, clips, setup.device)
    with tempfile.TemporaryDirectory() as folder:
        words = 1 + max(int(split.text_bert[:, 0].max()) for split in setup.corpus.splits)
        save_random_bert(Path(folder), layers=layers, words=max(words, VOCABULARY))
        config = setup.config.override({"text_model": folder})
        for name in TEXT_ENCODERS:
            torch.manual_seed(1111)
            system = UnimodalRegressor(name, config, pretrained=False)
            bert = system.encoder.bert.config
            shape = {"width": bert.hidden_size, "inner": bert.intermediate_size, "layers": bert.num_hidden_layers,
                     "vocabulary": bert.vocab_size, "first_only": name.granularity == "macro"}  # fmt: skip

            def work(lengths: dict[str, np.ndarray], train: bool, shape: dict[str, int] = shape) -> Work:
                return floors.bert(lengths["T"] + 2, train=train, **shape)

            yield _time_epoch(setup, f"stage one, {name}, epoch", system, splits, work, config.text_batch_size)


def time_mgcl(setup: Setup, what: str = "stage two, epoch", *, clips: int = 128, text_width: int = 768) -> Row:
    """Time an epoch of MGCL; features of frozen encoders are random numbers.

    Args:
        setup: What to measure with.
        what: Name of the row.
        clips: As in `time_sequence_encoders`.
        text_width: Of a hidden state of the text encoder.
    """
    corpus, config = setup.corpus, setup.config
    splits = first_clips(corpus, clips, setup.device)
    for split in splits:
        split.features = random_features(split, config, text_width)
    shapes = Shapes(text_width, 0, config.audio_dim, config.audio_steps, config.vision_dim, config.vision_steps,
                    bound=corpus.bound, clips=len(splits[0]), text_model=config.text_model)  # fmt: skip
    frozen = frozen_encoders(config)
    torch.manual_seed(1111)
    system = MGCL(config, shapes, encoders=[name for name in encoder_names(config) if name not in frozen])

    def work(lengths: dict[str, np.ndarray], train: bool) -> Work:
        return floors.stage_two(lengths, config, text_width, train=train)

    return _time_epoch(setup, what, system, splits, work, config.mgcl_batch_size)


def first_clips(corpus: Corpus, clips: int, device: torch.device) -> tuple[DeviceSplit, DeviceSplit]:
    """Take the first ``clips`` of the training split, and as large a share of validation, on the device."""
    train = corpus.train.first(clips)
    valid = corpus.valid.first(max(1, round(len(train) * len(corpus.valid) / len(corpus.train))))
    scaler = Scaler.fit(train)
    return DeviceSplit(train, device, scaler=scaler), DeviceSplit(valid, device, scaler=scaler)


def valid_steps(batch: Batch) -> dict[str, np.ndarray]:
    """Count the valid steps (B,) of each clip by modality; text without [CLS] and [SEP], as stage two reads it."""
    counts = {"T": (batch.tokens[:, 1] > 0).sum(1) - 2, "V": batch.vision_mask.sum(1), "A": batch.audio_mask.sum(1)}
    return {modality: values.cpu().numpy() for modality, values in counts.items()}


def random_features(split: DeviceSplit, config: Config, text_width: int) -> dict[str, torch.Tensor]:
    """Make random features in place of the frozen encoders', with their shapes and masks."""
    generator = torch.Generator(split.device).manual_seed(0)
    tokens = split.tokens[:, 1] > 0
    words = torch.zeros_like(tokens)
    words[:, 1:-1] = tokens[:, 1:-1] & tokens[:, 2:]  # without [CLS], the first token, and [SEP], the last
    masks = {"T": words, "V": split.vision_mask, "A": split.audio_mask}
    features = {}
    for encoder, granularity in ((name, part) for name in frozen_encoders(config) for part in name.granularities):
        name, mask = f"{granularity}_{encoder.modality}", masks[encoder.modality]
        width = text_width if encoder.modality == "T" else config.width
        shape: tuple[int, ...] = (len(mask), width)
        if granularity == "micro":
            if config.micro == "pooled":
                width, mask = 2 * width, torch.ones_like(mask[:, :1])
            shape, features[f"{name}_mask"] = (*mask.shape, width), mask
        features[name] = torch.randn(shape, generator=generator, device=split.device)
    return features


def _time_epoch(
    setup: Setup,
    what: str,
    system: System,
    splits: tuple[DeviceSplit, DeviceSplit],
    work: Callable[[dict[str, np.ndarray], bool], Work],
    batch_size: int,
) -> Row:
    """Time the package's own training loop, validation included, and scale an epoch to all clips of the corpus.

    ``work`` counts a batch, given its valid steps and whether it trains.
    """
    (train, valid), config = splits, setup.config
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
    # One epoch more than is counted, to warm up.
    schedule = Schedule(1 + setup.repeats, batch_size, precision=config.precision, length_buckets=config.length_buckets)
    with tempfile.TemporaryDirectory() as folder:
        history = fit(system.to(setup.device), train, valid, schedule, seed=1111, directory=Path(folder)).history
    total = Work()
    for split, training in ((train, True), (valid, False)):
        total = sum((work(valid_steps(batch), training) for batch in split.batches(batch_size)), total)
    return row(
        what,
        [epoch["seconds"] for epoch in history[1:]],
        total,
        setup.rates,
        times=len(setup.corpus.train) / len(train),
        batch=batch_size,
        corpus=setup.corpus.name,
        measured_clips=len(train),
        **peak_memory(setup.device),
    )
