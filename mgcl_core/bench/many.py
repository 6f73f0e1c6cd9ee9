"""Several runs of stage two on one device: one after the other, side by side in processes, or stacked by torch.func."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from ..config import Config
from ..data import Corpus, load_corpus
from ..data.batches import DeviceSplit
from ..model import MGCL
from ..support.parallel import side_by_side
from .measure import row, seconds_of
from .stages import random_features, split_of

RUNS = 4


def many(
    corpus: str | Corpus,
    config: Config,
    device: torch.device,
    *,
    runs: int = RUNS,
    workers: int = 2,
    clips: int = 256,
    epochs: int = 3,
) -> Iterator[dict[str, Any]]:
    """Seconds for ``runs`` runs of ``epochs`` epochs of training steps, all encoders frozen, without starting up.

    What is stacked must be one computation over tensors of one shape, so every run reads the same batches there,
    dropout is off and padding is computed. Dropout is off for the others too, all three compute in float32, and L_con,
    whose backward pass is written by hand and cannot be stacked, and AdamW are left out of all three.
    """
    config = config.override(
        {
            "trained_encoders": (),
            "micro": "pooled",
            "dropout": 0.0,
            "encoder_dropout": 0.0,
            "precision": "fp32",
            "alpha": 0.0,
        }
    )
    job = functools.partial(_alone, corpus, config, clips, epochs, str(device))
    threads = torch.get_num_threads()
    seconds = sum(job(seed) for seed in range(runs))
    yield row(f"{runs} runs one after the other", [seconds], threads=threads)
    started = time.perf_counter()
    inside = list(side_by_side(functools.partial(_prepare, job), list(range(runs)), workers))
    yield row(
        f"{runs} runs side by side, {workers} processes",
        [sum(inside) / workers],
        workers=workers,
        with_start_up=time.perf_counter() - started,
    )
    yield row(
        f"{runs} runs stacked by torch.func", [_stacked(corpus, config, clips, epochs, device, runs)], threads=threads
    )


def _prepare(job: Any) -> Any:
    return job


def _alone(corpus: str | Corpus, config: Config, clips: int, epochs: int, device: str, seed: int) -> float:
    split, system = _setting(corpus, config, clips, torch.device(device), seed)

    def step(batch: Any) -> None:
        system.zero_grad()
        sum(system(batch).losses.values()).backward()

    return _seconds(split, config, epochs, step)


def _stacked(corpus: str | Corpus, config: Config, clips: int, epochs: int, device: torch.device, runs: int) -> float:
    """Gradients of all runs at once: the weights have a leading dimension of runs, the batches have none."""
    settings = [_setting(corpus, config, clips, device, seed) for seed in range(runs)]
    split, systems = settings[0][0], [system for _, system in settings]
    parameters, buffers = stack_module_state(systems)
    template = _Dense(systems[0])

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], batch: Any) -> Tensor:
        named = {f"system.{name}": values for name, values in {**weights, **buffers}.items()}
        return functional_call(template, named, (batch,))

    gradient = vmap(grad(loss), in_dims=(0, 0, None))
    return _seconds(split, config, epochs, lambda batch: gradient(parameters, buffers, batch))


def _seconds(split: DeviceSplit, config: Config, epochs: int, step: Callable[[Any], None]) -> float:
    """Seconds of ``epochs`` epochs of steps, after one that is not counted."""

    def epoch() -> None:
        for batch in split.batches(config.mgcl_batch_size, seed=1):
            step(batch)

    return sum(seconds_of(epoch, epochs, split.device))


class _Dense(torch.nn.Module):
    """MGCL on frozen pooled features as one computation without choices that depend on the data."""

    def __init__(self, system: MGCL):
        super().__init__()
        self.system = system

    def forward(self, batch: Any) -> Tensor:
        system, features = self.system, batch.features
        macro = [system.macro_projections[m](features[f"macro_{m}"]) for m in "TVA"]
        micro = [system.micro_projections[m](features[f"micro_{m}"]) for m in "TVA"]
        masks = [features[f"micro_{m}_mask"] for m in "TVA"]
        prediction = system.predictor(system.fusion(macro, micro, masks)).squeeze(-1)
        macro, micro = torch.stack(macro), torch.stack([states[:, 0] for states in micro])
        unimodal = torch.stack([head(v).squeeze(-1) for head, v in zip(system.heads, [*macro, *micro], strict=True)])
        output = type("Features", (), {"prediction": prediction, "macro": macro, "micro": micro, "unimodal": unimodal})
        return sum(system.losses(output, batch).values())


def _setting(
    corpus: str | Corpus, config: Config, clips: int, device: torch.device, seed: int
) -> tuple[DeviceSplit, MGCL]:
    torch.manual_seed(seed)
    train = (load_corpus(corpus) if isinstance(corpus, str) else corpus).train
    split = split_of(train, min(clips, len(train)), device)
    split.features = random_features(split, config, 768)
    return split, MGCL(config, encoders=(), text_width=768).to(device)
