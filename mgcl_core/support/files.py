"""Writing files so that no incomplete file is ever left, and mapping arrays into memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .ends import explain
from .errors import DamagedFile, MachineError, MGCLError
from .leases import fence

#: No JSON file of this package is longer; one that is would be read for minutes.
_LONGEST_JSON = 1 << 28
#: What `atomic` names its temporary files.
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}(\.[^.]+)?")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file all at once.

    Args:
        path: The file; its folder is made if there is none.

    Yields:
        A temporary path in the same folder. It replaces ``path`` at the end of the block, and is removed on an error.

    Raises:
        DamagedFile: A folder has its name.
        MachineError: The machine does not take the file (a full disk, no permission), however a library says so.
        LeaseLost: Another process took over the folder that this one held.
    """
    path, temporary = Path(path), None
    if path.is_dir():
        raise DamagedFile(path, "it is a folder", "Remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers choose their format by the suffix. A long name leaves no room for more.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:32]}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # or a power failure may leave the new name with nothing in it
        fence(path)
        os.replace(temporary, path)
    except MGCLError:
        raise
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        raise MachineError(f"{path} cannot be written: {reason}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a process left in ``folder`` when it was killed; nobody may be writing there."""
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, seal: Callable[[Any], Any] = lambda plain: plain) -> None:
    """Write ``value`` as readable JSON, and NaN as null, because JSON has no NaN.

    ``seal`` is given what will be written and returns what is written instead.
    """
    text = json.dumps(seal(_finite(value)), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic(path) as temporary:
        # Names of files and clips may hold what is no text (a lone surrogate), and must come back as they were.
        temporary.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")


def read_json(path: Path, remedy: str = "") -> Any:
    """Read what `write_json` wrote.

    Raises:
        DamagedFile: It is missing, no regular file, longer than any such file, or no JSON. ``remedy`` ends the message.
    """
    try:
        return json.loads(_read_text(Path(path), remedy), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"it is no JSON ({type(error).__name__}: {error})", remedy) from None


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line, NaN as null."""
    with atomic(path) as temporary:
        text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")


def read_json_lines(path: Path, remedy: str = "") -> list[dict[str, Any]]:
    """Read what `write_json_lines` wrote.

    Raises:
        DamagedFile: As for `read_json`.
    """
    try:
        lines = _read_text(Path(path), remedy).split("\n")
        rows = [json.loads(line, parse_constant=_no_number) for line in lines if line]
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"it holds no lines of JSON ({type(error).__name__}: {error})", remedy) from None
    if not all(isinstance(row, dict) for row in rows):
        raise DamagedFile(path, "a line holds no JSON object", remedy)
    return rows


def _read_text(path: Path, remedy: str) -> str:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise DamagedFile(path, "it is no regular file", remedy)
        if status.st_size > _LONGEST_JSON:
            raise DamagedFile(path, f"it has {status.st_size} bytes", remedy)
        with open(path, "rb") as file:
            return file.read(status.st_size).decode("utf-8", "surrogatepass")
    except OSError as error:
        raise DamagedFile(path, error.strerror or str(error), remedy) from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def open_array(path: Path, *, writable: bool = False) -> np.ndarray:
    """Map a .npy file into memory.

    torch maps it, since numpy's memory maps each hold a file descriptor, and a process may have only so many.

    Args:
        path: A .npy file of numbers, in C order.
        writable: Whether the array may be written to; what is written stays in memory.

    Raises:
        OSError, ValueError: The file is missing, no such file, or shorter than it says.
    """
    with open(path, "rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path} is of another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if fortran or dtype.hasobject:
            raise ValueError(f"{path} does not hold numbers in C order")
        start, size = file.tell(), file.seek(0, os.SEEK_END)
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()[start:]
    array = data.view(dtype).reshape(shape)  # a ValueError where bytes are missing or left over
    array.flags.writeable = writable
    return array


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
