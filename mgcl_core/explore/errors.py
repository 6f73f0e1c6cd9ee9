"""Where runs err: by what the modalities' labels say, by intensity, by length; the worst clips; two variants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.corpus import MODALITIES, Split, video_of
from ..experiments.runs import Run
from ..experiments.study import Study
from ..metrics import METRIC_NAMES
from ..reporting.figures.style import HUES, NotebookFigure, finish, panels, styled
from ..statistics import mean_estimates, paired_differences
from ..support.errors import RunError
from .showing import Finding

ERRORS_NOTE = (
    "Mean absolute error over clips and seeds, with its 95 % interval over videos and seeds where there are enough of "
    "them. Conflict is the distance between the highest and the lowest of y_T, y_V, y_A, in units of the label's bound."
)
COMPARE_NOTE = (
    "Differences of the means over the same seeds and clips, with the interval and the p of a paired test "
    "(docs/statistics.md), not corrected for looking at several metrics. Below the line, the first errs less on a clip."
)


def errors(study: Study, runs: Sequence[Run], split: str = "valid") -> Finding:
    """Errors of ``runs`` (one variant, a run a seed) by conflict of the modalities' labels, intensity and length.

    Returns:
        ``table`` has one row per group: by, group, clips, mae with low and high, and bias (the mean of ŷ − y).
    """
    clips, predicted = getattr(study.corpus, split), _predictions(runs, split)  # (S, N)
    videos = np.array([video_of(clip) for clip in clips.ids])
    rows = []
    for by, groups in _groups(clips, study.corpus.bound).items():
        for group in groups.cat.categories:
            chosen = np.flatnonzero(groups == group)
            if not len(chosen):
                continue
            labels = np.asarray(clips.labels)[chosen]
            mae = mean_estimates(labels, predicted[:, chosen], study.corpus.scheme, videos[chosen])["mae"]
            low, high = mae.interval()
            bias = float((predicted[:, chosen] - labels).mean())
            rows.append({"by": by, "group": group, "clips": len(chosen), "mae": float(mae.value),
                         "low": float(low), "high": float(high), "bias": bias})  # fmt: skip
    table = pd.DataFrame(rows)
    title = f"{study.corpus.name}: where {runs[0].stage.label} errs, {split}"
    return Finding(table, _draw_errors(table, title, synthetic=study.corpus.synthetic), ERRORS_NOTE)


def worst(study: Study, runs: Sequence[Run], split: str = "valid", count: int = 10) -> pd.DataFrame:
    """The ``count`` clips with the largest error of the mean prediction of ``runs``, with their labels and words."""
    clips = getattr(study.corpus, split)
    predicted = _predictions(runs, split).mean(axis=0)  # (N,)
    columns = {"clip": list(clips.ids), "y": clips.labels, "predicted": predicted, "error": predicted - clips.labels}
    if clips.unimodal_labels is not None:
        columns |= {f"y_{m}": clips.unimodal_labels[k] for k, m in enumerate(MODALITIES)}
    frame = pd.DataFrame({**columns, "words": list(clips.raw_text)})
    return frame.sort_values("error", key=np.abs, ascending=False, kind="stable", ignore_index=True).head(count)


def compare(study: Study, runs: Sequence[Run], others: Sequence[Run], split: str = "valid") -> Finding:
    """Two variants or systems on the same clips: the paired test of every metric, and clip by clip.

    Args:
        study: of both.
        runs: of the one, a run a seed.
        others: of the other, of the same seeds in the same order.
        split: "valid", or "test", which must not decide anything.

    Returns:
        ``table`` has one row per metric: difference, low, high, p. ``clips`` has one row per clip, those first on which
        the first variant gains most: y, the mean prediction of both, and by how much the first errs more.

    Raises:
        RunError: their seeds differ, or a run is not finished.
    """
    if [run.seed for run in runs] != [run.seed for run in others]:
        raise RunError("a paired comparison needs the same seeds in the same order")
    clips, a, b = getattr(study.corpus, split), _predictions(runs, split), _predictions(others, split)
    names = runs[0].stage.label, others[0].stage.label
    videos = [video_of(clip) for clip in clips.ids]
    rows = []
    for metric, difference in paired_differences(clips.labels, a, b, study.corpus.scheme, videos).items():
        low, high = difference.interval()
        rows.append({"metric": METRIC_NAMES[metric], "difference": float(difference.value), "low": float(low),
                     "high": float(high), "p": float(difference.p)})  # fmt: skip
    errors_a, errors_b = (np.abs(each - clips.labels).mean(axis=0) for each in (a, b))
    of_clips = pd.DataFrame(
        {"clip": list(clips.ids), "y": clips.labels, names[0]: a.mean(axis=0), names[1]: b.mean(axis=0),
         "change of error": errors_a - errors_b, "words": list(clips.raw_text)}
    ).sort_values("change of error", kind="stable", ignore_index=True)  # fmt: skip
    title = f"{study.corpus.name}: {names[0]} against {names[1]}, {split}, clip by clip"
    figure = _draw_pairs(errors_b, errors_a, (names[1], names[0]), title, synthetic=study.corpus.synthetic)
    return Finding(pd.DataFrame(rows), figure, f"{names[0]} − {names[1]}. {COMPARE_NOTE}", clips=of_clips)


def _predictions(runs: Sequence[Run], split: str) -> np.ndarray:
    """(S, N)."""
    if not runs:
        raise RunError("no run was given: study.train(['MGCL']) gives those of one variant")
    return np.stack([run.predictions(split)["prediction"].to_numpy() for run in runs])


def _groups(clips: Split, bound: float) -> dict[str, pd.Series]:
    """For each way to divide the clips, the group of each of them."""
    cuts, names = [-1, 0.2, 0.6, 3], ["up to .2", "to .6", "above"]
    groups = {}
    if clips.unimodal_labels is not None:
        conflict = np.round(np.ptp(clips.unimodal_labels, axis=0) / bound, 6)  # labels of a grid carry float noise
        groups["conflict"] = pd.Series(pd.cut(conflict, cuts, labels=names))
    intensity = np.round(np.abs(np.asarray(clips.labels)) / bound, 6)
    groups["intensity"] = pd.Series(pd.cut(intensity, cuts, labels=names))
    lengths = {
        "words": [len(text.split()) if " " in text.strip() else len(text) for text in clips.raw_text],
        "audio steps": np.asarray(clips.audio_mask).sum(axis=1),
        "vision steps": np.asarray(clips.vision_mask).sum(axis=1),
    }
    for name, counts in lengths.items():
        if np.ptp(counts) == 0:
            continue  # all are of one length
        thirds = pd.Series(pd.qcut(counts, 3, duplicates="drop"))
        ranges = pd.Series(counts).groupby(thirds, observed=True).agg(["min", "max"])
        written = {third: f"{low}" if low == high else f"{low}–{high}" for third, low, high in ranges.itertuples()}
        groups[name] = thirds.cat.remove_unused_categories().cat.rename_categories(written)
    return groups


@styled()
def _draw_errors(table: pd.DataFrame, title: str, *, synthetic: bool) -> Figure:
    kinds = list(dict.fromkeys(table["by"]))
    figure, axes = panels(len(kinds), columns=len(kinds), width=2.1, height=2.4, sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        rows = table[table["by"] == kind]
        place = np.arange(len(rows))
        ax.vlines(place, rows["low"], rows["high"], color=HUES[0], linewidth=2)
        ax.plot(place, rows["mae"], "o", color=HUES[0], markersize=5)
        ax.set_xticks(place, [f"{group}\n({clips})" for group, clips in zip(rows["group"], rows["clips"], strict=True)])
        ax.set(xlim=(-0.6, len(rows) - 0.4), title=kind)
        ax.grid(axis="y")
    axes[0].set_ylabel("MAE (clips in brackets)")
    return finish(figure, title, synthetic=synthetic)


@styled()
def _draw_pairs(x: np.ndarray, y: np.ndarray, names: tuple[str, str], title: str, *, synthetic: bool) -> Figure:
    figure = NotebookFigure(figsize=(4.6, 4.2), layout="constrained")
    ax = figure.subplots()
    most = 1.05 * max(x.max(), y.max())
    ax.plot([0, most], [0, most], color=".6", linewidth=0.8)
    ax.scatter(x, y, s=10, color=HUES[0], alpha=0.5, linewidths=0)
    ax.set(xlim=(0, most), ylim=(0, most), aspect="equal", xlabel=f"absolute error of {names[0]}")
    ax.set_ylabel(f"absolute error of {names[1]}")
    return finish(figure, title, synthetic=synthetic)
