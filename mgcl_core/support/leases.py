"""Exclusive leases on a path that several hosts see: no `flock`, which many shared folders grant to everybody.

A lease is a numbered file ``NAME.lease-N`` beside the path; the highest number decides. It names its holder and is
touched while the holder lives. Whoever finds it free, or its holder dead, makes number N + 1, which only one process
can: exclusive creation is atomic on NFS and Lustre. (filelock's `SoftFileLease` needs two names exchanged in one step
to take over a dead claim; NFS refuses that, and the claim would be waited for forever.) The last file stays, marked as
free, since a number that came back could be made twice.

A process that was suspended for longer than a lease lasts finds its file gone, and `fence` refuses what it would write.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import logging
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RunError

log = logging.getLogger(__name__)

#: A holder on another host that gave no sign of life for so long is dead. Longer than a file server's usual pause.
LEASE_SECONDS = 120.0
SECONDS_BETWEEN_MESSAGES = 600.0
_FREE = b"free"

_held: dict[str, _Lease] = {}  # what this process holds, by the path that it protects


class LeaseLost(RunError):
    """Another process took over what this one held, because this one gave no sign of life."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as it said itself, and when it last gave a sign of life (by the clock of the file server)."""

    host: str
    process: int
    user: str
    since: str
    seen: float

    def __str__(self) -> str:
        return f"process {self.process} of {self.user} on {self.host}, since {self.since}"


@contextlib.contextmanager
def lease(path: Path, what: str = "", *, wait: bool = True) -> Iterator[None]:
    """Hold ``path``, a file or a folder, within the block; what `fence` guards is everything below it.

    Args:
        path: what is held; its parent folder is made if there is none.
        what: its name in the message of who waits; the path's own when "".
        wait: wait for another holder, saying for whom, and again every ten minutes.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false.
        OSError: the folder takes no files.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    contender, said, pause = _Contender(path), -float("inf"), 0.01
    while (mine := contender.try_once()) is None:
        if not wait:
            raise BlockingIOError(errno.EAGAIN, "it is held by another process", str(path))
        if time.monotonic() - said >= SECONDS_BETWEEN_MESSAGES and (found := holder(path)):
            # A warning, since a worker process logs nothing below.
            log.warning("%s is held by %s; waiting for it", what or path.name, found)
            said = time.monotonic()
        time.sleep(pause)
        pause = min(2 * pause, LEASE_SECONDS / 60)
    _held[str(path)] = mine
    mine.start()
    try:
        yield
    finally:
        if _held.get(str(path)) is mine:
            del _held[str(path)]
        mine.release()


def holder(path: Path) -> Holder | None:
    """Who holds ``path`` by its lease, dead or alive; None where it is free."""
    number, file = _highest(Path(path))
    found = _read(file) if number else None
    if found is None or not found.record:
        return None
    record = found.record
    return Holder(record["host"], record["process"], record["user"], record["since"], found.touched / 1e9)


def forget(path: Path) -> None:
    """Remove the lease files of ``path``, which is gone. Whoever waits for it loses nothing: `fence` sees to that."""
    for file in _files(Path(path)):
        file.unlink(missing_ok=True)


def fence(path: Path) -> None:
    """Refuse to write ``path`` where this process held a folder above it and lost it.

    Raises:
        LeaseLost: it did.
    """
    if _held:
        absolute = Path(os.path.abspath(path))
        for place in (absolute, *absolute.parents):
            if (mine := _held.get(str(place))) is not None:
                mine.check()


@dataclass(frozen=True)
class _Found:
    """A lease file as it was read: its record (empty where it cannot be read yet) and the time of its last touch."""

    record: dict[str, Any]
    touched: int


class _Contender:
    """A process that wants ``path``; it remembers since when a holder gives no sign of life, by its own clock."""

    def __init__(self, path: Path):
        self.path = path
        self.seen: tuple[tuple[int, int], float] | None = None

    def try_once(self) -> _Lease | None:
        """A lease where the highest one is free or its holder dead, and nobody else was faster."""
        number, file = _highest(self.path)
        if number and not self._is_over(number, file):
            return None
        mine = _Lease.make(self.path, _file(self.path, number + 1))
        if mine is None:
            return None
        # It was taken and freed meanwhile where there is a higher number. The list is fresh, as a file was made.
        if _highest(self.path)[0] != number + 1:
            mine.withdraw()
            return None
        for file in _files(self.path):
            if file != mine.file:
                file.unlink(missing_ok=True)
        return mine

    def _is_over(self, number: int, file: Path) -> bool:
        found = _read(file)
        if found is None or _is_dead(found.record):
            return True
        if self.seen is None or self.seen[0] != (number, found.touched):
            self.seen = (number, found.touched), time.monotonic()
        return time.monotonic() - self.seen[1] >= LEASE_SECONDS


class _Lease:
    """A lease that this process holds; a thread touches its file."""

    @classmethod
    def make(cls, path: Path, file: Path) -> _Lease | None:
        """``file`` with this process's record in it from the first moment; None where another process has made it."""
        token = secrets.token_hex(8)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        record = {"token": token, "host": platform.node(), "process": os.getpid(), "user": _user(), "since": since,
                  "place": _place(), "start": _start(os.getpid())}  # fmt: skip
        draft = file.with_name(f".{file.name}-{token}")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        made = False
        try:
            os.write(descriptor, json.dumps(record).encode())
            os.fsync(descriptor)
            try:
                os.link(draft, file)
                made = True
            except FileExistsError:
                made = os.fstat(descriptor).st_nlink == 2  # a server that was asked twice, and did it the first time
            except OSError:  # no second names here; then who is killed in between leaves a file that says nothing
                with contextlib.suppress(FileExistsError), open(file, "xb") as target:
                    made = True
                    target.write(json.dumps(record).encode())
                if made:
                    os.close(descriptor)
                    descriptor = os.open(file, os.O_RDWR)
        finally:
            draft.unlink(missing_ok=True)
            if not made:
                os.close(descriptor)
        return cls(path, file, descriptor, token) if made else None

    def __init__(self, path: Path, file: Path, descriptor: int, token: str):
        self.path, self.file, self.descriptor, self.token = path, file, descriptor, token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._touch, name=f"lease of {path.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _touch(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 6):
            with contextlib.suppress(OSError):  # the server pauses, or the file is gone, which `check` says
                os.utime(self.descriptor)

    def check(self) -> None:
        found = _read(self.file)  # opening a file asks the server, whatever this host remembers
        if found is None or found.record.get("token") != self.token:
            raise LeaseLost(
                f"{self.path.name}: another process took it over, since this one (process {os.getpid()} on "
                f"{platform.node()}) gave no sign of life for {LEASE_SECONDS:.0f} s; nothing more is written"
            )

    def withdraw(self) -> None:
        """Give up a number that was made too late."""
        os.close(self.descriptor)
        self.file.unlink(missing_ok=True)

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # it is gone: another process has it
            os.pwrite(self.descriptor, _FREE, 0)
            os.fsync(self.descriptor)
        os.close(self.descriptor)


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.lease-{number}")


def _files(path: Path) -> list[Path]:
    pattern = re.compile(re.escape(path.name) + r"\.lease-[0-9]{1,18}")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    return [path.with_name(name) for name in names if pattern.fullmatch(name)]


def _highest(path: Path) -> tuple[int, Path]:
    """The highest number of a lease on ``path``, and its file; 0 where there is none."""
    return max(((int(file.name.rpartition("-")[2]), file) for file in _files(path)), default=(0, path))


def _read(file: Path) -> _Found | None:
    """What a lease file says, None where it is free or gone; its record is empty while it is being written."""
    try:
        with open(file, "rb") as opened:
            text, touched = opened.read(1 << 16), os.fstat(opened.fileno()).st_mtime_ns
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    if text.startswith(_FREE):
        return None
    try:
        record = json.loads(text)
        return _Found(record if {"host", "process", "user", "since", "place"} <= record.keys() else {}, touched)
    except (ValueError, AttributeError):
        return _Found({}, touched)


def _is_dead(record: dict[str, Any]) -> bool:
    """Whether the holder ran in this process's place and is gone; of another place nothing can be known but its age."""
    if not record or record["place"] != _place():
        return False
    try:
        os.kill(record["process"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, TypeError):
        return False
    return _start(record["process"]) != record.get("start")  # its number was given to another process


def _place() -> str:
    """Where a process number means the same: a host since it was started, and a container on it."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{platform.node()} {boot} {namespace}"


def _start(process: int) -> str:
    """When a process started, in the kernel's words; "" where it does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "an unnamed user"
