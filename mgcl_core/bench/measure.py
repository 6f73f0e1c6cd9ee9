"""How speed is measured: the machine's own rates, and timings beside the floor under them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..data import Corpus
from ..support.devices import device_name
from ..support.provenance import environment
from .floors import FLOAT, Work

MATRIX = 3072  # rows and columns of the matrices whose product sets the rate
Row = dict[str, Any]


@dataclass(frozen=True)
class Rates:
    """What a device reaches.

    Attributes:
        flops: Operations per second, in a product of `MATRIX`² matrices.
        bytes: Bytes per second, in a sum of two large tensors (both read, the result written).
        number: Bytes of a number in the precision of the product.
    """

    flops: float
    bytes: float
    number: int = FLOAT

    def floor(self, work: Work) -> float:
        """Return the least seconds that ``work`` can take: its products, or its bytes if they take longer."""
        return max(work.flops / self.flops, work.bytes * self.number / FLOAT / self.bytes)


@dataclass(frozen=True)
class Setup:
    """What the epochs of both stages are measured with: clips, settings, and the device with its rates."""

    corpus: Corpus
    config: Config
    rates: Rates
    device: torch.device
    repeats: int = 3


def measure_rates(device: torch.device, precision: str = "fp32", repeats: int = 5) -> Rates:
    """Measure `Rates` in float32 ("fp32") or bfloat16 ("bf16"), medians of ``repeats``."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    product = np.median(seconds_of(lambda: left @ right, repeats, device))
    total = np.median(seconds_of(lambda: torch.add(left, right, out=out), repeats, device))
    number = left.element_size()
    return Rates(float(2 * MATRIX**3 / product), float(3 * left.numel() * number / total), number)


def rate_rows(device: torch.device, precision: str, repeats: int) -> Iterator[Row]:
    """Yield the rates of a device, measured ``repeats`` times."""
    for number in range(1, repeats + 1):
        rates = measure_rates(device, precision)
        seconds = [2 * MATRIX**3 / rates.flops]
        yield row(f"product of {MATRIX}² matrices, {number}", seconds, gflop_per_s=rates.flops / 1e9,
                  gbyte_per_s=rates.bytes / 1e9)  # fmt: skip


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the name, cores and versions of this machine, as plain values for JSON."""
    own = {"cores": os.cpu_count(), "machine": platform.machine(), "device": device_name(device)}
    return environment(device) | own


def seconds_of(work: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Return the seconds of each of ``repeats`` calls of ``work``, after one that is not counted."""
    measured = []
    for _ in range(repeats + 1):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        measured.append(time.perf_counter() - started)
    return measured[1:]


def row(
    what: str,
    seconds: list[float],
    work: Work | None = None,
    rates: Rates | None = None,
    *,
    times: float = 1.0,
    **more: Any,
) -> Row:
    """Make a row of the table: median, lowest and highest seconds, and their ratio to the floor.

    Args:
        what: What was measured.
        seconds: Of each repeat.
        work: What it needs at least; None where no floor is known.
        rates: Of the device.
        times: How often the measured piece makes up what the row is about (an epoch, of some of its batches).
        **more: Further columns.
    """
    values: Row = {
        "what": what,
        "seconds": float(np.median(seconds)) * times,
        "low": min(seconds) * times,
        "high": max(seconds) * times,
        "repeats": len(seconds),
    }
    if work is not None and rates is not None:
        floor = rates.floor(work) * times
        values |= {
            "gflop": work.flops * times / 1e9,
            "gbyte": work.bytes * times / 1e9,
            "floor": floor,
            "ratio": values["seconds"] / floor,
            "gflop_per_s": rates.flops / 1e9,
        }
    return values | more


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
