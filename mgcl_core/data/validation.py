"""The form of a feature file: which keys, kinds and shapes it must have, and what its numbers may be.

What is small (ids, texts, labels, lengths, token ids) is checked and converted at once; audio, vision
and text features stay where they are, checked for kind and shape only, and ``FeatureStream`` checks
their numbers while they are copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..support.errors import CorpusError
from .corpus import BOUNDS, MODALITIES, SPLITS
from .safe_pickle.allowed import kind_of, short

REQUIRED = ("id", "raw_text", "text_bert", "audio", "vision", "regression_labels")
LENGTHS = {"audio": "audio_lengths", "vision": "vision_lengths"}
UNIMODAL = tuple(f"regression_labels_{modality}" for modality in MODALITIES)
OPTIONAL = ("text", *LENGTHS.values(), *UNIMODAL)
_FEATURES = ("audio", "vision", "text")
_CHUNK_BYTES = 1 << 24
_LABEL_TOLERANCE = 1e-6  # float32 labels


@dataclass(frozen=True)
class Where:
    """What an error names: the file and the split."""

    file: Path
    split: str | None = None

    def fail(self, problem: str, key: str | None, expected: object, found: object) -> NoReturn:
        found = short(found)
        raise CorpusError(problem, file=self.file, split=self.split, key=key, expected=expected, found=found)


@dataclass(frozen=True)
class CheckedSplit:
    """A split of the right form; ``features`` are the file's own arrays, their numbers not yet checked."""

    ids: list[str]
    raw_text: list[str]
    text_bert: np.ndarray  # (N, 3, L) int64
    features: dict[str, np.ndarray]  # audio (N, La, Da), vision (N, Lv, Dv), text (N, L, D) if it is there
    lengths: dict[str, np.ndarray | None]  # audio and vision: (N,) int64
    labels: np.ndarray | None  # (N,) float32; None only in clips to predict
    unimodal_labels: np.ndarray | None  # (3, N) float32 in the order T, V, A


def check_file(content: Any, file: Path) -> dict[str, CheckedSplit]:
    """The three splits of an unpickled feature file; ``CorpusError`` names what breaks the format."""
    where = Where(file)
    if type(content) is not dict:
        where.fail("not a feature file", None, "a dict of the splits train, valid, test", kind_of(content))
    missing = [name for name in SPLITS if name not in content]
    if missing:
        where.fail("splits are missing", missing[0], f"the splits {', '.join(SPLITS)}", _names(content))
    splits = {name: _check_split(content[name], Where(file, name)) for name in SPLITS}
    for name in SPLITS[1:]:
        _check_same_form(content["train"], content[name], Where(file, name))
    _check_unique_ids(splits, file)
    characters = sum(len(text) for split in splits.values() for text in split.raw_text)
    if characters > file.stat().st_size:  # one long string shared by many clips
        where.fail("texts are longer than the file", "raw_text", f"up to {file.stat().st_size}", characters)
    return splits


def check_clips(content: Any, file: Path) -> dict[str, CheckedSplit]:
    """Like ``check_file`` for clips to predict: one split is enough, and labels may be missing (they become None)."""
    where = Where(file)
    if type(content) is not dict or not any(name in content for name in SPLITS):
        found = _names(content) if type(content) is dict else kind_of(content)
        where.fail("not a file of clips", None, f"a dict with at least one of the splits {', '.join(SPLITS)}", found)
    splits = {name: _check_split(content[name], Where(file, name), labelled=False)
              for name in SPLITS if name in content}  # fmt: skip
    _check_unique_ids(splits, file)
    return splits


def _check_split(split: Any, where: Where, labelled: bool = True) -> CheckedSplit:
    if type(split) is not dict:
        where.fail("a split is not a dict", None, "a dict of arrays and lists", kind_of(split))
    for key in split:
        if not isinstance(key, str):
            where.fail("a key is not text", short(key), "names as keys", kind_of(key))
    required = [key for key in REQUIRED if labelled or key != "regression_labels"]
    if not labelled:
        split = {key: value for key, value in split.items() if not key.startswith("regression_labels")}
    for key in required:
        if key not in split:
            where.fail("a key is missing", key, f"the keys {', '.join(required)}", _names(split))
    unimodal = [key for key in UNIMODAL if key in split]
    if unimodal and len(unimodal) < len(UNIMODAL):
        missing = next(key for key in UNIMODAL if key not in split)
        where.fail("unimodal labels are incomplete", missing, "all of T, A, V or none", ", ".join(unimodal))

    ids = _strings(split["id"], "id", where)
    count = len(ids)
    if not count:
        where.fail("the split is empty", "id", "at least one clip", "none")
    raw_text = _strings(split["raw_text"], "raw_text", where, count)
    text_bert = _text_bert(split["text_bert"], where, count)
    features = {key: _feature(split[key], key, where, count) for key in _FEATURES if key in split}
    if "text" in features and features["text"].shape[1] != text_bert.shape[2]:
        found = features["text"].shape[1]
        where.fail("text and text_bert differ in steps", "text", text_bert.shape[2], found)
    lengths = {
        feature: _lengths(split[key], key, where, count, features[feature].shape[1]) if key in split else None
        for feature, key in LENGTHS.items()
    }
    labels = _labels(split["regression_labels"], "regression_labels", where, count) if labelled else None
    unimodal_labels = [_labels(split[key], key, where, count) for key in unimodal]
    return CheckedSplit(
        ids, raw_text, text_bert, features, lengths, labels, np.stack(unimodal_labels) if unimodal else None
    )


def _check_same_form(train: dict, split: dict, where: Where) -> None:
    """Every split has the optional keys, steps and feature dimensions of the training split."""
    for key in OPTIONAL:
        if (key in train) != (key in split):
            expected = "as in train: " + ("there" if key in train else "not there")
            where.fail("splits differ in their keys", key, expected, "there" if key in split else "not there")
    for key in ("text_bert", *_FEATURES):
        if key in train and train[key].shape[1:] != split[key].shape[1:]:
            expected = f"as in train: (N, {', '.join(map(str, train[key].shape[1:]))})"
            where.fail("splits differ in steps or feature dimensions", key, expected, split[key].shape)


def _check_unique_ids(splits: dict[str, CheckedSplit], file: Path) -> None:
    first: dict[str, str] = {}
    for name, split in splits.items():
        for clip in split.ids:
            if clip in first:
                problem = "a clip is there twice" if first[clip] == name else "a clip is in two splits: a leak"
                Where(file, name).fail(problem, "id", "every id once", f"{short(clip)!r} also in {first[clip]}")
            first[clip] = name


def _strings(value: Any, key: str, where: Where, count: int | None = None) -> list[str]:
    """A list or array (str, bytes, or object holding nothing but str) of strings as a list of str."""
    expected = "a list or one-dimensional array of strings"
    try:
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "USO":
            items = [item.decode() if isinstance(item, bytes) else item for item in value.tolist()]
        elif type(value) in (list, tuple):
            items = list(value)
        else:
            where.fail("not a list of strings", key, expected, _describe(value))
        for item in items:
            if not isinstance(item, str):
                found = f"{_describe(value)} holding {kind_of(item)}"
                where.fail("not a list of strings", key, expected, found)
            item.encode()  # refuses half a surrogate pair
    except UnicodeError as error:
        where.fail("a string is not Unicode", key, expected, error)
    _same_count(len(items), count, key, where)
    return [str(item) for item in items]


def _numbers(value: Any, key: str, where: Where, count: int) -> np.ndarray:
    """A list or array of N real, finite numbers as (N,) float64."""
    expected = "a list or one-dimensional array of numbers"
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "fiu":
            where.fail("not a list of numbers", key, expected, _describe(value))
    elif type(value) in (list, tuple):
        for item in value:
            if type(item) not in (int, float) and not isinstance(item, np.floating | np.integer):
                found = f"{_describe(value)} holding {kind_of(item)}"
                where.fail("not a list of numbers", key, expected, found)
    else:
        where.fail("not a list of numbers", key, expected, _describe(value))
    _same_count(len(value), count, key, where)
    numbers = np.asarray(value, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        where.fail("a number is not finite", key, "finite numbers", f"{numbers[bad[0]]} at clip {bad[0]}")
    return numbers


def _labels(value: Any, key: str, where: Where, count: int) -> np.ndarray:
    """(N,) float32, within the widest scheme; which scheme it is, ``decide_scheme`` says."""
    labels = _numbers(value, key, where, count)
    bound = max(BOUNDS.values())
    bad = np.flatnonzero(np.abs(labels) > bound + _LABEL_TOLERANCE)
    if bad.size:
        found = f"{labels[bad[0]]} at clip {bad[0]}"
        where.fail("a label is out of range", key, f"[-{bound:g}, {bound:g}]", found)
    return labels.astype(np.float32)


def _lengths(value: Any, key: str, where: Where, count: int, steps: int) -> np.ndarray:
    lengths = _numbers(value, key, where, count)
    bad = np.flatnonzero((lengths != np.floor(lengths)) | (lengths < 0) | (lengths > steps))
    if bad.size:
        found = f"{lengths[bad[0]]:g} at clip {bad[0]}"
        where.fail("a length does not fit", key, f"integers from 0 to {steps}", found)
    return lengths.astype(np.int64)


def _text_bert(value: Any, where: Where, count: int) -> np.ndarray:
    """(N, 3, L) int64: token ids, mask, types; files often hold them as floats."""
    array = _feature(value, "text_bert", where, count)
    if array.shape[1] != 3:
        where.fail("text_bert has no ids, mask, types", "text_bert", "shape (N, 3, L)", array.shape)
    for row, (name, bound) in enumerate((("token id", 2**31), ("mask", 2), ("token type", 2))):
        part = array[:, row].astype(np.float64)  # (N, L)
        bad = np.argwhere(~((part >= 0) & (part < bound) & (part == np.floor(part))))
        if bad.size:
            clip, step = bad[0]
            found = f"{part[clip, step]} at clip {clip}, step {step}"
            where.fail(f"a {name} is impossible", "text_bert", f"integers from 0 to {bound - 1}", found)
    return array.astype(np.int64)


def _feature(value: Any, key: str, where: Where, count: int) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind not in "fiu":
        where.fail("not an array of features", key, "a numeric array of rank 3", _describe(value))
    _same_count(len(value), count, key, where)
    if not value.size:
        where.fail("an array without steps or features", key, "at least one step and feature", value.shape)
    return value


def _same_count(found: int, count: int | None, key: str, where: Where) -> None:
    if count is not None and found != count:
        where.fail("keys differ in their number of clips", key, f"{count}, as in id", found)


class FeatureStream:
    """Copies one split's features (N, L, D) to float32 by chunks of clips, checking every number.

    NaN and infinities raise ``CorpusError``, save audio's -inf (COVAREP's logarithm of silence),
    which becomes 0. After ``chunks`` is used up, ``negative_infinities`` counts those and ``extent``
    (N,) says how many steps of each clip there are up to its last non-zero one.
    """

    def __init__(self, source: np.ndarray, key: str, where: Where):
        self.source, self.key, self.where = source, key, where
        self.negative_infinities = 0
        self.extent = np.zeros(len(source), dtype=np.int64)

    def chunks(self) -> Iterator[np.ndarray]:
        clips = max(1, _CHUNK_BYTES // self.source[0].nbytes)
        for start in range(0, len(self.source), clips):
            chunk = self.source[start : start + clips]  # (n, L, D)
            with np.errstate(over="ignore"):
                features = np.array(chunk, dtype=np.float32, order="C")
            finite = np.isfinite(features)
            if not finite.all():
                if self.key == "audio":
                    silent = ~finite & np.isneginf(chunk)
                    features[silent] = 0
                    finite |= silent
                    self.negative_infinities += int(silent.sum())
                self._check_finite(chunk, finite, start)
            nonzero = chunk.any(axis=2)  # (n, L): -inf counts as data
            steps = np.arange(1, chunk.shape[1] + 1)
            self.extent[start : start + clips] = (nonzero * steps).max(axis=1)
            yield features

    def _check_finite(self, chunk: np.ndarray, finite: np.ndarray, start: int) -> None:
        if finite.all():
            return
        clip, step, feature = np.argwhere(~finite)[0]
        found = (
            f"{chunk[clip, step, feature]} at clip {start + clip}, step {step}, feature {feature}"
            f" ({(~finite).sum()} such numbers in {len(chunk)} clips from {start} on)"
        )
        self.where.fail("a feature is not finite in float32", self.key, "finite numbers", found)


def decide_scheme(labels: dict[tuple[str, str], np.ndarray], scheme: str | None, file: Path) -> str:
    """The narrowest scheme that all labels fit, or the given one if they fit it.

    ``labels`` maps (split, key) to an array. Raises ``CorpusError`` naming the label that fits none.
    """
    candidates = [scheme] if scheme else sorted(BOUNDS, key=BOUNDS.__getitem__)
    bound = BOUNDS[candidates[-1]]
    for (split, key), values in labels.items():
        largest = float(np.abs(values).max())
        candidates = [name for name in candidates if largest <= BOUNDS[name] + _LABEL_TOLERANCE]
        if not candidates:
            found = f"a label of size {largest:g}"
            Where(file, split).fail("a label is out of range", key, f"[-{bound:g}, {bound:g}]", found)
    return candidates[0]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return kind_of(value)


def _names(mapping: dict) -> str:
    return ", ".join(str(key)[:40] for key in list(mapping)[:20]) or "nothing"
