"""A run on disk: what it is, what it leaves behind, and its system rebuilt from that."""

from __future__ import annotations

import contextlib
import csv
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import Config, plain_settings
from ..data import Corpus, Split
from ..data.corpus import BOUNDS
from ..data.own_clips import Steps, feature_file
from ..data.scaling import Scaler
from ..data.text_model import describe_source, local_files_only, text_config
from ..support.devices import choose_device
from ..support.errors import ConfigError, RunError
from ..support.files import atomic, read_json, read_json_lines
from ..support.provenance import environment, peak_memory
from ..system import Shapes, System
from ..trainer import HISTORY, SELECTION, WEIGHTS, Fit
from .predictor import UNIMODAL_COLUMNS, Predictor
from .stages import MGCLStage, Stage, shapes_of, stage_from_record

log = logging.getLogger(__name__)

RECORD, DONE, SCALER = "record.json", "done", "scaler.safetensors"
#: Of a run directory; part of every run's name, so that runs of another format are never taken for one of this.
RUN_FORMAT = 2


@dataclass(frozen=True)
class Run:
    """One training, planned or finished: what it trains, where it lives, and the stage-one runs that it starts from."""

    stage: Stage
    directory: Path
    parents: tuple[Run, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def config(self) -> Config:
        return self.stage.config

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def variant(self) -> str:
        return self.stage.variant

    @property
    def trained(self) -> bool:
        """Its epoch is chosen and its record written; only the test predictions may be missing."""
        return (self.directory / RECORD).exists()

    @property
    def done(self) -> bool:
        return (self.directory / DONE).exists()

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch: training losses (weighted terms), validation MAE and Corr, seconds."""
        return pd.DataFrame(read_json_lines(self._finished(HISTORY)))

    @property
    def chosen_epoch(self) -> int:
        return read_json(self._finished(SELECTION))["epoch"]

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Columns id, label, prediction and, for MGCL, the six unimodal predictions."""
        frame = pd.read_csv(self._finished(f"predictions-{split}.csv"), dtype=str, keep_default_na=False)
        # Exact, unlike read_csv, and float32 as they were made: 0.1 must not become more than the cut at 0.1.
        return frame.astype({name: np.float32 for name in frame.columns if name != "id"})

    def record(self) -> dict[str, Any]:
        """Provenance: settings, data, versions, cost."""
        return read_json(self._finished(RECORD))

    def build(self, shapes: Shapes, device: torch.device, *, trained: bool = False) -> System:
        """Its system on ``device``, as it starts or with its final weights."""
        parent_weights = {parent.stage.encoder: parent.directory / WEIGHTS for parent in self.parents}
        weights = self.directory / WEIGHTS if trained else None
        return self.stage.build(shapes, device, parent_weights=parent_weights, weights=weights)

    def predict(
        self,
        clips: str | Path | Split | Mapping[str, Any] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        audio: Steps | None = None,
        vision: Steps | None = None,
        splits: Sequence[str] = (),
        device: str = "auto",
        tokens: str | None = None,
        download: bool = False,
    ) -> pd.DataFrame:
        """Ask this finished run of MGCL for the sentiment of clips.

        Scaling, vocabulary and encoders are the run's. What is left out is absent; sentences are tokenised, longer
        clips cut. Features of another scale than the run's are a logged warning that names their dimensions.

        Args:
            clips: a feature file, a dict as it holds (whole, or one split), or a `Split`. Labels are not looked at.
            text: instead of ``clips``: a sentence, or one a clip.
            audio: likewise: steps (L, D), or one such array a clip, at the scale of the run's own feature file.
            vision: likewise.
            splits: which splits of ``clips``; all of them by default.
            device: "auto", "cpu", "cuda" …
            tokens: "file" for the clips' own ``text_bert``, "raw_text" for their sentences; as in the run when None.
            download: let the text model be fetched from the hub; otherwise it must be on this machine.

        Returns:
            A row a clip: split, id, prediction, the six unimodal predictions, and a note on what it lacks.

        Raises:
            ConfigError: both or neither of ``clips`` and text, audio, vision; the text model is not on this machine.
            CorpusError: the clips break the format, or their features are not as wide as the run's.
            RunError: no run of MGCL, one that is not finished or damaged, or a prediction that is not finite.
        """
        own = any(given is not None for given in (text, audio, vision))
        if own == (clips is not None):
            raise ConfigError("predict takes clips, or text, audio and vision (any of the three)")
        given = feature_file(text, audio, vision) if own else clips
        with contextlib.nullcontext() if download else local_files_only():
            return self.predictor(device).predict(given, splits=splits, tokens=tokens)

    def predictor(self, device: str = "auto") -> Predictor:
        """This finished run of MGCL, loaded; the last one is kept for the next question.

        Raises:
            RunError: no run of MGCL, or one that is not finished or damaged.
        """
        return _predictor(self, choose_device(device))

    @property
    def frozen_parents(self) -> list[Run]:
        """Those of its parents whose features the batches carry."""
        return [parent for parent in self.parents if parent.stage.encoder in self.stage.frozen_parents]

    def _finished(self, file: str) -> Path:
        if not (self.trained and (self.directory / file).exists()):
            raise RunError(f"run {self.name} is not finished ({self.directory})")
        return self.directory / file


@functools.lru_cache(maxsize=1)
def _predictor(run: Run, device: torch.device) -> Predictor:
    if not isinstance(run.stage, MGCLStage):
        raise RunError(f"{run.name} is a run of {run.stage.name!r}: predictions need a run of MGCL")
    config, source = run.config, run.record()["corpus"]
    log.info("%s on %s; text model: %s", run.name, device, describe_source(config.text_model))
    scaler = Scaler.load(run.directory / SCALER) if config.scaling != "none" else None
    shapes = shapes_of(
        config,
        bound=BOUNDS[source["scheme"]],
        clips=source["clips"][0],
        text_dim=text_config(config.text_model).hidden_size,
        text_steps=0,  # MGCL takes any number of tokens
    )
    system = run.build(shapes, device, trained=True)
    frozen = {parent.stage.encoder: parent.build(shapes, device, trained=True).encoder for parent in run.frozen_parents}
    return Predictor(run.name, run.stage, system, frozen, scaler, device)


def load_run(directory: Path) -> Run:
    """The finished run in ``directory``, with the stage-one runs that it starts from.

    Raises:
        RunError: there is no finished run, its record is damaged, or it is of an earlier format.
    """
    return _load(Path(directory))


def _load(directory: Path, child: str | None = None) -> Run:
    """`load_run`; ``child`` is the run that starts from this one, which then is an encoder's and starts from none."""
    if not (directory / DONE).exists():
        raise RunError(f"{directory} holds no finished run (no file {DONE!r})")
    try:
        record = read_json(directory / RECORD)
        if record.get("format") != RUN_FORMAT:
            raise RunError(f"{directory} is a run of another version of this package; train it again")
        names = record["parents"]
        if child is not None and names:
            raise RunError(f"{directory}: {child} is said to start from it, and it from {names[0]}")
        parents = tuple(_load(directory.parent / name, directory.name) for name in names)
        return Run(stage_from_record(record), directory, parents)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{directory / RECORD} is damaged: {type(error).__name__}: {error}") from error


def training_seconds(folder: Path) -> float:
    """Seconds of all epochs that were trained in ``folder`` and below, by whichever process."""
    return sum(row["seconds"] for history in folder.rglob(HISTORY) for row in read_json_lines(history))


def other_runs(folder: Path, precision: str) -> tuple[int, Counter[str]]:
    """How many runs in ``folder`` are of another version of this package, and how many of each other precision."""
    formats, precisions = 0, Counter()
    for path in folder.glob(f"*/{RECORD}"):
        try:
            record = read_json(path)
            if record.get("format") != RUN_FORMAT:
                formats += 1
            elif record["config"]["precision"] != precision:
                precisions[record["config"]["precision"]] += 1
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue  # a damaged record is an error where its run is asked for
    return formats, precisions


def make_record(
    run: Run, system: System, fit: Fit, *, corpus: Corpus, profile: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Provenance of a run whose training took ``seconds``, over all processes: settings, data, versions, cost."""
    encoder = getattr(system, "encoder", None)
    own = run.stage.system_settings
    return {
        "format": RUN_FORMAT,
        "stage": run.stage.name,
        "variant": run.variant,
        "seed": run.seed,
        "profile": profile,
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "synthetic": corpus.synthetic,
            "scheme": corpus.scheme,
            "clips": [len(split) for split in corpus.splits],
        },
        "parents": [parent.name for parent in run.parents],
        "config": run.config.as_dict(),
        "system": None if own is None else plain_settings(own),
        "environment": environment(device),
        "parameters": sum(p.numel() for p in system.parameters()),
        "trained_parameters": sum(p.numel() for p in system.parameters() if p.requires_grad),
        "encoder_width": None if encoder is None else encoder.out_features,
        "seconds": seconds,
        "seconds_per_epoch": float(np.median([row["seconds"] for row in fit.history])),
        "peak_memory": peak_memory(device),
    }


def describe(run: Run) -> str:
    """A line on a trained run."""
    record, history, epoch = run.record(), run.history, run.chosen_epoch
    return (
        f"{run.name}: epoch {epoch} of {len(history)}, valid MAE {history['valid_mae'][epoch - 1]:.4f}, "
        f"{record['seconds']:.1f} s"
    )


def write_predictions(
    path: Path, ids: Sequence[str], outputs: Mapping[str, np.ndarray], labels: np.ndarray | None = None
) -> None:
    """CSV of id, label (where known), prediction and, where the system has them, six unimodal predictions."""
    columns: dict[str, Any] = {"id": list(ids)}
    if labels is not None:
        columns["label"] = np.asarray(labels, dtype=np.float32)
    columns["prediction"] = outputs["prediction"]
    columns |= dict(zip(UNIMODAL_COLUMNS, outputs.get("unimodal", ()), strict=False))
    with atomic(path) as temporary:
        # Text is quoted, since an id may hold anything, a line break too.
        pd.DataFrame(columns).to_csv(temporary, index=False, na_rep="nan", quoting=csv.QUOTE_NONNUMERIC)
