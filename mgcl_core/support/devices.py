"""Where a run computes, and in which precision: chosen once, said first, and never silently another."""

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
    """The device called ``name``; "auto" is CUDA where it works, and the CPU otherwise.

    A GPU that is there and cannot be used is a logged warning, which says why.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        reason = _cuda_fails()
        if reason is None:
            return torch.device("cuda")
        if reason:
            log.warning("the GPU is not used, everything runs on the CPU: %s", reason)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add_(1)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """The precision called ``name``; "auto" is bf16 on a GPU whose hardware has it, and fp32 otherwise.

    Raises:
        ConfigError: bf16 on a GPU that would emulate it, which is slower than fp32.
    """
    native = device.type == "cuda" and _has_bf16(device)
    if name == "bf16" and device.type == "cuda" and not native:
        raise ConfigError(f"precision='bf16': {describe_device(device)} has no bfloat16 of its own; use 'fp32'")
    return ("bf16" if native else "fp32") if name == "auto" else name


def describe_device(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    count = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {count} thread{'s' * (count != 1)})"


def _has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cuda_fails() -> str | None:
    """None where CUDA works; else why a GPU of this machine cannot be used, "" where there is none."""
    with warnings.catch_warnings(record=True) as caught:  # torch warns of a driver that is too old, and of more
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
        return f"{gpus} is here, but torch {torch.__version__} is a build for the CPU alone"
    said = "; ".join(str(warning.message).splitlines()[0] for warning in caught)
    return f"{gpus} is here, but torch {torch.__version__} cannot use it" + (f": {said}" if said else "")


def _installed_gpus() -> str:
    """What the driver lists, "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return listed.splitlines()[0].split(" (UUID")[0] if listed.startswith("GPU") else ""
