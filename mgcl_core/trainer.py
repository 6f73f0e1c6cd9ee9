"""One training loop for every system and stage: checkpoint, resume, and the epoch chosen on validation.

The loop is handed a training and a validation split and nothing else: there is no test split to look at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from .data.batches import DeviceSplit, derive_seed
from .support.errors import RunError
from .support.files import atomic, write_json, write_json_lines
from .support.memory import keep_freed_memory
from .support.precision import matrix_precision
from .system import Output, System

log = logging.getLogger(__name__)

CHECKPOINT, WEIGHTS, HISTORY, SELECTION = "checkpoint.pt", "weights.safetensors", "metrics.jsonl", "selection.json"
SECONDS_BETWEEN_LINES = 10.0  # of epochs logged where there is no terminal; the last one is always logged


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
    stopped continues from ``directory``'s checkpoint and ends as if it had never been.

    Args:
        system: the model, on the device of the splits.
        train: labelled clips to learn from.
        valid: labelled clips on which the epoch is chosen.
        schedule: epochs, batch size, optimiser.
        seed: decides the order of clips and the dropout.
        directory: where checkpoint, weights, history and selection are kept.
        label: the run's name in progress lines.
        after_epoch: called with the number of each epoch and the system, once the epoch stands in the history
            file and before its checkpoint. What it raises stops the training.

    Raises:
        NonFiniteLoss: a loss term is NaN or infinite; names epoch, batch and term.
    """
    if train.device.type == "cpu":
        keep_freed_memory()
    optimizer = _optimizer(system, schedule)
    steps = train.steps(schedule.batch_size)
    system.begin_fit(train)
    state = _resume(directory / CHECKPOINT, system, optimizer)
    history: list[dict[str, Any]] = state["history"]
    target = torch.cat([system.target(batch) for batch in valid.batches(schedule.batch_size)]).cpu().numpy()
    progress = tqdm(total=schedule.epochs, initial=len(history), desc=label, unit="epoch", leave=False, disable=None)
    last_line = time.monotonic()
    with progress, _deterministic(train.device), matrix_precision(train.device, schedule.precision):
        for epoch in range(len(history) + 1, schedule.epochs + 1):
            if schedule.patience is not None and epoch - 1 - _best(history) >= schedule.patience:
                break
            started = time.perf_counter()
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            row = {"epoch": epoch, **_train_epoch(system, train, optimizer, schedule, steps, epoch, seed, label)}
            predicted = predict(system, valid, schedule)["prediction"]
            row["valid_mae"] = float(np.abs(predicted - target).mean())
            row["valid_corr"] = correlation(predicted, target)
            row["seconds"] = time.perf_counter() - started
            history.append(row)
            if _best(history) == epoch:
                save_weights(system, directory / WEIGHTS)
            write_json_lines(directory / HISTORY, history)
            if after_epoch is not None:
                after_epoch(epoch, system)
            if epoch < schedule.epochs:
                _checkpoint(directory / CHECKPOINT, system, optimizer, history)
            progress.set_postfix(valid_mae=f"{row['valid_mae']:.3f}")
            progress.update()
            if progress.disable and (epoch == schedule.epochs or time.monotonic() - last_line > SECONDS_BETWEEN_LINES):
                last_line = time.monotonic()
                log.info(
                    "%s epoch %d/%d: loss %.4f, valid MAE %.4f, Corr %.3f, %.1f s",
                    label,
                    epoch,
                    schedule.epochs,
                    row["train_loss"],
                    row["valid_mae"],
                    row["valid_corr"],
                    row["seconds"],
                )
    chosen = _best(history)
    if chosen == 0:
        raise RunError(f"{label}: no epoch has a finite validation MAE")
    write_json(
        directory / SELECTION,
        {
            "rule": "validation",
            "epoch": chosen,
            "epochs_run": len(history),
            "valid_mae": history[chosen - 1]["valid_mae"],
        },
    )
    load_weights(system, directory / WEIGHTS)
    return Fit(history, chosen)


@torch.no_grad()
def predict(system: System, split: DeviceSplit, schedule: Schedule) -> dict[str, np.ndarray]:
    """Predictions for every clip, in file order, without sight of the labels.

    Returns:
        ``prediction`` (N,), and where the system has them ``unimodal`` (6, N), ``macro`` and ``micro`` (3, N, d).
    """
    system.eval()
    parts: dict[str, list[Tensor]] = {}
    with matrix_precision(split.device, schedule.precision), _autocast(split.device, schedule.precision):
        for batch in split.batches(schedule.batch_size):
            output = system(dataclasses.replace(batch, labels=None, unimodal_labels=None))
            for name, axis in (("prediction", 0), ("unimodal", 1), ("macro", 1), ("micro", 1)):
                values = getattr(output, name)
                if values is not None:
                    parts.setdefault(name, []).append(values.float().movedim(axis, 0).cpu())
    return {
        name: torch.cat(values).movedim(0, 0 if name == "prediction" else 1).numpy() for name, values in parts.items()
    }


def correlation(predicted: np.ndarray, target: np.ndarray) -> float:
    """Pearson correlation; NaN where one side is constant."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return math.nan
    return float(np.corrcoef(predicted.astype(np.float64), target.astype(np.float64))[0, 1])


def save_weights(system: System, path: Path) -> None:
    """Write all parameters and buffers as safetensors."""
    with atomic(path) as temporary:
        save_file({name: values.detach().cpu().contiguous() for name, values in system.state_dict().items()}, temporary)


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


def _train_epoch(
    system: System,
    train: DeviceSplit,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    steps: int,
    epoch: int,
    seed: int,
    label: str,
) -> dict[str, float]:
    system.train()
    system.begin_epoch(epoch)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names, records, sizes = (), [], []
    batches = train.batches(
        schedule.batch_size, seed=derive_seed(seed, "order", epoch), buckets=schedule.length_buckets
    )
    for step, batch in enumerate(batches):
        factor = _rate((epoch - 1) * steps + step, steps, schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        with _autocast(train.device, schedule.precision):
            output: Output = system(batch)
        loss = sum(output.losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
        optimizer.step()
        system.after_step(batch, output)
        names = tuple(output.losses)
        records.append(torch.stack([*output.losses.values(), norm]).detach())
        sizes.append(len(batch))
    # One transfer an epoch: asking after every batch would make the device wait.
    values = torch.stack(records).cpu().double().numpy()  # (steps, terms + 1)
    _check_finite(values, (*names, "gradient norm"), epoch, label)
    means = np.average(values, axis=0, weights=sizes)
    return {
        "train_loss": float(means[:-1].sum()),
        **{f"train_{name}": float(mean) for name, mean in zip(names, means[:-1], strict=True)},
        "grad_norm": float(means[-1]),
    }


def _check_finite(values: np.ndarray, names: tuple[str, ...], epoch: int, label: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        step, term = bad[0]
        raise NonFiniteLoss(
            f"{label}: {names[term]} is {values[step, term]} in batch {step + 1} of epoch {epoch}; "
            f"the checkpoint of epoch {epoch - 1} is kept"
        )


def _best(history: list[dict[str, Any]]) -> int:
    """The epoch with the lowest validation MAE, the earliest of equals; 0 where none is finite."""
    finite = [row for row in history if math.isfinite(row["valid_mae"])]
    return min(finite, key=lambda row: row["valid_mae"])["epoch"] if finite else 0


def _optimizer(system: System, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW without weight decay on biases and norms, that is on anything of one dimension (decision 15)."""
    rates = system.learning_rates()
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            rate = rates[max((prefix for prefix in rates if name.startswith(prefix)), key=len)]
            groups.setdefault((rate, schedule.weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        fused=True,
    )


def _rate(step: int, steps: int, schedule: Schedule) -> float:
    """Learning-rate factor of ``step``, counted from 0, at ``steps`` an epoch: linear warm-up, then linear decay."""
    total = schedule.epochs * steps
    warmup = min(round(schedule.warmup_epochs * steps), total - 1)
    return (step + 1) / warmup if step < warmup else (total - step) / (total - warmup)


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic kernels alone, and the caller's settings afterwards.

    On the CPU an operation without such a kernel warns; elsewhere it raises, and fused attention takes its
    deterministic backward pass, which it does not where torch is told to warn only.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cpu")
    # torch would write NaN into all memory that it is about to overwrite: a fifth of a text epoch.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False  # it would choose kernels by their time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


def _checkpoint(path: Path, system: System, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]) -> None:
    with atomic(path) as temporary:
        torch.save({"system": system.state_dict(), "optimizer": optimizer.state_dict(), "history": history}, temporary)


def _resume(path: Path, system: System, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the checkpoint where there is one; its history tells the epochs that are done."""
    if not path.exists():
        return {"history": []}
    device = next(system.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    system.load_state_dict(state["system"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("continuing %s after epoch %d", path.parent.name, len(state["history"]))
    return state
