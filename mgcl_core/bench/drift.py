"""What the setting ``feature_cache="fp16"`` costs: predictions move when features are kept in half precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..data import Corpus
from ..experiments.study import Study
from ..trainer import predict
from .measure import Row


def half_precision_drift(
    results: Path, *, device: str = "auto", corpus: Corpus | str = "demo", overrides: Mapping[str, Any] | None = None
) -> Iterator[Row]:
    """Train MGCL of one seed on features in float32 and in half precision, and compare test predictions.

    Args:
        results: Where the runs are kept.
        device: As for `Study`.
        corpus: As for `Study`; its profile is "demo".
        overrides: Further settings of both trainings.

    Yields:
        Two rows: the same weights reading both, and a training on each, whose rounding grows over the epochs.
    """
    study, half = (
        Study(corpus, "demo", seeds=[1111], overrides={**(overrides or {}), "feature_cache": kept}, device=device,
              results=results)
        for kept in ("fp32", "fp16")
    )  # fmt: skip
    (run,), (half_run,) = study.train(), half.train()
    single, trained = run.predictions(), half_run.predictions()
    read = predict(study.build(run, trained=True), half.split("test", half_run), run.stage.schedule)["prediction"]

    def drift_row(what: str, predictions: pd.Series) -> Row:
        drift = (predictions - single["prediction"]).abs()
        return {
            "what": f"features in half precision, {what}: drift of test predictions",
            "corpus": study.corpus.name,
            "mean_drift": float(drift.mean()),
            "highest_drift": float(drift.max()),
        }

    yield drift_row("read by weights trained on float32", pd.Series(read))
    errors = {f"mae_{kept}": float((frame["prediction"] - frame["label"]).abs().mean())
              for kept, frame in (("fp32", single), ("fp16", trained))}  # fmt: skip
    yield drift_row("trained on", trained["prediction"]) | errors
