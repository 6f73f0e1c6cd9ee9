"""One process at a time for a run, a search or kept features; the others wait, and say for whom."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..support.leases import lease


@contextlib.contextmanager
def claim(directory: Path, what: str = "", *, wait: bool = True) -> Iterator[None]:
    """Hold ``directory`` for this process within the block (`mgcl_core.support.leases.lease`).

    What another host finished there is seen within the block, even if this one looked for it before.

    Args:
        directory: of the run, or of the search.
        what: its name in the log line; the directory's when "".
        wait: for another holder.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false.
    """
    with lease(directory, what, wait=wait):
        look_again(directory)
        yield


def look_again(directory: Path) -> None:
    """Make the file system ask its server what lies in ``directory``.

    A client of NFS remembers for up to a minute that a file was not there, until the directory changes under its own
    hands.
    """
    if Path(directory).is_dir():
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".look-"):  # a name that `remove_leftovers` knows
            pass
