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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .data.batches import Batch, DeviceSplit
from .metrics import regression_metrics
from .support.errors import RunError
from .support.files import atomic, write_json, write_json_lines
from .support.integrity import regular_size
from .support.memory import keep_freed_memory
from .support.runtime import autocast, derive_seed, deterministic, matrix_precision
from .system import Output, PublishedTraining, System

log = logging.getLogger(__name__)

CHECKPOINT, WEIGHTS, HISTORY, SELECTION = "checkpoint.pt", "weights.safetensors", "metrics.jsonl", "selection.json"
#: A checkpoint holds weights, optimiser and history: 1.3 GB for an epoch of MGCL that may take a quarter of a second.
SECONDS_BETWEEN_CHECKPOINTS = 300.0
#: By what the epoch is chosen (decision 16): the column of the history, and whether higher is better.
SELECTIONS = {"mae": ("valid_mae", False), "acc2": ("valid_acc2", True), "loss": ("valid_loss", False)}


@dataclass(frozen=True)
class Schedule:
    """How long and how a system is trained; `mgcl_core.config.Config` says what each means.

    Where ``published`` is given, it decides optimiser, learning rate and clipping, and batches are not trimmed.
    """

    epochs: int
    batch_size: int
    weight_decay: float = 1e-3
    warmup_epochs: float = 1.0
    clip_norm: float = 1.0
    patience: int | None = None
    precision: str = "fp32"
    length_buckets: int = 1
    selection: str = "mae"
    published: PublishedTraining | None = None


@dataclass(frozen=True)
class Fit:
    """What training leaves: a row per epoch, and the epoch that was chosen on validation."""

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
    scheme: str = "sims",
    after_epoch: Callable[[int, System], None] | None = None,
) -> Fit:
    """Train ``system`` and leave it with the weights of the best epoch on validation, by the schedule's ``selection``.

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
        scheme: of the labels, "sims" or "mosi", by which the validation Acc-2 is computed.
        after_epoch: called with the number of each epoch and the system, once the epoch stands in the history
            file and before a checkpoint of it. What it raises stops the training.

    Raises:
        NonFiniteLoss: a loss term is NaN or infinite; names epoch, batch and term.
        RunError: no epoch has a finite value of what it is chosen by.
    """
    device, size = train.device, schedule.batch_size
    if device.type == "cpu":
        keep_freed_memory()
    optimizer = make_optimizer(system, schedule)
    system.begin_fit(train)
    history, best = _resume(directory / CHECKPOINT, system, optimizer)
    if history:
        write_json_lines(directory / HISTORY, history)
    steps = train.batch_count(size)  # of an epoch
    factor = functools.partial(rate_factor, steps=steps, schedule=schedule)
    rates = LambdaLR(optimizer, factor, last_epoch=len(history) * steps - 1)
    target = torch.cat([system.target(batch) for batch in valid.batches(size)]).cpu().numpy()  # (N,)
    kept, last_checkpoint = len(history), time.monotonic()

    with deterministic(device), matrix_precision(device, schedule.precision):
        for epoch in range(len(history) + 1, schedule.epochs + 1):
            waited = epoch - 1 - best_epoch(history, schedule.selection)
            if schedule.patience is not None and waited >= schedule.patience:
                break
            started = time.perf_counter()
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            system.train()
            system.begin_epoch(epoch)
            records = []
            order = derive_seed(seed, "order", epoch)
            trimmed = schedule.published is None
            for batch in train.batches(size, seed=order, buckets=schedule.length_buckets, trimmed=trimmed):
                if trimmed:
                    output, norm = train_step(system, batch, optimizer, schedule)
                    parts = [(batch, output)]
                else:
                    parts, norm = _published_step(system, batch, optimizer, schedule)
                rates.step()
                for part, output in parts:
                    system.after_step(part, output)
                    losses = {name: term.detach() for name, term in output.losses.items()}
                    records.append((len(part), losses, norm))
            row = {"epoch": epoch, **_epoch_means(records, epoch, label, kept)}

            predicted = predict(system, valid, schedule)["prediction"]  # (N,)
            row |= validation_scores(predicted, target, scheme)
            row["seconds"] = time.perf_counter() - started
            history.append(row)
            if best_epoch(history, schedule.selection) == epoch:
                best = {name: values.detach().clone() for name, values in system.state_dict().items()}
            write_json_lines(directory / HISTORY, history)
            if after_epoch is not None:
                after_epoch(epoch, system)
            if epoch < schedule.epochs and time.monotonic() - last_checkpoint >= SECONDS_BETWEEN_CHECKPOINTS:
                _checkpoint(directory / CHECKPOINT, system, optimizer, history, best)
                kept, last_checkpoint = epoch, time.monotonic()

    chosen = best_epoch(history, schedule.selection)
    if chosen == 0:
        raise RunError(f"{label}: no epoch has a finite {SELECTIONS[schedule.selection][0]}")
    save_weights(best, directory / WEIGHTS)
    selection = {"rule": selection_rule(schedule.selection), "epoch": chosen, "epochs_run": len(history)}
    write_json(directory / SELECTION, {**selection, "valid_mae": history[chosen - 1]["valid_mae"]})
    load_weights(system, directory / WEIGHTS)
    return Fit(history, chosen)


def train_step(system: System, batch: Batch, optimizer: Optimizer, schedule: Schedule) -> tuple[Output, Tensor]:
    """Move the weights once along the gradient of ``batch``'s losses.

    Returns:
        What the system gave, and the norm of the gradient before it was clipped.
    """
    with autocast(batch.index.device, schedule.precision):
        output = system(batch)
    optimizer.zero_grad()
    sum(output.losses.values()).backward()
    parameters = _parameters(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
    optimizer.step()
    return output, norm


def _published_step(
    system: System, batch: Batch, optimizer: Optimizer, schedule: Schedule
) -> tuple[list[tuple[Batch, Output]], Tensor]:
    """As mmsa 2.2.1 takes a step (`PublishedTraining`): every micro-batch with its output, and the gradient's norm."""
    published, parameters, outputs = schedule.published, _parameters(optimizer), []
    size = published.micro_batch or schedule.batch_size
    optimizer.zero_grad()
    for part in batch.parts(size):
        with autocast(batch.index.device, schedule.precision):
            output = system(part)
        sum(output.losses.values()).backward()
        if published.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, published.clip_value)
        outputs.append((part, output))
    if len(outputs) == -(-schedule.batch_size // size):
        optimizer.step()
    return outputs, torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
        for batch in split.batches(schedule.batch_size, trimmed=schedule.published is None):
            output = system(dataclasses.replace(batch, labels=None, unimodal_labels=None))
            for name in axes:
                values = getattr(output, name)
                if values is not None:
                    parts.setdefault(name, []).append(values.float())
    # Gathered on the device: one transfer of each, not one per batch.
    return {name: torch.cat(values, axes[name]).cpu().numpy() for name, values in parts.items()}


def validation_scores(predicted: np.ndarray, target: np.ndarray, scheme: str) -> dict[str, float]:
    """What a row of the history says of the validation clips: MAE, Corr, squared error (eq. 18), and Acc-2.

    Acc-2 is the one without the neutral clips (NP) where ``scheme`` is "mosi"; NaN where a prediction is not finite.
    """
    finite = np.isfinite(predicted).all()
    acc2 = "acc2" if scheme == "sims" else "acc2_np"
    return {
        "valid_mae": float(np.abs(predicted - target).mean()),
        "valid_corr": correlation(predicted, target),
        "valid_loss": float(np.square(predicted - target).mean()),
        "valid_acc2": regression_metrics(target, predicted, scheme)[acc2] if finite else math.nan,
    }


def correlation(predicted: np.ndarray, target: np.ndarray) -> float:
    """Pearson correlation; NaN where one side is constant."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return math.nan
    return float(np.corrcoef(predicted.astype(np.float64), target.astype(np.float64))[0, 1])


def make_optimizer(system: System, schedule: Schedule) -> Optimizer:
    """AdamW without weight decay on biases and norms, that is on anything of one dimension (decision 15).

    Where the published trainer is followed, Adam with its own weight decay, on everything.

    Each parameter has the learning rate of the longest prefix in `System.learning_rates` that its name starts with.
    """
    rates, published = system.learning_rates(), schedule.published
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            rate = rates[max((prefix for prefix in rates if name.startswith(prefix)), key=len)]
            decay = schedule.weight_decay if parameter.dim() > 1 else 0.0
            decay = decay if published is None else published.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return (torch.optim.AdamW if published is None else torch.optim.Adam)(
        [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
        fused=True,
    )


def rate_factor(step: int, steps: int, schedule: Schedule) -> float:
    """What the learning rates are multiplied with: linear warm-up, then linear decay to 0 (decision 15).

    Where the published trainer is followed, 1.

    Args:
        step: counted from 0 over all epochs.
        steps: of an epoch.
        schedule: epochs, and those of the warm-up.
    """
    if schedule.published is not None:
        return 1.0
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


def hand_over(
    path: Path, system: System, schedule: Schedule, history: list[dict[str, Any]], best: Mapping[str, Tensor]
) -> None:
    """Write a checkpoint after the last epoch, from which `fit` has only the choice of the epoch left to make.

    Args:
        path: of the checkpoint.
        system: whose training ended, with the weights of any epoch.
        schedule: of the training that will take it up, whose rule of selection may be another.
        history: of all epochs.
        best: the weights of the epoch that this rule chooses.
    """
    optimizer = make_optimizer(system, schedule)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # a schedule of rates that goes on asks for it; no step follows
    _checkpoint(path, system, optimizer, history, best)


def selection_rule(selection: str) -> str:
    """A rule of `SELECTIONS` by the name that records and tables give it; "validation" is the one by MAE."""
    return "validation" if selection == "mae" else f"validation, {selection}"


def best_epoch(history: Sequence[Mapping[str, Any]], selection: str = "mae") -> int:
    """The epoch that a rule of `SELECTIONS` chooses, the earliest of equals; 0 where no value is finite."""
    column, higher = SELECTIONS[selection]
    values = [(row["epoch"], row.get(column)) for row in history]
    finite = [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)]
    return min(finite, key=lambda pair: -pair[1] if higher else pair[1])[0] if finite else 0


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
