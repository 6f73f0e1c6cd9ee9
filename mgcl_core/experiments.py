"""What a run is, where it lives, and running what is missing.

A run is one training: a stage-one encoder, or MGCL in one variant, with one seed. Its directory is
named by the hash of everything that decides its result, so asking again for a finished run costs
nothing and a changed setting never meets old numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from . import config as settings
from .batching import DeviceSplit, Scaler, derive_seed
from .config import VARIANTS, Config, encoder_scopes
from .corpus import Corpus, load_corpus
from .errors import ConfigError, RunError, nearest
from .files import atomic, read_json, write_json
from .model import encode_frozen, encoder_names, frozen_encoders
from .paths import project_root
from .provenance import environment, peak_memory
from .runs import DONE, RECORD, Run, build_system, choose_device, schedule_of, write_predictions
from .system import System
from .text import check_vocabulary, corpus_tokens
from .trainer import CHECKPOINT, SELECTION, Fit, fit, predict

log = logging.getLogger(__name__)

SEEDS = (1111, 1112, 1113)  # decision 21
SCALER = "scaler.safetensors"
FORMAT = 1  # of a run directory; part of every hash


class Withheld:
    """Stands where a test split would: it knows the number of clips, and refuses everything else."""

    def __init__(self, clips: int):
        self._clips = clips

    def __len__(self) -> int:
        return self._clips

    def __getattr__(self, name: str) -> Any:
        raise RunError(f"test data is withheld here ({name!r} was asked for)")


class Study:
    """All runs of one corpus under one profile.

    Args:
        corpus: a name, the path of a feature file, or a loaded corpus.
        profile: "paper", "small" or "demo" (`mgcl_core.config.PROFILES`).
        seeds: each seed covers both stages.
        overrides: settings that differ from the profile's.
        device: "auto", "cpu", "cuda" …
        precision: "auto" (bf16 on CUDA, else fp32), "fp32" or "bf16".
        results: directory of all results; the project's ``results/`` when None.

    Raises:
        ConfigError, CorpusError: a setting or the file is wrong; nothing has been run then.
    """

    def __init__(self, corpus: str | Path | Corpus, profile: str = "paper", *, seeds: Sequence[int] = SEEDS,
                 overrides: Mapping[str, Any] | None = None, device: str = "auto", precision: str = "auto",
                 results: Path | str | None = None, scheme: str | None = None):
        self.corpus = corpus if isinstance(corpus, Corpus) else load_corpus(corpus, scheme)
        self.profile, self.seeds = profile, tuple(seeds)
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ConfigError(f"seeds={list(self.seeds)}: must be different and at least one")
        self.device = choose_device(device)
        if precision == "auto":
            precision = "bf16" if self.device.type == "cuda" else "fp32"
        self.overrides = dict(overrides or {})
        self.base = config_for(self.corpus, profile).override({"precision": precision, **self.overrides})
        self.directory = Path(results or project_root() / "results") / self.corpus.name / profile
        self._splits: dict[str, DeviceSplit] = {}
        self._scaler: Scaler | None = None
        self._checked = False

    def without_test(self) -> Study:
        """The same study with a test split of which only the number of clips is known."""
        blind = copy.copy(self)
        blind.corpus = dataclasses.replace(self.corpus, test=Withheld(len(self.corpus.test)))
        blind._splits = {}
        return blind

    # What there is to run

    def config(self, seed: int, variant: str = "MGCL") -> Config:
        """Settings of one run of ``variant``."""
        if variant not in VARIANTS:
            raise ConfigError(f"unknown variant {variant!r}: {nearest(variant, VARIANTS)}")
        return self.base.override({**VARIANTS[variant], "seed": seed})

    def encoder_runs(self, config: Config) -> tuple[Run, ...]:
        """The stage-one runs of a configuration, six with dual encoders."""
        return tuple(self._run(name, "", config, encoder_scopes(name)) for name in encoder_names(config))

    def pretrainings(self) -> list[Run]:
        """All stage-one runs: encoders × seeds."""
        return [run for seed in self.seeds for run in self.encoder_runs(self.config(seed))]

    def trainings(self, variants: Sequence[str] = ("MGCL",)) -> list[Run]:
        """The stage-two runs of ``variants`` × seeds."""
        runs = []
        for variant in variants:
            for seed in self.seeds:
                config = self.config(seed, variant)
                runs.append(self._run("mgcl", variant, config, (settings.FUSION,), self.encoder_runs(config)))
        return runs

    def _run(self, stage: str, variant: str, config: Config, scopes: tuple[str, ...],
             parents: tuple[Run, ...] = ()) -> Run:
        identity = {"format": FORMAT, "stage": stage, "settings": config.scoped(*scopes), "data": self.corpus.sha256,
                    "parents": [parent.name for parent in parents]}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        label = variant.replace("w/o ", "without-").replace("/", "-").replace(" ", "-") if variant else stage
        return Run(stage, variant, config, self.directory / "runs" / f"{label}-{config.seed}-{digest}", parents)

    # Running

    def pretrain(self) -> list[Run]:
        """Finish all stage-one runs."""
        return [self.finish(run) for run in self.pretrainings()]

    def train(self, variants: Sequence[str] = ("MGCL",)) -> list[Run]:
        """Finish the stage-two runs of ``variants``, and the stage-one runs they start from."""
        return [self.finish(run) for run in self.trainings(variants)]

    def finish(self, run: Run, *, test: bool = True) -> Run:
        """Run what is missing of ``run``. Of two processes that ask for it, one does it and the other waits.

        Without ``test`` it stops when the run is trained: no test data is read, and a later call has only
        the test predictions left to make.
        """
        if run.done or (run.trained and not test):
            return run
        for parent in run.parents:
            self.finish(parent, test=test)
        run.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(run.directory.with_suffix(".lock")):
            if not run.trained:
                self._train(run)
            (run.directory / CHECKPOINT).unlink(missing_ok=True)
            if test and not run.done:
                self._test(run)
        return run

    def fit(self, run: Run, directory: Path, *, label: str = "",
            after_epoch: Callable[[int, System], None] | None = None) -> tuple[System, Fit]:
        """Train the system of ``run`` in ``directory``, from the stage-one runs that it names.

        Returns:
            The system at its chosen epoch, and what `mgcl_core.trainer.fit` returns.
        """
        system = build_system(run, bound=self.corpus.bound, device=self.device)
        train, valid = self.split("train", run), self.split("valid", run)
        return system, fit(system, train, valid, schedule_of(run), seed=derive_seed(run.seed, run.stage),
                           directory=directory, after_epoch=after_epoch,
                           label=label or f"{self.corpus.name} {run.variant or run.stage} {run.seed}")

    def _train(self, run: Run) -> None:
        started = time.time()
        self._check()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        write_json(run.directory / "config.json", run.config.as_dict())
        if self.scaler is not None:
            self.scaler.save(run.directory / SCALER)
        system, result = self.fit(run, run.directory)
        self._write_predictions(run, system, "valid")
        write_json(run.directory / RECORD, self._record(run, system, result, started))
        log.info("%s: epoch %d of %d, valid MAE %.4f, %.1f s", run.name, result.chosen_epoch, len(result.history),
                 result.history[result.chosen_epoch - 1]["valid_mae"], time.time() - started)

    def _test(self, run: Run) -> None:
        """The one reading of test data, with the weights of the chosen epoch."""
        system = build_system(run, bound=self.corpus.bound, device=self.device, trained=True)
        self._write_predictions(run, system, "test")
        write_json(run.directory / DONE, {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

    # Data on the device

    @property
    def scaler(self) -> Scaler | None:
        if self._scaler is None and self.base.normalize:
            self._scaler = Scaler.fit(self.corpus.train)
        return self._scaler

    def split(self, name: str, run: Run) -> DeviceSplit:
        """Split ``name`` on the device, with the features of the frozen encoders of ``run``.

        Raises:
            RunError: the test split is asked for before the epoch of ``run`` is chosen.
        """
        if name == "test" and not (run.directory / SELECTION).exists():
            raise RunError(f"{run.name}: test data is read only after the epoch is chosen ({SELECTION} is missing)")
        if name not in self._splits:
            split = getattr(self.corpus, name)
            self._splits[name] = DeviceSplit(split, self.device, scaler=self.scaler, tokens=corpus_tokens(
                split, self.base.text_model, self.base.tokens), labelled=name != "test")
        split = self._splits[name]
        split.features = {}
        frozen = frozen_encoders(run.config) if run.stage == "mgcl" else ()
        for parent in run.parents:
            if parent.stage in frozen:
                split.features.update(self._features(parent, name, split))
        return split

    def _features(self, parent: Run, name: str, split: DeviceSplit) -> dict[str, Tensor]:
        """Features of a frozen encoder, computed once per (weights, data) and read as memory maps afterwards."""
        marker = parent.directory / f"features-{name}.json"
        if not marker.exists():
            system = build_system(parent, bound=self.corpus.bound, device=self.device, trained=True)
            plain, split.features = split.features, {}
            features = encode_frozen(system.encoder, parent.stage, split, parent.config)
            split.features = plain
            for key, values in features.items():
                with atomic(parent.directory / f"features-{name}-{key}.npy") as temporary, temporary.open("wb") as file:
                    np.save(file, values.numpy())
            write_json(marker, {"keys": list(features)})
        arrays = {key: np.load(parent.directory / f"features-{name}-{key}.npy", mmap_mode="c")
                  for key in read_json(marker)["keys"]}
        return {key: torch.from_numpy(values).to(self.device) for key, values in arrays.items()}

    # What a run leaves behind

    def _write_predictions(self, run: Run, system: System, name: str) -> None:
        outputs = predict(system, self.split(name, run), schedule_of(run))
        write_predictions(run.directory / f"predictions-{name}.csv", getattr(self.corpus, name).ids, outputs,
                          labels=self._labels(run, name))

    def _labels(self, run: Run, name: str) -> np.ndarray:
        """The labels of a split that the run's prediction is compared with: y, or y_T, y_V, y_A of a micro encoder."""
        split = getattr(self.corpus, name)
        if run.stage.startswith("micro") and split.unimodal_labels is not None:
            return split.unimodal_labels["TVA".index(run.stage[-1])]
        return split.labels

    def _record(self, run: Run, system: System, result: Fit, started: float) -> dict[str, Any]:
        encoder = getattr(system, "encoder", None)
        return {
            "stage": run.stage, "variant": run.variant, "seed": run.seed, "profile": self.profile,
            "corpus": {"name": self.corpus.name, "sha256": self.corpus.sha256, "synthetic": self.corpus.synthetic,
                       "scheme": self.corpus.scheme, "clips": [len(split) for split in self.corpus.splits]},
            "parents": [parent.name for parent in run.parents],
            "config": run.config.as_dict(),
            "environment": environment(self.device),
            "parameters": sum(p.numel() for p in system.parameters()),
            "trained_parameters": sum(p.numel() for p in system.parameters() if p.requires_grad),
            "encoder_width": None if encoder is None else encoder.out_features,
            "seconds": time.time() - started,
            "seconds_per_epoch": float(np.median([row["seconds"] for row in result.history])),
            "peak_memory": peak_memory(self.device),
        }

    def _check(self) -> None:
        if not self._checked and self.base.tokens == "file" and self.base.check_vocabulary:
            check_vocabulary(self.base.text_model, self.corpus)
        self._checked = True


def config_for(corpus: Corpus, profile: str) -> Config:
    """Preset of a corpus under ``profile``, with the shapes of its features."""
    train = corpus.train
    return settings.preset(role(corpus), profile).override({
        "audio_dim": train.audio.shape[2], "audio_steps": train.audio.shape[1],
        "vision_dim": train.vision.shape[2], "vision_steps": train.vision.shape[1]})


def role(corpus: Corpus) -> str:
    """The dataset of the paper that ``corpus`` stands beside: "sims", "mosi" or "mosei"."""
    if "mosei" in corpus.name.lower():
        return "mosei"
    return corpus.scheme
