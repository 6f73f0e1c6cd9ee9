"""What a system reaches against what it costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...support.names import printable
from .style import HUES, finish, metric_label, panels, require_columns, styled


@styled()
def pareto(
    table: pd.DataFrame, *, synthetic: bool, reference: str = "MGCL", title: str = "Corr against cost"
) -> Figure:
    """Corr with its interval over the GFLOP of a clip; the line joins what nothing cheaper reaches.

    Systems that were not trained have a mark on the axis of the cost alone.

    Args:
        table: a row a system: ``system``, ``gflop``, ``corr``, ``corr_low``, ``corr_high`` (NaN where unknown).
        synthetic: whether the data are.
        reference: the system that is drawn in another colour.
        title: of the figure.

    Raises:
        RunError: missing columns, or no row.
    """
    require_columns(table, ["system", "gflop", "corr", "corr_low", "corr_high"], "table of costs")
    figure, (ax,) = panels(1, columns=1, width=7, height=4)
    scored = table[np.isfinite(table["corr"])].sort_values(["gflop", "corr"], ascending=[True, False])
    best = scored[scored["corr"] > scored["corr"].cummax().shift(fill_value=-np.inf)]
    ax.step(
        best["gflop"], best["corr"], where="post", color=".6", linewidth=1, zorder=0, label="best at this cost or less"
    )
    for row in table.itertuples():
        colour, beside = (
            (HUES[3] if row.system == reference else HUES[0]),
            {"textcoords": "offset points", "fontsize": 8},
        )
        if np.isfinite(row.corr):
            if np.isfinite(row.corr_low):
                ax.vlines(row.gflop, row.corr_low, row.corr_high, color=colour, linewidth=1.5, alpha=0.5)
            ax.plot(row.gflop, row.corr, "o", color=colour, markersize=5)
            ax.annotate(printable(row.system), (row.gflop, row.corr), xytext=(5, 4), parse_math=False, **beside)
        else:
            place = {
                "xycoords": ax.get_xaxis_transform(),
                "rotation": 90,
                "ha": "center",
                "va": "bottom",
                "color": ".4",
            }
            ax.plot(row.gflop, 0, "|", color=".4", markersize=10, transform=ax.get_xaxis_transform(), clip_on=False)
            name = f"{printable(row.system)}, not trained"
            ax.annotate(name, (row.gflop, 0), xytext=(0, 8), parse_math=False, **place, **beside)
    ax.set(xscale="log", xlabel="GFLOP of a clip, forward", ylabel=metric_label("corr"))
    ax.grid(axis="y")
    if len(scored):
        ax.legend(loc="lower right")
    return finish(figure, title, synthetic=synthetic)
