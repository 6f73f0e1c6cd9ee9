"""MGCL in the sizes of the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch

from mgcl_core.config import Config
from mgcl_core.data.batches import Batch
from mgcl_core.data.corpus import EncoderName
from mgcl_core.experiments.text_input import encoded_width
from mgcl_core.model import MGCL
from mgcl_core.system import Shapes


def build(
    config: Config, seed: int = 0, *, bound: float = 1.0, encoders: Collection[EncoderName] | None = None
) -> MGCL:
    """MGCL with the random weights of ``seed``, for a corpus of the shapes in ``config``."""
    shapes = Shapes(
        text_dim=encoded_width(config),
        text_steps=10,
        audio_dim=config.audio_dim,
        audio_steps=config.audio_steps,
        vision_dim=config.vision_dim,
        vision_steps=config.vision_steps,
        bound=bound,
        clips=12,
        text_model=config.text_model,
    )
    torch.manual_seed(seed)
    return MGCL(config, shapes, encoders=encoders)


def gradients(model: torch.nn.Module) -> set[str]:
    """Names of the parameters whose gradient is not zero."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


def in_float64(batch: Batch, device: str | torch.device = "cpu") -> Batch:
    """The same clips on ``device``, every number that is no whole one in float64."""

    def moved(values: object) -> object:
        if isinstance(values, dict):
            return {name: moved(item) for name, item in values.items()}
        if not isinstance(values, torch.Tensor):
            return values
        return (values.double() if values.is_floating_point() else values).to(device)

    return dataclasses.replace(batch, **{name: moved(values) for name, values in vars(batch).items()})
