"""Memory-mapped copies of feature files, so that each file is unpickled and checked once.

The cache of a feature file is the folder ``<stem>-<hash of its path>/<hash of its size, time and the cache format>``:
arrays as .npy files and everything else in ``corpus.json``. It is built under the name ``building`` and renamed when
complete; a lock lets one process build while others wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from filelock import FileLock

from .corpus import SPLITS, Split

log = logging.getLogger(__name__)

CACHE_FORMAT = 1  # raise it with every change of the cached content
_INDEX = "corpus.json"
_BUILDING = "building"
_TEXTS = ("name", "ids", "raw_text")
_ARRAYS = tuple(field.name for field in fields(Split) if field.name not in _TEXTS)


@dataclass(frozen=True)
class Contents:
    """The checked and converted content of a feature file, which has no corpus name and label scheme yet.

    Attributes:
        splits: train, valid and test by name.
        sha256: Hash of the file.
        aligned: Whether the three modalities share their steps.
        notes: Counts of what reading changed, as in `Corpus`.
    """

    splits: dict[str, Split]
    sha256: str
    aligned: bool
    notes: dict[str, int]


class Store:
    """Keeps arrays as .npy files in ``folder``, or in memory if that is None."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def keep(self, name: str, shape: tuple, dtype: type, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """Store an array.

        Args:
            name: Stem of the .npy file.
            shape: Shape of the whole array.
            dtype: Its type.
            chunks: Its parts along the first axis, in order.

        Returns:
            The array, read-only.
        """
        if self.folder is None:
            array = np.empty(shape, dtype)
            start = 0
            for chunk in chunks:
                array[start : start + len(chunk)] = chunk
                start += len(chunk)
            array.flags.writeable = False
            return array
        # Plain writes: on a full disk they fail with an error, a writable memory map with a signal.
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        path = self.folder / f"{name}.npy"
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk, dtype=dtype).data)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def open_cached(path: Path, cache_dir: Path, read: Callable[[Store], Contents]) -> Contents:
    """Open the cache of a feature file, after building it if there is no valid one.

    If the cache cannot be written (a read-only or full disk), the contents stay in memory.

    Args:
        path: The feature file.
        cache_dir: Folder of all caches.
        read: Reads the file and keeps its arrays in a `Store`.

    Returns:
        The contents, with memory-mapped arrays.
    """
    source = _fingerprint(path)
    folder = cache_dir / f"{path.stem}-{_hash(str(path))}"
    entry = folder / _hash(json.dumps(source))
    contents = _open(entry, source)
    if contents is not None:
        return contents
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            contents = _open(entry, source)  # another process may have built it
            if contents is None:
                _build(entry, source, read)
                contents = _open(entry, source)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        log.warning("no cache of %s in %s (%s): it is kept in memory", path, cache_dir, error)
    return contents if contents is not None else read(Store())


def _build(entry: Path, source: list, read: Callable[[Store], Contents]) -> None:
    """Build the cache, under the lock; anything else in the folder is stale or was left by a killed process."""
    for old in entry.parent.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    building = entry.parent / _BUILDING
    building.mkdir()
    try:
        contents = read(Store(building))
        index = {
            "source": source,
            "sha256": contents.sha256,
            "aligned": contents.aligned,
            "notes": contents.notes,
            "splits": {name: _index(split) for name, split in contents.splits.items()},
        }
        (building / _INDEX).write_text(json.dumps(index), encoding="ascii")
        os.replace(building, entry)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _index(split: Split) -> dict:
    arrays = {name: array for name in _ARRAYS if (array := getattr(split, name)) is not None}
    return {
        "ids": split.ids,
        "raw_text": split.raw_text,
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()},
    }


def _open(entry: Path, source: list) -> Contents | None:
    if not entry.is_dir():
        return None
    try:
        index = json.loads((entry / _INDEX).read_text(encoding="ascii"))
        if index["source"] != source:
            raise ValueError("it is of another file")
        splits = {name: _open_split(entry, name, index["splits"][name]) for name in SPLITS}
        return Contents(splits, index["sha256"], index["aligned"], index["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        log.info("the cache %s is unusable and is built again: %r", entry, error)
        return None


def _open_split(entry: Path, name: str, index: dict) -> Split:
    arrays = dict.fromkeys(_ARRAYS)
    for key, (dtype, shape) in index["arrays"].items():
        array = np.load(entry / f"{name}-{key}.npy", mmap_mode="r", allow_pickle=False)
        if array.dtype.str != dtype or list(array.shape) != shape:
            raise ValueError(f"{key} of {name} is {array.dtype.str} {array.shape}")
        arrays[key] = array
    return Split(name=name, ids=tuple(index["ids"]), raw_text=tuple(index["raw_text"]), **arrays)


def _fingerprint(path: Path) -> list:
    status = path.stat()
    return [CACHE_FORMAT, str(path), status.st_size, status.st_mtime_ns]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
