"""What missing modalities cost: metrics over the rate that is missing, or by the modalities that are left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...support.names import printable
from .style import HUES, counted, finish, metric_label, panels, percent, require_columns, styled

_LINES = ("-", "--", ":", "-.")


@styled()
def absence_curves(
    cells: pd.DataFrame,
    *,
    metrics: Sequence[str],
    synthetic: bool,
    reference: str = "MGCL",
    floors: Sequence[str] = (),
    title: str = "Missing modalities",
) -> Figure:
    """Every system's mean with its 95 % interval, one panel per metric.

    Over rates they are curves with bands; over sets of modalities, points with bars. Systems keep the order of their
    first rows, the reference is the thick black one, floors are grey and dashed. What is NaN is left open.

    Args:
        cells: tidy, one row per line, system and metric: ``level`` (a rate or a set; without one a row is not drawn),
            ``system``, ``metric``, ``mean``, ``ci_low``, ``ci_high``, ``n`` (seeds; 0 where there is none).
        metrics: the panels.
        synthetic: whether the data are.
        reference: one of the systems, drawn last.
        floors: systems that are to be exceeded.
        title: of the figure.

    Raises:
        RunError: missing columns.
    """
    require_columns(
        cells, ["level", "system", "metric", "mean", "ci_low", "ci_high", "n"], "cells of missing modalities"
    )
    cells = cells.dropna(subset="level")
    systems, levels = (list(dict.fromkeys(cells[column])) for column in ("system", "level"))
    sets = isinstance(levels[0], str)
    places = range(len(levels)) if sets else levels
    figure, axes = panels(len(metrics), columns=3, width=4.0, height=3.0)
    others = [system for system in systems if system not in (*floors, reference)]
    for ax, metric in zip(axes, metrics, strict=True):
        for number, system in enumerate(systems):
            of_system = cells[(cells["system"] == system) & (cells["metric"] == metric)].set_index("level")
            mean, low, high = (of_system.loc[levels, name] * percent(metric) for name in ("mean", "ci_low", "ci_high"))
            look = _look(system, others, reference, floors)
            seeds = int(of_system["n"].iloc[0])
            label = printable(f"{system} ({counted(seeds, 'seed')})" if seeds else system)
            if sets:
                mark = "sD"[list(floors).index(system) % 2] if system in floors else "o"
                offset = 0.7 * ((number + 0.5) / len(systems) - 0.5)
                error = np.abs(np.stack([mean - low, high - mean]))
                ax.errorbar(np.add(places, offset), mean, error, marker=mark, markersize=3, label=label,
                            **{**look, "linestyle": "none", "elinewidth": 1})  # fmt: skip
            else:
                ax.plot(places, mean, label=label, **look)
                ax.fill_between(places, low, high, color=look["color"], alpha=0.12, linewidth=0, zorder=1)
        if sets:
            ax.set_xticks(places, levels)
        ax.set(xlabel="modalities that are left" if sets else "missing", ylabel=metric_label(metric))
        ax.grid(axis="y")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return finish(figure, title, synthetic=synthetic)


def _look(system: str, others: list[str], reference: str, floors: Sequence[str]) -> dict[str, object]:
    if system in floors:
        return {"color": ".5", "linewidth": 1.0, "zorder": 2, "linestyle": _LINES[1 + list(floors).index(system) % 2]}
    if system == reference:
        return {"color": "black", "linewidth": 2.0, "zorder": 4, "linestyle": "-"}
    again, hue = divmod(others.index(system), len(HUES))
    return {"color": HUES[hue], "linewidth": 1.2, "zorder": 3, "linestyle": _LINES[again % len(_LINES)]}
