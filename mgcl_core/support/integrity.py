"""What a file held when it was written, and whether it still does.

Two kinds of record: a *listing* names files with their size and SHA-256; a *sealed* JSON file holds the SHA-256 of its
own contents. Large arrays are compared by size and times first, and by contents only where one of these changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import DamagedFile
from .files import read_json, write_json

Listing = dict[str, dict[str, Any]]
_CHECKSUM = "checksum"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a value for JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with the checksum of its contents; NaN becomes null."""
    write_json(path, value, seal=lambda plain: {**plain, _CHECKSUM: digest_of(plain)})


def read_sealed(path: Path, remedy: str = "") -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises:
        DamagedFile: It is missing, no such file, or not as it was written. ``remedy`` ends the message.
    """
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise DamagedFile(path, "it holds no JSON object", remedy)
    checksum = value.pop(_CHECKSUM, None)
    if checksum != digest_of(value):
        raise DamagedFile(path, "its contents are not those that were written (checksum)", remedy)
    return value


def list_files(folder: Path, names: Iterable[str]) -> Listing:
    """Size and SHA-256 of files in ``folder``."""
    return {name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}


def check_file(path: Path, listed: Mapping[str, Any], remedy: str = "", *, contents: bool = True) -> None:
    """Compare a file with its entry in a listing.

    Args:
        path: The file.
        listed: Its ``size`` and ``sha256``.
        remedy: Ends the message.
        contents: Compare the SHA-256 too.

    Raises:
        DamagedFile: It is missing, no regular file, or not as listed.
    """
    size = regular_size(path, remedy)
    if size != listed["size"]:
        raise DamagedFile(path, f"it has {size} bytes, not the {listed['size']} that were written", remedy)
    if contents and sha256_of(path) != listed["sha256"]:
        raise DamagedFile(path, "its contents are not those that were written (SHA-256)", remedy)


def regular_size(path: Path, remedy: str = "") -> int:
    """Size of a regular file, in bytes; a pipe or a device, which could be read forever, is none.

    Raises:
        DamagedFile: It is missing or no regular file.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise DamagedFile(path, getattr(error, "strerror", None) or str(error), remedy) from None
    if not stat.S_ISREG(status.st_mode):
        raise DamagedFile(path, "it is no regular file", remedy)
    return status.st_size


def identify(path: Path) -> dict[str, Any]:
    """What an array file is: size, times in nanoseconds, SHA-256."""
    return {**_times(path), "sha256": sha256_of(path)}


def same_file(path: Path, known: Mapping[str, Any], *, contents: bool = False) -> bool:
    """Whether a file is the one that `identify` saw: by size and times, and by contents where these differ.

    Args:
        path: The file.
        known: What `identify` returned.
        contents: Compare the contents in any case.
    """
    times = _times(path)
    if times["size"] != known["size"]:
        return False
    if not contents and times == {name: known[name] for name in times}:
        return True
    return sha256_of(path) == known["sha256"]


def _times(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
