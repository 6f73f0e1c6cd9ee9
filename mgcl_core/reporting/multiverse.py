"""The claims of Table 5 under every specification of `mgcl_core.experiments.multiverse`: how often each holds.

Claims, criterion and grid were fixed before anything was run. A claim says that one variant is better than another in
a metric. Under one specification it *agrees* where the mean difference over the seeds has its sign, and is *shown*, or
its contrary is, where the paired test of the tables (docs/statistics.md) has p < .05 after Holm over all claims of that
specification. The specifications share trainings, clips and seeds: their counts describe, they are no test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """That ``better`` scores better than ``worse``, as the paper says of Table 5; in all metrics or Acc-2 alone."""

    text: str
    better: str
    worse: str
    acc2_alone: bool = False


#: Means of equal accuracies may differ by this.
ROUNDING = 1e-12
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

    - ``table``: a row for each specification, claim and metric: ``specification`` (a number from 1) with a column for
      each setting that was varied; ``claim``, ``better``, ``worse``, ``metric``; ``difference`` of the two, its sign
      turned so that above 0 the claim agrees, with ``low`` and ``high`` (95 %), ``p`` and ``p_holm``; ``agrees``;
      ``shown``; ``contrary`` (the contrary is shown)
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
    table = pd.concat([_under(study, number, one) for number, one in enumerate(grid, 1)], ignore_index=True)
    made = Multiverse(table, tuple(grid[0]), study.artifacts / "multiverse" / "specifications.csv")
    made.path.parent.mkdir(parents=True, exist_ok=True)
    write_overrides(study.artifacts, study.changes)
    for path, frame in ((made.path, made.table), (made.path.with_name("summary.csv"), made.summary)):
        with atomic(path) as temporary:
            frame.to_csv(temporary, index=False)
    return made


def judge(labels: np.ndarray, predicted: Mapping[str, np.ndarray], scheme: str, videos: Sequence[str]) -> pd.DataFrame:
    """Every claim under one specification: one row per claim and metric, the columns of `Multiverse` from ``claim`` on.

    Args:
        labels: (N,).
        predicted: test predictions (S, N) of each variant of `TABLE5`, the same seeds in the same order.
        scheme: of the labels, "sims" or "mosi".
        videos: (N,), the video of each clip.
    """
    scores = {variant: LeaveOneOut.of(labels, of_seeds, scheme, videos) for variant, of_seeds in predicted.items()}
    rows = []
    for claim in CLAIMS:
        pair = scores[claim.better] - scores[claim.worse]
        for metric in METRICS[scheme]:
            if claim.acc2_alone and not metric.startswith("acc2"):
                continue
            estimate, sign = pair.estimate(metric), 1 if HIGHER_IS_BETTER[metric] else -1
            low, high = sorted(sign * float(end) for end in estimate.interval())
            row = {"claim": claim.text, "better": claim.better, "worse": claim.worse, "metric": metric}
            row |= {"difference": sign * float(estimate.value), "low": low, "high": high, "p": float(estimate.p)}
            rows.append(row | {"p_holm": float(estimate.p_to_correct)})
    frame = pd.DataFrame(rows)
    frame["p_holm"] = holm(frame["p_holm"])
    frame["agrees"], decided = frame["difference"] > ROUNDING, frame["p_holm"] < ALPHA
    return frame.assign(shown=frame["agrees"] & decided, contrary=(frame["difference"] < -ROUNDING) & decided)


def _under(study: Study, number: int, specification: dict[str, Any]) -> pd.DataFrame:
    """Every claim under one specification of ``study``, whose runs are finished."""
    frames = {variant: [study.predictions(run) for run in runs_of(study, variant, specification)] for variant in TABLE5}
    predicted = {
        variant: np.stack([frame["prediction"].to_numpy() for frame in of_seeds])
        for variant, of_seeds in frames.items()
    }
    clips = frames["MGCL"][0]
    videos = [video_of(clip) for clip in clips["id"]]
    judged = judge(clips["label"].to_numpy(), predicted, study.corpus.scheme, videos)
    return pd.concat([pd.DataFrame([{"specification": number, **specification}] * len(judged)), judged], axis=1)
