"""Memory-mapped copies of feature files, so that each file is unpickled and checked once.

The cache of a feature file is the folder ``<stem>-<hash of its path>``. It holds an entry for each way of reading the
file, ``<hash of its size, times and the cache format>-<hash of the way>``: arrays as .npy files and everything else in
``index.json``. An entry is built under the name ``building`` and renamed when complete; a lock lets one process build
while others wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import CorpusError, DamagedFile
from ..support.files import open_array
from ..support.integrity import check_file, identify, read_sealed, same_file, write_sealed
from ..support.leases import lease
from ..support.names import folder_name
from .sources import parts_of

log = logging.getLogger(__name__)

CACHE_FORMAT = 3  # raise it with every change of the cached content
_INDEX = "index.json"
_BUILDING = "building"


@dataclass(frozen=True)
class Contents:
    """What was read of a feature file: arrays by name, and all else as values for JSON."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Store:
    """Keeps arrays as .npy files in ``folder``, or in memory if that is None."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.arrays: dict[str, np.ndarray] = {}

    def keep(self, name: str, shape: tuple, dtype: type, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """Store an array; one of the same name, from which the chunks may come, is replaced.

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
        else:
            # Plain writes: on a full disk they fail with an error, a writable memory map with a signal.
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            path = self.folder / f"{name}.npy"
            written = path.with_suffix(".part")
            with open(written, "wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks:
                    file.write(np.ascontiguousarray(chunk, dtype=dtype).data)
            os.replace(written, path)
            array = open_array(path)
        self.arrays[name] = array
        return array


def open_cached(
    path: Path, cache_dir: Path, read: Callable[[Store], dict[str, Any]], way: Sequence[str] = ()
) -> Contents:
    """Open what the cache holds of a feature file, after building it if there is no valid entry.

    If the cache cannot be written (a read-only or full disk), the contents stay in memory.

    Args:
        path: The feature file.
        cache_dir: Folder of all caches.
        read: Reads the file, keeps its arrays in a `Store`, and returns all else.
        way: What besides the file decides what ``read`` gives.

    Returns:
        The contents, with memory-mapped arrays.

    Raises:
        CorpusError: The file changed while it was read.
    """
    source = _fingerprint(path)
    folder = cache_dir / folder_name(path.stem, _hash(str(path)))
    entry = folder / f"{_hash(json.dumps(source))}-{_hash(json.dumps(list(way)))}"
    contents = _open(entry, source)
    if contents is not None:
        return contents
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lease(folder / "lock", f"the cache of {path.name}"):
            contents = _open(entry, source)  # another process may have built it
            if contents is None:
                _build(entry, source, lambda store: _read_unchanged(path, source, read, store))
                contents = _open(entry, source)
    except OSError as error:
        log.warning("no cache of %s in %s (%s): it is kept in memory", path, cache_dir, error)
    if contents is None:
        store = Store()
        contents = Contents(store.arrays, _read_unchanged(path, source, read, store))
    return contents


def _read_unchanged(path: Path, source: list, read: Callable[[Store], dict[str, Any]], store: Store) -> dict[str, Any]:
    facts = read(store)
    if _fingerprint(path) != source:
        problem = "the file changed while it was read; read it again when it is complete"
        raise CorpusError(problem, file=path, expected="the same size and times before and after", found="others")
    return facts


def _build(entry: Path, source: list, read: Callable[[Store], dict[str, Any]]) -> None:
    """Build an entry, under the lock; entries of another state of the file are stale."""
    for old in entry.parent.iterdir():
        if old.is_dir() and old.name.split("-")[0] != entry.name.split("-")[0]:
            shutil.rmtree(old)
    shutil.rmtree(entry, ignore_errors=True)  # a broken one
    building = entry.parent / _BUILDING
    building.mkdir()
    try:
        store = Store(building)
        facts = read(store)
        arrays = {
            name: {"dtype": array.dtype.str, "shape": list(array.shape), **identify(building / f"{name}.npy")}
            for name, array in store.arrays.items()
        }
        write_sealed(building / _INDEX, {"source": source, "facts": facts, "arrays": arrays})
        os.replace(building, entry)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _open(entry: Path, source: list) -> Contents | None:
    if not entry.is_dir():
        return None
    try:
        index = read_sealed(entry / _INDEX)
        if index["source"] != source:
            raise ValueError("it is of another file")
        arrays = {}
        for name, known in index["arrays"].items():
            path = entry / f"{name}.npy"
            if not same_file(path, known):
                raise ValueError(f"{name} is not as it was written")
            array = arrays[name] = open_array(path)
            if array.dtype.str != known["dtype"] or list(array.shape) != known["shape"]:
                raise ValueError(f"{name} is {array.dtype.str} {array.shape}")
        return Contents(arrays, index["facts"])
    except (DamagedFile, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        log.info("the cache %s is damaged (%s): it is built again", entry, error)
        return None


def check_caches(cache_dir: Path) -> Iterator[DamagedFile]:
    """Compare the contents of every array in every cache of a folder.

    Yields:
        What is missing or not as it was written.
    """
    for index in sorted(cache_dir.glob(f"*/*/{_INDEX}")):
        remedy = f"Delete {index.parent}, and it is built again where it is needed"
        try:
            for name, known in read_sealed(index, remedy)["arrays"].items():
                check_file(index.parent / f"{name}.npy", known, remedy)
        except DamagedFile as error:
            yield error


def _fingerprint(path: Path) -> list:
    try:
        states = [part.stat() for part in parts_of(path)]
    except OSError as error:
        raise CorpusError(
            "the file cannot be opened", file=path, expected="a file to read", found=error.strerror
        ) from None
    times = [number for state in states for number in (state.st_size, state.st_mtime_ns, state.st_ctime_ns)]
    return [CACHE_FORMAT, str(path), *times]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
