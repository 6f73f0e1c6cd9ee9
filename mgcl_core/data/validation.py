"""The form of a feature file: its keys, their types and shapes, and the range of their numbers.

Small values (ids, texts, labels, lengths, token ids) are checked and converted at once. Audio, vision and text
features stay in the file, checked for type and shape only; `FeatureStream` checks their numbers while they are copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..support.errors import CorpusError, shorten
from .corpus import BOUNDS, MODALITIES, SPLITS

REQUIRED = ("id", "raw_text", "text_bert", "audio", "vision", "regression_labels")
LENGTHS = {"audio": "audio_lengths", "vision": "vision_lengths"}
UNIMODAL = tuple(f"regression_labels_{modality}" for modality in MODALITIES)
OPTIONAL = ("text", *LENGTHS.values(), *UNIMODAL)
_FEATURES = ("audio", "vision", "text")
#: Features are copied in chunks of about this size.
CHUNK_BYTES = 1 << 24
_LABEL_TOLERANCE = 1e-6  # labels are float32


@dataclass(frozen=True)
class Location:
    """The file and split that an error names."""

    file: Path
    split: str | None = None

    def fail(self, problem: str, key: str | None, expected: object, found: object) -> NoReturn:
        """Raise the `CorpusError` of a problem at this location."""
        raise CorpusError(problem, file=self.file, split=self.split, key=key, expected=expected, found=shorten(found))


@dataclass(frozen=True)
class CheckedSplit:
    """A split of valid form; the numbers in ``features`` are not checked yet.

    Attributes:
        ids: N strings.
        raw_text: N strings.
        text_bert: (N, 3, L) int64.
        features: The file's own arrays: audio (N, La, Da), vision (N, Lv, Dv), and text (N, L, D) if there is one.
        lengths: (N,) int64 for audio and vision, or None if the file has none.
        labels: (N,) float32; None only in clips to predict.
        unimodal_labels: (3, N) float32 in the order T, V, A, or None.
    """

    ids: list[str]
    raw_text: list[str]
    text_bert: np.ndarray
    features: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray | None]
    labels: np.ndarray | None
    unimodal_labels: np.ndarray | None


def check_file(content: Any, file: Path) -> dict[str, CheckedSplit]:
    """Check an unpickled feature file.

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
        location.fail("splits are missing", missing[0], f"the splits {', '.join(SPLITS)}", _names(content))
    splits = {name: _check_split(content[name], Location(file, name)) for name in SPLITS}
    for name in SPLITS[1:]:
        _check_same_form(content["train"], content[name], Location(file, name))
    _check_unique_ids(splits, file)
    characters = sum(len(text) for split in splits.values() for text in split.raw_text)
    if characters > file.stat().st_size:  # one long string shared by many clips
        location.fail("texts are longer than the file", "raw_text", f"up to {file.stat().st_size}", characters)
    return splits


def check_clips(content: Any, file: Path) -> dict[str, CheckedSplit]:
    """Check clips to predict: like `check_file`, but one split is enough, and labels are neither needed nor kept."""
    if type(content) is not dict or not any(name in content for name in SPLITS):
        expected = f"a dict with at least one of the splits {', '.join(SPLITS)}"
        Location(file).fail("not a file of clips", None, expected, _names(content))
    splits = {
        name: _check_split(content[name], Location(file, name), labelled=False) for name in SPLITS if name in content
    }
    _check_unique_ids(splits, file)
    return splits


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
            location.fail("a key is missing", key, f"the keys {', '.join(required)}", _names(split))
    unimodal = [key for key in UNIMODAL if key in split]
    for key in UNIMODAL:
        if unimodal and key not in split:
            location.fail("unimodal labels are incomplete", key, "all of T, A, V or none", ", ".join(unimodal))

    ids = _strings(split["id"], "id", location)
    count = len(ids)
    if not count:
        location.fail("the split is empty", "id", "at least one clip", "none")
    raw_text = _strings(split["raw_text"], "raw_text", location, count)
    text_bert = _text_bert(split["text_bert"], location, count)
    features = {key: _feature(split[key], key, location, count) for key in _FEATURES if key in split}
    if "text" in features and features["text"].shape[1] != text_bert.shape[2]:
        location.fail("text and text_bert differ in steps", "text", text_bert.shape[2], features["text"].shape[1])
    lengths = {
        feature: _lengths(split[key], key, location, count, features[feature].shape[1]) if key in split else None
        for feature, key in LENGTHS.items()
    }
    labels = _labels(split["regression_labels"], "regression_labels", location, count) if labelled else None
    unimodal_labels = [_labels(split[key], key, location, count) for key in unimodal]
    return CheckedSplit(
        ids, raw_text, text_bert, features, lengths, labels, np.stack(unimodal_labels) if unimodal else None
    )


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


def _strings(value: Any, key: str, location: Location, count: int | None = None) -> list[str]:
    """Convert a list or an array (of str, bytes, or objects that are all str) to a list of str."""
    expected = "a list or one-dimensional array of strings"
    try:
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "USO":
            items = [item.decode() if isinstance(item, bytes) else item for item in value.tolist()]
        elif type(value) in (list, tuple):
            items = list(value)
        else:
            location.fail("not a list of strings", key, expected, _describe(value))
        for item in items:
            if not isinstance(item, str):
                location.fail(
                    "not a list of strings", key, expected, f"{_describe(value)} holding {type(item).__name__}"
                )
            item.encode()  # refuses half a surrogate pair
    except UnicodeError as error:
        location.fail("a string is not Unicode", key, expected, error)
    _check_count(len(items), count, key, location)
    return [str(item) for item in items]


def _numbers(value: Any, key: str, location: Location, count: int) -> np.ndarray:
    """Convert a list or an array of N real, finite numbers to (N,) float64."""
    expected = "a list or one-dimensional array of numbers"
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "fiu":
            location.fail("not a list of numbers", key, expected, _describe(value))
    elif type(value) in (list, tuple):
        for item in value:
            if type(item) not in (int, float) and not isinstance(item, np.floating | np.integer):
                location.fail(
                    "not a list of numbers", key, expected, f"{_describe(value)} holding {type(item).__name__}"
                )
    else:
        location.fail("not a list of numbers", key, expected, _describe(value))
    _check_count(len(value), count, key, location)
    numbers = np.asarray(value, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        location.fail("a number is not finite", key, "finite numbers", f"{numbers[bad[0]]} at clip {bad[0]}")
    return numbers


def _labels(value: Any, key: str, location: Location, count: int) -> np.ndarray:
    """Convert labels to (N,) float32, within the widest scheme; `decide_scheme` says which scheme it is."""
    labels = _numbers(value, key, location, count)
    bound = max(BOUNDS.values())
    bad = np.flatnonzero(np.abs(labels) > bound + _LABEL_TOLERANCE)
    if bad.size:
        location.fail("a label is out of range", key, f"[-{bound:g}, {bound:g}]", f"{labels[bad[0]]} at clip {bad[0]}")
    return labels.astype(np.float32)


def _lengths(value: Any, key: str, location: Location, count: int, steps: int) -> np.ndarray:
    lengths = _numbers(value, key, location, count)
    bad = np.flatnonzero((lengths != np.floor(lengths)) | (lengths < 0) | (lengths > steps))
    if bad.size:
        expected = f"integers from 0 to {steps}"
        location.fail("a length does not fit", key, expected, f"{lengths[bad[0]]:g} at clip {bad[0]}")
    return lengths.astype(np.int64)


def _text_bert(value: Any, location: Location, count: int) -> np.ndarray:
    """Convert token ids, mask and types to (N, 3, L) int64; files often hold them as floats."""
    array = _feature(value, "text_bert", location, count)
    if array.shape[1] != 3:
        location.fail("text_bert has no ids, mask, types", "text_bert", "shape (N, 3, L)", array.shape)
    for row, (name, bound) in enumerate((("token id", 2**31), ("mask", 2), ("token type", 2))):
        part = array[:, row].astype(np.float64)  # (N, L)
        bad = np.argwhere(~((part >= 0) & (part < bound) & (part == np.floor(part))))
        if bad.size:
            clip, step = bad[0]
            expected = f"integers from 0 to {bound - 1}"
            location.fail(
                f"a {name} is impossible", "text_bert", expected, f"{part[clip, step]} at clip {clip}, step {step}"
            )
    return array.astype(np.int64)


def _feature(value: Any, key: str, location: Location, count: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind not in "fiu":
        location.fail("not an array of features", key, "a numeric array of rank 3", _describe(value))
    _check_count(len(value), count, key, location)
    if not value.size:
        location.fail("an array without steps or features", key, "at least one step and feature", value.shape)
    return value


def _check_count(count: int, expected: int | None, key: str, location: Location) -> None:
    if expected is not None and count != expected:
        location.fail("keys differ in their number of clips", key, f"{expected}, as in id", count)


class FeatureStream:
    """Copies the features of one split to float32 in chunks of clips, and checks every number.

    Args:
        source: (N, L, D).
        key: "audio", "vision" or "text".
        location: Named in errors.

    Attributes:
        negative_infinities: After all chunks: how many numbers of audio were -inf and became 0.
        extent: After all chunks: (N,) steps of each clip up to its last non-zero one.
    """

    def __init__(self, source: np.ndarray, key: str, location: Location):
        self.source, self.key, self.location = source, key, location
        self.negative_infinities = 0
        self.extent = np.zeros(len(source), dtype=np.int64)

    def chunks(self) -> Iterator[np.ndarray]:
        """Iterate over (n, L, D) float32 chunks.

        Raises:
            CorpusError: A number is not finite in float32. Only audio may hold -inf (COVAREP's logarithm of silence).
        """
        clips = max(1, CHUNK_BYTES // self.source[0].nbytes)
        for start in range(0, len(self.source), clips):
            chunk = self.source[start : start + clips]  # (n, L, D)
            with np.errstate(over="ignore"):
                features = np.array(chunk, dtype=np.float32, order="C")
            finite = np.isfinite(features)
            if self.key == "audio" and not finite.all():
                silent = ~finite & np.isneginf(chunk)
                features[silent] = 0
                finite |= silent
                self.negative_infinities += int(silent.sum())
            if not finite.all():
                clip, step, feature = np.argwhere(~finite)[0]
                found = (
                    f"{chunk[clip, step, feature]} at clip {start + clip}, step {step}, feature {feature}"
                    f" ({(~finite).sum()} such numbers in {len(chunk)} clips from {start} on)"
                )
                self.location.fail("a feature is not finite in float32", self.key, "finite numbers", found)
            nonzero = chunk.any(axis=2)  # (n, L): -inf counts as data
            steps = np.arange(1, chunk.shape[1] + 1)
            self.extent[start : start + clips] = (nonzero * steps).max(axis=1)
            yield features


def decide_scheme(labels: dict[tuple[str, str], np.ndarray], scheme: str | None, file: Path) -> str:
    """Choose the narrowest label scheme that all labels fit.

    Args:
        labels: Arrays by (split, key).
        scheme: The only scheme to consider, or None for all in ``BOUNDS``.
        file: Named in errors.

    Returns:
        The scheme's name.

    Raises:
        CorpusError: A label fits no scheme.
    """
    candidates = [scheme] if scheme else sorted(BOUNDS, key=BOUNDS.__getitem__)
    bound = BOUNDS[candidates[-1]]
    for (split, key), values in labels.items():
        largest = float(np.abs(values).max())
        candidates = [name for name in candidates if largest <= BOUNDS[name] + _LABEL_TOLERANCE]
        if not candidates:
            expected = f"[-{bound:g}, {bound:g}]"
            Location(file, split).fail("a label is out of range", key, expected, f"a label of size {largest:g}")
    return candidates[0]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return type(value).__name__


def _names(value: Any) -> str:
    """The first keys of a dict, the type of anything else."""
    if type(value) is not dict:
        return type(value).__name__
    return ", ".join(str(key)[:40] for key in list(value)[:20]) or "nothing"
