"""What picking on the test set would gain. An oracle exists here and nowhere else, and only to be looked at.

Every reported number follows one rule, "validation": the epoch with the lowest validation MAE, and the mean
over all seeds. Much of the field picks epochs, per metric at times, and seeds on the test set instead; the
audit trains each run once more, scores every epoch on test, and shows how much such rules raise a metric. Beside
them stand rules that are honest too (the epoch by validation Acc-2, by validation loss), and F1 with its arguments
swapped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..metrics import HIGHER_IS_BETTER, METRICS, SWAPPED_F1, regression_metrics, swapped_f1
from ..support.errors import RunError
from ..support.files import read_json_lines
from ..support.integrity import read_sealed, write_sealed
from ..support.parallel import cpu_threads
from ..trainer import HISTORY, SELECTIONS, best_epoch, load_weights, predict, save_weights
from .claims import claim
from .progress import Watched, shown
from .run_records import AUDIT, training_seconds
from .runs import Run
from .study import Study

log = logging.getLogger(__name__)

#: Two more rules that look at validation alone, by what they choose the epoch (`mgcl_core.trainer.SELECTIONS`).
ON_VALIDATION = {"validation Acc-2": "acc2", "validation loss": "loss"}
#: Rules of selection: the one of every reported number, others on validation, and those that lean on test, each of
#: which starts from the one before it.
RULES = ("validation", *ON_VALIDATION, "oracle epoch (MAE)", "oracle epoch, per metric", "+ best seed")


def audit_runs(study: Study, runs: Iterable[Run]) -> pd.DataFrame:
    """Scores of every epoch of the finished ones among ``runs``, one row per (run, epoch, metric).

    Each run is trained again with its own seed beside its directory, keeping the weights of every epoch; the
    training sees no test data, the kept weights are scored on it afterwards and thrown away. The scores stay as
    ``audit.json`` in the run's directory, which is read when asked again.

    Columns: ``run``, ``seed``, ``epoch``, ``metric`` (those of tables, and F1 with its arguments swapped); ``valid``
    and ``test``, the metric at that epoch; ``reported``, the run's reported number on test; ``chosen_acc2`` and
    ``chosen_loss``, the epochs that validation Acc-2 and loss choose; ``reproduced``, whether the second training gave
    the recorded history to the last bit, and ``largest_difference`` of the validation MAE between the two trainings.

    Raises:
        RunError: none of the runs is finished.
    """
    finished = [run for run in runs if run.done]
    if not finished:
        raise RunError("nothing to audit: none of the runs is finished")
    missing = [run for run in finished if not _is_audited(run)]
    watched = [
        Watched(f"audit of {run.stage.label} {run.seed}", "audit", run.directory / "audit", run.stage.schedule.epochs,
                run.directory / AUDIT)
        for run in missing
    ]  # fmt: skip
    with shown(watched, study.workers):
        for name in study.side_by_side(_write_audit, missing):
            log.info("audit of %s: every epoch is scored", name)
    return pd.concat([_frame(study, run) for run in finished], ignore_index=True)


def selection(epochs: pd.DataFrame) -> pd.DataFrame:
    """The test score that each rule would report, tidy: ``metric``, ``rule``, ``seed``, ``value``.

    ``epochs`` is what `audit_runs` returns for the seeds of one variant. "+ best seed" is one row per metric: the seed
    that is best under "oracle epoch, per metric"; all other rules have one row per seed.
    """
    mae = epochs[epochs["metric"] == "mae"]
    best_mae = mae.loc[mae.groupby("run", sort=False)["test"].idxmin()].set_index("run")["epoch"]
    rows = []
    for metric, of_metric in epochs.groupby("metric", sort=False):
        best = "max" if HIGHER_IS_BETTER[metric] else "min"
        by_run = of_metric.groupby("run", sort=False)
        seeds = by_run["seed"].first()
        at_best_mae = of_metric[of_metric["epoch"] == of_metric["run"].map(best_mae)].set_index("run")["test"]
        per_metric = by_run["test"].agg(best)
        on_validation = [
            of_metric[of_metric["epoch"] == of_metric[f"chosen_{by}"]].set_index("run")["test"]
            for by in ON_VALIDATION.values()
        ]
        by_rule = (by_run["reported"].first(), *on_validation, at_best_mae, per_metric)
        for rule, values in zip(RULES, by_rule, strict=False):
            rows += [(metric, rule, seeds[run], value) for run, value in values.items()]
        winner = getattr(per_metric, f"idx{best}")() if per_metric.notna().any() else per_metric.index[0]
        rows.append((metric, RULES[-1], seeds[winner], per_metric[winner]))
    return pd.DataFrame(rows, columns=["metric", "rule", "seed", "value"])


def changes(selected: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds under each rule, and its change from "validation": one row per metric, columns (what, rule).

    A lower MAE is better, so there a change below zero is what a rule gains.
    """
    means = selected.groupby(["metric", "rule"], sort=False)["value"].agg(lambda values: values.mean(skipna=False))
    means = means.unstack("rule")[list(RULES)].loc[list(dict.fromkeys(selected["metric"]))]
    return pd.concat({"mean": means, "change": means.sub(means[RULES[0]], axis=0)[list(RULES[1:])]}, axis=1)


def _write_audit(study: Study, run: Run) -> str:
    with claim(run.directory):
        if not _is_audited(run):
            write_sealed(run.directory / AUDIT, _score_every_epoch(study, run))
    return run.name


def _is_audited(run: Run) -> bool:
    """Whether its audit is there; one of an earlier version, which lacks a rule, is not."""
    return (run.directory / AUDIT).exists() and "chosen" in _read(run)


def _read(run: Run) -> dict[str, Any]:
    return read_sealed(run.directory / AUDIT, "Delete it, and the run is audited again where it is asked for")


def _frame(study: Study, run: Run) -> pd.DataFrame:
    scored = _read(run)
    if not scored["reproduced"]:
        log.warning(
            "audit of %s: the second training differs from the recorded one (validation MAE by up to %s)",
            run.name,
            scored["largest_difference"],
        )
    test = study.predictions(run)
    reported = _scores(test["label"].to_numpy(), test["prediction"].to_numpy(), study.corpus.scheme)
    rows = [
        {
            "run": run.name,
            "seed": run.seed,
            "epoch": row["epoch"],
            "metric": metric,
            "valid": row["valid"][metric],
            "test": row["test"][metric],
            "reported": reported[metric],
            **{f"chosen_{by}": scored["chosen"][by] for by in ON_VALIDATION.values()},
            "reproduced": scored["reproduced"],
            "largest_difference": scored["largest_difference"],
        }
        for row in scored["epochs"]
        for metric in reported
    ]
    numbers = ("valid", "test", "reported", "largest_difference")
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))  # NaN is null in JSON


def _score_every_epoch(study: Study, run: Run) -> dict[str, Any]:
    # Not a temporary name: an audit that was stopped continues, and leaves one folder at most.
    folder = run.directory / "audit"

    def weights(epoch: int) -> Path:
        return folder / f"epoch-{epoch}.safetensors"

    with cpu_threads(run.record()["environment"]["threads"]):
        system, again = study.fit(
            run,
            folder,
            label=f"audit of {run.name}",
            after_epoch=lambda epoch, system: save_weights(system.state_dict(), weights(epoch)),
        )
    splits = {name: study.split(name, run) for name in ("valid", "test")}
    labels = {name: getattr(study.corpus, name).labels for name in splits}
    epochs = []
    for row in again.history:
        load_weights(system, weights(row["epoch"]))
        predicted = {name: predict(system, split, run.stage.schedule)["prediction"] for name, split in splits.items()}
        epochs.append(
            {
                "epoch": row["epoch"],
                **{name: _scores(labels[name], values, study.corpus.scheme) for name, values in predicted.items()},
            }
        )
    compared = _compare(read_json_lines(run.file(HISTORY)), read_json_lines(folder / HISTORY))
    seconds = training_seconds(folder)
    shutil.rmtree(folder)
    chosen = {rule: best_epoch(again.history, rule) for rule in SELECTIONS}
    return {"run": run.name, "chosen_epoch": run.chosen_epoch, "chosen": chosen, "seconds": seconds, **compared,
            "epochs": epochs}  # fmt: skip


def _compare(recorded: list[dict[str, Any]], again: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether two histories are equal but for the seconds, and how far their validation MAE is apart.

    What an earlier version of this package did not record is not compared.
    """
    names = set(recorded[0] if recorded else ()) - {"seconds"}
    plain = [[{name: row.get(name) for name in names} for row in rows] for rows in (recorded, again)]
    differences = [
        abs(a["valid_mae"] - b["valid_mae"])
        for a, b in zip(recorded, again, strict=False)
        if None not in (a["valid_mae"], b["valid_mae"])
    ]
    return {"reproduced": plain[0] == plain[1], "largest_difference": max(differences, default=None)}


def _scores(labels: np.ndarray, predicted: np.ndarray, scheme: str) -> dict[str, float]:
    if not np.isfinite(predicted).all():  # an epoch that the rule "validation" cannot choose either
        swapped = [name for name, (metric, _) in SWAPPED_F1.items() if metric in METRICS[scheme]]
        return dict.fromkeys((*METRICS[scheme], *swapped), float("nan"))
    return {**regression_metrics(labels, predicted, scheme), **swapped_f1(labels, predicted, scheme)}
