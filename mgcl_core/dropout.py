"""Dropout that is several times faster than torch's on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = 2**16  # of a 16-bit number: the rate is met to 1/65536


class Dropout(nn.Dropout):
    """torch's dropout; on the CPU its numbers come four from each 64-bit draw, seeded by torch's generator.

    torch draws one number after the other there, for 10 ns each, which would be a fifth of an epoch.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or self.p == 1 or values.is_cuda:
            return super().forward(values)
        return _Dropout.apply(values, self.p, draw_seed())


def with_fast_dropout(model: nn.Module) -> nn.Module:
    """``model`` with every dropout layer of torch's replaced by `Dropout`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    return model


class _Dropout(torch.autograd.Function):
    """The backward pass makes the factors anew, so that none are kept."""

    @staticmethod
    def forward(ctx, values: Tensor, rate: float, seed: int) -> Tensor:
        ctx.rate, ctx.seed = rate, seed
        return kept(values.shape, rate, values.dtype, generator(seed)).mul_(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Dropout.apply(gradient, ctx.rate, ctx.seed), None, None


def draw_seed() -> int:
    """A seed from torch's own generator."""
    return int(torch.randint(2**62, ()))


def generator(seed: int) -> np.random.BitGenerator:
    """Random 64-bit numbers from ``seed``."""
    return np.random.SFC64(seed)


def kept(shape: torch.Size, rate: float, dtype: torch.dtype, source: np.random.BitGenerator) -> Tensor:
    """Factors of ``shape``: 0 with probability ``rate``, else 1 / (1 − rate)."""
    count = shape.numel()
    numbers = source.random_raw(-(-count // 4)).view(np.int16)[:count]
    dropped = round(rate * LEVELS)
    keep = torch.from_numpy(numbers).view(shape) >= dropped - LEVELS // 2
    return keep.to(dtype).mul_(LEVELS / (LEVELS - dropped))
