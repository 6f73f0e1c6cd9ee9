"""How a process computes for a while: seeds, deterministic kernels, precision."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive_seed(seed: int, *purpose: object) -> int:
    """An independent 63-bit seed for ``purpose`` (for example ``"order", epoch``) of a run's ``seed``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bfloat16 where an operation allows it, if the precision is "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def matrix_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Float32 products for a while: TF32 on CUDA beside bf16, whose features have fewer digits yet; else float32.

    The settings are the process's, so the caller's come back: what is computed afterwards, by another run or
    for the features of a frozen encoder, does not depend on who came first.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9, which refuses the older names once these were used
        places, name = (matmul, cudnn.conv, cudnn.rnn), "fp32_precision"
        wanted = "tf32" if precision == "bf16" else "ieee"
    else:
        places, name, wanted = (matmul, cudnn), "allow_tf32", precision == "bf16"
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, wanted)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic kernels alone, and the caller's settings afterwards.

    On the CPU an operation without such a kernel warns; elsewhere it raises, and fused attention takes its
    deterministic backward pass, which it does not where torch is told to warn only.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cpu")
    # torch would write NaN into all memory that it is about to overwrite: a fifth of a text epoch.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False  # it would choose kernels by their time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
