"""The form of a feature file for generated clips."""

from __future__ import annotations

import numpy as np

from ..corpus import BOUNDS, MODALITIES, SPLITS
from ..text_model import tokenize

_CLASSES = ("Negative", "Neutral", "Positive")


def round_labels(sentiment: np.ndarray, scheme: str) -> np.ndarray:
    """Turn sentiment in units of the label bound, clipped to [-1, 1], into labels of ``scheme``: multiples of 0.2."""
    return np.rint(np.clip(sentiment, -1, 1) * BOUNDS[scheme] * 5) / 5


def draw_videos(rng: np.random.Generator, clips: int, clips_per_video: int) -> np.ndarray:
    """Draw the number of each clip's video (N,); the clips of a video are neighbours."""
    return np.sort(rng.integers(0, max(1, clips // clips_per_video), clips))


def text_bert(raw_text: list[str], steps: int) -> np.ndarray:
    """Tokenise English sentences to (N, 3, steps) float32, as the field stores them."""
    return tokenize("minilm", raw_text, steps).astype(np.float32)  # its ids are those of bert-base-uncased


def as_fields(
    split: str,
    video: np.ndarray,
    raw_text: list[str],
    text_bert: np.ndarray,
    audio: tuple[np.ndarray, np.ndarray],
    vision: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    unimodal_labels: np.ndarray | None,
) -> dict[str, object]:
    """Arrange N clips as a split of an unaligned feature file. No two splits share a video.

    Args:
        split: "train", "valid" or "test".
        video: (N,) numbers of the videos, sorted.
        raw_text: N sentences.
        text_bert: (N, 3, L).
        audio: Features (N, La, Da) and lengths (N,).
        vision: Features (N, Lv, Dv) and lengths (N,).
        labels: (N,) in the units of the file.
        unimodal_labels: (3, N) in the order T, V, A, or None.

    Returns:
        The fields of the split; ids are ``synthetic_<video>$_$<clip>``.
    """
    clip = np.arange(len(video)) - np.searchsorted(video, video)  # counted from 0 in each video
    sign = np.sign(labels).astype(int) + 1
    ids = [f"synthetic_{SPLITS.index(split)}{number:04d}$_${index}" for number, index in zip(video, clip, strict=True)]
    fields = {
        "raw_text": np.array(raw_text),
        "text_bert": text_bert,
        "audio": audio[0],
        "vision": vision[0],
        "audio_lengths": audio[1].tolist(),
        "vision_lengths": vision[1].tolist(),
        "id": np.array(ids),
        "annotations": np.array(_CLASSES)[sign],
        "classification_labels": sign.astype(np.float32),
        "regression_labels": labels.astype(np.float32),
    }
    if unimodal_labels is not None:
        for modality, values in zip(MODALITIES, unimodal_labels, strict=True):
            fields[f"regression_labels_{modality}"] = values.astype(np.float32)
    return fields
