"""A run on disk: what it is, what it leaves behind, and its system rebuilt from that."""

from __future__ import annotations

import contextlib
import csv
import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import Config, plain_settings
from ..data import Corpus, Split
from ..data.corpus import BOUNDS
from ..data.own_clips import Steps, feature_file
from ..data.scaling import Scaler
from ..data.text_model import describe_source, local_files_only, text_model_sha256
from ..encoders import frozen_encoders
from ..support.devices import choose_device
from ..support.errors import ConfigError, DamagedFile, RunError, shorten
from ..support.faces import Face
from ..support.files import atomic, read_json, read_json_lines
from ..support.integrity import Listing, check_file, list_files, read_sealed, write_sealed
from ..support.provenance import environment, peak_memory, timestamp
from ..system import Shapes, System
from ..trainer import CHECKPOINT, HISTORY, SELECTION, WEIGHTS, Fit
from .predictor import UNIMODAL_COLUMNS, Predictor
from .run_records import DONE, RECORD, RUN_FORMAT, SCALER, TEXT_MODEL, listed_files, read_record
from .stages import MGCLStage, Stage, shapes_of, stage_from_record
from .text_input import encoded_width

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Run(Face):
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

    def face(self) -> tuple[str, dict[str, object]]:
        facts: dict[str, object] = {"state": self.state, "seed": self.seed}
        try:
            if self.trained:
                facts["training"] = describe(self).removeprefix(f"{self.name}: ")
        except RunError as error:
            facts["training"] = f"cannot be read ({error})"
        if self.parents:
            facts["starts from"] = ", ".join(parent.name for parent in self.parents)
        return f"Run {self.name}", facts | {"folder": self.directory}

    @property
    def state(self) -> str:
        """In words: "finished", "trained, test not read yet", "not trained yet" or "damaged"."""
        try:
            return "finished" if self.done else "trained, test not read yet" if self.trained else "not trained yet"
        except RunError:
            return "damaged"

    @property
    def trained(self) -> bool:
        """Its epoch is chosen and its record written; only the test predictions may be missing.

        Raises:
            DamagedFile: it was trained, and its record or a file that this lists is not as it was written.
        """
        if not (self.directory / RECORD).exists():
            return False
        self._check(self._files_of_training)
        return True

    @property
    def done(self) -> bool:
        """Trained, and its test predictions are there as they were written.

        They can be made again from the weights, so without them a run is just not done.

        Raises:
            DamagedFile: as for `trained`.
        """
        return (self.directory / DONE).exists() and self.trained and self.test_problem() is None

    def test_problem(self) -> str | None:
        """What is wrong with `done` or the test predictions that it lists, by their sizes."""
        try:
            self._check(self._files_of_test)
        except DamagedFile as error:
            return f"{error.path.name} is damaged: {error.problem}"
        return None

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch: training losses (weighted terms), validation MAE and Corr, seconds."""
        path = self.file(HISTORY)
        rows = read_json_lines(path)
        if not rows or any(not {"epoch", "valid_mae", "seconds"} <= row.keys() for row in rows):
            raise DamagedFile(path, "it holds no epochs", self._remedy())
        return pd.DataFrame(rows)

    @property
    def chosen_epoch(self) -> int:
        path = self.file(SELECTION)
        selection = read_json(path)
        epoch = selection.get("epoch") if isinstance(selection, dict) else None
        if not isinstance(epoch, int) or not 1 <= epoch <= len(self.history):
            raise DamagedFile(path, "it names no epoch of the run", self._remedy())
        return epoch

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Columns id, label, prediction and, for MGCL, the six unimodal predictions.

        Raises:
            RunError: the run is not finished.
            DamagedFile: the file is not as it was written.
        """
        path = self.file(f"predictions-{split}.csv")
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
            # Exact, unlike read_csv, and float32 as they were made: 0.1 must not become more than the cut at 0.1.
            return frame.astype({name: np.float32 for name in frame.columns if name != "id"})[
                ["id", "label", "prediction", *frame.columns[3:]]
            ]
        except (ValueError, KeyError) as error:
            raise DamagedFile(path, f"it is no table of predictions ({error})", self._remedy(path.name)) from error

    def scaler(self) -> Scaler | None:
        """Scaling of audio and vision, None where the run has none."""
        if self.config.scaling == "none":
            return None
        return Scaler.load(self.file(SCALER), {"audio": self.config.audio_dim, "vision": self.config.vision_dim})

    def file(self, name: str) -> Path:
        """The path of a file of the run, which holds what was written.

        Raises:
            RunError: the run is not finished.
            DamagedFile: the file is missing or not as it was written.
        """
        if not self.trained:
            raise RunError(f"run {self.name} is not finished ({self.directory})")
        files = self._files_of_training
        if name not in files and (self.directory / DONE).exists():
            files = self._files_of_test
        if name not in files:
            raise RunError(f"run {self.name} is not finished: it has no {name} ({self.directory})")
        check_file(self.directory / name, files[name], self._remedy(name))
        return self.directory / name

    def record(self) -> dict[str, Any]:
        """Provenance: settings, data, versions, cost."""
        if not (self.directory / RECORD).exists():
            raise RunError(f"run {self.name} is not finished ({self.directory})")
        return read_record(self.directory)

    def build(self, shapes: Shapes, device: torch.device, *, trained: bool = False) -> System:
        """Its system on ``device``, as it starts or with its final weights."""
        weights = self.file(WEIGHTS) if trained else None
        parents = [] if trained else [parent for parent in self.parents if parent not in self.frozen_parents]
        parent_weights = {parent.stage.encoder: parent.file(WEIGHTS) for parent in parents}
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
            text: instead of ``clips``: a sentence, or one per clip.
            audio: likewise: steps (L, D), or one such array a clip, at the scale of the run's own feature file.
            vision: likewise.
            splits: which splits of ``clips``; all of them by default.
            device: "auto", "cpu", "cuda" …
            tokens: "file" for the clips' own ``text_bert``, "raw_text" for their sentences; as in the run when None.
            download: let the text model be fetched from the hub; otherwise it must be on this machine.

        Returns:
            One row per clip: split, id, prediction, the six unimodal predictions, and a note on what it lacks.

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
        chosen = choose_device(device)
        run, loaded = _last_loaded
        if run() is not self or loaded.device != chosen:
            loaded = _load_predictor(self, chosen)
            _last_loaded[:] = weakref.ref(self), loaded
        return loaded

    @property
    def weights_sha256(self) -> str:
        """Of the final weights, as they were written."""
        return self.record()["files"][WEIGHTS]["sha256"]

    @property
    def frozen_parents(self) -> list[Run]:
        """Those of its parents whose features the batches carry."""
        return [parent for parent in self.parents if parent.stage.encoder in self.stage.frozen_parents]

    def check_text_model(self) -> None:
        """Compare the text model's configuration and tokeniser in an exported folder with what was written.

        Raises:
            DamagedFile: a file is missing, changed, or was put beside them.
        """
        folder = self.directory / TEXT_MODEL
        listed = {name for name in self._files_of_training if name.startswith(f"{TEXT_MODEL}/")}
        found = {f"{TEXT_MODEL}/{path.name}" for path in folder.iterdir()} if folder.is_dir() else set()
        if more := sorted(found - listed):
            raise DamagedFile(self.directory / more[0], "the folder does not list it", self._remedy(more[0]))
        for name in sorted(listed):
            self.file(name)

    def verify(self) -> list[str]:
        """What is wrong with a trained run, by the contents of every file; empty where nothing is."""
        problems = []
        listings = [lambda: self._files_of_training] + [lambda: self._files_of_test] * (self.directory / DONE).exists()
        for listing in listings:
            try:
                files = listing()
            except DamagedFile as error:
                problems.append(str(error))
                continue
            for name, listed in files.items():
                try:
                    check_file(self.directory / name, listed, self._remedy(name))
                except DamagedFile as error:
                    problems.append(str(error))
        return problems

    def seal_training(self, record: Mapping[str, Any]) -> None:
        """Write its record, with all that training left: from now on the run is trained."""
        own = [
            path.relative_to(self.directory).as_posix()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name != CHECKPOINT and not path.name.startswith((".", "features-", "audit"))
        ]
        files = list_files(self.directory, [name for name in own if name not in (RECORD, DONE)])
        write_sealed(self.directory / RECORD, {**record, "files": files})

    def seal_test(self) -> None:
        """Write `done`: from now on the run is finished."""
        files = self._files_of_training | list_files(self.directory, [RECORD, "predictions-test.csv"])
        write_sealed(self.directory / DONE, {"finished": timestamp(), "files": files})

    @property
    def _files_of_training(self) -> Listing:
        return listed_files(self.record(), self.directory / RECORD, self._remedy())

    @property
    def _files_of_test(self) -> Listing:
        path = self.directory / DONE
        return listed_files(read_sealed(path), path, self._remedy())

    def _check(self, files: Listing) -> None:
        """Compare the sizes of ``files``; their contents are compared where they are read."""
        for name, listed in files.items():
            check_file(self.directory / name, listed, self._remedy(name), contents=False)

    def _remedy(self, file: str = RECORD) -> str:
        if file == "predictions-test.csv":
            return "Delete it, and ask for the run again: it is predicted again from the weights"
        return f"Restore it from a copy, or delete {self.directory}, and the run is trained again where it is asked for"


#: The run that was asked last and its predictor. It is that object and no equal one: `load_run` reads the files again.
_last_loaded: list[Any] = [lambda: None, None]


def _load_predictor(run: Run, device: torch.device) -> Predictor:
    if not isinstance(run.stage, MGCLStage):
        raise RunError(f"{run.name} is a run of {run.stage.name!r}: predictions need a run of MGCL")
    config, record = run.config, run.record()
    if config.reads_words and run.stage.whole:
        run.check_text_model()
    elif config.reads_words:
        name, trained_with = config.text_model, record["text_model"].get("sha256")
        if text_model_sha256(name) != trained_with:
            raise ConfigError(f"{run.name}: the text model {name!r} is not the one that the run was trained with: "
                              f"SHA-256 {text_model_sha256(name)}, not {trained_with}")  # fmt: skip
    text = describe_source(config.text_model) if config.reads_words else "none, it reads features of the text"
    log.info("%s on %s; text model: %s", run.name, device, text)
    source = record["corpus"]
    shapes = shapes_of(
        config,
        bound=BOUNDS[source["scheme"]],
        clips=source["clips"][0],
        text_dim=encoded_width(config),
        text_steps=0,  # MGCL takes any number of tokens
    )
    system = run.build(shapes, device, trained=True)
    if run.stage.whole:
        frozen = {name: system.encoders[str(name)] for name in frozen_encoders(config)}
    else:
        parents = {parent.stage.encoder: parent for parent in run.frozen_parents}
        frozen = {name: parent.build(shapes, device, trained=True).encoder for name, parent in parents.items()}
    return Predictor(run.name, run.stage, system, frozen, run.scaler(), device)


def load_run(directory: Path) -> Run:
    """The finished run in ``directory``, with the stage-one runs that it starts from.

    The folder may be a stranger's: nothing in it is run, and its runs start from runs beside them alone.

    Raises:
        RunError: there is no finished run, its record is damaged, or it is of another format.
    """
    return _load(Path(directory))


def _load(directory: Path, child: str | None = None) -> Run:
    """`load_run`; ``child`` is the run that starts from this one, which then is an encoder's and starts from none."""
    if not (directory / DONE).exists():
        raise RunError(f"{directory} holds no finished run (no file {DONE!r})")
    record = read_record(directory)
    try:
        names = record["parents"]
        if child is not None and names:
            raise RunError(f"{directory}: {child} is said to start from it, and it from {names[0]}")
        if len(names) > 6 or any(PurePosixPath(name).name != name or "\\" in name for name in names):
            raise RunError(f"{directory / RECORD}: parents {shorten(names)} are not runs of the same folder")
        stage = stage_from_record(record)
        if isinstance(stage, MGCLStage) and stage.whole and stage.config.reads_words:
            own = {"text_model": str(directory.absolute() / TEXT_MODEL)}
            stage = replace(stage, config=stage.config.override(own))
        parents = tuple(_load(directory.parent / name, directory.name) for name in names)
        if [str(name) for name in stage.parents] != [parent.stage.name for parent in parents]:
            raise RunError(f"{directory / RECORD}: {stage.name} does not start from {shorten(names)}")
        return Run(stage, directory, parents)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(directory / RECORD, f"{type(error).__name__}: {error}") from error


def make_record(
    run: Run, system: System, fit: Fit, *, corpus: Corpus, profile: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Provenance of a run whose training took ``seconds``, over all processes: settings, data, versions, cost."""
    encoder = getattr(system, "encoder", None)
    own = run.stage.system_settings
    name = run.config.text_model
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
        "parent_weights": {parent.name: parent.weights_sha256 for parent in run.parents},
        "config": run.stage.recorded_settings,
        "system": None if own is None else plain_settings(own),
        "text_model": {"name": name, "sha256": text_model_sha256(name)} if run.stage.reads_text else {},
        "environment": environment(device),
        "sources": run.stage.sources,
        "parameters": sum(p.numel() for p in system.parameters()),
        "trained_parameters": sum(p.numel() for p in system.parameters() if p.requires_grad),
        "encoder_width": None if encoder is None else encoder.out_features,
        "seconds": seconds,
        "seconds_per_epoch": float(np.median([row["seconds"] for row in fit.history])),
        "peak_memory": peak_memory(device),
        "finished": timestamp(),
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
