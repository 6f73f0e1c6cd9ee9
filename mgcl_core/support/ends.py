"""Why a command ended, in one sentence: what the machine lacks, a killed process, or an error of this package."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from .errors import MGCLError
from .memory import free_memory

AGAIN = "the same command continues where it was"

_ROOM = f"make room, then {AGAIN}"
_NUMBERS = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("a file may not become so large (a limit of the file system, or `ulimit -f`)", AGAIN),
    errno.EROFS: ("the disk is read-only", "choose another folder (--results, MGCL_DATA)"),
    errno.EACCES: ("no permission", "choose another folder (--results, MGCL_DATA), or change its owner or mode"),
    errno.EPERM: ("no permission", "choose another folder (--results, MGCL_DATA), or change its owner or mode"),
    errno.ENOMEM: ("memory ran out", f"fewer workers need less (--workers 1); {AGAIN}"),
    errno.EMFILE: ("too many files are open", f"raise the limit (`ulimit -n`); {AGAIN}"),
    errno.EIO: ("the disk reports an error", f"check it; {AGAIN}"),
}
#: What torch says of memory on a CPU; its errors of a GPU are explained where a run is known.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|Cannot allocate memory", re.I)
_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")  # as Python writes it, and as safetensors does
_PATH = re.compile(r": '([^']+)'")


def explain(error: BaseException) -> str | None:
    """One sentence for an error that the user or the machine caused; None for a fault of this package.

    What an error was raised from, or while, is looked at too: libraries hide a full disk behind errors of their own.
    """
    if isinstance(error, MGCLError):
        return str(error)
    sentences = (explain_text(type(one).__name__, str(one), isinstance(one, OSError)) for one in _chain(error))
    return next(filter(None, sentences), None)


def explain_text(kind: str, text: str, is_os_error: bool | None = None) -> str | None:
    """`explain` for an error of which only the name of its class and its message are known, as in a notebook's cell."""
    if "MemoryError" in kind or _NO_MEMORY.search(text):
        return f"memory ran out{free_now()}: {_NUMBERS[errno.ENOMEM][1]}"
    found = _NUMBER.search(text)
    if found is None:
        return None
    number = int(found[1] or found[2])
    path = _PATH.search(text)
    where = f" ({path[1]})" if path else ""
    if number in _NUMBERS:
        what, remedy = _NUMBERS[number]
        return f"{what}{where}: {remedy}"
    if found[1] and is_os_error is not False:
        return f"{os.strerror(number)}{where}"
    return None


def killed(what: str) -> str:
    """One sentence for a process ``what`` that another one, most often the system, ended."""
    return f"{what} was killed, most often because memory ran out{free_now()}: {_NUMBERS[errno.ENOMEM][1]}"


def free_now() -> str:
    """The memory that is free, in brackets; "" where the system does not say."""
    free = free_memory()
    return "" if free is None else f" ({free / 2**30:.1f} GiB are free now)"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
