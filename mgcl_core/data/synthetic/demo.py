"""The synthetic demo corpora: what they are, writing them, and how well they can be predicted at best.

A clip has six planted cues, one macro and one micro in each of text, audio and vision, that share a
little of a sentiment of the whole clip. A modality's own sentiment is the sum of its two cues, cut to
the label range. Annotators see a weighted sum of the three and err; in ``demo``, where that comes near
to a modality's own label they settle on it, so that y agrees with y_T, y_V and y_A as often as in
CH-SIMS. Nothing here is real data.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ...support.errors import ConfigError, nearest
from ...support.files import atomic
from ..corpus import SPLITS
from . import sentences as demo_text
from . import signals as demo_signals
from . import speed as demo_speed
from .layout import as_fields, draw_videos, grid
from .speed import SpeedSettings, speed_split

#: Raised whenever a corpus changes.
VERSION = 1
_CLIPS_PER_VIDEO = 10
_TEXT_STEPS = 14
#: Levels of the wording (macro, micro) in one standard deviation of a text cue, and their limits.
_TEXT_LEVELS = np.array([[2.6], [1.4]])
_TEXT_LIMITS = np.array([[demo_text.MACRO_LIMIT], [demo_text.MICRO_LIMIT]])
_DRAWS = 300  # of the posterior, the same ones for every clip
#: The cues, as (granularity, modality) of (2, 3) in the orders macro, micro and T, V, A, that a predictor sees.
_SEEN = {
    "all": np.ones((2, 3), bool),
    "text": np.array([[1, 0, 0], [1, 0, 0]], bool),
    "audio": np.array([[0, 0, 1], [0, 0, 1]], bool),
    "vision": np.array([[0, 1, 0], [0, 1, 0]], bool),
    "without_text": np.array([[0, 1, 1], [0, 1, 1]], bool),
    "without_micro": np.array([[1, 1, 1], [0, 0, 0]], bool),
    "without_macro": np.array([[0, 0, 0], [1, 1, 1]], bool),
    "text_macro": np.array([[1, 0, 0], [0, 0, 0]], bool),
    "audio_macro": np.array([[0, 0, 1], [0, 0, 0]], bool),
    "vision_macro": np.array([[0, 1, 0], [0, 0, 0]], bool),
}


@dataclass(frozen=True)
class DemoSettings:
    """What a demo corpus is drawn from. Cues have variance 1; sentiment is in units of the label bound.

    ``shared`` is the share of a cue's variance that all six have in common, ``micro`` the share of the
    micro cue in a modality's sentiment, whose mean and spread are ``bias`` and ``spread`` before it is
    cut to [-1, 1]. ``weights`` (T, V, A) and ``gain`` make y of them, ``noise`` is the annotators'
    standard deviation, and ``settle`` (T, V, A), if given, how near they settle on a modality's label.
    """

    seed: int
    scheme: str
    shared: float
    micro: float
    bias: float
    spread: float
    weights: tuple[float, float, float]
    gain: float
    noise: float
    settle: tuple[float, float, float] | None
    unimodal_labels: bool
    sizes: tuple[int, int, int] = (400, 120, 240)


#: Synthetic corpora by name: two to learn from, three of the real corpora's shapes for speed work.
#: The demos' seeds were chosen among 40 by ``ceilings`` and the rates of disagreement alone: each split
#: is small, and these are draws whose splits all resemble what the settings give on thousands of clips.
CORPORA: Mapping[str, DemoSettings | SpeedSettings] = MappingProxyType(
    {
        "demo": DemoSettings(
            seed=15,
            scheme="sims",
            shared=0.03,
            micro=0.36,
            bias=-0.25,
            spread=0.9,
            weights=(0.43, 0.28, 0.29),
            gain=1.45,
            noise=0.37,
            settle=(0.17, 0.65, 0.5),
            unimodal_labels=True,
        ),
        "demo-mosi": DemoSettings(
            seed=6,
            scheme="mosi",
            shared=0.03,
            micro=0.36,
            bias=0.02,
            spread=0.55,
            weights=(0.4, 0.3, 0.3),
            gain=1.45,
            noise=0.26,
            settle=None,
            unimodal_labels=False,
        ),
        **demo_speed.SETTINGS,
    }
)


def write(name: str, path: str | Path) -> None:
    """Write the synthetic corpus ``name`` as a pickle in the field's format, the same at every call.

    Raises ConfigError for a name not in ``CORPORA``.
    """
    settings = _settings(name)
    make = speed_split if isinstance(settings, SpeedSettings) else demo_split
    content = {split: make(settings, split) for split in SPLITS}
    with atomic(Path(path)) as temporary, temporary.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def demo_split(settings: DemoSettings, split: str) -> dict[str, object]:
    """One split of a demo corpus in the field's format (unaligned, with lengths)."""
    clips = _draw(settings, split)
    text_bert = demo_text.tokenize(clips.raw_text, _TEXT_STEPS)
    unimodal = clips.unimodal if settings.unimodal_labels else None
    return as_fields(split, clips.video, clips.raw_text, text_bert, clips.audio, clips.vision, clips.labels, unimodal)


def ceilings(name: str, split: str = "test") -> dict[str, float]:
    """Corr with y on ``split`` of the best predictors of a demo corpus, by what they see.

    ``all``; one modality (``text``, ``audio``, ``vision``); ``without_text``; one granularity
    (``without_micro``, ``without_macro``); the macro cue of one modality (``text_macro``, ...).

    Each is the posterior mean of y, which no predictor of the same readings can better on average. It
    knows the generator's law, and reads the cues off the data as a model would have to: the grades of
    the words, and what ``demo_signals.read`` finds in the sequences. How far such a reading lies from
    the planted cue (slope, intercept, variance) is fitted on train; given the readings the cues are
    taken as Gaussian (those of text lie on a grid, and short clips read worse than long ones, which it
    neglects), and y is averaged over seeded draws of them and of the annotators' error.

    Raises ConfigError for a name that is no demo corpus.
    """
    settings = _settings(name)
    if not isinstance(settings, DemoSettings):
        raise ConfigError(f"{name!r} is for speed alone and has no ceilings")
    return posterior_corr(settings, split)


def posterior_corr(settings: DemoSettings, split: str) -> dict[str, float]:
    """``ceilings`` of a corpus drawn from any settings."""
    train, clips = _draw(settings, "train"), _draw(settings, split)
    slope, intercept, variance = _reading_law(train)
    readings = (_read(clips) - intercept[..., None]) / slope[..., None]  # (2, 3, N)
    error = variance / slope**2  # (2, 3)
    prior = np.full((6, 6), settings.shared) + (1 - settings.shared) * np.eye(6)
    rng = np.random.default_rng([settings.seed, len(SPLITS)])
    corr = {}
    for name, seen in _SEEN.items():
        at = np.flatnonzero(seen)
        gain = np.linalg.solve(prior[np.ix_(at, at)] + np.diag(error.ravel()[at]), prior[at]).T  # (6, seen)
        mean = gain @ readings.reshape(6, -1)[at]  # (6, N)
        covariance = prior - gain @ prior[at]
        draws = rng.multivariate_normal(np.zeros(6), covariance, _DRAWS, method="eigh").T  # (6, draws)
        cues = (mean[:, :, None] + draws[:, None]).reshape(2, 3, -1, _DRAWS)
        labels, _ = _labels(settings, cues, rng.standard_normal(_DRAWS))  # (N, draws)
        corr[name] = float(np.corrcoef(labels.mean(axis=1), clips.labels)[0, 1])
    return corr


class _Clips(NamedTuple):
    """N clips as drawn: cues (2, 3, N) macro and micro of T, V, A; labels (N,); unimodal labels (3, N)."""

    cues: np.ndarray
    labels: np.ndarray
    unimodal: np.ndarray
    video: np.ndarray
    raw_text: list[str]
    audio: tuple[np.ndarray, np.ndarray]
    vision: tuple[np.ndarray, np.ndarray]


def _draw(settings: DemoSettings, split: str) -> _Clips:
    number = SPLITS.index(split)
    # a stream each, so that a change to one leaves the others as they were
    cue_rng, text_rng, vision_rng, audio_rng = (
        np.random.default_rng([settings.seed, number, stream]) for stream in range(4)
    )
    count = settings.sizes[number]
    video = draw_videos(cue_rng, count, _CLIPS_PER_VIDEO)
    cues = settings.shared**0.5 * cue_rng.standard_normal(count)
    cues = cues + (1 - settings.shared) ** 0.5 * cue_rng.standard_normal((2, 3, count))
    levels = np.rint(np.clip(cues[:, 0] * _TEXT_LEVELS, -_TEXT_LIMITS, _TEXT_LIMITS))  # (2, N)
    cues[:, 0] = levels / _TEXT_LEVELS
    labels, unimodal = _labels(settings, cues, cue_rng.standard_normal(count))

    raw_text = [demo_text.sentence(text_rng, int(macro), int(micro)) for macro, micro in levels.T]
    vision = demo_signals.plant(vision_rng, demo_signals.VISION, *cues[:, 1], video)
    audio = demo_signals.plant(audio_rng, demo_signals.AUDIO, *cues[:, 2], video)
    return _Clips(cues, labels, unimodal, video, raw_text, audio, vision)


def _labels(settings: DemoSettings, cues: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y (...) and the labels of T, V, A (3, ...) of cues (2, 3, ...) and annotators' standard error (...)."""
    macro, micro = (1 - settings.micro) ** 0.5 * cues[0], settings.micro**0.5 * cues[1]
    deviation = settings.spread * (macro + micro)  # (3, ...)
    unimodal = grid(settings.bias + deviation, settings.scheme)
    weighted = sum(weight * part for weight, part in zip(settings.weights, deviation, strict=True))
    felt = settings.bias + settings.gain * weighted + settings.noise * error
    labels = grid(felt, settings.scheme)
    if settings.settle is not None:
        within = [
            np.abs(np.clip(felt, -1, 1) - label) / near for label, near in zip(unimodal, settings.settle, strict=True)
        ]
        closest = np.argmin(within, axis=0)
        settled = np.take_along_axis(unimodal, closest[None], axis=0)[0]
        labels = np.where(np.min(within, axis=0) <= 1, settled, labels)
    return labels, unimodal


def _read(clips: _Clips) -> np.ndarray:
    """Readings (2, 3, N) of the cues from sentences and sequences alone."""
    text = np.array([demo_text.read_levels(sentence) for sentence in clips.raw_text]).T / _TEXT_LEVELS
    vision = demo_signals.read(demo_signals.VISION, *clips.vision)
    audio = demo_signals.read(demo_signals.AUDIO, *clips.audio)
    return np.stack([text, vision, audio], axis=1)


def _reading_law(clips: _Clips) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, intercept and residual variance (2, 3) of each reading on its planted cue, by least squares."""
    readings, cues = _read(clips), clips.cues
    centred = cues - cues.mean(axis=2, keepdims=True)
    slope = (centred * readings).sum(axis=2) / (centred**2).sum(axis=2)
    intercept = readings.mean(axis=2) - slope * cues.mean(axis=2)
    residual = readings - slope[..., None] * cues - intercept[..., None]
    return slope, intercept, residual.var(axis=2)


def _settings(name: str) -> DemoSettings | SpeedSettings:
    if name not in CORPORA:
        raise ConfigError(f"no synthetic corpus is called {name!r}: {nearest(name, CORPORA)}")
    return CORPORA[name]
