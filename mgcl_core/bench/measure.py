"""Measuring: the machine's own rates, and medians of what was timed beside the floor under it."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.batches import DeviceSplit
from ..support.memory import keep_freed_memory
from ..support.provenance import environment, peak_memory
from ..system import System
from ..trainer import Schedule, fit
from .floors import FLOAT, Work

MATRIX = 3072  # of the square float32 product that sets the rate


@dataclass(frozen=True)
class Rates:
    """What the machine reaches: ``flops`` per second in a product of `MATRIX`², ``bytes`` per second in a sum of large
    tensors (read twice, written once), and how many bytes a number has at least in the precision of the product."""

    flops: float
    bytes: float
    number: int = FLOAT

    def floor(self, work: Work) -> float:
        """The least seconds that ``work`` can take: its products, or its bytes if they take longer."""
        return max(work.flops / self.flops, work.bytes * self.number / FLOAT / self.bytes)


def rates(device: torch.device, precision: str = "fp32", repeats: int = 5) -> Rates:
    """Measure `Rates` in float32 or bfloat16, medians of ``repeats``."""
    keep_freed_memory()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
    product = float(np.median(seconds_of(lambda: left @ right, repeats, device)))
    out = torch.empty_like(left)
    total = float(np.median(seconds_of(lambda: torch.add(left, right, out=out), repeats, device)))
    number = left.element_size()
    return Rates(2 * MATRIX**3 / product, 3 * left.numel() * number / total, number)


def machine(device: torch.device) -> dict[str, Any]:
    """Name, cores, memory and versions, as plain values for JSON."""
    known = environment(device) | {"cores": os.cpu_count(), "machine": platform.machine()}
    return known if device.type == "cuda" else known | {"device": _processor()}


def seconds_of(work: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each of ``repeats`` calls, after one that is not counted."""
    measured = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        measured.append(time.perf_counter() - started)
    return measured[1:]


def epochs(
    system: System,
    train: DeviceSplit,
    valid: DeviceSplit,
    batch_size: int,
    repeats: int,
    precision: str = "fp32",
    length_buckets: int = 1,
) -> list[float]:
    """Seconds of ``repeats`` epochs of the package's own loop, validation included, after one that is not counted."""
    schedule = Schedule(1 + repeats, batch_size, precision=precision, length_buckets=length_buckets)
    with tempfile.TemporaryDirectory() as folder:
        history = fit(system, train, valid, schedule, seed=1111, directory=Path(folder)).history
    return [row["seconds"] for row in history[1:]]


def row(
    what: str,
    seconds: list[float],
    work: Work | None = None,
    rate: Rates | None = None,
    *,
    times: float = 1.0,
    **more: Any,
) -> dict[str, Any]:
    """A line of the table: median, lowest and highest seconds, and their ratio to the floor.

    ``times`` is how often the measured piece makes up what the line is about (an epoch, of some of its batches).
    """
    line: dict[str, Any] = {
        "what": what,
        "seconds": float(np.median(seconds)) * times,
        "low": min(seconds) * times,
        "high": max(seconds) * times,
        "repeats": len(seconds),
    }
    if work is not None and rate is not None:
        floor = rate.floor(work) * times
        line |= {
            "gflop": work.flops * times / 1e9,
            "gbyte": work.bytes * times / 1e9,
            "floor": floor,
            "ratio": line["seconds"] / floor,
            "gflop_per_s": rate.flops / 1e9,
        }
    return line | more


def peak(device: torch.device) -> Mapping[str, float]:
    """Highest memory of this process so far (GiB)."""
    return {name.replace("_gib", " GiB"): value for name, value in peak_memory(device).items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    """The processor's name as Linux gives it, else as Python knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "cpu"
