"""Synthetic corpora of the exact shapes and sizes of CH-SIMS, MOSI and MOSEI, for measuring speed alone.

Features are noise with a trace of the label; nothing is to be learnt from scores on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..corpus import SPLITS
from . import sentences as demo_text
from .layout import as_fields, draw_videos, grid

#: What ``raw_text`` holds where token ids are random and stand for no sentence.
PLACEHOLDER = "(synthetic)"
_CUE = 0.5  # of the label, in the first dimension of audio and vision
_CLIPS_PER_VIDEO = 20
# bert-base-chinese: [CLS], [SEP] and the range of its Chinese characters
_CLS, _SEP, _CHARACTERS = 101, 102, (670, 7992)
_CHARACTERS_MEAN, _CHARACTERS_SD = 15.8, 7.3  # a sentence of CH-SIMS


@dataclass(frozen=True)
class SpeedSettings:
    """Sizes of train, valid and test, and the steps and dimensions of each modality.

    ``chinese`` fills text_bert with random characters of bert-base-chinese's vocabulary and raw_text
    with ``PLACEHOLDER``; otherwise both hold two template sentences a clip.
    """

    seed: int
    scheme: str
    sizes: tuple[int, int, int]
    text_steps: int
    audio: tuple[int, int]
    vision: tuple[int, int]
    unimodal_labels: bool
    chinese: bool


SETTINGS = {
    "synthetic-sims": SpeedSettings(11, "sims", (1368, 456, 457), 39, (400, 33), (55, 709), True, True),
    "synthetic-mosi": SpeedSettings(12, "mosi", (1284, 229, 686), 50, (375, 5), (500, 20), False, False),
    "synthetic-mosei": SpeedSettings(13, "mosi", (16326, 1871, 4659), 50, (500, 74), (500, 35), False, False),
}


def speed_split(settings: SpeedSettings, split: str, clips: int | None = None) -> dict[str, object]:
    """One split in the field's format, of ``clips`` clips (default: as many as the real one has)."""
    clips = settings.sizes[SPLITS.index(split)] if clips is None else clips
    rng = np.random.default_rng([settings.seed, SPLITS.index(split)])
    video = draw_videos(rng, clips, _CLIPS_PER_VIDEO)
    sentiment = 0.6 * rng.standard_normal((4, clips))  # y, then T, V, A
    labels = grid(sentiment, settings.scheme)
    if settings.chinese:
        raw_text, text_bert = [PLACEHOLDER] * clips, _characters(rng, clips, settings.text_steps)
    else:
        raw_text = _sentences(rng, sentiment[0])
        text_bert = demo_text.tokenize(raw_text, settings.text_steps)
    audio = _features(rng, settings.audio, sentiment[0])
    vision = _features(rng, settings.vision, sentiment[0])
    unimodal = labels[1:] if settings.unimodal_labels else None
    return as_fields(split, video, raw_text, text_bert, audio, vision, labels[0], unimodal)


def _features(rng: np.random.Generator, shape: tuple[int, int], sentiment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, L, D) float32 and lengths (N,), a valid fraction uniform in 0.2 to 1."""
    steps, dims = shape
    x = rng.standard_normal((len(sentiment), steps, dims), dtype=np.float32)  # float32: MOSEI's are 5 GB
    x[:, :, 0] += _CUE * sentiment[:, None]
    lengths = np.ceil(steps * rng.uniform(0.2, 1.0, len(sentiment))).astype(int)
    for clip, length in enumerate(lengths):
        x[clip, length:] = 0
    return x, lengths


def _characters(rng: np.random.Generator, clips: int, steps: int) -> np.ndarray:
    """``text_bert`` (N, 3, steps) of random Chinese characters, as many as CH-SIMS's sentences have."""
    drawn = _CHARACTERS_MEAN + _CHARACTERS_SD * rng.standard_normal(clips)
    characters = np.clip(np.rint(drawn), 1, steps - 2).astype(int)
    position = np.arange(steps)
    ids = rng.integers(*_CHARACTERS, (clips, steps))
    ids[:, 0] = _CLS
    ids[position == characters[:, None] + 1] = _SEP
    mask = position < characters[:, None] + 2
    return np.stack([ids * mask, mask, np.zeros_like(ids)], axis=1).astype(np.float32)


def _sentences(rng: np.random.Generator, sentiment: np.ndarray) -> list[str]:
    """Two template sentences a clip, about as long as MOSI's and MOSEI's, whose wording follows it."""
    macro = np.rint(np.clip(sentiment, -1, 1) * demo_text.MACRO_LIMIT).astype(int)
    micro = np.rint(np.clip(sentiment, -1, 1) * demo_text.MICRO_LIMIT).astype(int)
    return [
        f"{demo_text.sentence(rng, *levels)} . {demo_text.sentence(rng, *levels)}"
        for levels in zip(macro.tolist(), micro.tolist(), strict=True)
    ]
