"""What runs were made with: their settings beside the paper's, and data, code, machine and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ..config import DATASETS, VARIANTS, Config
from ..experiments.registry import paper_dataset
from ..experiments.runs import Run
from ..experiments.study import Study
from .tables import corpus_label


def settings_used(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Rows of Table 2, under the paper's column names, for the settings that each study used."""
    rows = []
    for study in studies:
        config = study.base
        layers = f"{config.layers}-layer Transformer (V/A)"
        for stage, model, prefix in (
            ("Unimodal", config.text_model, "text"),
            ("Unimodal", layers, "sequence"),
            ("Multimodal", "MGCL", "mgcl"),
        ):
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
    """A row a finished run: data, code, machine and cost."""
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
                    "precision": run.config.precision,
                    "parameters": record["parameters"],
                    "trained": record["trained_parameters"],
                    "seconds": round(record["seconds"], 1),
                    "s/epoch": round(record["seconds_per_epoch"], 2),
                    "peak GiB": float("nan") if peak is None else round(peak, 2),
                }
            )
    return pd.DataFrame(rows)
