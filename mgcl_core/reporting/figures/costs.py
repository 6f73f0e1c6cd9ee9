"""What a system reaches against what it costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...support.names import printable
from .style import HUES, finish, metric_label, panels, require_columns, styled


@styled()
def pareto(
    table: pd.DataFrame, *, synthetic: bool, reference: str = "MGCL", title: str = "Corr against cost"
) -> Figure:
    """Corr with its interval over the GFLOP of a clip; the line joins what nothing cheaper reaches.

    Systems are numbered by cost; those that were not trained have a mark on the axis of the cost alone.

    Args:
        table: one row per system: ``system``, ``gflop``, ``corr``, ``corr_low``, ``corr_high`` (NaN where unknown).
        synthetic: whether the data are.
        reference: the system that is drawn in another colour.
        title: of the figure.

    Raises:
        RunError: missing columns, or no row.
    """
    require_columns(table, ["system", "gflop", "corr", "corr_low", "corr_high"], "table of costs")
    figure, (ax,) = panels(1, columns=1, width=8, height=4)
    scored = table[np.isfinite(table["corr"])].sort_values(["gflop", "corr"], ascending=[True, False])
    best = scored[scored["corr"] > scored["corr"].cummax().shift(fill_value=-np.inf)]
    label = "the best at this cost or less"
    ax.step(best["gflop"], best["corr"], where="post", color=".6", linewidth=1, zorder=0, label=label)
    beside = {"textcoords": "offset points", "xytext": (4, 4), "fontsize": 8}
    handles = ax.get_legend_handles_labels()[0] if len(best) else []
    for number, row in enumerate(table.sort_values("gflop").itertuples(), 1):
        colour, trained = (HUES[3] if row.system == reference else HUES[0]), np.isfinite(row.corr)
        if trained:
            ax.vlines(row.gflop, row.corr_low, row.corr_high, color=colour, linewidth=1.5, alpha=0.5)
            ax.plot(row.gflop, row.corr, "o", color=colour, markersize=5)
            ax.annotate(str(number), (row.gflop, row.corr), **beside)
        else:
            low = ax.get_xaxis_transform()
            ax.plot(row.gflop, 0, "|", color=".4", markersize=10, transform=low, clip_on=False)
            ax.annotate(str(number), (row.gflop, 0), xycoords=low, color=".4", **beside)
        name = printable(row.system) + ("" if trained else " (not trained)")
        handles.append(Line2D([], [], color=colour if trained else ".4", marker="o" if trained else "|",
                              linestyle="none", label=f"{number}  {name}"))  # fmt: skip
    ax.set(xscale="log", xlabel="GFLOP of a clip, forward", ylabel=metric_label("corr"))
    ax.grid(axis="y")
    for text in figure.legend(handles=handles, loc="outside right upper").get_texts():
        text.set_parse_math(False)
    return finish(figure, title, synthetic=synthetic)
