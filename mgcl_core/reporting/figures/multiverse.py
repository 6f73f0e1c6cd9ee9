"""The specification curve: one claim a panel, every specification a point, and below it what it chose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...support.errors import RunError
from ...support.names import printable
from .style import HUES, NotebookFigure, finish, metric_label, percent, require_columns, styled


@styled()
def specification_curve(
    table: pd.DataFrame, varied: Sequence[str], metric: str, *, synthetic: bool, title: str = "Specification curve"
) -> Figure:
    """Differences that a claim is about, from the smallest to the largest, with their 95 % intervals.

    Above 0 a specification agrees with the claim; it is filled where the claim, or its contrary, is shown. The rows
    below have a mark at what each specification chose.

    Args:
        table: of a `mgcl_core.reporting.multiverse.Multiverse`.
        varied: its settings.
        metric: one of the table.
        synthetic: whether the data are.
        title: of the figure.

    Raises:
        RunError: missing columns, or no row of the metric.
    """
    needed = ["better", "worse", "metric", "difference", "low", "high", "shown", "contrary", *varied]
    require_columns(table, needed, "multiverse")
    table = table[table["metric"] == metric]
    if table.empty:
        raise RunError(f"multiverse: no row of the metric {metric!r}")
    pairs = list(dict.fromkeys(zip(table["better"], table["worse"], strict=True)))
    choices = [(name, value) for name in varied for value in dict.fromkeys(table[name])]
    height = 0.3 + 0.17 * len(choices)
    figure = NotebookFigure(figsize=(2.1 * len(pairs) + 1, 2.4 + height), layout="constrained")
    axes = figure.subplots(2, len(pairs), squeeze=False, sharex="col", sharey="row", height_ratios=(2, height))
    for column, pair in enumerate(pairs):
        of_pair = table[(table["better"] == pair[0]) & (table["worse"] == pair[1])]
        of_pair = of_pair.sort_values("difference", kind="stable", ignore_index=True)
        _curve(axes[0, column], of_pair, percent(metric))
        axes[0, column].set_title(printable(f"{pair[0]} better than\n{pair[1]}"), parse_math=False, fontsize=8)
        _choices(axes[1, column], of_pair, choices)
    unit = " (points)" if percent(metric) == 100 else ""
    axes[0, 0].set_ylabel(f"{metric_label(metric).partition(' (')[0].partition(',')[0]}: gain{unit}")
    axes[1, 0].set_yticks(range(len(choices)), [f"{name} {value}" for name, value in choices], fontsize=7)
    axes[1, 0].set_ylim(len(choices) - 0.5, -0.5)
    dot = {"marker": "o", "linestyle": "none", "markersize": 4}
    handles = [
        Line2D([], [], color=HUES[0], markerfacecolor="white", label="agrees", **dot),
        Line2D([], [], color=HUES[3], markerfacecolor="white", label="disagrees", **dot),
        Line2D([], [], color=".3", label="filled: p < .05 (Holm)", **dot),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return finish(figure, title, synthetic=synthetic)


def _curve(ax: Axes, rows: pd.DataFrame, scale: float) -> None:
    for position, row in rows.iterrows():
        colour = HUES[0] if row["difference"] > 0 else HUES[3]
        ax.vlines(position, scale * row["low"], scale * row["high"], color=colour, linewidth=0.8, alpha=0.6)
        ground = colour if row["shown"] or row["contrary"] else "white"
        ax.plot(position, scale * row["difference"], "o", color=colour, markerfacecolor=ground, markersize=3)
    ax.axhline(0, color=".3", linewidth=0.8, linestyle="--", zorder=0)
    ax.grid(axis="y")
    ax.tick_params(labelbottom=False)


def _choices(ax: Axes, rows: pd.DataFrame, choices: Sequence[tuple[str, object]]) -> None:
    for place, (name, value) in enumerate(choices):
        chosen = np.flatnonzero(rows[name] == value)
        ax.plot(chosen, np.full(len(chosen), place), "|", color=".2", markersize=5)
    ax.set_xticks([])
