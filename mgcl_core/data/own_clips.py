"""Clips that a person hands over to be predicted: as a feature file would hold them, and what there is to say of them.

Notes are clip by clip: a modality that was cut, words that the text model does not know. Of all clips together: the
dimensions whose values are not those that the run was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..support.errors import CorpusError
from .corpus import SPLITS, Split
from .scaling import Scaler, sample_steps
from .text_model import load_tokenizer

#: Of the values of a dimension, how many must lie beyond the limit of the scaler before it is called another scale.
MOSTLY = 0.5
#: Where no dimension varies by a twentieth of what it did in training, the features are of another scale too.
HARDLY = 0.05
#: In fewer steps than these, of one short clip, two dimensions may be so far off: on a real file in 9 % of its clips.
MANY_STEPS = 50

Steps = np.ndarray | Sequence[np.ndarray | None]


def feature_file(
    text: str | Sequence[str] | None = None, audio: Steps | None = None, vision: Steps | None = None
) -> dict[str, dict[str, Any]]:
    """What a feature file of these clips would hold, as its split "test"; a modality that is left out is absent.

    Args:
        text: a sentence, or one per clip ("" where a clip has none).
        audio: (L, D) of one clip; or one such array a clip, of any lengths, None where a clip has none.
        vision: likewise.

    Raises:
        CorpusError: nothing is given, or not as much of each modality.
    """
    given = {"text": [text] if isinstance(text, str) else text, "audio": _clips(audio), "vision": _clips(vision)}
    given = {name: list(values) for name, values in given.items() if values is not None}
    counts = {name: len(values) for name, values in given.items()}
    if not counts or len(set(counts.values())) > 1:
        raise CorpusError(
            "no clips, or not as many of each modality",
            expected="text, audio or vision of one clip, or lists of one length",
            found=counts,
        )
    count = next(iter(counts.values()))
    split: dict[str, Any] = {
        "id": [f"clip {number}" for number in range(1, count + 1)],
        "raw_text": given.get("text", [""] * count),
    }
    for name in ("audio", "vision"):
        if any(values is not None and len(values) for values in given.get(name, ())):
            split[name], split[f"{name}_lengths"] = _padded(given[name], name)
    return {"test": split}


def as_feature_file(clips: Mapping[str, Any]) -> dict[str, Any]:
    """A dict as a feature file holds it: with splits, or one split alone, whose clips then are numbered without ids."""
    if any(name in clips for name in SPLITS):
        return dict(clips)
    count = max((len(value) for value in clips.values() if hasattr(value, "__len__")), default=0)
    numbered = {"id": [f"clip {number}" for number in range(1, count + 1)], "raw_text": [""] * count}
    return {"test": {**numbered, **clips}}


def cut_notes(split: Split, steps: Mapping[str, int]) -> dict[str, list[str]]:
    """A note on each clip that is longer than ``steps`` of some modality, to which `Split.cut` cuts it."""
    notes: dict[str, list[str]] = {}
    for name, most in steps.items():
        mask = np.asarray(getattr(split, f"{name}_mask"))
        for row in np.flatnonzero(mask[:, most:].any(axis=1)):
            last = int(np.flatnonzero(mask[row])[-1]) + 1
            notes.setdefault(split.ids[row], []).append(f"{name} cut to its first {most} of {last} steps")
    return notes


def text_notes(split: Split, tokens: np.ndarray, name: str, *, own_ids: bool) -> dict[str, list[str]]:
    """Notes on what the text model ``name`` sees of each clip: word pieces that it does not know, or that were cut.

    Args:
        split: the clips.
        tokens: theirs, (N, 3, L).
        name: the text model.
        own_ids: whether ``tokens`` are the file's own rather than those of ``raw_text``.
    """
    tokenizer = load_tokenizer(name)
    notes: dict[str, list[str]] = {}
    unknown = ((tokens[:, 0] == tokenizer.unk_token_id) & (tokens[:, 1] > 0)).sum(axis=1)
    pieces = (tokens[:, 1] > 0).sum(axis=1)
    for row in np.flatnonzero(unknown):
        notes.setdefault(split.ids[row], []).append(f"{unknown[row]} of {pieces[row]} word pieces unknown to {name!r}")
    for row in () if own_ids else np.flatnonzero(pieces == tokens.shape[2]):
        whole = len(tokenizer(split.raw_text[row])["input_ids"])
        if whole > pieces[row]:
            notes.setdefault(split.ids[row], []).append(f"text cut to its first {pieces[row]} of {whole} word pieces")
    return notes


def unlike_training(split: Split, scaler: Scaler) -> list[str]:
    """Sentences on audio and vision whose scale is not the one that ``scaler`` was fitted to, with their dimensions.

    A dimension is named where more than half of its values lie beyond the limit at which scaled values are clipped. The
    modality is, where none of its dimensions varies by a twentieth of what it did in training.
    """
    sentences = []
    for name in ("audio", "vision"):
        steps = sample_steps(getattr(split, name), np.asarray(getattr(split, f"{name}_mask")))  # (n, D)
        if not len(steps):
            continue
        scaled = (steps - scaler.statistics[f"{name}_center"]) / scaler.statistics[f"{name}_scale"]
        beyond = np.flatnonzero((np.abs(scaled) > scaler.limit).mean(axis=0) > MOSTLY)
        low, high = np.percentile(scaled, (5, 95), axis=0)
        if len(beyond) > 2 or (len(beyond) and len(steps) >= MANY_STEPS):
            listed = ", ".join(map(str, beyond[:10])) + (", …" if len(beyond) > 10 else "")
            sentences.append(
                f"{name}: {len(beyond)} of {scaled.shape[1]} dimensions (from 0: {listed}) lie more than "
                f"{scaler.limit:g} scales from their median in training"
            )
        elif len(steps) >= 10 and ((high - low) / 3.29).max() < HARDLY:  # 3.29: of a normal distribution of scale 1
            sentences.append(f"{name}: all {scaled.shape[1]} dimensions vary by less than a twentieth of training's")
    return sentences


def _clips(values: Steps | None) -> list[np.ndarray | None] | None:
    """One array a clip, from (L, D), (N, L, D) or a list of (L, D)."""
    if values is None:
        return None
    whole = isinstance(values, np.ndarray) and values.ndim == 2
    clips = [values] if whole else list(values)
    if clips and all(np.ndim(clip) == 1 for clip in clips if clip is not None):  # one clip as a list of its steps
        clips = [np.asarray(clips)]
    return [None if clip is None else np.asarray(clip) for clip in clips]


def _padded(clips: Sequence[np.ndarray | None], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, L, D) and lengths (N,)."""
    widths = {clip.shape[1] if clip.ndim == 2 else clip.shape for clip in clips if clip is not None and len(clip)}
    if len(widths) != 1 or not isinstance(next(iter(widths)), int):
        raise CorpusError("not one array (steps, dimensions) a clip", file="the given clips", key=name,
                          expected="arrays (L, D) of one D", found=sorted(map(str, widths)))  # fmt: skip
    lengths = np.array([0 if clip is None else len(clip) for clip in clips])
    padded = np.zeros((len(clips), int(lengths.max()), widths.pop()), np.float32)
    for row, clip in enumerate(clips):
        if lengths[row]:
            padded[row, : lengths[row]] = clip
    return padded, lengths
