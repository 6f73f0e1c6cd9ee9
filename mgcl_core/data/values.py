"""Single values of a feature file, checked and converted: ids, sentences, labels, lengths, token ids, features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..support.errors import CorpusError, shorten
from .corpus import BOUNDS
from .padded import Padded
from .sources import size_of

LABEL_TOLERANCE = 1e-6  # labels are float32


@dataclass(frozen=True)
class Location:
    """The file and split that an error names."""

    file: Path
    split: str | None = None

    def fail(self, problem: str, key: str | None, expected: object, found: object) -> NoReturn:
        """Raise the `CorpusError` of a problem at this location."""
        raise CorpusError(problem, file=self.file, split=self.split, key=key, expected=expected, found=shorten(found))


def ids_of(value: Any, location: Location) -> list[str]:
    """Convert ids to N strings ``video$_$clip``: (N,), (N, 1), or (N, n) with the video first, as MulT has them."""
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] and value.dtype.kind in "USO":
        if value.shape[1] > 1:
            rows = [[_as_text(item) for item in row] for row in value.tolist()]
            value = [f"{video}$_${'-'.join(rest)}" for video, *rest in rows]
        else:
            value = value[:, 0]
    return strings(value, "id", location)


def _as_text(item: Any) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)[:1000]


def strings(
    value: Any, key: str, location: Location, count: int | None = None, missing: str | None = None
) -> list[str]:
    """Convert a list or an array (of str, bytes, or objects that are all str) to a list of str.

    ``missing`` stands for None and NaN, which are errors without it.
    """
    expected = "a list or one-dimensional array of strings"
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "USO":
        items = value.tolist()
    elif type(value) in (list, tuple):
        items = list(value)
    else:
        location.fail("not a list of strings", key, expected, describe(value))
    check_count(len(items), count, key, location)
    # Before any is looked at: one long string may be there for every clip.
    characters, room = sum(len(item) for item in items if isinstance(item, str | bytes)), size_of(location.file)
    if characters > room:
        location.fail("texts are longer than the file", key, f"up to {room}", characters)
    if missing is not None:
        items = [missing if item is None or (isinstance(item, float) and item != item) else item for item in items]
    try:
        if isinstance(value, np.ndarray):
            items = [item.decode() if isinstance(item, bytes) else item for item in items]
        for item in items:
            if not isinstance(item, str):
                found = f"{describe(value)} holding {type(item).__name__}"
                location.fail("not a list of strings", key, expected, found)
            item.encode()  # refuses half a surrogate pair
    except UnicodeError as error:
        location.fail("a string is not Unicode", key, expected, error)
    return [str(item) for item in items]


def numbers(value: Any, key: str, location: Location, count: int) -> np.ndarray:
    """Convert a list or an array, (N,), (N, 1) or (N, 1, 1), of N real, finite numbers to (N,) float64."""
    expected = "a list or an array of one number a clip"
    if isinstance(value, np.ndarray):
        if value.ndim > 1 and value.size == len(value):
            value = value.reshape(-1)
        if value.ndim != 1 or value.dtype.kind not in "fiu":
            location.fail("not a list of numbers", key, expected, describe(value))
    elif type(value) in (list, tuple):
        for item in value:
            if type(item) not in (int, float) and not isinstance(item, np.floating | np.integer):
                location.fail(
                    "not a list of numbers", key, expected, f"{describe(value)} holding {type(item).__name__}"
                )
    else:
        location.fail("not a list of numbers", key, expected, describe(value))
    check_count(len(value), count, key, location)
    array = np.asarray(value, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        location.fail("a number is not finite", key, "finite numbers", f"{array[bad[0]]} at clip {bad[0]}")
    return array


def labels_of(value: Any, key: str, location: Location, count: int) -> np.ndarray:
    """Convert labels to (N,) float32, within the widest scheme; `decide_scheme` says which scheme it is."""
    array = numbers(value, key, location, count)
    bound = max(BOUNDS.values())
    bad = np.flatnonzero(np.abs(array) > bound + LABEL_TOLERANCE)
    if bad.size:
        expected = f"[-{bound:g}, {bound:g}]"
        if array.min() >= 0:  # a scale from 1 to 5, say
            middle = (array.min() + array.max()) / 2
            expected += f", around 0: subtract {middle:g}, the middle of these, and divide by half their range"
        location.fail("a label is out of range", key, expected, f"{array[bad[0]]} at clip {bad[0]}")
    return array.astype(np.float32)


def lengths_of(value: Any, key: str, location: Location, count: int, steps: int) -> tuple[np.ndarray, int]:
    """Convert lengths to (N,) int64, and count those beyond the array: of before a cut, and so cut too."""
    array = numbers(value, key, location, count)
    bad = np.flatnonzero((array != np.floor(array)) | (array < 0))
    if bad.size:
        location.fail(
            "a length is impossible", key, f"integers from 0 to {steps}", f"{array[bad[0]]:g} at clip {bad[0]}"
        )
    return np.minimum(array, steps).astype(np.int64), int((array > steps).sum())


def tokens_of(value: Any, location: Location, count: int) -> np.ndarray:
    """Convert token ids, mask and types to (N, 3, L) int64; files often hold them as floats."""
    array = feature_array(value, "text_bert", location, count)
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


def feature_array(value: Any, key: str, location: Location, count: int) -> np.ndarray | Padded:
    """Check the type and shape of features (N, L, D); their numbers are left for later."""
    if not isinstance(value, np.ndarray | Padded) or value.ndim != 3 or value.dtype.kind not in "fiu":
        location.fail("not an array of features", key, "a numeric array of rank 3", describe(value))
    check_count(len(value), count, key, location)
    if not value.size:
        location.fail("an array without steps or features", key, "at least one step and feature", value.shape)
    return value


def check_count(count: int, expected: int | None, key: str, location: Location) -> None:
    """Every key has as many clips as there are ids."""
    if expected is not None and count != expected:
        location.fail("keys differ in their number of clips", key, f"{expected}, as in id", count)


def describe(value: Any) -> str:
    """The type of a value, of an array its shape."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return type(value).__name__


def names_of(value: Any) -> str:
    """The first keys of a dict, the type of anything else."""
    if type(value) is not dict:
        return type(value).__name__
    return ", ".join(str(key)[:40] for key in list(value)[:20]) or "nothing"
