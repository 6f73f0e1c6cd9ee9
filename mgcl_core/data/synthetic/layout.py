"""Putting generated clips into the field's feature-file format; everything written is synthetic."""

from __future__ import annotations

import numpy as np

from ..corpus import BOUNDS, MODALITIES, SPLITS

_STEPS_PER_UNIT = 5  # labels lie on a grid of 0.2
_CLASSES = ("Negative", "Neutral", "Positive")


def grid(sentiment: np.ndarray, scheme: str) -> np.ndarray:
    """Labels of ``scheme``, multiples of 0.2, for a sentiment in units of the label bound, cut to [-1, 1]."""
    bound = BOUNDS[scheme]
    return np.rint(np.clip(sentiment, -1, 1) * bound * _STEPS_PER_UNIT) / _STEPS_PER_UNIT


def draw_videos(rng: np.random.Generator, clips: int, clips_per_video: int) -> np.ndarray:
    """The video (N,) of each clip, counted from 0, in runs of unequal length."""
    return np.sort(rng.integers(0, max(1, clips // clips_per_video), clips))


def as_fields(
    split: str,
    video: np.ndarray,
    raw_text: list[str],
    text_bert: np.ndarray,
    audio: tuple[np.ndarray, np.ndarray],
    vision: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    unimodal: np.ndarray | None,
) -> dict[str, object]:
    """A split of a feature file, with ids ``synthetic_<video>$_$<clip>``; no two splits share a video.

    ``audio`` and ``vision`` are features (N, L, D) with lengths (N,); ``labels`` (N,) and ``unimodal``
    (3, N) in the order T, V, A, or None, are in the units of the file.
    """
    first = np.searchsorted(video, video)  # (N,) the first clip of each clip's video
    clip = np.arange(len(video)) - first
    sign = np.sign(labels).astype(int) + 1
    fields = {
        "raw_text": np.array(raw_text),
        "text_bert": text_bert,
        "audio": audio[0],
        "vision": vision[0],
        "audio_lengths": audio[1].tolist(),
        "vision_lengths": vision[1].tolist(),
        "id": np.array(
            [
                f"synthetic_{SPLITS.index(split)}{number:04d}$_${index}"
                for number, index in zip(video, clip, strict=True)
            ]
        ),
        "annotations": np.array(_CLASSES)[sign],
        "classification_labels": sign.astype(np.float32),
        "regression_labels": labels.astype(np.float32),
    }
    if unimodal is not None:
        for modality, values in zip(MODALITIES, unimodal, strict=True):
            fields[f"regression_labels_{modality}"] = values.astype(np.float32)
    return fields
