"""The form of a feature file: its keys, their types and shapes, and the range of their numbers.

Small values (ids, texts, labels, lengths, token ids) are checked and converted at once. Audio, vision and text
features stay in the file, checked for type and shape only; `FeatureStream` checks their numbers while they are copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..support.errors import CorpusError, nearest, shorten
from .corpus import BOUNDS, MODALITIES, SPLITS

REQUIRED = ("id", "raw_text", "regression_labels")
LENGTHS = {"audio": "audio_lengths", "vision": "vision_lengths"}
UNIMODAL = tuple(f"regression_labels_{modality}" for modality in MODALITIES)
OPTIONAL = ("text_bert", "audio", "vision", "text", *LENGTHS.values(), *UNIMODAL)
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
        raw_text: N strings; empty where the file has none (None, NaN).
        text_bert: (N, 3, L) int64, or None if the file has none.
        features: The file's own arrays: audio (N, La, Da), vision (N, Lv, Dv), and text (N, L, D) if there is one. A
            modality that the file lacks is a single step of zeros.
        lengths: (N,) int64 for audio and vision, or None if the file has none.
        labels: (N,) float32; None only in clips to predict.
        unimodal_labels: (3, N) float32 in the order T, V, A, or None.
        absent: "audio", "vision", where the file lacks them.
    """

    ids: list[str]
    raw_text: list[str]
    text_bert: np.ndarray | None
    features: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray | None]
    labels: np.ndarray | None
    unimodal_labels: np.ndarray | None
    absent: frozenset[str] = frozenset()


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
    if not any(text.strip() for split in splits.values() for text in split.raw_text) and all(
        split.text_bert is None or not split.text_bert[:, 1].any() for split in splits.values()
    ):
        location.fail("no clip has a word", "raw_text", "sentences, or token ids in text_bert", "none in any split")
    characters = sum(len(text) for split in splits.values() for text in split.raw_text)
    if characters > file.stat().st_size:  # one long string shared by many clips
        location.fail("texts are longer than the file", "raw_text", f"up to {file.stat().st_size}", characters)
    return splits


def check_clips(content: Any, file: Path, wanted: Sequence[str] = ()) -> dict[str, CheckedSplit]:
    """Check clips to predict: like `check_file`, but labels are neither needed nor kept.

    Args:
        content: What the pickle holds.
        file: Its path, for errors.
        wanted: The splits to check, all that there are by default; one is enough.

    Raises:
        CorpusError: The file breaks the format, or lacks a wanted split.
    """
    if type(content) is not dict or not any(name in content for name in SPLITS):
        expected = f"a dict with at least one of the splits {', '.join(SPLITS)}"
        Location(file).fail("not a file of clips", None, expected, _names(content))
    for name in wanted:
        if name not in content or name not in SPLITS:
            problem = f"there is no split {name!r}: {nearest(name, SPLITS)}"
            Location(file).fail(problem, None, f"one of {', '.join(SPLITS)}", _names(content))
    chosen = [name for name in SPLITS if name in (wanted or content)]
    splits = {name: _check_split(content[name], Location(file, name), labelled=False) for name in chosen}
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
    raw_text = _strings(split["raw_text"], "raw_text", location, count, missing="")
    text_bert = _text_bert(split["text_bert"], location, count) if "text_bert" in split else None
    features = {key: _feature(split[key], key, location, count) for key in _FEATURES if key in split}
    if "text" in features and text_bert is not None and features["text"].shape[1] != text_bert.shape[2]:
        location.fail("text and text_bert differ in steps", "text", text_bert.shape[2], features["text"].shape[1])
    lengths = {
        feature: _lengths(split[key], key, location, count, features[feature].shape[1])
        if key in split and feature in features
        else None
        for feature, key in LENGTHS.items()
    }
    absent = frozenset(LENGTHS) - set(features)
    features |= {key: np.zeros((count, 1, 1), np.float32) for key in absent}
    labels = _labels(split["regression_labels"], "regression_labels", location, count) if labelled else None
    unimodal_labels = [_labels(split[key], key, location, count) for key in unimodal]
    return CheckedSplit(
        ids, raw_text, text_bert, features, lengths, labels, np.stack(unimodal_labels) if unimodal else None, absent
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


def _strings(
    value: Any, key: str, location: Location, count: int | None = None, missing: str | None = None
) -> list[str]:
    """Convert a list or an array (of str, bytes, or objects that are all str) to a list of str.

    ``missing`` stands for None and NaN, which are errors without it.
    """
    expected = "a list or one-dimensional array of strings"
    try:
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "USO":
            items = [item.decode() if isinstance(item, bytes) else item for item in value.tolist()]
        elif type(value) in (list, tuple):
            items = list(value)
        else:
            location.fail("not a list of strings", key, expected, _describe(value))
        if missing is not None:
            items = [missing if item is None or (isinstance(item, float) and item != item) else item for item in items]
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
        expected = f"[-{bound:g}, {bound:g}]"
        if labels.min() >= 0:  # a scale from 1 to 5, say
            middle = (labels.min() + labels.max()) / 2
            expected += f", around 0: subtract {middle:g}, the middle of these, and divide by half their range"
        location.fail("a label is out of range", key, expected, f"{labels[bad[0]]} at clip {bad[0]}")
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
        nonfinite: "error" refuses NaN and infinity, "zero" replaces them. Minus infinity of audio and vision, a
            logarithm of silence, becomes 0 in either case, and its step counts as observed.
        lengths: (N,) steps that the file says are valid, or None.

    Attributes:
        negative_infinities: After all chunks: how many numbers of audio or vision were -inf and became 0.
        replaced: How many others were not finite and became 0.
        start: (N,) first step of each clip that is not zero; 0 where there is none.
        stop: (N,) one more than the last such step; 0 where there is none.
        beyond: (N,) steps that are not zero and lie at or after the clip's length.
    """

    def __init__(
        self,
        source: np.ndarray,
        key: str,
        location: Location,
        *,
        nonfinite: str = "error",
        lengths: np.ndarray | None = None,
    ):
        self.source, self.key, self.location, self.nonfinite = source, key, location, nonfinite
        self.negative_infinities = self.replaced = 0
        self.start, self.stop, self.beyond = (np.zeros(len(source), dtype=np.int64) for _ in range(3))
        self.lengths = np.full(len(source), source.shape[1]) if lengths is None else lengths

    def chunks(self) -> Iterator[np.ndarray]:
        """Iterate over (n, L, D) float32 chunks.

        Raises:
            CorpusError: A number is not finite in float32, and ``nonfinite`` is "error".
        """
        clips = max(1, CHUNK_BYTES // self.source[0].nbytes)
        size = self.location.file.stat().st_size
        for start in range(0, len(self.source), clips):
            # The features are views of the mapped file: to read where it was cut off would end the process by a signal.
            if (now := self.location.file.stat().st_size) != size:
                self.location.fail("the file changed while it was read", self.key, f"{size} bytes", f"{now} bytes")
            rows = slice(start, start + clips)
            chunk = self.source[rows]  # (n, L, D)
            with np.errstate(over="ignore", invalid="ignore"):
                features = np.array(chunk, dtype=np.float32, order="C")
            finite = np.isfinite(features)
            observed = features != 0
            if not finite.all():
                silent = ~finite & np.isneginf(chunk) if self.key != "text" else np.zeros_like(finite)
                self.negative_infinities += int(silent.sum())
                self._check(chunk, finite | silent, start)
                features[~finite] = 0
                observed &= finite | silent
            observed = observed.any(axis=2)  # (n, L)
            steps = np.arange(chunk.shape[1])
            self.start[rows] = observed.argmax(axis=1)
            self.stop[rows] = (observed * (steps + 1)).max(axis=1)
            self.beyond[rows] = (observed & (steps >= self.lengths[rows, None])).sum(axis=1)
            yield features

    def _check(self, chunk: np.ndarray, good: np.ndarray, start: int) -> None:
        bad = int((~good).sum())
        self.replaced += bad
        if bad and self.nonfinite == "error":
            clip, step, feature = np.argwhere(~good)[0]
            found = (
                f"{chunk[clip, step, feature]} at clip {start + clip}, step {step}, feature {feature}"
                f" ({bad} such numbers in {len(chunk)} clips from {start} on)"
            )
            expected = "finite numbers; nonfinite='zero' (--set nonfinite=zero) replaces all others by 0"
            self.location.fail("a feature is not finite in float32", self.key, expected, found)


def observed_span(
    lengths: Mapping[str, np.ndarray | None], streams: Mapping[str, FeatureStream], rule: str, notes: Counter[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decide which steps of audio or vision are data, for a whole file (decision 19).

    Where no length of the file cuts off a step that is not zero, a clip is its first ``length`` steps. Otherwise the
    lengths are not believed, and it runs from its first to its last such step. A clip without any is empty.

    Args:
        lengths: Of each split (N,), or None where the file has none.
        streams: Of each split, after all chunks.
        rule: "auto"; "file" believes the lengths whatever they cut off; "nonzero" never does.
        notes: Counts what was decided.

    Returns:
        First step and end (N,) of each split's clips.

    Raises:
        CorpusError: the lengths are to be believed, and the file has none.
    """
    key = next(iter(streams.values())).key
    known = all(values is not None for values in lengths.values())
    if rule == "file" and not known and any(stream.stop.any() for stream in streams.values()):
        location = next(iter(streams.values())).location
        location.fail("lengths='file' reads lengths that are not there", LENGTHS[key], "the key", "none")
    cut = {name: int((stream.beyond > 0).sum()) for name, stream in streams.items()}
    steps = sum(int(stream.beyond.sum()) for stream in streams.values())
    believed = known and (rule == "file" or (rule == "auto" and not steps))
    if known and steps:
        kind = "cut_by_length" if believed else "beyond_length"
        notes[f"{key}_clips_{kind}"] += sum(cut.values())
        notes[f"{key}_steps_{kind}"] += steps
    spans = {}
    for name, stream in streams.items():
        start, stop = stream.start, stream.stop
        if believed:
            start, stop = np.zeros_like(start), np.where(stop > 0, lengths[name], 0)
        notes[f"{key}_clips_absent"] += int((stop == 0).sum())
        spans[name] = start, stop
    return spans


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
        candidates = [name for name in candidates if largest <= BOUNDS[name] + _LABEL_TOLERANCE]
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


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return type(value).__name__


def _names(value: Any) -> str:
    """The first keys of a dict, the type of anything else."""
    if type(value) is not dict:
        return type(value).__name__
    return ", ".join(str(key)[:40] for key in list(value)[:20]) or "nothing"
