"""A run on disk: what it is, what it leaves behind, and its system rebuilt from that."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from ..config import Config
from ..data import Corpus
from ..data.batches import derive_seed
from ..model import MGCL, UnimodalRegressor, encoder_names, frozen_encoders
from ..support.errors import RunError
from ..support.files import atomic, read_json, read_json_lines
from ..support.provenance import environment, peak_memory
from ..system import Shapes, System
from ..trainer import HISTORY, SELECTION, WEIGHTS, Fit, Schedule, load_weights
from .registry import system_spec

UNIMODAL_COLUMNS = ("T_macro", "V_macro", "A_macro", "T_micro", "V_micro", "A_micro")
RECORD, DONE, SCALER = "record.json", "done", "scaler.safetensors"


@dataclass(frozen=True)
class Run:
    """One training, planned or finished: what it is and where it lives.

    ``stage`` is the name of a stage-one encoder ("macro_T" …) or of a system ("mgcl"); ``parents`` are
    the stage-one runs whose encoders it starts from.
    """

    stage: str
    variant: str
    config: Config
    directory: Path
    parents: tuple[Run, ...] = field(default=(), repr=False)
    settings: Any = field(default=None, repr=False)  # of a compared system

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def seed(self) -> int:
        return self.config.seed

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

    def _finished(self, file: str) -> Path:
        if not (self.trained and (self.directory / file).exists()):
            raise RunError(f"run {self.name} is not finished ({self.directory})")
        return self.directory / file


def load_run(directory: Path) -> Run:
    """The finished run in ``directory``, with the stage-one runs that it starts from.

    Raises:
        RunError: there is no finished run, or its record is damaged.
    """
    return _load(Path(directory))


def _load(directory: Path, child: str | None = None) -> Run:
    """`load_run`; ``child`` is the run that starts from this one, which then is an encoder's and starts from none."""
    if not (directory / DONE).exists():
        raise RunError(f"{directory} holds no finished run (no file {DONE!r})")
    try:
        record = read_json(directory / RECORD)
        stage, names = record["stage"], record["parents"]
        if child is not None and names:
            raise RunError(f"{directory}: {child} is said to start from it, and it from {names[0]}")
        parents = tuple(_load(directory.parent / name, directory.name) for name in names)
        chosen = None
        if record["system"] is not None:
            chosen = type(next(iter(system_spec(stage).published.values())))(**record["system"])
        return Run(stage, record["variant"], Config.from_dict(record["config"]), directory, parents, chosen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{directory / RECORD} is damaged: {type(error).__name__}: {error}") from error


def build_system(run: Run, *, shapes: Shapes, device: torch.device, trained: bool = False) -> System:
    """The system of ``run`` as it starts, or with its final weights when ``trained``.

    It starts from the seed of the run, and MGCL from the encoders of stage one. MGCL holds only the
    encoders that it trains: the features of frozen ones come with the batches.
    """
    torch.manual_seed(derive_seed(run.seed, run.stage, "initialisation"))
    if run.settings is not None:
        system: System = system_spec(run.stage).build(run.settings, shapes)
    elif run.stage != "mgcl":
        system = UnimodalRegressor(run.stage, run.config, pretrained=not trained)
    else:
        frozen = frozen_encoders(run.config)
        held = [name for name in encoder_names(run.config) if name not in frozen]
        system = MGCL(run.config, bound=shapes.bound, encoders=held, pretrained=False, text_width=shapes.text_dim)
        for parent in run.parents:
            if parent.stage in held and not trained:
                weights = load_file(parent.directory / WEIGHTS)
                system.encoders[parent.stage].load_state_dict(
                    {
                        name.removeprefix("encoder."): values
                        for name, values in weights.items()
                        if name.startswith("encoder.")
                    }
                )
    if trained:
        load_weights(system, run.directory / WEIGHTS)
    return system.to(device)


def shapes_of(run: Run, *, bound: float, clips: int, text_dim: int, text_steps: int) -> Shapes:
    """What `build_system` must know of the corpus of ``run``."""
    config = run.config
    return Shapes(
        text_dim=text_dim,
        text_steps=text_steps,
        audio_dim=config.audio_dim,
        audio_steps=config.audio_steps,
        vision_dim=config.vision_dim,
        vision_steps=config.vision_steps,
        bound=bound,
        clips=clips,
        text_model=config.text_model,
    )


def schedule_of(run: Run) -> Schedule:
    """Epochs, batch size and optimiser of the stage of ``run`` (Table 2), or of a compared system."""
    config = run.config
    if run.settings is not None:
        return _schedule(run.settings, "", config.precision)
    prefix = "mgcl" if run.stage == "mgcl" else "text" if run.stage.endswith("_T") else "sequence"
    return Schedule(
        getattr(config, f"{prefix}_epochs"),
        getattr(config, f"{prefix}_batch_size"),
        config.weight_decay,
        config.warmup_epochs,
        config.clip_norm,
        config.patience,
        config.precision,
        config.length_buckets,
    )


def pretraining_schedule(run: Run) -> Schedule:
    """Schedule of the parts that a compared system trains before itself (`System.pretraining`)."""
    return _schedule(run.settings, "pretrain_", run.config.precision)


def _schedule(chosen: Any, prefix: str, precision: str) -> Schedule:
    epochs, batch_size, warmup = (
        getattr(chosen, f"{prefix}{name}") for name in ("epochs", "batch_size", "warmup_epochs")
    )
    return Schedule(
        epochs,
        batch_size,
        chosen.weight_decay,
        warmup,
        chosen.clip_norm,
        None if prefix else chosen.patience,
        precision,
    )


def make_record(
    run: Run, system: System, result: Fit, *, corpus: Corpus, profile: str, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Provenance of a run whose training took ``seconds``: settings, data, versions, cost."""
    encoder = getattr(system, "encoder", None)
    return {
        "stage": run.stage,
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
        "system": None if run.settings is None else dataclasses.asdict(run.settings),
        "environment": environment(device),
        "parameters": sum(p.numel() for p in system.parameters()),
        "trained_parameters": sum(p.numel() for p in system.parameters() if p.requires_grad),
        "encoder_width": None if encoder is None else encoder.out_features,
        "seconds": seconds,
        "seconds_per_epoch": float(np.median([row["seconds"] for row in result.history])),
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
        pd.DataFrame(columns).to_csv(
            temporary, index=False, na_rep="nan", quoting=csv.QUOTE_NONNUMERIC
        )  # an id may hold anything
