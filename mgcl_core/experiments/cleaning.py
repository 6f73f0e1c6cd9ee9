"""Removing what nobody needs from a folder of results; never what a process works on, or what other runs start from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from ..support.errors import MGCLError, RunError
from ..support.files import read_json
from ..support.leases import forget
from .claims import claim
from .listing import list_runs, size
from .run_records import RECORD


class Removable(NamedTuple):
    """Something that can go: a path, why, and its size."""

    path: Path
    reason: str
    bytes: int


def removable(
    results: Path, *, unfinished: bool = False, features: bool = False, runs: Sequence[str] = ()
) -> list[Removable]:
    """What could be removed from ``results``: runs of another version, damaged ones, and on demand more.

    Args:
        results: the folder of all results.
        unfinished: runs that were stopped before their epoch was chosen; their checkpoints would let them go on.
        features: kept features of frozen encoders, which are computed again where they are needed.
        runs: names or patterns ("MGCL-*") of runs.

    Raises:
        RunError: a pattern fits no run, or a run that others start from.
    """
    found: dict[Path, Removable] = {}
    unmatched = set(runs)
    for folder in sorted(results.glob("*/*/runs")):
        states = list_runs(folder).set_index("run")
        named = {name for name in states.index for pattern in runs if fnmatch(name, pattern)}
        unmatched -= {pattern for pattern in runs for name in named if fnmatch(name, pattern)}
        needed = _parents(folder, set(states.index) - named)
        for name in sorted(named & set(needed)):
            raise RunError(f"{needed[name]} starts from {name}: remove that one too (--run {needed[name]})")
        for name, row in states.iterrows():
            reason = {"other version": "of another version of this package", "damaged": "damaged"}.get(row["state"])
            if unfinished and row["state"] == "unfinished":
                reason = "unfinished"
            if name in named:
                reason = "named"
            if reason:
                found[folder / name] = Removable(folder / name, reason, int(row["bytes"]))
        if features:
            for path in _features(folder):
                if not any(parent in found for parent in path.parents):
                    found[path] = Removable(path, "features", size(path))
    if unmatched:
        raise RunError(f"no run in {results} is called {sorted(unmatched)[0]!r}: `mgcl runs` lists what was tried")
    return list(found.values())


def remove(items: Sequence[Removable]) -> tuple[list[Removable], list[Removable]]:
    """Remove them; those that a process works on stay. Returns what went and what stayed."""
    gone, kept = [], []
    for item in items:
        run = item.path if item.path.is_dir() else item.path.parent
        try:
            with claim(run, wait=False):
                if item.path.is_dir():
                    shutil.rmtree(item.path)
                else:
                    item.path.unlink(missing_ok=True)
            gone.append(item)
        except BlockingIOError:
            kept.append(item)
            continue
        if item.reason != "features":
            forget(run)
    return gone, kept


def _features(folder: Path) -> Iterator[Path]:
    """Kept features in the runs of ``folder``. The file that lists the others first: what it lists must be whole."""
    for run in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        yield from sorted(run.glob("features-*.json"))
        yield from sorted(run.glob("features-*.npy"))


def _parents(folder: Path, names: set[str]) -> dict[str, str]:
    """Runs that those called ``names`` start from, each with one that does."""
    needed = {}
    for name in sorted(names):
        try:
            needed |= dict.fromkeys(read_json(folder / name / RECORD)["parents"], name)
        except (MGCLError, OSError, ValueError, KeyError, TypeError):
            continue  # it is unfinished or damaged, and starts from nothing that counts
    return needed
