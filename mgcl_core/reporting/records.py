"""What runs were made with: their settings beside the paper's, and data, code, machine and cost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open

from ..config import DATASETS, VARIANTS, Config
from ..data.text_model import load_text_model
from ..experiments.directories import write_overrides
from ..experiments.registry import paper_dataset
from ..experiments.run_records import AUDIT, RECORD, records_in, training_seconds
from ..experiments.runs import Run
from ..experiments.study import Study
from ..support.errors import DamagedFile
from ..support.files import atomic
from ..support.integrity import read_sealed
from ..trainer import HISTORY, WEIGHTS
from .tables import corpus_label


def save_frames(study: Study, folder: str, **frames: pd.DataFrame) -> None:
    """Write each frame as ``FOLDER/NAME.csv`` among the study's artifacts; an index is written where it has a name."""
    write_overrides(study.artifacts, study.changes)
    for name, frame in frames.items():
        with atomic(study.artifacts / folder / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=frame.index.name is not None)


def settings_used(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Rows of Table 2, under the paper's column names, for the settings that each study used."""
    rows = []
    for study in studies:
        config = study.base
        layers = f"{config.layers}-layer Transformer ({'V/A' if config.reads_words else 'T/V/A, T: features'})"
        encoders = [("Unimodal", config.text_model, "text")] if config.reads_words else []
        for stage, model, prefix in (*encoders, ("Unimodal", layers, "sequence"), ("Multimodal", "MGCL", "mgcl")):
            rate, epochs, batch = (getattr(config, f"{prefix}_{name}") for name in ("lr", "epochs", "batch_size"))
            rows.append(
                {"Stage": stage, "Dataset": corpus_label(study.corpus), "Model / Encoder": model}
                | {"Learning Rate": f"{rate:g}", "Epochs": epochs, "Batch Size": batch, "Profile": study.profile}
            )
    return rows


def differences_from_paper(study: Study) -> pd.DataFrame:
    """Settings that differ from the paper's for this dataset: name, the paper's value, ours."""
    paper = Config().override(DATASETS[paper_dataset(study.corpus)]).as_dict()  # Table 2, in float32
    ours = study.base.as_dict()
    shapes = {name for name in Config().as_dict() if name.endswith(("_dim", "_steps"))}
    rows = [(name, paper[name], ours[name]) for name in ours if ours[name] != paper[name] and name not in shapes]
    return pd.DataFrame(rows, columns=["setting", "paper", "ours"])


def all_runs(study: Study) -> list[Run]:
    """Every run that some table needs, finished or not."""
    return [*study.pretrainings(), *study.trainings(tuple(VARIANTS)), *study.comparisons()]


def provenance(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per finished run: data, code, machine and cost."""
    rows = []
    for run in runs:
        if run.done:
            record = run.record()
            environment = record["environment"]
            peak = record["peak_memory"]["process_gib"]
            rows.append(
                {
                    "run": run.name,
                    "stage": run.stage.name,
                    "variant": run.variant,
                    "seed": run.seed,
                    "data": record["corpus"]["sha256"][:12],
                    "commit": (environment["git"]["commit"] or "unknown")[:12],
                    "dirty": environment["git"]["dirty"],
                    "python": environment["python"],
                    "torch": environment["packages"]["torch"],
                    "device": environment["device"],
                    "threads": environment["threads"],
                    "precision": run.config.precision,
                    "parameters": record["parameters"],
                    "trained": record["trained_parameters"],
                    "seconds": round(record["seconds"], 1),
                    "s/epoch": round(record["seconds_per_epoch"], 2),
                    "peak GiB": float("nan") if peak is None else round(peak, 2),
                }
            )
    return pd.DataFrame(rows)


def cost(study: Study, runs: Iterable[Run]) -> pd.DataFrame:
    """What each system or variant costs, with everything that it starts from: one row each, over its finished runs.

    - ``parameters``: all that a prediction passes through, frozen encoders of stage one and the text model behind
      frozen text embeddings included (not one that a feature file's own embeddings come from, which nobody knows)
    - ``seconds``: of training, the mean over seeds: its own and its stage one's, those before a resume too
    - ``peak GiB``: the highest of its own and its stage one's
    """
    rows: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if run.done:
            lineage = [run, *run.parents]
            records = [one.record() for one in lineage]
            parameters = records[0]["parameters"] + sum(_encoder_parameters(parent) for parent in run.frozen_parents)
            if run.stage.reads_text_embeddings and study.splits.own_text_dim is None:
                parameters += _text_model_parameters(run.config.text_model)
            peaks = [math.nan if (p := r["peak_memory"]["process_gib"]) is None else p for r in records]
            rows.setdefault(run.stage.label, []).append(
                {"parameters": parameters, "stage-one runs": len(run.parents)}
                | {"own seconds": records[0]["seconds"], "seconds": sum(record["seconds"] for record in records)}
                | {"peak GiB": max(peaks)}
            )
    frame = pd.DataFrame({name: pd.DataFrame(values).mean() for name, values in rows.items()}).T
    if len(frame):
        frame = frame.astype({"parameters": int, "stage-one runs": int}).round(2)
    return frame.rename_axis("system").reset_index()


def total_compute(studies: Iterable[Study]) -> pd.DataFrame:
    """All training in the studies' folders, whatever became of it: one row per corpus and kind, with runs and hours.

    Kinds are stage one, systems, search (every trial), audit (the second trainings of notebook 06), and stopped or
    failed runs, of which the finished epochs count. Runs under changed settings lie in the same folders and are counted
    too.
    """
    rows = []
    for study in studies:
        kinds = ("stage one", "systems", "search", "audit", "stopped or failed")
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _, record in records_in(study.directory / "runs"):
            is_encoder = record.get("system") is None and record.get("stage") != "mgcl"
            seconds["stage one" if is_encoder else "systems"].append(record.get("seconds", 0.0))
        for folder in sorted((study.directory / "runs").glob("*/")):
            if not (folder / RECORD).exists() and any(folder.rglob(HISTORY)):
                seconds["stopped or failed"].append(training_seconds(folder))
        for audit in (study.directory / "runs").glob(f"*/{AUDIT}"):
            with contextlib.suppress(DamagedFile):  # said where the audit is read
                seconds["audit"].append(read_sealed(audit).get("seconds", 0.0))
        for trials in study.directory.rglob("search/trials.csv"):
            seconds["search"] += pd.read_csv(trials)["seconds"].tolist()
        rows += [
            {"corpus": corpus_label(study.corpus), "what": what, "runs": len(values), "hours": sum(values) / 3600}
            for what, values in seconds.items()
        ]
    frame = pd.DataFrame(rows)
    everything = {"corpus": "all", "what": "total", "runs": frame["runs"].sum(), "hours": frame["hours"].sum()}
    return pd.concat([frame, pd.DataFrame([everything])], ignore_index=True).round({"hours": 3})


def _encoder_parameters(run: Run) -> int:
    """Parameters of a stage-one run's encoder, without the head that only pretraining needs."""
    with safe_open(run.file(WEIGHTS), framework="np") as file:
        names = [name for name in file.keys() if name.startswith("encoder.")]  # noqa: SIM118 (it is no dict)
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _text_model_parameters(name: str) -> int:
    with torch.device("meta"):  # no weights in memory
        return sum(values.numel() for values in load_text_model(name, pretrained=False).model.parameters())
