"""Predictions of finished runs under missing modalities: the protocols of `mgcl_core.data.absence`, kept with the run.

A run is not trained again. What nothing is lost of is the run's own prediction; all else comes from its final weights,
under masks that are the same for all runs of the data.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.absence import PROTOCOLS, Condition, Loss, conditions, digest, loss_of
from ..data.corpus import EncoderName
from ..support.errors import ConfigError, RunError, nearest
from ..support.integrity import digest_of
from ..trainer import predict
from .absence import Reader
from .frozen_features import kept_on_disk
from .registry import system_entry
from .runs import Run
from .stages import EncoderStage, MGCLStage
from .study import Study

log = logging.getLogger(__name__)

#: Of what is kept; another number where predictions of the same weights and masks would come out otherwise.
FORMAT = 1
TEXT_ALONE = "text alone"


@dataclass(frozen=True, eq=False)
class Robustness:
    """What every run of one corpus predicts under a protocol.

    Attributes:
        protocol: one of `PROTOCOLS`.
        split: that the clips are of.
        conditions: C masks.
        masks: SHA-256 of all of them.
        runs: R runs of `systems`.
        predictions: (R, C, N).
    """

    protocol: str
    split: str
    conditions: tuple[Condition, ...]
    masks: str
    runs: tuple[Run, ...]
    predictions: np.ndarray


def title_of(run: Run) -> str:
    """A run's row: its system, with what it was trained on where that is not complete clips."""
    if isinstance(run.stage, EncoderStage):
        return TEXT_ALONE
    title = run.variant if isinstance(run.stage, MGCLStage) else system_entry(run.stage.name).title
    config = run.config
    changed = [config.regime] * (config.regime != "complete") + ["gate"] * config.gate
    changed += ["epoch on masked clips"] * (config.epoch_on != "complete")
    return f"{title} ({', '.join(changed)})" if changed else title


def evaluated_runs(study: Study) -> list[Run]:
    """The finished runs that a table shows: text alone, the compared systems, and MGCL, also under dropout and gated.

    Text alone is stage one's macro encoder of the text, which predicts 0 without a word (decision 19).
    """
    runs = text_alone(study) + study.comparisons() + study.trainings(["MGCL"])
    for changes in ({"regime": "dropout"}, {"gate": True}, {"regime": "dropout", "gate": True}):
        if all(getattr(study.base, name) != value for name, value in changes.items()):
            runs += study.with_overrides(changes).trainings(["MGCL"])
    return [run for run in runs if run.done]


def text_alone(study: Study) -> list[Run]:
    """Stage one's runs whose prediction is that of the whole text, one per seed."""
    names = {str(EncoderName(granularity, "T")) for granularity in ("macro", "shared")}
    return [run for run in study.pretrainings() if run.stage.name in names]


def evaluate(study: Study, runs: Sequence[Run], protocol: str, split: str = "test") -> Robustness:
    """Predict ``split`` with each of the finished ``runs`` under every mask of ``protocol``.

    What was predicted before is read from the run's folder; under other weights or masks it is predicted again. Runs of
    a seed are predicted together, since they share encodings of the text; seeds side by side.

    Raises:
        ConfigError: no such protocol.
        RunError: no run is finished, or a prediction is not finite.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}: {nearest(protocol, PROTOCOLS)}")
    runs = [run for run in runs if run.done]
    if not runs:
        raise RunError(f"none of the runs is finished: nothing to evaluate under {protocol!r}")
    seeds = list(dict.fromkeys(run.seed for run in runs))
    groups = [tuple(run for run in runs if run.seed == seed) for seed in seeds]
    parts = list(study.side_by_side(functools.partial(_predict_group, protocol, split), groups))
    found = {name: values for _, predictions in parts for name, values in predictions.items()}
    together = np.stack([found[run.name] for run in runs])
    return Robustness(protocol, split, conditions(protocol), parts[0][0], tuple(runs), together)


def _predict_group(protocol: str, split: str, study: Study, runs: Sequence[Run]) -> tuple[str, dict[str, np.ndarray]]:
    """The digest of the masks, and predictions (C, N) by the name of the run."""
    clips = study.splits.split(split, runs[0], whole=True)
    masks = conditions(protocol)
    losses = [loss_of(protocol, mask, study.corpus.sha256, split, clips) for mask in masks]
    masks_digest, made = digest(losses), {}

    def kept(run: Run) -> np.ndarray:
        origin = digest_of([FORMAT, masks_digest, *(one.weights_sha256 for one in (run, *run.parents))])
        name = f"features-{split}-{protocol}"
        arrays = kept_on_disk(run.directory, name, lambda: made[run.name], clips=len(clips), origin=origin)
        return arrays["predictions"].numpy().T.copy()

    missing = []
    for run in runs:
        try:
            kept(run)
        except KeyError:  # not made yet
            missing.append(run)
    if missing:
        made |= _predicted(study, split, missing, list(zip(masks, losses, strict=True)))
    return masks_digest, {run.name: kept(run) for run in runs}


def _predicted(
    study: Study, split: str, runs: Sequence[Run], masks: Sequence[tuple[Condition, Loss]]
) -> dict[str, dict[str, Tensor]]:
    """Predictions (N, C) by the name of the run."""
    log.info("%s: %d runs of seed %d under %d masks", study.corpus.name, len(runs), runs[0].seed, len(masks))
    encodings: dict[str, dict[str, Tensor]] = {}  # of the text under one mask
    systems = {run.name: study.build(run, trained=True) for run in runs}
    readers = {run.name: Reader(study.splits, run, encodings) for run in runs}
    made: dict[str, list[Tensor]] = {run.name: [] for run in runs}
    for condition, loss in masks:
        encodings.clear()
        for run in runs:
            own = study.predictions(run, split)["prediction"].to_numpy()
            if condition.complete:
                values = own
            elif loss.modalities and isinstance(run.stage, EncoderStage):  # reads one, which is there or is not
                values = own * loss.kept[run.stage.encoder.modality][:, 0]
            else:
                left = readers[run.name].read(study.splits.split(split, run, whole=True), loss)
                values = predict(systems[run.name], left, run.stage.schedule)["prediction"]
            if not np.isfinite(values).all():
                raise RunError(f"{run.name}: a prediction with {condition.level!r} is not finite")
            made[run.name].append(torch.tensor(values))
    return {name: {"predictions": torch.stack(values, 1)} for name, values in made.items()}
