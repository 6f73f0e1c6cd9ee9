"""All runs of one corpus under one profile: what there is to run, where it lives, and running what is missing.

A run's directory is named by the hash of everything that decides its result, so asking again for a finished run costs
nothing and a changed setting never meets old numbers.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import logging
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import DATASETS, VARIANTS, Config, variant_settings
from ..data import Corpus, Split, load_corpus
from ..data.batches import DeviceSplit
from ..data.known_files import known_name
from ..data.text_model import text_model_sha256
from ..data.validation import decide_scheme
from ..encoders import encoder_names
from ..support.devices import check_precision, choose_device, describe_device
from ..support.errors import ConfigError, Interrupted, RunError
from ..support.faces import Face
from ..support.files import remove_leftovers, write_json
from ..support.leases import LeaseLost
from ..support.parallel import choose_workers, process_pool, workers_that_fit
from ..support.paths import project_root
from ..support.runtime import derive_seed
from ..system import System
from ..trainer import CHECKPOINT, Fit, fit, predict, usable_checkpoint
from .absence import under_regime
from .claims import claim
from .directories import artifact_directory, corpus_folder, digest
from .executors import Job, Work, marked, run_on, versions
from .listing import experiments
from .memory import COUNTED_CLIPS, Need, data_room, explained, need_of, warn_of_crowding
from .progress import Watched, duration, shown
from .registry import compared_systems, config_for, needs_words, paper_dataset, system_settings
from .reuse import outdated, report_reuse
from .run_records import DONE, RUN_FORMAT, SCALER, other_runs, records_in, seconds_of_kinds, training_seconds
from .runs import Run, describe, make_record, write_predictions
from .splits import StudySplits, Withheld
from .stages import ComparedStage, EncoderStage, MGCLStage, Stage
from .text_input import with_text_input

log = logging.getLogger(__name__)

SEEDS = (1111, 1112, 1113)  # decision 21
#: Settings that decide how a feature file is read.
READING = ("lengths", "nonfinite")
#: Hours of all runs of the paper's datasets on two cores of a CPU (docs/speed.md), and their training clips.
PAPER_HOURS = {"sims": (100, 1368), "mosi": (82, 1284), "mosei": (2493, 16326)}


class Study(Face):
    """All runs of one corpus under one profile.

    Runs and features lie in ``directory``, named by settings. What is made of them lies in ``artifacts``: there too, or
    in a folder of its own where this study changes something (`changes`).

    Args:
        corpus: a name, the path of a feature file, or a loaded corpus.
        profile: "paper", "small" or "demo" (`mgcl_core.config.PROFILES`).
        seeds: each seed covers both stages.
        overrides: settings that differ from the profile's.
        device: "auto", "cpu", "cuda" …
        precision: "fp32", "bf16", or "auto", the profile's own, which is the same on every machine (decision 22).
        results: directory of all results; the project's ``results/`` when None.
        scheme: of the labels, where `load_corpus` should not decide.
        dataset: "sims", "mosi" or "mosei", whose settings of the paper a file is run with; that of a known corpus when
            None. The file's path decides nothing.
        workers: runs side by side, each in a process with its share of the cores; "auto" is one per core on the CPU
            (at most 4) with the profiles "demo" and "small", else 1.
        system_overrides: for a compared system, settings that differ from its published ones.
        executor: of the protocol of `concurrent.futures`, where its processes see ``results`` under the same path: runs
            are trained there, on the device that each finds. ``workers`` then only says how many go at a time.

    Raises:
        ConfigError, CorpusError: a setting or the file is wrong; nothing has been run then.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        profile: str = "paper",
        *,
        seeds: Sequence[int] = SEEDS,
        overrides: Mapping[str, Any] | None = None,
        device: str = "auto",
        precision: str = "auto",
        results: Path | str | None = None,
        scheme: str | None = None,
        dataset: str | None = None,
        workers: int | str = "auto",
        system_overrides: Mapping[str, Mapping[str, Any]] | None = None,
        executor: Executor | None = None,
    ):
        self.corpus = _corpus(corpus, scheme, dataset, dict(overrides or {}))
        self.profile, self.seeds = profile, tuple(seeds)
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ConfigError(f"seeds={list(self.seeds)}: must be different and at least one")
        self.executor = executor
        # No context on a GPU where nothing is trained: it would take memory, and all of a GPU in exclusive mode.
        self.device = choose_device(device if executor is None else "cpu", probe=workers in ("auto", 1))
        self.overrides = dict(overrides or {})
        self.system_overrides = {name: dict(changes) for name, changes in (system_overrides or {}).items()}
        for name, changes in self.system_overrides.items():
            system_settings(name, paper_dataset(self.corpus), profile, changes)
        usual = config_for(self.corpus, profile)
        asked = {} if precision == "auto" else {"precision": precision}
        self.base = usual.override({**asked, **self.overrides})
        self.corpus = with_text_input(self.corpus, self.base)
        self._precision_differs = self.base.precision != usual.precision
        for name in READING:
            wanted, was = getattr(self.base, name), getattr(self.corpus, name)
            if wanted != was:
                raise ConfigError(f"{name}={wanted!r}, but the corpus was loaded with {name}={was!r}")
        self._check_dataset()
        self.directory = Path(results or project_root() / "results") / corpus_folder(self.corpus) / profile
        self.artifacts = artifact_directory(self.directory, self.changes)
        self.splits = StudySplits(self.corpus, self.base, self.device, self.directory, room=data_room(self.device))
        self.workers = choose_workers(workers, self.device, profile)
        if self.workers > 1 and executor is None:  # each holds a copy of all splits, scaled
            splits = [split for split in self.corpus.splits if isinstance(split, Split)]
            held = sum(split.audio.nbytes + split.vision.nbytes for split in splits)
            self.workers = workers_that_fit(self.workers, held)
        self._device_was_asked_for = device != "auto"
        # Without the test split, so that a study that is not handed one finds the same runs.
        labels = {(split.name, "labels"): split.labels for split in (self.corpus.train, self.corpus.valid)}
        self._usual_scheme = decide_scheme(labels, None, self.corpus.path)
        # What another process needs to work for this study: a name or path rather than arrays.
        by_path = isinstance(corpus, (str, Path)) and known_name(corpus) is None
        self._recipe = {
            "corpus": str(self.corpus.path) if by_path else corpus,
            "profile": profile,
            "seeds": self.seeds,
            "overrides": self.overrides,
            "device": device,
            "precision": precision,
            "results": self.directory.parents[1].absolute(),
            "scheme": scheme,
            "dataset": dataset,
            "workers": 1,
            "system_overrides": self.system_overrides,
        }
        log.info(
            "%s, profile %s: %s, %s, %d worker%s",
            self.corpus.name,
            profile,
            self._where(),
            self.base.precision,
            self.workers,
            "s" * (self.workers != 1),
        )
        formats, precisions = other_runs(self.directory / "runs", self.base.precision)
        if formats:
            log.info("%d runs in %s are of another version of this package; they are not used", formats, self.directory)
        for other, count in precisions.items():
            log.info("%d runs in %s are in %s; --precision %s shows those", count, self.directory, other, other)

    def _where(self) -> str:
        return describe_device(self.device) if self.executor is None else "trains elsewhere"

    def without_test(self) -> Study:
        """The same study with a test split of which only the number of clips is known."""
        blind = copy.copy(self)
        blind.corpus = dataclasses.replace(self.corpus, test=Withheld(len(self.corpus.test)))
        blind.splits = StudySplits(blind.corpus, self.base, self.device, self.directory, room=self.splits.room)
        blind._recipe = {**self._recipe, "corpus": blind.corpus}
        return blind

    def face(self) -> tuple[str, dict[str, object]]:
        groups = {"stage one": self.pretrainings(), **{name: self.trainings([name]) for name in VARIANTS}}
        groups["compared systems"] = self.comparisons()
        done = ", ".join(
            f"{sum(run.state == 'finished' for run in runs)} of {len(runs)} {name}" for name, runs in groups.items()
        )
        facts: dict[str, object] = {
            "device": f"{self._where()}, {self.base.precision}, workers: {self.workers}",
            "seeds": ", ".join(map(str, self.seeds)),
            "changed settings": self.changes or "none",
            "finished runs": done,
            "folder": self.directory,
        }
        synthetic = " (synthetic)" if self.corpus.synthetic else ""
        return f"Study of {self.corpus.name!r}{synthetic}, profile {self.profile!r}", facts

    def with_overrides(self, changes: Mapping[str, Any]) -> Study:
        """The same study with further settings changed; runs that they do not change are shared.

        Raises:
            ConfigError: a setting is not known, or a value has the wrong type.
        """
        overrides = {**self.overrides, **changes}
        recipe = {**self._recipe, "workers": self.workers, "overrides": overrides, "executor": self.executor}
        if not set(READING) & set(changes):
            recipe["corpus"] = self.corpus  # is read already
        changed = Study(**recipe)
        changed._recipe["corpus"] = self._recipe["corpus"]
        return changed

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the profile's own: ``overrides``, ``system_overrides`` and ``seeds``, those that do."""
        values = self.base.as_dict()
        names = {*self.overrides} | ({"precision"} if self._precision_differs else set())
        changes = {
            "overrides": {name: values[name] for name in sorted(names)},
            "system_overrides": self.system_overrides,
            "seeds": [] if self.seeds == SEEDS else list(self.seeds),
        }
        return {kind: changed for kind, changed in changes.items() if changed}

    # What there is to run

    def config(self, seed: int, variant: str = "MGCL") -> Config:
        """Settings of one run of ``variant``, of the tables or a control."""
        return self.base.override({**variant_settings(variant), "seed": seed})

    def encoder_runs(self, config: Config) -> tuple[Run, ...]:
        """The stage-one runs of a configuration, six with dual encoders."""
        return tuple(self.run_of(EncoderStage(config, name)) for name in encoder_names(config))

    def pretrainings(self) -> list[Run]:
        """All stage-one runs: encoders × seeds."""
        return [run for seed in self.seeds for run in self.encoder_runs(self.config(seed))]

    def trainings(self, variants: Sequence[str] = ("MGCL",)) -> list[Run]:
        """The stage-two runs of ``variants`` × seeds."""
        return [self.system_run("mgcl", seed, variant) for variant in variants for seed in self.seeds]

    def comparisons(self, systems: Sequence[str] | None = None) -> list[Run]:
        """The runs of the compared systems × seeds; when None, of all that can read the text (`needs_words`)."""
        if systems is None:
            systems = [name for name in compared_systems() if self.base.reads_words or not needs_words(name)]
        return [self.system_run(name, seed) for name in systems for seed in self.seeds]

    def system_run(self, name: str, seed: int, variant: str = "MGCL", changes: Mapping[str, Any] | None = None) -> Run:
        """The run of one system, MGCL (in ``variant``, with ``changes``) or a compared one, with one seed."""
        if name == "mgcl":
            stage: Stage = MGCLStage(self.config(seed, variant).override(changes or {}), variant)
        else:
            if needs_words(name) and not self.base.reads_words:
                raise ConfigError(f"{name} needs words: it trains a text model, and text_source='features' has none")
            changes = self.system_overrides.get(name)
            settings = system_settings(name, paper_dataset(self.corpus), self.profile, changes)
            stage = ComparedStage(self.config(seed), name, settings)
        encoders = {run.stage.encoder: run for run in self.encoder_runs(stage.config)}
        return self.run_of(stage, tuple(encoders[name] for name in stage.parents))

    def run_of(self, stage: Stage, parents: tuple[Run, ...] = ()) -> Run:
        """The run that trains ``stage`` from ``parents``; its directory is named by what decides its result."""
        identity = {
            "format": RUN_FORMAT,
            "stage": stage.name,
            "settings": stage.settings,
            "data": self.corpus.sha256,
            "parents": [parent.name for parent in parents],
        }
        if "text_model" in stage.settings and stage.reads_text:
            identity["settings"] = {**stage.settings, "text_model": self._text_model}
        if self.corpus.scheme != self._usual_scheme:
            identity["scheme"] = self.corpus.scheme
        label = stage.label.replace("w/o ", "without-").replace("/", "-").replace(" ", "-")
        return Run(stage, self.directory / "runs" / f"{label}-{stage.config.seed}-{digest(identity)}", parents)

    def experiments(self) -> pd.DataFrame:
        """What was tried on this corpus under this profile, whatever its settings (`listing.experiments`)."""
        return experiments(self.directory / "runs")

    @functools.cached_property
    def _text_model(self) -> str:
        """What the text model is, not where it lies; where it is not on this machine, as the runs here say."""
        name = self.base.text_model
        try:
            return text_model_sha256(name)
        except ConfigError:
            models = [record.get("text_model") for _, record in records_in(self.directory / "runs")]
            known = {model["sha256"] for model in models if isinstance(model, dict) and model.get("name") == name}
            if len(known) != 1:
                raise
            return known.pop()

    # Running

    def _check_dataset(self) -> None:
        """Say whose settings these are.

        Raises:
            ConfigError: profile "paper", whose settings and text model differ by dataset, and nobody said which.
        """
        dataset, known = paper_dataset(self.corpus), self.corpus.dataset is not None
        if self.profile == "paper" and not known and "text_model" not in self.overrides:
            raise ConfigError(
                f"profile 'paper' has settings and a text model for each of {', '.join(DATASETS)}, and "
                f"{self.corpus.path} is no file that is known by its SHA-256: say which with dataset='sims' "
                "(--dataset sims), or choose a text_model, or take profile 'small'"
            )
        reason = (
            "as asked for or as it is known" if known else f"by the range of its labels, [-{self.corpus.bound:g}, …]"
        )
        text = f"text model {self.base.text_model!r}" if self.base.reads_words else "text is features, without a model"
        log.info("%s: settings of %r, %s; %s", self.corpus.name, dataset, reason, text)

    def check_device(self) -> None:
        """Refuse days of work on a CPU that nobody asked for, and a precision that the GPU lacks.

        Raises:
            ConfigError: profile "paper", and the device "auto" turned out to be a CPU; or bf16 would be emulated.
        """
        check_precision(self.base.precision, self.device)
        if self.profile == "paper" and self.device.type == "cpu" and not self._device_was_asked_for:
            raise ConfigError(
                f"profile 'paper' finds no GPU here; on a CPU, all runs of {self.corpus.name} would take about "
                f"{self._paper_hours():,} hours (two cores, docs/speed.md). Ask for it with --device cpu "
                "(device='cpu'), or take --profile small"
            )

    def cost_ahead(self, runs: Sequence[Run]) -> str:
        """What is to be trained for ``runs``, and how long that takes as far as it was measured.

        Measured are finished runs of the same kinds in this study's folder, or else all runs of the paper on a CPU.
        """
        kinds = Counter(run.stage.label for run in runs)
        listed = ", ".join(f"{count} × {label}" for label, count in kinds.items())
        seconds = seconds_of_kinds(self.directory / "runs", self.base.precision)
        if kinds.keys() <= seconds.keys():
            left = sum(count * seconds[label] for label, count in kinds.items()) / min(self.workers, len(runs))
            about = f"about {duration(left)}, as finished runs here took"
        elif self.profile == "paper" and self.device.type == "cpu":
            about = f"all runs of the paper take about {self._paper_hours():,} hours on two cores"
        else:
            about = "how long is known after the first epochs"
        return f"to train: {listed}; {about}"

    def _paper_hours(self) -> int:
        hours, clips = PAPER_HOURS[paper_dataset(self.corpus)]
        return max(1, round(hours * len(self.corpus.train) / clips))

    def pretrain(self, *, again: bool = False) -> list[Run]:
        """Finish all stage-one runs; ``again`` as for `finish_all`."""
        return self.finish_all(self.pretrainings(), again=again)

    def train(self, variants: Sequence[str] = ("MGCL",), *, again: bool = False) -> list[Run]:
        """Finish the stage-two runs of ``variants``, and the stage-one runs they start from."""
        return self.finish_all(self.trainings(variants), again=again)

    def compare(self, systems: Sequence[str] | None = None, *, again: bool = False) -> list[Run]:
        """Finish the runs of the compared ``systems``; when None, of all that can read the text (others are logged)."""
        left_out = [name for name in compared_systems() if needs_words(name)]
        if systems is None and not self.base.reads_words:
            log.info("%s: %s need words and are left out", self.corpus.name, ", ".join(left_out))
        return self.finish_all(self.comparisons(systems), again=again)

    def finish_all(self, runs: Sequence[Run], *, again: bool = False) -> list[Run]:
        """Finish ``runs``, side by side where the study has several workers; say which are there, show how far it is.

        Args:
            runs: what is asked for.
            again: train those again, and the stage-one runs that they start from, that other sources of this package
                trained; what they left is deleted.

        Raises:
            DamagedFile: a run that was trained is not as it was written.
            Interrupted: by the user; says what is kept.
        """
        lineage = {run.directory: run for one in runs for run in (*one.parents, one)}
        if again:
            asked = {run.directory for run in runs}
            for run in lineage.values():
                if run.directory in asked or (run.trained and outdated(run)):
                    with claim(run.directory):
                        shutil.rmtree(run.directory, ignore_errors=True)
        report_reuse(list(lineage.values()))
        if all(run.done for run in lineage.values()):
            return list(runs)
        watched = [
            Watched(f"{run.stage.label} {run.seed}", run.stage.label, run.directory, run.stage.schedule.epochs)
            for run in lineage.values()
        ]
        if untrained := [run for run in lineage.values() if not run.trained]:
            if self.executor is None:
                self.check_device()
            self.splits.check_vocabulary()
            log.info("%s", self.cost_ahead(untrained))
        try:
            with shown(watched, self.workers):
                self._finish_all(runs)
        except KeyboardInterrupt:
            raise Interrupted(_what_is_kept(list(lineage.values()))) from None
        return list(runs)

    def _finish_all(self, runs: Sequence[Run]) -> None:
        missing = {run.directory: run for one in runs for run in (*one.parents, one) if not run.done}
        untrained = [run for run in missing.values() if not run.trained]
        if untrained and self.executor is None:
            warn_of_crowding(untrained, self.splits.shapes, self.corpus.train, self.device, self.workers)
        # The longest first, so that no core is left alone with one at the end.
        ordered = sorted(missing.values(), key=lambda run: not run.stage.takes_long)
        for line in self.side_by_side(_finish, ordered):
            if self.executor is not None or self.workers > 1:  # otherwise it is said already
                log.info(line)

    def predictions(self, run: Run, split: str = "test") -> pd.DataFrame:
        """Those of a finished run (`Run.predictions`), held against the ids and labels of the corpus.

        Raises:
            RunError: they are of other clips or labels.
        """
        frame, clips = run.predictions(split), getattr(self.corpus, split)
        if list(frame["id"]) != list(clips.ids) or not np.array_equal(frame["label"], run.stage.labels(clips)):
            raise RunError(
                f"{run.name}: its predictions of split {split!r} are of other clips or labels than {self.corpus.name}; "
                f"delete {run.directory}, and the run is trained again where it is asked for"
            )
        return frame

    def side_by_side(self, work: Callable[[Study, Any], Any], runs: Sequence[Work]) -> Iterator[Any]:
        """What the function ``work`` gives for the study and each run, or each group (a tuple) of runs, as they finish.

        It is called by the study's executor, else in as many processes as it has workers, and here where that is one.

        Raises:
            RunError: it failed for some, elsewhere; the others are finished then.
        """
        workers = min(self.workers, len(runs))
        if self.executor is None and workers <= 1:
            yield from (work(self, run) for run in runs)
            return
        build = functools.partial(Study, **self._recipe)
        key = hashlib.sha256(pickle.dumps((self._recipe, self.corpus.sha256))).hexdigest()
        job = Job(build, work, _check_same, key, versions())
        with contextlib.ExitStack() as stack:
            if self.executor is None:
                executor = stack.enter_context(process_pool(workers))
            else:
                executor = self.executor
                job = dataclasses.replace(job, mark=stack.enter_context(marked(self.directory)))
            yield from run_on(executor, job, runs)

    def finish(self, run: Run, *, test: bool = True, after_epoch: Callable[[int, System], None] | None = None) -> Run:
        """Run what is missing of ``run``. Of two processes that ask for it, one does it and the other waits.

        Without ``test`` it stops when the run is trained: no test data is read, and a later call has only
        the test predictions left to make. ``after_epoch`` is what `mgcl_core.trainer.fit` takes.
        """
        if run.done or (run.trained and not test):
            return run
        if not run.trained:
            self.check_device()
        for parent in run.parents:
            self.finish(parent, test=test)
        run.directory.mkdir(parents=True, exist_ok=True)
        try:
            with claim(run.directory), self._explained(run):
                self._finish_claimed(run, test, after_epoch)
        except LeaseLost as error:  # of a process that was suspended; who took over may have finished it
            log.warning("%s", error)
            return self.finish(run, test=test, after_epoch=after_epoch)
        return run

    def _finish_claimed(self, run: Run, test: bool, after_epoch: Callable[[int, System], None] | None) -> None:
        remove_leftovers(run.directory)  # of a process that was killed while it wrote
        system = None if run.trained else self._train(run, after_epoch)
        for path in run.directory.rglob(CHECKPOINT):
            path.unlink()
        if test and not run.done:
            if (run.directory / DONE).exists():
                log.warning("%s is predicted again from its weights: %s", run.name, run.test_problem())
            self._test(run, system or self.build(run, trained=True))

    def build(self, run: Run, *, trained: bool = False) -> System:
        """The system of ``run`` on the device, as it starts or with its final weights."""
        return run.build(self.splits.shapes(run), self.device, trained=trained)

    def split(self, name: str, run: Run) -> DeviceSplit:
        """Split ``name`` on the device, with what ``run`` reads of frozen encoders (`StudySplits.split`)."""
        return self.splits.split(name, run)

    def fit(
        self, run: Run, directory: Path, *, label: str = "", after_epoch: Callable[[int, System], None] | None = None
    ) -> tuple[System, Fit]:
        """Train the system of ``run`` in ``directory``, from the stage-one runs that it names.

        Returns:
            The system at its chosen epoch, and what `mgcl_core.trainer.fit` returns.
        """
        self.check_device()
        label = label or f"{self.corpus.name} {run.stage.label} {run.seed}"
        with self._explained(run), shown([Watched(label, run.stage.label, directory, run.stage.schedule.epochs)]):
            return self._fit(run, directory, label, after_epoch)

    def _fit(
        self, run: Run, directory: Path, label: str, after_epoch: Callable[[int, System], None] | None
    ) -> tuple[System, Fit]:
        system = self.build(run)
        train, valid = self.split("train", run), self.split("valid", run)
        seed = derive_seed(run.seed, run.stage.name)
        for name, part in system.pretraining().items():  # its parts are the system's own, trained in place
            if not usable_checkpoint(directory / CHECKPOINT):
                part.to(self.device)  # its head was made after the system was moved
                fit(part, train, valid, run.stage.pretraining_schedule, seed=derive_seed(seed, name),
                    directory=directory / name, label=f"{label} {name}", scheme=self.corpus.scheme)  # fmt: skip
        train, valid = under_regime(self.splits, run, train, valid)
        return system, fit(
            system,
            train,
            valid,
            run.stage.schedule,
            seed=seed,
            directory=directory,
            after_epoch=after_epoch,
            label=label,
            scheme=self.corpus.scheme,
        )

    def _explained(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Within its block, running out of memory says what ``run`` needs and what helps."""

        def need() -> Need:
            batch = self.split("train", run).batch(np.arange(min(COUNTED_CLIPS, len(self.corpus.train))))
            return need_of(run, self.splits.shapes(run), batch.cpu())

        return explained(run, need, self.device, self.workers)

    def _train(self, run: Run, after_epoch: Callable[[int, System], None] | None = None) -> System:
        # Epochs of a process that was stopped before its record was written are part of the cost.
        earlier, started = training_seconds(run.directory), time.time()
        self.splits.check_vocabulary()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        write_json(run.directory / "config.json", run.stage.recorded_settings)
        if self.splits.scaler is not None:
            self.splits.scaler.save(run.directory / SCALER)
        system, result = self.fit(run, run.directory, after_epoch=after_epoch)
        self._write_predictions(run, system, "valid")
        for name in ("train", "valid"):
            self.splits.keep_features(run, system, name)
        record = make_record(
            run,
            system,
            result,
            corpus=self.corpus,
            profile=self.profile,
            device=self.device,
            seconds=earlier + time.time() - started,
        )
        run.seal_training(record)
        log.info("%s", describe(run))
        return system

    def _test(self, run: Run, system: System) -> None:
        """The one reading of test data, with the weights of the chosen epoch."""
        self._write_predictions(run, system, "test")
        self.splits.keep_features(run, system, "test")
        run.seal_test()

    def _write_predictions(self, run: Run, system: System, name: str) -> None:
        outputs = predict(system, self.split(name, run), run.stage.schedule)
        split = getattr(self.corpus, name)
        write_predictions(run.directory / f"predictions-{name}.csv", split.ids, outputs, labels=run.stage.labels(split))


def _corpus(corpus: str | Path | Corpus, scheme: str | None, dataset: str | None, overrides: dict[str, Any]) -> Corpus:
    if not isinstance(corpus, Corpus):
        reading = {name: overrides[name] for name in READING if name in overrides}
        return load_corpus(corpus, scheme, dataset=dataset, **reading)
    return dataclasses.replace(corpus, dataset=dataset) if dataset else corpus


def _what_is_kept(runs: Sequence[Run]) -> str:
    """For a person who stopped ``runs``, in a sentence."""
    done = sum(run.done for run in runs)
    begun = [run.name for run in runs if not run.done and any(run.directory.rglob(CHECKPOINT))]
    goes_on = f", {', '.join(begun)} will go on from the last checkpoint" if begun else ""
    return f"stopped: {done} of {len(runs)} runs are finished and kept{goes_on}; the same call or command continues"


def _check_same(study: Study, run: Run) -> None:
    """In another process: its study means the same by ``run``, whose name is a hash of settings, data and text model.

    Raises:
        ConfigError: it does not.
    """
    here = study.run_of(run.stage, run.parents).directory
    if here.name != run.name:
        raise ConfigError(
            f"this worker's {run.stage.label} {run.seed} would be {here.name}, not {run.name}: its feature file "
            f"(SHA-256 {study.corpus.sha256[:10]}…), text model or settings are others"
        )


def _finish(study: Study, run: Run) -> str:
    return describe(study.finish(run))
