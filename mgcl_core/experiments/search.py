"""Search, on validation only, of what the paper leaves open, or of a compared system; a preset file keeps the choice.

The search is given a study without its test split. A trial trains the system under its settings once per seed,
from the stage-one encoders that all runs share, and is worth the mean over seeds of the validation MAE at the
chosen epoch. All systems have the same budget: trials, seeds, epochs of the profile, pruning. Finished trials are
kept in ``search/trials.json``, from which Optuna's study is put together again; a search that was stopped at any
moment continues, and proposes what it would have proposed.
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.text_model import text_model_sha256
from ..support.errors import ConfigError, RunError
from ..support.files import atomic, read_json_lines
from ..support.integrity import read_sealed, write_sealed
from ..support.runtime import derive_seed
from ..trainer import HISTORY, NonFiniteLoss
from .claims import claim
from .directories import digest, write_overrides
from .memory import OutOfMemory
from .presets import write_preset
from .run_records import RUN_FORMAT, training_seconds
from .runs import Run
from .search_space import Range, subject_of
from .study import Study

log = logging.getLogger(__name__)

TRIALS = 20
TRIALS_FILE = "trials.json"
#: Completed trials before the median pruner may stop one.
BEFORE_PRUNING = 5


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: every trial, and the preset with the file that holds it.

    ``trials`` has a row for each trial: ``number``; ``state``, "complete", "pruned" or "failed" (out of memory);
    ``validation_mae``, of a pruned trial the mean so far; ``epochs`` trained; ``seconds`` of them; and a column for
    each searched setting, named in ``searched``; ``logarithmic`` are those that were drawn on a logarithmic scale.
    """

    trials: pd.DataFrame
    searched: tuple[str, ...]
    preset: dict[str, Any]
    path: Path
    logarithmic: tuple[str, ...]

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings to hand to a `Study` or a notebook."""
        return self.preset["overrides"]

    @property
    def system_overrides(self) -> dict[str, dict[str, Any]]:
        """Those of compared systems, likewise."""
        return self.preset.get("system_overrides", {})


class _Pruned(Exception):
    """The median pruner stopped a trial."""


def run_search(study: Study, trials: int = TRIALS, *, out: Path | None = None, system: str = "mgcl") -> SearchResult:
    """Run what is missing of ``trials`` trials, completed or pruned, and write the preset of the best.

    The first trial has the study's own settings, so the chosen ones are never worse on validation. What the study
    overrides stays as it is and is not searched. A trial whose loss becomes non-finite counts as pruned, one whose
    stage two runs out of memory as failed; neither is tried again. Of two
    processes that ask for it, one searches and the other waits.

    Args:
        study: corpus, profile, seeds and overrides.
        trials: how many there are to be in all, earlier ones counted.
        out: the preset file; ``search/preset.json`` of the study when None, ``search/SYSTEM/preset.json`` of a compared
            system.
        system: "mgcl", or the compared system whose own settings are searched (`search_space.system_space`).

    Raises:
        ConfigError: Optuna is not installed, ``trials`` is below 1, an unknown system, or nothing is left to search.
        RunError: no trial was completed.
        DamagedFile: the file of finished trials is not as it was written.
    """
    optuna = _optuna()
    if trials < 1:
        raise ConfigError(f"trials={trials}: must be at least 1")
    job = _Job(optuna, study, system)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_overrides(study.artifacts, study.changes)
    with claim(job.folder / "search", "the search"):
        job.open()
        while len(job.trials.trials) < trials:
            job.one_trial()
        path = Path(out or job.folder / "preset.json")
        logarithmic = tuple(name for name, values in job.space.items() if isinstance(values, Range) and values.log)
        return SearchResult(job.write_trials(), tuple(job.space), job.write_preset(path), path, logarithmic)


class _Job:
    """One search: the study without its test split, what is searched of which system, and Optuna's study."""

    def __init__(self, optuna: Any, study: Study, system: str):
        self.optuna, self.study = optuna, study.without_test()
        self.subject = subject_of(self.study, system)
        self.space, self.default, self.folder = self.subject.space, self.subject.default, self.subject.folder
        fixed = self.subject.fixed()
        if study.base.reads_words:
            fixed["text_model"] = text_model_sha256(study.base.text_model)
        identity = {
            "format": RUN_FORMAT,
            "data": study.corpus.sha256,
            "seeds": study.seeds,
            "settings": fixed,
            "default": self.default,
            "space": {name: repr(values) for name, values in self.space.items()},
        }
        self.name = "search-" + digest(identity)

    def open(self) -> None:
        """Make Optuna's study, of the trials that are finished."""
        optuna = self.optuna
        # At the ends of seeds alone: after a quarter of one, all but the quickest starters were stopped.
        epochs = self.subject.epochs
        pruner = optuna.pruners.MedianPruner(BEFORE_PRUNING, n_warmup_steps=epochs, interval_steps=epochs)
        # In memory: a database would be believed whatever became of its file.
        self.trials = optuna.create_study(study_name=self.name, pruner=pruner, direction="minimize")
        for kept in self._kept().get(self.name, []):
            self.trials.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[kept["state"]],
                    value=kept["value"],
                    params=kept["params"],
                    distributions=self._distributions(),
                    user_attrs=kept["user_attrs"],
                    intermediate_values={
                        step: math.inf if value is None else value for step, value in kept["intermediate_values"]
                    },
                )
            )

    def _kept(self) -> dict[str, list[dict[str, Any]]]:
        """The finished trials of every search in this folder, by the name of the search."""
        path = self.folder / TRIALS_FILE
        return read_sealed(path, f"Delete {path}, and the search starts again") if path.exists() else {}

    def _keep(self) -> None:
        trials = [
            {
                "state": trial.state.name,
                "value": trial.value,
                "params": trial.params,
                "user_attrs": trial.user_attrs,
                "intermediate_values": list(trial.intermediate_values.items()),  # pairs: keys of JSON are text
            }
            for trial in self.trials.trials
        ]
        write_sealed(self.folder / TRIALS_FILE, {**self._kept(), self.name: trials})
        self.write_trials()

    def _of_state(self, *names: str) -> list[Any]:
        states = [self.optuna.trial.TrialState[name] for name in names]
        return self.trials.get_trials(deepcopy=False, states=states)

    def one_trial(self) -> None:
        optuna, count = self.optuna, len(self.trials.trials)
        if count == 0:
            self.trials.enqueue_trial(self.default)
        # A fresh sampler a trial, seeded by how many came before: a search that was stopped goes on as it would have.
        seed = derive_seed(self.study.seeds[0], "sampler", count) % 2**32
        self.trials.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self.trials.ask(self._distributions())
        folder = self.folder / "running" / digest([self.name, trial.params])
        states = optuna.trial.TrialState
        try:
            value = self._validation_mae(trial, folder)
            state = states.COMPLETE
        except (_Pruned, NonFiniteLoss) as reason:
            value, state = None, states.PRUNED
            trial.set_user_attr("reason", str(reason))
        except OutOfMemory as reason:
            runs = self.subject.runs(trial.params, folder)
            if not all(parent.trained for run in runs for parent in run.parents):
                raise  # of stage one, which all trials need
            value, state = None, states.FAIL
            trial.set_user_attr("reason", str(reason))
        trial.set_user_attr("seconds", training_seconds(folder))
        self.trials.tell(trial, value, state=state)
        reached = trial.user_attrs.get("reason") or f"validation MAE {value:.4f} (best {self.trials.best_value:.4f})"
        log.info("trial %d: %s, %s", trial.number, state.name.lower(), reached)
        self._keep()
        shutil.rmtree(folder.parent, ignore_errors=True)  # weights and histories; what was reported of them is kept

    def _distributions(self) -> dict[str, Any]:
        return {name: _distribution(self.optuna, values) for name, values in self.subject.ranges().items()}

    def _validation_mae(self, trial: Any, folder: Path) -> float:
        """Mean over seeds of the validation MAE at the chosen epoch; pruned by the mean so far at equal epochs."""
        best: list[float] = []  # of the seeds before the current one
        reported: set[int] = set()
        trained: dict[Path, int] = {}  # epochs of each seed
        epochs = self.subject.epochs

        def report(value: float, epoch: int) -> None:
            step = len(best) * epochs + epoch
            if step not in reported:
                reported.add(step)
                trial.report(float(np.mean([*best, value])), step)

        def prune() -> None:
            if trial.should_prune():
                raise _Pruned(f"above the median after {sum(trained.values())} epochs")

        def after_epoch(directory: Path) -> None:
            lowest, rows = math.inf, read_json_lines(directory / HISTORY)  # with the epochs before a stop from outside
            trained[directory] = len(rows)
            trial.set_user_attr("epochs", sum(trained.values()))
            for row in rows:
                lowest = min(lowest, math.inf if row["valid_mae"] is None else row["valid_mae"])
                report(lowest, row["epoch"])
            prune()

        runs = self.subject.runs(trial.params, folder)
        encoders = [parent for run in runs for parent in run.parents if not parent.trained]
        for name in self.study.side_by_side(_train_encoder, encoders):
            log.info("stage one: %s", name)
        for run in runs:
            _, result = self.study.fit(
                run,
                run.directory,
                after_epoch=lambda _epoch, _system, directory=run.directory: after_epoch(directory),
                label=f"{self.study.corpus.name} trial {trial.number} seed {run.seed}",
            )
            value = result.history[result.chosen_epoch - 1]["valid_mae"]
            if len(result.history) < epochs:  # its patience ended it: trials are compared at the ends of seeds
                report(value, epochs)
                prune()
            best.append(value)
        trial.set_user_attr("seeds", best)
        return float(np.mean(best))

    # What a search leaves behind

    def write_trials(self) -> pd.DataFrame:
        """All trials as ``search/trials.csv``."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        rows = []
        for trial in self._of_state(*names):
            of_seeds = dict(
                zip(
                    [f"mae_{seed}" for seed in self.study.seeds],
                    trial.user_attrs.get("seeds", [None] * len(self.study.seeds)),
                    strict=True,
                )
            )
            rows.append(
                {
                    "number": trial.number,
                    "state": names[trial.state.name],
                    "validation_mae": trial.value,
                    **of_seeds,
                    "epochs": trial.user_attrs.get("epochs", len(trial.intermediate_values)),
                    "seconds": round(trial.user_attrs.get("seconds", 0.0), 1),
                    **{name: trial.params.get(name) for name in self.space},
                }
            )
        frame = pd.DataFrame(rows)
        with atomic(self.folder / "trials.csv") as temporary:
            frame.to_csv(temporary, index=False)
        return frame

    def write_preset(self, path: Path) -> dict[str, Any]:
        """The settings of the best trial and where they come from."""
        if not self._of_state("COMPLETE"):
            raise RunError("no trial was completed, so there is nothing to choose from")
        study, best = self.study, self.trials.best_trial
        default = next((trial.value for trial in self._of_state("COMPLETE") if trial.params == self.default), None)
        origin = {
            "rule": "lowest mean over seeds of the validation MAE; test data was withheld",
            "corpus": {"name": study.corpus.name, "sha256": study.corpus.sha256, "synthetic": study.corpus.synthetic},
            "system": self.subject.name,
            "profile": study.profile,
            "seeds": list(study.seeds),
            "precision": study.base.precision,
            "searched": {
                name: vars(values) if isinstance(values, Range) else list(values)
                for name, values in self.subject.ranges().items()
            },
            "trials": {
                "completed": len(self._of_state("COMPLETE")),
                "pruned": len(self._of_state("PRUNED")),
                "failed": len(self._of_state("FAIL")),
            },
            "chosen_trial": best.number,
            "validation_mae": {"default": default, "chosen": best.value},
            "optuna_study": self.name,
        }
        return write_preset(path, **self.subject.chosen(best.params), origin=origin)


def _train_encoder(study: Study, run: Run) -> str:
    return study.finish(run, test=False).name


def _distribution(optuna: Any, values: Range | dict[str, Any]) -> Any:
    if isinstance(values, Range):
        return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
    return optuna.distributions.CategoricalDistribution(list(values))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("the search needs Optuna: pip install 'mgcl-core[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # this module logs one line per trial
    return optuna
