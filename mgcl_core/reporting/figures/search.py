"""Figure of a search: what the trials reached on validation, and where in the space they were."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import HUES, counted, finish, panels, require_columns, styled

#: Look of a trial's mark by its state.
MARKS = {
    "complete": {"marker": "o", "color": HUES[0], "markersize": 4.5, "linestyle": "none"},
    "pruned": {"marker": "x", "color": HUES[1], "markersize": 4.5, "linestyle": "none"},
}


@styled()
def search_trials(
    frame: pd.DataFrame,
    parameters: Sequence[str],
    *,
    synthetic: bool,
    logarithmic: Collection[str] = (),
    title: str = "Search on validation",
) -> Figure:
    """Validation MAE by trial, with the best so far, then against each of ``parameters``, a panel each.

    The dashed line is the first trial, which has the default settings; the diamond is the best.

    Args:
        frame: one row per trial: ``number``, ``state`` ("complete" or "pruned"; others are left out),
            ``validation_mae`` (of a pruned trial: where it was stopped) and one column per parameter.
        parameters: columns of ``frame``.
        synthetic: whether the data are.
        logarithmic: the parameters whose axis is.
        title: of the figure.

    Raises:
        RunError: missing columns, or no such trial.
    """
    require_columns(frame, ["number", "state", "validation_mae", *parameters], "trials of a search")
    frame = frame[frame["state"].isin(MARKS)].sort_values("number").reset_index(drop=True)
    require_columns(frame, ["number"], "trials of a search, completed or pruned")
    figure, axes = panels(1 + len(parameters), columns=4, width=2.7, height=2.3, sharey=True)
    complete = frame["validation_mae"].where(frame["state"] == "complete")
    best = None if complete.isna().all() else complete.idxmin()
    axes[0].step(frame["number"], complete.cummin().ffill(), where="post", color=".5", linewidth=1, label="best so far")
    for ax, name in zip(axes, (None, *parameters), strict=True):
        positions = _positions(ax, frame["number" if name is None else name])
        if name in logarithmic:
            ax.set_xscale("log")
        for state, look in MARKS.items():
            rows = frame["state"] == state
            ax.plot(positions[rows], frame.loc[rows, "validation_mae"], label=state, zorder=3, **look)
        if best is not None:
            ax.plot(positions[best], complete[best], "D", markersize=8, markerfacecolor="none", markeredgecolor=HUES[3],
                    label="best", linestyle="none", zorder=4)  # fmt: skip
        if frame.loc[0, "state"] == "complete":
            ax.axhline(complete[0], color=".3", linewidth=0.8, linestyle="--", zorder=0, label="default settings")
        ax.set(xlabel=name or "trial", ylabel="validation MAE" if name is None else "")
        ax.grid(axis="y")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    completed, pruned = (int((frame["state"] == state).sum()) for state in MARKS)
    return finish(figure, f"{title} ({counted(completed, 'trial')} completed, {pruned} pruned)", synthetic=synthetic)


def _positions(ax: Axes, values: pd.Series) -> pd.Series:
    """Where the values of a parameter lie on the axis, whose ticks are set where it has names for values."""
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    labels = sorted(values.astype(str).unique())
    ax.set_xticks(np.arange(len(labels)), labels)
    ax.set_xlim(-0.5, len(labels) - 0.5)
    return values.astype(str).map({label: float(position) for position, label in enumerate(labels)})
