"""Synthetic inputs of figures, and what the tests read off the figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mgcl_core.data.corpus import SPLITS, Split

SEEDS = (1111, 1112, 1113)


def three_splits(make_split, clips: int = 8, **kinds) -> list[Split]:
    """Train, valid and test of ``clips`` each, from the fixture ``make_split``."""
    return [dataclasses.replace(make_split(clips, seed=i, **kinds), name=name) for i, name in enumerate(SPLITS)]


def history(epochs: int = 4, **columns) -> pd.DataFrame:
    curve = 1 / np.arange(1, epochs + 1)
    return pd.DataFrame({"epoch": np.arange(1, epochs + 1), "train_loss": curve, "valid_mae": curve / 2, **columns})


def stage_one(seeds=SEEDS) -> pd.DataFrame:
    rows = [
        {"modality": m, "granularity": g, "seed": seed, "mae": 0.4 + 0.01 * i, "corr": 0.5 - 0.01 * i}
        for g in ("macro", "micro")
        for m in "TVA"
        for i, seed in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def table_cells(**columns) -> pd.DataFrame:
    rows = [(model, metric, 0.8, 0.7, 0.85) for model in ("w/o CL", "MGCL") for metric in ("acc2", "mae")]
    return pd.DataFrame(rows, columns=["model", "metric", "mean", "ci_low", "ci_high"]).assign(**columns)


def difference_cells(**columns) -> pd.DataFrame:
    """Cells of two variants and MGCL, without a pair of "w/o C3" in Acc-2; no verdict on the paper."""
    nan = np.nan
    rows = [
        ("w/o CL", "acc2", -0.02, -0.03, -0.01, 0.01, 0.79, nan),
        ("w/o CL", "mae", 0.01, -0.01, 0.03, 0.4, 0.42, nan),
        ("w/o C3", "acc2", nan, nan, nan, nan, 0.8, nan),
        ("w/o C3", "mae", -0.01, -0.02, 0.01, 0.5, nan, nan),
        ("MGCL", "acc2", nan, nan, nan, nan, 0.81, nan),
        ("MGCL", "mae", nan, nan, nan, nan, 0.40, nan),
    ]
    names = ["model", "metric", "paired_difference", "paired_low", "paired_high", "p_holm", "paper", "difference"]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def audit() -> pd.DataFrame:
    rows = [("acc2", "validation", v) for v in (0.7, 0.8)] + [("acc2", "oracle epoch", v) for v in (0.8, 0.84)]
    return pd.DataFrame(rows, columns=["metric", "rule", "value"])


def specifications() -> pd.DataFrame:
    """Two specifications of one claim, the second of which shows it."""
    rows = [("a", 0.01, -0.01, 0.03, False, False), ("b", 0.05, 0.02, 0.08, True, False)]
    frame = pd.DataFrame(rows, columns=["micro", "difference", "low", "high", "shown", "contrary"])
    return frame.assign(better="MGCL", worse="w/o CL", metric="acc2")


def trials() -> pd.DataFrame:
    """A trial pruned early, one stopped from outside, and three completed."""
    return pd.DataFrame(
        {
            "number": range(5),
            "state": ["complete", "complete", "pruned", "failed", "complete"],
            "validation_mae": [0.5, 0.4, 0.9, np.nan, 0.45],
            "alpha": [0.1, 1.0, 0.01, 0.2, 0.5],
            "micro": ["sequence", "pooled", "pooled", "sequence", "sequence"],
        }
    )


def coordinates(clips: int = 5) -> pd.DataFrame:
    rows = [(m, g, clip) for g in ("macro", "micro") for m in "TVA" for clip in range(clips)]
    frame = pd.DataFrame(rows, columns=["modality", "granularity", "clip"])
    return frame.assign(x=np.arange(len(frame)) % 7.0, y=np.arange(len(frame)) % 5.0, trust=0.9)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lost_modalities() -> pd.DataFrame:
    """Cells of two systems over three rates."""
    rows = [
        (rate, system, "mae", 0.4 + rate, 0.3 + rate, 0.5 + rate, 3)
        for rate in (0.0, 0.5, 1.0)
        for system in ("MISA", "MGCL")
    ]
    return pd.DataFrame(rows, columns=["level", "system", "metric", "mean", "ci_low", "ci_high", "n"])


def costs() -> pd.DataFrame:
    """A table of costs of three systems, one of them not trained."""
    rows = [("MGCL", 2.0, 0.7, 0.6, 0.8), ("MISA", 1.0, 0.6, 0.5, 0.7), ("MulT", 3.0, np.nan, np.nan, np.nan)]
    return pd.DataFrame(rows, columns=["system", "gflop", "corr", "corr_low", "corr_high"])
