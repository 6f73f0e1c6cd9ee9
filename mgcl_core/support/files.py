"""Writing files so that no incomplete file is ever left, and mapping arrays into memory."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .ends import explain
from .errors import MachineError, MGCLError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file all at once.

    Args:
        path: The file; its folder is made if there is none.

    Yields:
        A temporary path in the same folder. It replaces ``path`` at the end of the block, and is removed on an error.

    Raises:
        MachineError: The machine does not take the file (a full disk, no permission), however a library says so.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers choose their format by the suffix. A long name leaves no room for more.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:32]}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, and NaN as null, because JSON has no NaN."""
    with atomic(path) as temporary:
        text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        temporary.write_text(text, "utf-8", "backslashreplace")  # half a surrogate pair becomes its escape in JSON


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line, NaN as null."""
    with atomic(path) as temporary:
        text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read what `write_json_lines` wrote."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


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
