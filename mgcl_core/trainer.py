"""One training loop for every system and stage: checkpoint, resume, and the epoch chosen on validation.

The loop is handed a training and a validation split and nothing else: there is no test split to look at.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from .data.batches import Batch, DeviceSplit
from .support.errors import RunError
from .support.files import atomic, write_json, write_json_lines
from .support.integrity import regular_size
from .support.memory import keep_freed_memory
from .support.runtime import autocast, derive_seed, deterministic, matrix_precision
from .system import Output, System

log = logging.getLogger(__name__)

CHECKPOINT, WEIGHTS, HISTORY, SELECTION = "checkpoint.pt", "weights.safetensors", "metrics.jsonl", "selection.json"
#: A checkpoint holds weights, optimiser and history: 1.3 GB for an epoch of MGCL that may take a quarter of a second.
SECONDS_BETWEEN_CHECKPOINTS = 300.0


@dataclass(frozen=True)
class Schedule:
    """How long and how a system is trained; `mgcl_core.config.Config` says what each means."""

    epochs: int
    batch_size: int
    weight_decay: float = 1e-3
    warmup_epochs: float = 1.0
    clip_norm: float = 1.0
    patience: int | None = None
    precision: str = "fp32"
    length_buckets: int = 1


@dataclass(frozen=True)
class Fit:
    """What training leaves: a row per epoch, and the epoch with the best validation MAE."""

    history: list[dict[str, Any]]
    chosen_epoch: int


class NonFiniteLoss(RunError):
    """A loss term became NaN or infinite; the last good checkpoint is kept."""


def fit(
    system: System,
    train: DeviceSplit,
    valid: DeviceSplit,
    schedule: Schedule,
    *,
    seed: int,
    directory: Path,
    label: str = "",
    after_epoch: Callable[[int, System], None] | None = None,
) -> Fit:
    """Train ``system`` and leave it with the weights of the epoch whose validation MAE is lowest.

    Every random choice of an epoch follows from the seed and the epoch's number, so a run that was
    stopped repeats the epochs since ``directory``'s checkpoint bit for bit, and ends as if it had never
    been. A checkpoint that cannot be read is no checkpoint. The best weights so far stay on the device.

    Args:
        system: the model, on the device of the splits.
        train: labelled clips to learn from.
        valid: labelled clips on which the epoch is chosen.
        schedule: epochs, batch size, optimiser.
        seed: decides the order of clips and the dropout.
        directory: where checkpoint, weights, history and selection are kept.
        label: the run's name in errors.
        after_epoch: called with the number of each epoch and the system, once the epoch stands in the history
            file and before a checkpoint of it. What it raises stops the training.

    Raises:
        NonFiniteLoss: a loss term is NaN or infinite; names epoch, batch and term.
        RunError: no epoch has a finite validation MAE.
    """
    device, size = train.device, schedule.batch_size
    if device.type == "cpu":
        keep_freed_memory()
    optimizer = make_optimizer(system, schedule)
    system.begin_fit(train)
    history, best = _resume(directory / CHECKPOINT, system, optimizer)
    steps = train.batch_count(size)  # of an epoch
    factor = functools.partial(rate_factor, steps=steps, schedule=schedule)
    rates = LambdaLR(optimizer, factor, last_epoch=len(history) * steps - 1)
    target = torch.cat([system.target(batch) for batch in valid.batches(size)]).cpu().numpy()  # (N,)
    kept, last_checkpoint = len(history), time.monotonic()

    with deterministic(device), matrix_precision(device, schedule.precision):
        for epoch in range(len(history) + 1, schedule.epochs + 1):
            if schedule.patience is not None and epoch - 1 - _best(history) >= schedule.patience:
                break
            started = time.perf_counter()
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            system.train()
            system.begin_epoch(epoch)
            records = []
            order = derive_seed(seed, "order", epoch)
            for batch in train.batches(size, seed=order, buckets=schedule.length_buckets):
                output, norm = train_step(system, batch, optimizer, schedule)
                rates.step()
                system.after_step(batch, output)
                records.append((len(batch), {name: term.detach() for name, term in output.losses.items()}, norm))
            row = {"epoch": epoch, **_epoch_means(records, epoch, label, kept)}

            predicted = predict(system, valid, schedule)["prediction"]  # (N,)
            row["valid_mae"] = float(np.abs(predicted - target).mean())
            row["valid_corr"] = correlation(predicted, target)
            row["seconds"] = time.perf_counter() - started
            history.append(row)
            if _best(history) == epoch:
                best = {name: values.detach().clone() for name, values in system.state_dict().items()}
            write_json_lines(directory / HISTORY, history)
            if after_epoch is not None:
                after_epoch(epoch, system)
            if epoch < schedule.epochs and time.monotonic() - last_checkpoint >= SECONDS_BETWEEN_CHECKPOINTS:
                _checkpoint(directory / CHECKPOINT, system, optimizer, history, best)
                kept, last_checkpoint = epoch, time.monotonic()

    chosen = _best(history)
    if chosen == 0:
        raise RunError(f"{label}: no epoch has a finite validation MAE")
    save_weights(best, directory / WEIGHTS)
    selection = {"rule": "validation", "epoch": chosen, "epochs_run": len(history)}
    write_json(directory / SELECTION, {**selection, "valid_mae": history[chosen - 1]["valid_mae"]})
    load_weights(system, directory / WEIGHTS)
    return Fit(history, chosen)


def train_step(
    system: System, batch: Batch, optimizer: torch.optim.Optimizer, schedule: Schedule
) -> tuple[Output, Tensor]:
    """Move the weights once along the gradient of ``batch``'s losses.

    Returns:
        What the system gave, and the norm of the gradient before it was clipped.
    """
    with autocast(batch.index.device, schedule.precision):
        output = system(batch)
    optimizer.zero_grad()
    sum(output.losses.values()).backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
    optimizer.step()
    return output, norm


@torch.no_grad()
def predict(system: System, split: DeviceSplit, schedule: Schedule) -> dict[str, np.ndarray]:
    """Predictions for every clip, in file order, without sight of the labels.

    Returns:
        ``prediction`` (N,), and where the system has them ``unimodal`` (6, N), ``macro`` and ``micro`` (3, N, d).
    """
    system.eval()
    axes = {"prediction": 0, "unimodal": 1, "macro": 1, "micro": 1}  # of the clips
    parts: dict[str, list[Tensor]] = {}
    with matrix_precision(split.device, schedule.precision), autocast(split.device, schedule.precision):
        for batch in split.batches(schedule.batch_size):
            output = system(dataclasses.replace(batch, labels=None, unimodal_labels=None))
            for name in axes:
                values = getattr(output, name)
                if values is not None:
                    parts.setdefault(name, []).append(values.float())
    # Gathered on the device: one transfer of each, not one a batch.
    return {name: torch.cat(values, axes[name]).cpu().numpy() for name, values in parts.items()}


def correlation(predicted: np.ndarray, target: np.ndarray) -> float:
    """Pearson correlation; NaN where one side is constant."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return math.nan
    return float(np.corrcoef(predicted.astype(np.float64), target.astype(np.float64))[0, 1])


def make_optimizer(system: System, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW without weight decay on biases and norms, that is on anything of one dimension (decision 15).

    Each parameter has the learning rate of the longest prefix in `System.learning_rates` that its name starts with.
    """
    rates = system.learning_rates()
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            rate = rates[max((prefix for prefix in rates if name.startswith(prefix)), key=len)]
            groups.setdefault((rate, schedule.weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
        fused=True,
    )


def rate_factor(step: int, steps: int, schedule: Schedule) -> float:
    """What the learning rates are multiplied with: linear warm-up, then linear decay to 0 (decision 15).

    Args:
        step: counted from 0 over all epochs.
        steps: of an epoch.
        schedule: epochs, and those of the warm-up.
    """
    total = schedule.epochs * steps
    warmup = min(round(schedule.warmup_epochs * steps), total - 1)
    return (step + 1) / warmup if step < warmup else (total - step) / (total - warmup)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a system's parameters and buffers, its ``state_dict()``, as safetensors."""
    with atomic(path) as temporary:
        save_file({name: values.detach().cpu().contiguous() for name, values in weights.items()}, temporary)


def load_weights(system: System, path: Path) -> None:
    """Read what `save_weights` wrote.

    Raises:
        RunError: the file is missing, damaged, of another architecture, or holds numbers that are not finite.
    """
    try:
        weights = load_file(path)
        system.load_state_dict(weights)
    except Exception as error:  # safetensors, torch and the file system each have their own
        raise RunError(f"weights {path} cannot be read into {type(system).__name__}: {error}") from error
    for name, values in weights.items():
        if not values.isfinite().all():
            raise RunError(f"weights {path}: {name} holds numbers that are not finite")


def check_shapes(system: System, path: Path) -> None:
    """Compare the names and shapes in a file of weights with those of a system, without reading a number.

    Args:
        system: may be on the device "meta": what cannot be built is refused before memory is taken for it.
        path: what `save_weights` wrote.

    Raises:
        RunError: the file is missing, damaged or of another architecture.
    """
    try:
        with safe_open(path, framework="np") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"weights {path} cannot be read: {error}") from error
    expected = {name: tuple(values.shape) for name, values in system.state_dict().items()}
    if found != expected:
        name = min({*found.items()} ^ {*expected.items()})[0]
        raise RunError(
            f"weights {path} are not of this {type(system).__name__}: {name} has shape {found.get(name, 'none')}, "
            f"not {expected.get(name, 'none')}"
        )


def _epoch_means(
    records: list[tuple[int, dict[str, Tensor], Tensor]], epoch: int, label: str, kept: int
) -> dict[str, float]:
    """Means over the clips of an epoch of each loss term, their sum, and the gradient norm.

    ``kept`` is the epoch of the last checkpoint, 0 where there is none.
    """
    sizes, terms, norms = zip(*records, strict=True)
    names = (*terms[0], "gradient norm")
    # One transfer an epoch: asking after every batch would make the device wait.
    rows = [torch.stack([*values.values(), norm]) for values, norm in zip(terms, norms, strict=True)]
    values = torch.stack(rows).cpu().double().numpy()  # (steps, terms + 1)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        step, term = bad[0]
        raise NonFiniteLoss(
            f"{label}: {names[term]} is {values[step, term]} in batch {step + 1} of epoch {epoch}; "
            + (f"the checkpoint of epoch {kept} is kept" if kept else "there is no checkpoint yet")
        )
    *losses, norm = map(float, np.average(values, axis=0, weights=sizes))
    return {
        "train_loss": float(np.sum(losses)),
        **{f"train_{name}": loss for name, loss in zip(terms[0], losses, strict=True)},
        "grad_norm": norm,
    }


def _best(history: list[dict[str, Any]]) -> int:
    """The epoch with the lowest validation MAE, the earliest of equals; 0 where none is finite."""
    finite = [row for row in history if math.isfinite(row["valid_mae"])]
    return min(finite, key=lambda row: row["valid_mae"])["epoch"] if finite else 0


def _checkpoint(
    path: Path,
    system: System,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    best: Mapping[str, Tensor],
) -> None:
    """Write what training goes on from: one file, so that weights and history are of one epoch."""
    state = {"system": system.state_dict(), "optimizer": optimizer.state_dict(), "history": history, "best": best}
    # Into a file of Python's: given a path, torch hides the reason why a write failed.
    with atomic(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def _resume(
    path: Path, system: System, optimizer: torch.optim.Optimizer
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Load the checkpoint where there is one that can be read.

    Returns:
        The history, a row for each epoch that is done, and the weights of the best of them.
    """
    if not usable_checkpoint(path):
        return [], {}
    state = torch.load(path, map_location="cpu", weights_only=True)  # what loads it copies to the device
    system.load_state_dict(state["system"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("continuing %s after epoch %d", path.parent.name, len(state["history"]))
    return state["history"], state["best"]


def usable_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint that holds what was written; one that does not is removed, with a warning."""
    if not path.exists():
        return False
    try:
        regular_size(path)
        with zipfile.ZipFile(path) as file:  # torch's format, whose checksums torch itself does not compare
            damaged = file.testzip()
        if damaged is None:
            return True
        reason = f"{damaged} has another checksum"
    except (RunError, OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        reason = str(error) or type(error).__name__
    log.warning("the checkpoint %s is damaged (%s): training starts from the first epoch", path, reason)
    path.unlink()
    return False
