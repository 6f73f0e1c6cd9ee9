"""Tables and curves of missing modalities: every system under the protocols of `mgcl_core.data.absence`.

A line of a table is a weighted sum of metrics over masks: a rate is the mean over its draws, a mean over rates and the
area under a curve (AUILC) are sums too. So each has the interval and the paired test of `mgcl_core.statistics`, in
which the masks are part of the test set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.absence import PROTOCOLS
from ..data.corpus import video_of
from ..experiments.robustness import TEXT_ALONE, Robustness, evaluate, evaluated_runs, title_of
from ..experiments.study import Study
from ..metrics import METRIC_NAMES, METRICS
from ..statistics import LeaveOneOut, holm, holm_levels
from . import figures
from .cells import ALPHA, NAN, REFERENCE
from .page import save_figure
from .rendering import Table
from .tables import COLUMNS
from .wording import NAN_NOTE, mean_text, shows

CONSTANT = "constant"
FLOORS = (CONSTANT, TEXT_ALONE)
MEAN_OF_SIX, POOLED = "mean of the six", "pooled over the six"
TITLES = {
    "sets": "Missing modalities: fixed sets",
    "random-sets": "Missing modalities: random sets of each clip",
    "random-steps": "Missing steps of all modalities",
}
_LEVELS = {"sets": "Kept", "random-sets": "Missing", "random-steps": "Missing"}
_COLUMNS = ("protocol", "line", "level", "system", "metric", "mean", "sd", "n", "ci_low", "ci_high", "pairs",
            "paired_difference", "paired_low", "paired_high", "df", "seed_share", "p", "p_holm", "detectable",
            "masks")  # fmt: skip
#: What is drawn: one metric of each kind.
DRAWN = {"sims": ("acc2", "mae", "corr"), "mosi": ("acc2_np", "mae", "corr")}


def report(study: Study, protocols: Sequence[str] = PROTOCOLS) -> list[Table]:
    """Tables and figures of the systems that were run, saved among the study's artifacts; MGCL is trained if it is not.

    Returns:
        One table per protocol.
    """
    study.train(["MGCL"])
    runs, tables = evaluated_runs(study), []
    for protocol in protocols:
        table = robustness_table(study, evaluate(study, runs, protocol))
        tables.append(table.save(study.artifacts))
        save_figure(robustness_figure(study, table), study, f"12_{protocol}")
    return tables


def robustness_table(study: Study, found: Robustness) -> Table:
    """The systems under one protocol: one row per line and system, mean ± deviation over seeds.

    ``cells`` holds what is behind it: intervals, and the paired differences from MGCL, Holm-corrected over the table.
    """
    cells = robustness_cells(study, found)
    columns = COLUMNS[study.corpus.scheme]
    lines, index = [], []
    for (line, system), rows in cells.groupby(["line", "system"], sort=False):
        of_metric = rows.set_index("metric").loc[list(columns)].reset_index().to_dict("records")
        lines.append([mean_text(cell) + "†" * (cell["p_holm"] < ALPHA) for cell in of_metric])
        index.append((line, system))
    labels = pd.MultiIndex.from_tuples(index, names=[_LEVELS[found.protocol], "System"])
    frame = pd.DataFrame(lines, index=labels, columns=[METRIC_NAMES[metric] for metric in columns])
    synthetic = " (synthetic)" if study.corpus.synthetic else ""
    title = f"{TITLES[found.protocol]}. {study.corpus.name!r}{synthetic}, profile {study.profile!r}."
    footer = tuple(_footer(study, found, cells, frame))
    return Table(f"robustness-{found.protocol}", title, frame, frame.ne(frame), footer, cells=cells)


def robustness_figure(study: Study, table: Table) -> Figure:
    """The table's lines as curves with intervals, the floors dashed."""
    return figures.absence_curves(
        table.cells,
        metrics=DRAWN[study.corpus.scheme],
        floors=FLOORS,
        synthetic=study.corpus.synthetic,
        title=f"{study.corpus.name}: {table.title.partition('.')[0][0].lower()}{table.title.partition('.')[0][1:]}",
    )


def robustness_cells(study: Study, found: Robustness) -> pd.DataFrame:
    """One row per line, system and metric, in the units of `regression_metrics`.

    Columns: ``line``, ``level`` (the rate, the modalities that are left, or None for a sum over several), ``system``,
    ``metric``, ``mean``, ``sd``, ``n``, ``ci_low``, ``ci_high``; against MGCL ``pairs`` and what a cell of the paper's
    tables has (`compute_cells`); ``masks``.
    """
    clips = getattr(study.corpus, found.split)
    constant = np.full((1, *found.predictions.shape[1:]), np.median(study.corpus.train.labels), np.float32)
    predictions = np.concatenate([constant, found.predictions]).swapaxes(0, 1)  # (C, 1 + R, N)
    of_systems: dict[str, dict[int | None, int]] = {CONSTANT: {None: 0}}  # seeds and their positions
    for position, run in enumerate(found.runs, 1):
        of_systems.setdefault(title_of(run), {})[run.seed] = position
    names, levels, left = _lines(found, clips.labels, predictions, study.corpus.scheme, list(map(video_of, clips.ids)))
    theirs = of_systems.get(REFERENCE, {})
    frames, tested = [], []
    for system, seeds in of_systems.items():
        own, common = left.take(seeds.values()), [seed for seed in seeds if seed in theirs and system != REFERENCE]
        paired = None
        if common:
            paired = left.take(seeds[seed] for seed in common) - left.take(theirs[seed] for seed in common)
        for metric in METRICS[study.corpus.scheme]:
            mean, observed = own.estimate(metric), own.observed[metric]  # (lines,), (lines, seeds)
            low, high = mean.interval()
            sd = observed.std(axis=1, ddof=1) if len(seeds) > 1 else NAN
            columns = {"protocol": found.protocol, "line": names, "level": levels, "system": system, "metric": metric,
                       "mean": mean.value, "sd": sd, "n": len(seeds) * (system != CONSTANT),
                       "ci_low": low, "ci_high": high, "pairs": len(common), "masks": found.masks}  # fmt: skip
            if paired is not None:
                difference = paired.estimate(metric)
                tested.append((len(frames), difference))
                low, high = difference.interval() if difference.seeds > 1 else (NAN, NAN)  # as in `compute_cells`
                columns |= {"paired_difference": difference.value, "paired_low": low, "paired_high": high,
                            "df": difference.df, "seed_share": difference.seed_share, "p": difference.p}  # fmt: skip
            frames.append(pd.DataFrame(columns))
    p_values = [difference.p_to_correct for _, difference in tested]  # (lines,) each
    corrected, held = holm(np.ravel(p_values)), holm_levels(np.ravel(p_values))
    for number, (place, difference) in enumerate(tested):
        part = slice(number * len(names), (number + 1) * len(names))
        frames[place] = frames[place].assign(p_holm=corrected[part], detectable=difference.detectable(held[part]))
    cells = pd.concat(frames).reindex(columns=_COLUMNS)
    order = {name: position for position, name in enumerate(names)}
    return cells.sort_values("line", key=lambda lines: lines.map(order), kind="stable", ignore_index=True)


def _lines(
    found: Robustness, labels: np.ndarray, predictions: np.ndarray, scheme: str, videos: list[str]
) -> tuple[list[str], list[float | str | None], LeaveOneOut]:
    """Names and levels of the lines of a table, and their metrics (lines, runs)."""
    every = LeaveOneOut.of(labels, predictions, scheme, videos)  # observed (C, runs)
    known = list(dict.fromkeys(condition.level for condition in found.conditions))
    of_level = np.array([[condition.level == level for condition in found.conditions] for level in known])
    at = dict(zip(known, of_level / of_level.sum(1, keepdims=True), strict=True))  # (C,) each
    lines = [(level if isinstance(level, str) else f"{level:.2g}", level, every.weighted(at[level])) for level in known]
    if found.protocol == "sets":
        six = [position for position, condition in enumerate(found.conditions) if not condition.complete]
        lines.append((MEAN_OF_SIX, None, every.weighted(sum(at[level] for level in known[1:]) / len(six))))
        pooled = predictions[six].swapaxes(0, 1).reshape(predictions.shape[1], -1)  # (runs, 6·N)
        together = LeaveOneOut.of(np.tile(labels, len(six)), pooled, scheme, np.tile(videos, len(six)))
        lines.append((POOLED, None, together))
    if found.protocol == "random-steps":
        lines.append(("mean 0 to 0.9", None, every.weighted(sum(at[level] for level in known[:-1]) / len(known[:-1]))))
        for end in (1.0, 0.5):
            area = _area([rate for rate in known if rate <= end], at)
            lines.append((f"AUILC 0 to {end:g}", None, every.weighted(area)))
    names, levels, left = zip(*lines, strict=True)
    return list(names), list(levels), LeaveOneOut.stacked(left)


def _area(rates: Sequence[float], at: dict[float, np.ndarray]) -> np.ndarray:
    """Weights (C,) of the area under the curve over ``rates``, by trapezoids (TFR-Net, Yuan et al. 2021)."""
    return sum((high - low) * (at[low] + at[high]) / 2 for low, high in zip(rates, rates[1:], strict=False))


def _footer(study: Study, found: Robustness, cells: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    clips = getattr(study.corpus, found.split)
    what = {
        "sets": "TVA: complete; else the modalities that are left, the others absent in every clip. The field reports "
        "the mean of the metrics over the six sets, or the metrics of their predictions pooled: both are given.",
        "random-sets": "Missing: the share of all modalities of all clips that is absent, at least one of a clip kept "
        "(0.67: exactly one).",
        "random-steps": "Missing: the rate at which valid steps are lost; audio and vision become zero, words [UNK], "
        "[CLS] and [SEP] stay. AUILC: the area under the metric's curve, not divided by the width.",
    }[found.protocol]
    draws = len({condition.draw for condition in found.conditions} - {-1})
    lines = [
        f"{len(clips)} {found.split} clips of {len(set(map(video_of, clips.ids)))} videos; seeds "
        f"{', '.join(map(str, study.seeds))}. {what}",
        f"Masks: {f'{draws} draws, whose metrics are averaged; ' if draws else ''}SHA-256 {found.masks[:12]}; the same "
        "for all systems.",
        "Mean ± sample standard deviation over seeds; Acc and F1 in percent. Epochs chosen on validation.",
        f"{CONSTANT}: the median label of the training clips for every clip. {TEXT_ALONE}: stage one's macro encoder "
        "of the text, which predicts 0 where there is none.",
    ]
    if cells["p"].notna().any():
        lines.append(f"†: differs from {REFERENCE} over the same seeds and clips with p < .05, Holm-corrected over the "
                     f"{cells['p'].count()} comparisons of this table; all intervals and differences are in the cells' "
                     "CSV (docs/statistics.md).")  # fmt: skip
    return [*lines, NAN_NOTE] if shows(frame, "NaN") else lines
