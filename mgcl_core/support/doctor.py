"""``mgcl doctor``: what a bug report needs of the machine, as a list of checks (others lie above)."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement

from .devices import describe_device, gpu_problem
from .ends import explain
from .errors import MGCLError
from .files import atomic
from .leases import lease
from .memory import free_memory
from .parallel import LIBRARY_BYTES, available_cores
from .provenance import git_state

GIB = 2**30
_DEMO_BYTES = 3 * GIB // 2  # that the main job on both demo corpora leaves (1.27 GB), rounded up


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        status: "ok", "note" (works, but worth knowing) or "problem" (some command will fail).
        detail: What was found; lines below the first are indented.
    """

    name: str
    status: Literal["ok", "note", "problem"]
    detail: str


def machine_checks(results: Path, data: Path) -> list[Check]:
    """Check environment, device, memory, and the folders of results and data."""
    checks = [_python(), _packages(), _code(), _device(), _memory()]
    for name, folder in (("results", results), ("data", data)):
        checks += [attempt(f"disk of {name}", lambda folder=folder: _disk(folder)),
                   attempt(f"writing {name}", lambda folder=folder: _write(folder))]  # fmt: skip
    return [*checks, _encoding()]


def attempt(name: str, check: Callable[[], tuple[str, str]]) -> Check:
    """Make a check of a function that returns a status and a detail; an error in it is a problem."""
    try:
        return Check(name, *check())
    except Exception as error:  # whatever is wrong with the machine is what the page is for
        return Check(name, "problem", explain(error) or f"{type(error).__name__}: {error}")


def page(checks: Iterable[Check]) -> str:
    """One page of text: one line per check. The home folder is written as ``~``."""
    lines = []
    for check in checks:
        first, *more = check.detail.splitlines() or [""]
        lines.append(f"{check.status:<8} {check.name:<18} {first}")
        lines += [" " * 28 + line for line in more]
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=[/\\]|\b)", "~", "\n".join(lines)) if len(home) > 1 else "\n".join(lines)


def _python() -> Check:
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    detail = f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    return Check("Python", "ok" if supported else "problem", detail + ("" if supported else "; 3.11 or 3.12 is needed"))


def _packages() -> Check:
    """Every requirement with its version; the optional ones are notes where they are missing."""
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("mgcl-core") or ()]
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "problem", "mgcl-core is not installed: `pip install .` in its folder")
    shown, bad, status = [], [], "ok"
    for needed in requirements:
        optional = needed.marker is not None
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{needed.name} is missing ({str(needed.marker or 'required').replace('extra == ', 'extra ')})")
            status = status if optional else "problem"
            continue
        shown.append(f"{needed.name} {version}")
        if not needed.specifier.contains(version, prereleases=True):
            bad.append(f"{needed.name} {version} does not fit {needed.specifier}")
            status = "problem"
    status = "note" if bad and status == "ok" else status
    lines = [", ".join(shown[start : start + 6]) for start in range(0, len(shown), 6)]
    return Check("packages", status, "\n".join([*bad, *lines]))


def _code() -> Check:
    git, version = git_state(), importlib.metadata.version("mgcl-core")
    state = "no git checkout" if git["commit"] is None else f"commit {git['commit']}"
    return Check("mgcl-core", "ok", f"{version}, {state}" + (", changed since" if git["dirty"] else ""))


def _device() -> Check:
    problem = gpu_problem()
    device = torch.device("cuda" if problem is None else "cpu")
    count = torch.get_num_threads()
    detail = f"{describe_device(device)}; {available_cores()} cores, torch computes with {count} of them in one process"
    if os.environ.get("OMP_NUM_THREADS"):
        detail += f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})"
    return Check("device", "note" if problem else "ok", detail + (f"\n{problem}" if problem else ""))


def _memory() -> Check:
    free = free_memory()
    if free is None:
        return Check("memory", "note", "this system does not say how much is free")
    fit = free // LIBRARY_BYTES
    detail = f"{free / GIB:.1f} GiB free: room for {fit} worker{'s' * (fit != 1)} on the demo"
    return Check("memory", "ok" if fit else "problem", detail)


def _disk(folder: Path) -> tuple[str, str]:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(existing)
    enough = usage.free >= _DEMO_BYTES
    detail = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free ({folder})"
    return "ok" if enough else "problem", detail + ("" if enough else "; the demo needs 1.5")


def _write(folder: Path) -> tuple[str, str]:
    """Write, lock, replace and remove a file there, as every run does; folders made for it are removed again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
            file = Path(name) / "file"
            with lease(file), atomic(file) as temporary:
                temporary.write_bytes(bytes(2**20))
            if file.stat().st_size != 2**20:
                return "problem", "a file of 1 MiB came back with another size"
    except MGCLError as error:
        return "problem", str(error).split(" cannot be written: ")[-1]
    finally:
        for place in made:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
    return "ok", "a file of 1 MiB was written, claimed and replaced"


def _encoding() -> Check:
    names = {"files": locale.getencoding(), "file names": sys.getfilesystemencoding(), "output": sys.stdout.encoding}
    plain = all(str(name).lower().replace("-", "") == "utf8" for name in names.values())
    return Check("encoding", "ok" if plain else "note", ", ".join(f"{what} {name}" for what, name in names.items()))
