"""How many digits a device's products keep, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def matrix_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Float32 products for a while: TF32 on CUDA beside bf16, whose features have fewer digits yet; else float32.

    The settings are the process's, so what was there before comes back: what is computed afterwards, by another run or
    for the features of a frozen encoder, does not depend on who came first.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "bf16"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
