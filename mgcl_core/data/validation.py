"""The form of a feature file: its keys, their types and shapes, and the range of their labels.

Small values (ids, texts, labels, lengths, token ids) are checked and converted at once (`values`). Audio, vision and
text features stay in the file, checked for type and shape only; `FeatureStream` checks their numbers while they are
copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import nearest, shorten
from .corpus import BOUNDS, MODALITIES, SPLITS
from .padded import Padded
from .sources import size_of
from .values import (
    LABEL_TOLERANCE,
    Location,
    feature_array,
    ids_of,
    labels_of,
    lengths_of,
    names_of,
    strings,
    tokens_of,
)

REQUIRED = ("id", "regression_labels")
LENGTHS = {"audio": "audio_lengths", "vision": "vision_lengths"}
UNIMODAL = tuple(f"regression_labels_{modality}" for modality in MODALITIES)
#: Keys of which any says something of what was spoken.
TEXT = ("raw_text", "text_bert", "text")
OPTIONAL = (*TEXT, "audio", "vision", *LENGTHS.values(), *UNIMODAL)
_FEATURES = ("audio", "vision", "text")
#: Clips of different lengths may take this many times their own size when they are padded to the longest.
_MOST_PADDING = 64


@dataclass(frozen=True)
class CheckedSplit:
    """A split of valid form; the numbers in ``features`` are not checked yet.

    Attributes:
        ids: N strings.
        raw_text: N strings; empty where the file has none (None, NaN, no such key).
        text_bert: (N, 3, L) int64, or None if the file has none.
        features: The file's own arrays: audio (N, La, Da), vision (N, Lv, Dv), and text (N, L, D) if there is one. A
            modality that the file lacks is a single step of zeros.
        lengths: (N,) int64 for audio and vision, or None if the file has none.
        labels: (N,) float32; None only in clips to predict.
        unimodal_labels: (3, N) float32 in the order T, V, A, or None.
        absent: "audio", "vision", "text", where the file lacks them.
        notes: Counts of what was decided, as of `Corpus.notes`.
    """

    ids: list[str]
    raw_text: list[str]
    text_bert: np.ndarray | None
    features: dict[str, np.ndarray | Padded]
    lengths: dict[str, np.ndarray | None]
    labels: np.ndarray | None
    unimodal_labels: np.ndarray | None
    absent: frozenset[str] = frozenset()
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def has_words(self) -> bool:
        """Whether any clip has a sentence or token ids."""
        return any(text.strip() for text in self.raw_text) or (
            self.text_bert is not None and bool(self.text_bert[:, 1].any())
        )


def check_file(content: Any, file: Path) -> dict[str, CheckedSplit]:
    """Check what a feature file holds, in MMSA's form (`formats.in_mmsa_form`).

    Args:
        content: What the pickle holds.
        file: Its path, for errors.

    Returns:
        The three splits by name.

    Raises:
        CorpusError: The file breaks the format.
    """
    location = Location(file)
    if type(content) is not dict:
        location.fail("not a feature file", None, "a dict of the splits train, valid, test", type(content).__name__)
    missing = [name for name in SPLITS if name not in content]
    if missing:
        location.fail("splits are missing", missing[0], f"the splits {', '.join(SPLITS)}", names_of(content))
    _check_numbers({name: content[name] for name in SPLITS}, file)
    splits = {name: _check_split(content[name], Location(file, name)) for name in SPLITS}
    for name in SPLITS[1:]:
        _check_same_form(content["train"], content[name], Location(file, name))
    _check_unique_ids(splits, file)
    if "text" not in splits["train"].features and not any(split.has_words for split in splits.values()):
        location.fail("no clip has a word", "raw_text", "sentences, or token ids in text_bert", "none in any split")
    characters = sum(len(text) for split in splits.values() for text in split.raw_text)
    if characters > size_of(file):  # one long string shared by many clips
        location.fail("texts are longer than the file", "raw_text", f"up to {size_of(file)}", characters)
    return splits


def check_clips(
    content: Any, file: Path, wanted: Sequence[str] = (), *, text_features: bool = False
) -> dict[str, CheckedSplit]:
    """Check clips to predict: like `check_file`, but labels are neither needed nor kept.

    Args:
        content: What the pickle holds.
        file: Its path, for errors.
        wanted: The splits to check, all that there are by default; one is enough.
        text_features: Keep the features ``text``; they are not looked at otherwise.

    Raises:
        CorpusError: The file breaks the format, or lacks a wanted split.
    """
    if type(content) is not dict or not any(name in content for name in SPLITS):
        expected = f"a dict with at least one of the splits {', '.join(SPLITS)}"
        Location(file).fail("not a file of clips", None, expected, names_of(content))
    for name in wanted:
        if name not in content or name not in SPLITS:
            problem = f"there is no split {name!r}: {nearest(name, SPLITS)}"
            Location(file).fail(problem, None, f"one of {', '.join(SPLITS)}", names_of(content))
    chosen = {name: content[name] for name in SPLITS if name in (wanted or content)}
    if not text_features:
        chosen = {
            name: {key: value for key, value in split.items() if key != "text"} if type(split) is dict else split
            for name, split in chosen.items()
        }
    _check_numbers(chosen, file)
    splits = {name: _check_split(split, Location(file, name), labelled=False) for name, split in chosen.items()}
    _check_unique_ids(splits, file)
    return splits


def _check_numbers(splits: dict[str, Any], file: Path) -> None:
    """Refuse more numbers than the file has bytes: arrays that splits share would be copied for each of them."""
    own = padded = 0
    for split in splits.values():
        for key in ("text_bert", *_FEATURES) if type(split) is dict else ():
            value = split.get(key)
            if isinstance(value, np.ndarray | Padded):
                own += value.numbers if isinstance(value, Padded) else value.size
                padded += value.size
    room = size_of(file)
    if own > room:
        Location(file).fail("arrays hold more numbers than the file has bytes", None, f"up to {room}", own)
    if padded > _MOST_PADDING * room:
        expected = f"up to {_MOST_PADDING} times the {room} bytes of the file: cut the longest clips"
        Location(file).fail("clips are too unequal in length to be padded", None, expected, f"{padded} numbers")


def _check_split(split: Any, location: Location, labelled: bool = True) -> CheckedSplit:
    if type(split) is not dict:
        location.fail("a split is not a dict", None, "a dict of arrays and lists", type(split).__name__)
    for key in split:
        if not isinstance(key, str):
            location.fail("a key is not text", shorten(key), "names as keys", type(key).__name__)
    required = [key for key in REQUIRED if labelled or key != "regression_labels"]
    if not labelled:
        split = {key: value for key, value in split.items() if not key.startswith("regression_labels")}
    for key in required:
        if key not in split:
            location.fail("a key is missing", key, f"the keys {', '.join(required)}", names_of(split))
    unimodal = [key for key in UNIMODAL if key in split]
    for key in UNIMODAL:
        if unimodal and key not in split:
            location.fail("unimodal labels are incomplete", key, "all of T, A, V or none", ", ".join(unimodal))

    ids = ids_of(split["id"], location)
    count = len(ids)
    if not count:
        location.fail("the split is empty", "id", "at least one clip", "none")
    raw_text = [""] * count
    if "raw_text" in split:
        raw_text = strings(split["raw_text"], "raw_text", location, count, missing="")
    text_bert = tokens_of(split["text_bert"], location, count) if "text_bert" in split else None
    features = {key: feature_array(split[key], key, location, count) for key in _FEATURES if key in split}
    if "text" in features and text_bert is not None and features["text"].shape[1] != text_bert.shape[2]:
        location.fail("text and text_bert differ in steps", "text", text_bert.shape[2], features["text"].shape[1])
    lengths, notes = dict.fromkeys(LENGTHS), {}
    for name, key in LENGTHS.items():
        if key in split and name in features:
            steps = features[name].shape[1]
            lengths[name], notes[f"{name}_lengths_cut"] = lengths_of(split[key], key, location, count, steps)
    absent = {name for name in LENGTHS if name not in features}
    if not any(key in split for key in TEXT):
        absent.add("text")
    features |= {key: np.zeros((count, 1, 1), np.float32) for key in absent}
    labels = None
    if labelled:
        labels = labels_of(split["regression_labels"], "regression_labels", location, count)
    unimodal_labels = [labels_of(split[key], key, location, count) for key in unimodal]
    return CheckedSplit(
        ids, raw_text, text_bert, features, lengths, labels,
        np.stack(unimodal_labels) if unimodal else None, frozenset(absent), notes,
    )  # fmt: skip


def _check_same_form(train: dict, split: dict, location: Location) -> None:
    """Every split has the optional keys, steps and feature dimensions of the training split."""
    for key in OPTIONAL:
        if (key in train) != (key in split):
            expected, found = ("there" if key in part else "not there" for part in (train, split))
            location.fail("splits differ in their keys", key, f"as in train: {expected}", found)
    for key in ("text_bert", *_FEATURES):
        if key in train and train[key].shape[1:] != split[key].shape[1:]:
            expected = f"as in train: (N, {', '.join(map(str, train[key].shape[1:]))})"
            location.fail("splits differ in steps or feature dimensions", key, expected, split[key].shape)


def _check_unique_ids(splits: dict[str, CheckedSplit], file: Path) -> None:
    first: dict[str, str] = {}
    for name, split in splits.items():
        for clip in split.ids:
            if clip in first:
                problem = "a clip is there twice" if first[clip] == name else "a clip is in two splits: a leak"
                Location(file, name).fail(problem, "id", "every id once", f"{shorten(clip)!r} also in {first[clip]}")
            first[clip] = name


def decide_scheme(labels: dict[tuple[str, str], np.ndarray], scheme: str | None, file: Path) -> str:
    """Choose the narrowest label scheme that all labels fit.

    Args:
        labels: Arrays by (split, key).
        scheme: The only scheme to consider, or None for all in ``BOUNDS``.
        file: Named in errors.

    Returns:
        The scheme's name.

    Raises:
        CorpusError: A label fits no scheme, or no scheme was given and the labels look like those of another scale.
    """
    candidates = [scheme] if scheme else sorted(BOUNDS, key=BOUNDS.__getitem__)
    if not scheme:
        _check_scale(labels, file)
    bound = BOUNDS[candidates[-1]]
    for (split, key), values in labels.items():
        largest = float(np.abs(values).max())
        candidates = [name for name in candidates if largest <= BOUNDS[name] + LABEL_TOLERANCE]
        if not candidates:
            expected = f"[-{bound:g}, {bound:g}]"
            Location(file, split).fail("a label is out of range", key, expected, f"a label of size {largest:g}")
    return candidates[0]


def _check_scale(labels: dict[tuple[str, str], np.ndarray], file: Path) -> None:
    """Refuse labels that no negative one marks as sentiment around 0, and classes in place of intensities."""
    (split, key), *_ = labels
    values = np.unique(np.concatenate([np.asarray(part, float) for (_, name), part in labels.items() if name == key]))
    expected = "sentiment around 0, in [-1, 1] or [-3, 3]; {} or, to take them as they are, scheme='sims' or 'mosi'"
    found = f"{len(values)} different labels from {values[0]:g} to {values[-1]:g}"
    if len(values) > 1 and values[0] >= 0:
        middle = (values[0] + values[-1]) / 2
        advice = expected.format(f"subtract {middle:g}, the middle of the scale, and divide by half its range")
        Location(file, split).fail("the labels look like those of another scale: none is negative", key, advice, found)
    if len(values) == 3 and set(values) == {-1.0, 0.0, 1.0}:
        advice = expected.format("read intensities in their place")
        Location(file, split).fail("the labels are three classes, -1, 0 and 1, no intensities", key, advice, found)
