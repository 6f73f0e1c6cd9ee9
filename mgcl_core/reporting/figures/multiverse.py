"""The specification curve: one claim a panel, every specification a point, and below it what it chose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...metrics import METRIC_NAMES
from ...support.errors import RunError
from ...support.names import printable
from .style import HUES, NotebookFigure, finish, percent, require_columns, styled


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
    columns = len(pairs) if len(pairs) <= 5 else -(-len(pairs) // 2)
    bands, height = -(-len(pairs) // columns), 0.3 + 0.17 * len(choices)
    figure = NotebookFigure(figsize=(2.1 * columns + 1, (2.2 + height) * bands + 0.6), layout="constrained")
    grid = figure.subplots(2 * bands, columns, squeeze=False, sharey="row", height_ratios=(2, height) * bands)
    unit = " (points)" if percent(metric) == 100 else ""
    for place in range(bands * columns):
        band, column = divmod(place, columns)
        above, below = grid[2 * band : 2 * band + 2, column]
        if place >= len(pairs):
            above.remove(), below.remove()
            continue
        better, worse = pairs[place]
        of_pair = table[(table["better"] == better) & (table["worse"] == worse)]
        of_pair = of_pair.sort_values("difference", kind="stable", ignore_index=True)
        _curve(above, of_pair, percent(metric))
        above.set_title(f"{printable(better)} better than\n{printable(worse)}", parse_math=False, fontsize=8)
        _choices(below, of_pair, choices)
        if column == 0:
            above.set_ylabel(f"{METRIC_NAMES.get(metric, metric)}: gain{unit}")
            below.set_yticks(range(len(choices)), [f"{name} {value}" for name, value in choices])
            below.set_ylim(len(choices) - 0.5, -0.5)
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
    ax.set_xticks([])


def _choices(ax: Axes, rows: pd.DataFrame, choices: Sequence[tuple[str, object]]) -> None:
    for place, (name, value) in enumerate(choices):
        chosen = np.flatnonzero(rows[name] == value)
        ax.plot(chosen, np.full(len(chosen), place), "|", color=".2", markersize=5)
    ax.set_xticks([])
