"""The device and precision of a run: chosen once, logged first, and never replaced silently."""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
import warnings

import torch

from .errors import ConfigError

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Choose a device. If there is a GPU that cannot be used, a logged warning says why.

    Args:
        name: As for ``torch.device``, or "auto" for CUDA if it works and the CPU otherwise.

    Raises:
        ConfigError: The device is not available.
    """
    if name == "auto":
        problem = _cuda_problem()
        if problem is None:
            return torch.device("cuda")
        if problem:
            log.warning("the GPU is not used, everything runs on the CPU: %s", problem)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add_(1)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Choose a precision.

    Args:
        name: "fp32", "bf16", or "auto" for bf16 on a GPU whose hardware has it and fp32 otherwise.
        device: Where it is used.

    Raises:
        ConfigError: A GPU would emulate bf16, which is slower than fp32.
    """
    native = device.type == "cuda" and _has_bf16(device)
    if name == "bf16" and device.type == "cuda" and not native:
        raise ConfigError(f"precision='bf16': {describe_device(device)} has no bfloat16 of its own; use 'fp32'")
    return ("bf16" if native else "fp32") if name == "auto" else name


def describe_device(device: torch.device) -> str:
    """Describe a device for the log."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    count = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {count} thread{'s' * (count != 1)})"


def _has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cuda_problem() -> str | None:
    """Return None if CUDA works, else why the GPU of this machine cannot be used; "" if it has none."""
    with warnings.catch_warnings(record=True) as caught:  # for example of a driver that is too old
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            try:
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
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return listed.splitlines()[0].split(" (UUID")[0] if listed.startswith("GPU") else ""
