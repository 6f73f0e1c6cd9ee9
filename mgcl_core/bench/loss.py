"""The contrastive loss alone (equation 12), beside loops written from the equations."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .. import reference
from ..losses import collaborative_contrastive_loss
from . import floors
from .measure import Rates, Row, row, seconds_of


def time_contrastive_loss(
    rates: Rates,
    device: torch.device,
    *,
    width: int = 384,
    sizes: tuple[int, ...] = (8, 64, 256, 1024),
    looped: tuple[int, ...] = (8, 64),
    repeats: int = 15,
) -> Iterator[Row]:
    """Time forward and backward for random features and labels of CH-SIMS's grid.

    Args:
        rates: Of the device.
        device: Where to measure.
        width: d, of a feature.
        sizes: Batch sizes.
        looped: Those of ``sizes`` for which the loops of `mgcl_core.reference` are timed too, forward alone.
        repeats: Timed passes.

    Yields:
        One row per measurement.
    """
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        macro, micro = (torch.randn(3, size, width, generator=generator).to(device).requires_grad_() for _ in range(2))
        labels = (torch.randint(-5, 6, (size,), generator=generator) / 5).to(device)

        def forward_and_backward(macro=macro, micro=micro, labels=labels) -> None:
            macro.grad = micro.grad = None
            collaborative_contrastive_loss(macro, micro, labels).backward()

        seconds, work = seconds_of(forward_and_backward, repeats, device), floors.contrastive_loss(size, width)
        yield row(f"L_con, forward and backward, B = {size}", seconds, work, rates, batch=size)
        if size in looped:
            arguments = [values.detach().tolist() for values in (macro, micro, labels)]
            seconds = seconds_of(lambda arguments=arguments: reference.contrastive_loss(*arguments), 1, device)
            yield row(f"L_con, naive loops, forward, B = {size}", seconds, batch=size)
