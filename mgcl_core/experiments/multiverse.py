"""The ablations of Table 5 under every combination of readings that the paper leaves open: what is trained.

The grid was fixed before anything was run. A training serves every specification that it belongs to: what a variant
switches off does not matter to it (`UNUSED`), and one training gives the epochs of both rules of selection. What the
claims make of the results is `mgcl_core.reporting.multiverse`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..support.files import read_json_lines
from ..system import System
from ..trainer import CHECKPOINT, HISTORY, WEIGHTS, best_epoch, hand_over
from .claims import claim
from .progress import Watched, shown
from .reuse import report_reuse
from .runs import Run
from .study import Study

log = logging.getLogger(__name__)

#: What is varied, as the paper can be read and as its lineage has it (docs/decisions.md, rows 8, 12, 10, 4 and 16).
GRID: dict[str, tuple[Any, ...]] = {
    "pair_weights": ("printed", "clgsi"),
    "temperature": (0.5, 0.03),
    "unimodal_reduction": ("sum", "mean"),
    "micro": ("sequence", "pooled"),
    "selection": ("mae", "acc2"),
}
#: The rows of Table 5.
TABLE5 = ("w/o CL", "w/o C3", "w/o uni", "w/o fusion", "MGCL")
#: Settings of the grid that a variant does not read: w/o CL has no L_con, w/o uni no L_uni.
UNUSED = {"w/o CL": ("pair_weights", "temperature"), "w/o uni": ("unimodal_reduction",)}


def specifications(study: Study) -> list[dict[str, Any]]:
    """Every combination of `GRID`, of 32; what the study overrides stays as it is and is not varied."""
    varied = {name: values for name, values in GRID.items() if name not in study.overrides}
    return [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]


def runs_of(study: Study, variant: str, specification: dict[str, Any]) -> list[Run]:
    """The runs of ``variant`` under ``specification``, one per seed, finished or not."""
    changes = {name: value for name, value in specification.items() if name not in UNUSED.get(variant, ())}
    return [study.system_run("mgcl", seed, variant, changes) for seed in study.seeds]


def train_all(study: Study) -> None:
    """Finish the runs of every specification, and the stage-one runs that they start from.

    Finished ones are reused; a call that was stopped goes on where it was.
    """
    trainings: dict[tuple[Any, ...], dict[str, Run]] = {}  # runs by name, of those that differ in `selection` alone
    for specification in specifications(study):
        for variant in TABLE5:
            for run in runs_of(study, variant, specification):
                training = tuple(getattr(run.config, name) for name in GRID if name != "selection")
                trainings.setdefault((variant, run.seed, *training), {})[run.name] = run
    groups = [tuple(runs.values()) for runs in trainings.values()]
    every = [run for group in groups for run in group]
    parents = {parent.directory: parent for run in every for parent in run.parents}
    report_reuse([*parents.values(), *every])
    study.finish_all(list(parents.values()))
    missing = [group for group in groups if not all(run.done for run in group)]
    if not missing:
        return
    study.check_device()
    firsts = [group[0] for group in missing]
    log.info("%s", study.cost_ahead(firsts))
    watched = [
        Watched(f"{run.stage.label} {run.seed}", run.stage.label, run.directory, run.stage.schedule.epochs)
        for run in firsts
    ]
    with shown(watched, study.workers):
        for line in study.side_by_side(_train_once, missing):
            log.info("%s", line)


def _train_once(study: Study, runs: Sequence[Run]) -> str:
    """Finish runs that differ in `selection` alone: one is trained, the others get its history and their own epoch."""
    first, *others = runs
    kept: dict[str, tuple[int, dict[str, Tensor]]] = {}  # by rule: the best epoch so far and its weights

    def keep(epoch: int, system: System) -> None:
        history = read_json_lines(first.directory / HISTORY)
        for other in others:
            if best_epoch(history, other.config.selection) == epoch:
                weights = {name: values.detach().clone() for name, values in system.state_dict().items()}
                kept[other.config.selection] = epoch, weights

    study.finish(first, after_epoch=keep)
    for other in others:
        if not other.trained:
            _hand_over(study, first, other, kept.get(other.config.selection, (0, {})))
        study.finish(other)
    return ", ".join(f"{run.name}: epoch {run.chosen_epoch}" for run in runs)


def _hand_over(study: Study, first: Run, other: Run, kept: tuple[int, dict[str, Tensor]]) -> None:
    """Leave ``other`` a checkpoint after its last epoch, from which it only has to take its own choice of the epoch.

    Nothing is left, and ``other`` is trained by itself, where the weights of that epoch were not kept (the first was
    trained before, or stopped on the way), or where the rule may have ended the training early.
    """
    history = read_json_lines(first.file(HISTORY))
    epoch, weights = kept
    chosen = best_epoch(history, other.config.selection)
    if len(history) < first.stage.schedule.epochs or chosen == 0:
        return
    if chosen == first.chosen_epoch:
        epoch, weights = chosen, load_file(first.file(WEIGHTS))
    if epoch != chosen:
        return
    system = study.build(first, trained=True)
    other.directory.mkdir(parents=True, exist_ok=True)
    with claim(other.directory):
        if not other.trained:
            hand_over(other.directory / CHECKPOINT, system, other.stage.schedule, history, weights)
