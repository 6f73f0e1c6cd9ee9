"""The contrastive loss alone: against loops written from the equations, and as the batch grows."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..losses import collaborative_contrastive_loss
from ..support.errors import RunError
from ..support.paths import project_root
from .floors import contrastive_loss
from .measure import Rates, row, seconds_of


def loss_alone(
    rate: Rates,
    device: torch.device,
    *,
    width: int = 384,
    sizes: tuple[int, ...] = (8, 64, 256, 1024),
    looped: tuple[int, ...] = (8, 64),
    repeats: int = 15,
) -> Iterator[dict[str, Any]]:
    """Forward and backward of batches of ``sizes``; ``looped`` ones also by the naive loops of the tests, forward."""
    for size in sizes:
        macro, micro, labels = inputs(size, width, device)

        def forward_and_backward(macro=macro, micro=micro, labels=labels) -> None:
            macro.grad = micro.grad = None
            collaborative_contrastive_loss(macro, micro, labels).backward()

        seconds = seconds_of(forward_and_backward, repeats, device)
        yield row(
            f"L_con, forward and backward, B = {size}",
            seconds,
            contrastive_loss(size, width, train=True),
            rate,
            batch=size,
        )
        if size in looped:
            looped_loss = naive_loss()
            arguments = [values.detach().tolist() for values in (macro, micro, labels)]
            seconds = seconds_of(lambda arguments=arguments, loss=looped_loss: loss(*arguments), 1, device)
            yield row(f"L_con, naive loops, forward, B = {size}", seconds, batch=size)


def inputs(size: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random macro and micro features (3, B, d) that need a gradient, and labels (B,) on CH-SIMS's grid."""
    generator = torch.Generator().manual_seed(size)
    macro, micro = (torch.randn(3, size, width, generator=generator).to(device).requires_grad_() for _ in range(2))
    return macro, micro, (torch.randint(-5, 6, (size,), generator=generator) / 5).to(device)


def naive_loss() -> Callable[..., float]:
    """The loops that the tests hold the loss against.

    Raises:
        RunError: the tests are not here.
    """
    path = project_root() / "tests" / "naive.py"
    if not path.exists():
        raise RunError(f"the naive loops are missing ({path})")
    spec = importlib.util.spec_from_file_location("naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.contrastive_loss
