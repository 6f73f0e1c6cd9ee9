"""The claims of Table 5 under every specification of `mgcl_core.experiments.multiverse`: how often each holds.

Claims, criterion and grid were fixed before anything was run. A claim says that one variant is better than another in a
metric. Under one specification it *agrees* where the mean difference over the seeds has its sign, and is *shown*, or its
contrary is, where the paired test of the tables (docs/statistics.md) has p < .05 after Holm over all claims of that
specification. The specifications share trainings, clips and seeds: their counts describe, they are no test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.corpus import video_of
from ..experiments.directories import write_overrides
from ..experiments.multiverse import TABLE5, runs_of, specifications, train_all
from ..experiments.study import Study
from ..metrics import HIGHER_IS_BETTER, METRICS
from ..statistics import LeaveOneOut, holm
from ..support.files import atomic
from .cells import ALPHA


@dataclass(frozen=True)
class Claim:
    """That ``better`` scores better than ``worse``, as section 4.5 of the paper says; in all metrics or Acc-2 alone."""

    text: str
    better: str
    worse: str
    acc2_alone: bool = False


_DECLINE = "removing any of the key components leads to a decline"
_GREATEST = "removing the fusion module has the greatest impact"
CLAIMS = (
    *(Claim(_DECLINE, "MGCL", variant) for variant in TABLE5 if variant != "MGCL"),
    # The text names Acc-2. In Table 5 it is so in Acc-2, F1 and Acc-3, and not in Acc-5, MAE and Corr.
    *(Claim(_GREATEST, variant, "w/o fusion", acc2_alone=True) for variant in ("w/o CL", "w/o C3", "w/o uni")),
    Claim("without C3 the impact is relatively smaller", "w/o C3", "w/o CL"),
)


@dataclass(frozen=True)
class Multiverse:
    """What a multiverse leaves.

    - ``table``: a row for each specification, claim and metric: ``specification`` (a number from 1) with a column for each
      setting that was varied; ``claim``, ``better``, ``worse``, ``metric``; ``difference`` of the two, its sign turned so
      that above 0 the claim agrees, with ``low`` and ``high`` (95 %), ``p`` and ``p_holm``; ``agrees``, ``shown``,
      ``contrary`` (the contrary is shown)
    - ``varied``: the settings, in order
    - ``path``: the CSV of ``table``; ``summary.csv`` lies beside it
    """

    table: pd.DataFrame
    varied: tuple[str, ...]
    path: Path

    @property
    def summary(self) -> pd.DataFrame:
        """A row for each claim and metric: in how many specifications it agrees, is shown, and its contrary is."""
        groups = self.table.groupby(["claim", "better", "worse", "metric"], sort=False)
        counts = groups[["agrees", "shown", "contrary"]].sum().astype(int)
        of_differences = groups["difference"].agg(["min", "median", "max"])
        return counts.assign(specifications=groups.size()).join(of_differences).reset_index()


def run_multiverse(study: Study) -> Multiverse:
    """Train what is missing of the multiverse of ``study``, and hold the claims against its test predictions.

    Test data decides nothing: each run's epoch is chosen on validation, as the specification says.
    """
    train_all(study)
    grid = specifications(study)
    rows = [row for number, one in enumerate(grid, 1) for row in _rows(study, number, one)]
    made = Multiverse(pd.DataFrame(rows), tuple(grid[0]), study.artifacts / "multiverse" / "specifications.csv")
    made.path.parent.mkdir(parents=True, exist_ok=True)
    write_overrides(study.artifacts, study.changes)
    for path, frame in ((made.path, made.table), (made.path.with_name("summary.csv"), made.summary)):
        with atomic(path) as temporary:
            frame.to_csv(temporary, index=False)
    return made


def _rows(study: Study, number: int, specification: dict[str, Any]) -> list[dict[str, Any]]:
    """Every claim under one specification."""
    test, scheme = study.corpus.test, study.corpus.scheme
    videos = [video_of(clip) for clip in test.ids]
    scores = {}
    for variant in TABLE5:
        frames = [study.predictions(run) for run in runs_of(study, variant, specification)]
        predicted = np.stack([frame["prediction"].to_numpy() for frame in frames])  # (S, N)
        scores[variant] = LeaveOneOut.of(frames[0]["label"].to_numpy(), predicted, scheme, videos)
    rows = []
    for claim in CLAIMS:
        pair = scores[claim.better] - scores[claim.worse]
        for metric in _metrics(claim, scheme):
            estimate, sign = pair.estimate(metric), 1 if HIGHER_IS_BETTER[metric] else -1
            ends = sorted(sign * float(end) for end in estimate.interval())
            row = {"specification": number, **specification, "claim": claim.text, "better": claim.better}
            row |= {"worse": claim.worse, "metric": metric, "difference": sign * float(estimate.value)}
            row |= {"low": ends[0], "high": ends[1], "p": float(estimate.p), "p_holm": float(estimate.p_to_correct)}
            rows.append(row)
    for row, p_holm in zip(rows, holm(row["p_holm"] for row in rows), strict=True):
        agrees, decided = row["difference"] > 0, p_holm < ALPHA
        row |= {"p_holm": p_holm, "agrees": agrees, "shown": agrees and decided, "contrary": not agrees and decided}
    return rows


def _metrics(claim: Claim, scheme: str) -> Sequence[str]:
    """Those of the claim: all, or Acc-2 (both kinds of it with labels that reach 3)."""
    return [metric for metric in METRICS[scheme] if not claim.acc2_alone or metric.startswith("acc2")]
