"""The device and precision of a run: chosen once, logged first, and never replaced silently."""

from __future__ import annotations

import logging
import platform
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import torch

from .errors import ConfigError

log = logging.getLogger(__name__)

#: What runs are made on; "cuda" is also the name of AMD's GPUs. MPS and XPU were never tried, so they are refused.
SUPPORTED = ("cpu", "cuda")


def choose_device(name: str, *, probe: bool = True) -> torch.device:
    """Choose a device. If there is a GPU that cannot be used, a logged warning says why.

    Args:
        name: As for ``torch.device``, or "auto" for CUDA if it works and the CPU otherwise.
        probe: Compute something on a GPU, which finds a build without kernels for it, and leaves a context on it for
            as long as this process lives. Without, the device is only looked up.

    Raises:
        ConfigError: The device is not available, or of a kind that this package was never tried on.
    """
    if name == "auto":
        problem = gpu_problem(probe=probe)
        if problem is None:
            return torch.device("cuda")
        if problem:
            log.warning("the GPU is not used, everything runs on the CPU: %s", problem)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type not in SUPPORTED:
            raise ConfigError(f"device={name!r} is not supported: 'auto', {' or '.join(map(repr, SUPPORTED))}")
        if probe or device.type == "cpu":
            torch.empty(1, device=device).add_(1)
        elif not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"CUDA finds {torch.cuda.device_count()} devices")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bf16 on a GPU that would emulate it, which is slower than fp32.

    Raises:
        ConfigError: It would.
    """
    if precision == "bf16" and device.type == "cuda" and not _has_bf16(device):
        raise ConfigError(
            f"precision='bf16': {describe_device(device)} has no bfloat16 of its own; ask for 'fp32' "
            "(--precision fp32), which names other runs"
        )


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory of a GPU, None for another device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """Name a device as its maker does: the GPU, or the processor where the system says which."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_list = Path("/proc/cpuinfo")  # of Linux; elsewhere Python's name of the processor
    text = cpu_list.read_text(encoding="utf-8") if cpu_list.exists() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.M)
    return names[0] if names else platform.processor() or platform.machine()


def describe_device(device: torch.device) -> str:
    """Describe a device for the log."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    count = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {count} thread{'s' * (count != 1)})"


def _has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def gpu_problem(*, probe: bool = True) -> str | None:
    """Return None if CUDA works, else why the GPU of this machine cannot be used; "" if it has none.

    Args:
        probe: As for `choose_device`.
    """
    with warnings.catch_warnings(record=True) as caught:  # for example of a driver that is too old
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            try:
                if probe:
                    torch.empty(1, device="cuda").add_(1)  # a build without kernels for this GPU fails here
                return None
            except RuntimeError as error:
                return str(error).splitlines()[0]
    gpus = _installed_gpus()
    if not gpus:
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"{gpus} is here, but torch {torch.__version__} is a build for the CPU only"
    warned = "; ".join(str(warning.message).splitlines()[0] for warning in caught)
    return f"{gpus} is here, but torch {torch.__version__} cannot use it" + (f": {warned}" if warned else "")


def _installed_gpus() -> str:
    """Return the first GPU that the driver lists, or ""."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return listed.splitlines()[0].split(" (UUID")[0] if listed.startswith("GPU") else ""
