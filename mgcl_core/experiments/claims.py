"""One process at a time for a run or a search; the others wait, and say for whom."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..support.errors import DamagedFile
from ..support.files import read_json, write_json

log = logging.getLogger(__name__)


@contextlib.contextmanager
def claim(directory: Path, what: str = "") -> Iterator[None]:
    """Hold ``directory`` for this process within the block; waits for another that holds it, and logs which.

    The lock is the operating system's on ``DIRECTORY.lock``, free as soon as its process ends however it ends. Who
    holds it stands in ``DIRECTORY.owner.json``, which is only read while the lock is held: an old one misleads nobody.

    Args:
        directory: of the run, or of the search.
        what: its name in the log line; the directory's when "".
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    owner = directory.with_suffix(".owner.json")
    lock = FileLock(directory.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s is held by %s; waiting for it", what or directory.name, _who(owner))
        lock.acquire()
    try:
        write_json(owner, {"process": os.getpid(), "machine": platform.node(), "user": _user(),
                           "since": time.strftime("%Y-%m-%d %H:%M:%S")})  # fmt: skip
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _who(owner: Path) -> str:
    try:
        found = read_json(owner)
        return f"process {found['process']} of {found['user']} on {found['machine']}, since {found['since']}"
    except (DamagedFile, KeyError, TypeError):  # it has not said so yet, or is another version
        return "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "an unnamed user"
