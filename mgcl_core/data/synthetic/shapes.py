"""Synthetic corpora of the sizes and shapes of CH-SIMS, MOSI and MOSEI, for measuring speed only.

Features are noise with a trace of the label; scores on them mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..corpus import SPLITS
from .feature_file import as_fields, draw_videos, round_labels, text_bert
from .sentences import MACRO_LIMIT, MICRO_LIMIT, make_sentence

_CUE = 0.5  # of the label, in the first dimension of audio and vision
_CLIPS_PER_VIDEO = 20
# bert-base-chinese: [CLS], [SEP] and the range of its Chinese characters
_CLS, _SEP, _CHARACTERS = 101, 102, (670, 7992)
_CHARACTERS_MEAN, _CHARACTERS_SD = 15.8, 7.3  # a sentence of CH-SIMS


@dataclass(frozen=True)
class ShapedCorpus:
    """A corpus of noise with given shapes.

    Attributes:
        seed: Seed of all numbers.
        scheme: Label scheme.
        sizes: Clips in train, valid and test.
        text_steps: Word pieces.
        audio: Steps and dimensions.
        vision: Steps and dimensions.
        chinese: As CH-SIMS: with unimodal labels, and random token ids of bert-base-chinese instead of sentences.
    """

    seed: int
    scheme: str
    sizes: tuple[int, int, int]
    text_steps: int
    audio: tuple[int, int]
    vision: tuple[int, int]
    chinese: bool = False

    def split_fields(self, split: str, clips: int | None = None) -> dict[str, object]:
        """Generate a split in the form of a feature file, with ``clips`` clips instead of all of them."""
        clips = self.sizes[SPLITS.index(split)] if clips is None else clips
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        video = draw_videos(rng, clips, _CLIPS_PER_VIDEO)
        sentiment = 0.6 * rng.standard_normal((4, clips))  # y, then T, V, A
        labels = round_labels(sentiment, self.scheme)
        if self.chinese:
            raw_text, tokens = ["(synthetic)"] * clips, _characters(rng, clips, self.text_steps)
        else:
            raw_text = _sentences(rng, sentiment[0])
            tokens = text_bert(raw_text, self.text_steps)
        audio = _features(rng, self.audio, sentiment[0])
        vision = _features(rng, self.vision, sentiment[0])
        return as_fields(split, video, raw_text, tokens, audio, vision, labels[0], labels[1:] if self.chinese else None)


SHAPES = {
    "synthetic-sims": ShapedCorpus(11, "sims", (1368, 456, 457), 39, (400, 33), (55, 709), chinese=True),
    "synthetic-mosi": ShapedCorpus(12, "mosi", (1284, 229, 686), 50, (375, 5), (500, 20)),
    "synthetic-mosei": ShapedCorpus(13, "mosi", (16326, 1871, 4659), 50, (500, 74), (500, 35)),
}


def _features(rng: np.random.Generator, shape: tuple[int, int], sentiment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, L, D) float32 and lengths (N,), uniform between 0.2 and 1 of L."""
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
    """Two sentences for each clip, about as long as MOSI's and MOSEI's, whose wording follows the sentiment."""
    levels = np.rint(np.clip(sentiment, -1, 1) * [[MACRO_LIMIT], [MICRO_LIMIT]]).astype(int)  # (2, N)
    return [f"{make_sentence(rng, *clip)} . {make_sentence(rng, *clip)}" for clip in levels.T.tolist()]
