"""Comparisons: systems or variants with their intervals, and what picking on the test set gains."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...metrics import METRIC_NAMES
from ...support.errors import ConfigError, nearest
from ...support.names import printable
from .style import HUES, finish, panels, require_columns, styled

FAINT = {"color": ".4", "fontsize": 8, "style": "italic"}


@styled()
def score_intervals(
    cells: pd.DataFrame, *, synthetic: bool, reference: str = "MGCL", title: str = "Variants against MGCL"
) -> Figure:
    """Systems or variants as points with intervals, a panel a metric; the dashed line is the reference's mean.

    Models and metrics keep the order of their first rows. A cell that is NaN or has no row says "missing"; no axis
    starts at zero.

    Args:
        cells: tidy, a row a table cell (`Table.cells`): ``model``, ``metric``, ``mean``, ``ci_low``, ``ci_high``, and
            optionally ``paper``, the paper's value (hollow diamond; NaN where it has none). Of two rows of one cell the
            first is drawn.
        synthetic: whether the data are; the paper's values are not drawn beside such.
        reference: one of the models.
        title: of the figure.

    Raises:
        RunError: missing columns.
        ConfigError: a reference that is no model.
    """
    require_columns(cells, ["model", "metric", "mean", "ci_low", "ci_high"], "cells of a table")
    models, metrics = list(dict.fromkeys(cells["model"])), list(dict.fromkeys(cells["metric"]))
    if reference not in models:
        raise ConfigError(f"unknown reference {reference!r}: {nearest(reference, models)}")
    figure, axes = panels(len(metrics), columns=3, width=3.2, height=0.9 + 0.24 * len(models), sharey=True)
    paper = not synthetic and "paper" in cells.columns and cells["paper"].notna().any()
    for ax, metric in zip(axes, metrics, strict=True):
        of_metric = cells[cells["metric"] == metric].drop_duplicates("model").set_index("model")
        for position, model in enumerate(models):
            colour = HUES[3] if model == reference else HUES[0]
            cell = of_metric.loc[model] if model in of_metric.index else None
            if cell is None or not np.isfinite(cell["mean"]):
                ax.text(0.02, position, "missing", transform=ax.get_yaxis_transform(), va="center", **FAINT)
            else:
                ax.hlines(position, cell["ci_low"], cell["ci_high"], color=colour, linewidth=2)
                ax.plot(cell["mean"], position, "o", color=colour, markersize=5)
                if model == reference:
                    ax.axvline(cell["mean"], color=colour, linewidth=0.8, linestyle="--", zorder=0)
            if paper and cell is not None and np.isfinite(cell["paper"]):
                ax.plot(cell["paper"], position, "D", markerfacecolor="none", markeredgecolor=".3", markersize=5)
        ax.set_yticks(range(len(models)), [printable(model) for model in models], parse_math=False)
        ax.set(ylim=(len(models) - 0.5, -0.5), xlabel=_with_direction(metric))
        ax.tick_params(labelleft=True, labelbottom=True)
        ax.grid(axis="x")
        ax.locator_params(axis="x", nbins=5)
    handles = [Line2D([], [], marker="o", color=".3", markersize=5, linewidth=2, label="ours: mean and interval")]
    if paper:
        hollow = {"marker": "D", "linestyle": "none", "markerfacecolor": "none", "markersize": 5, "color": ".3"}
        handles.append(Line2D([], [], label="the paper's value", **hollow))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return finish(figure, title, synthetic=synthetic)


@styled()
def selection_rules(
    frame: pd.DataFrame, *, synthetic: bool, title: str = "What picking on the test set gains"
) -> Figure:
    """Test scores under each rule of selection, a panel a metric.

    The first rule is the honest one; the others are annotated with the difference of their mean to its mean. Metrics
    and rules keep the order of their first rows; what is NaN or has no row says "missing".

    Args:
        frame: tidy: ``metric``, ``rule``, ``value``; several rows of a metric and rule are seeds.
        synthetic: whether the data are.
        title: of the figure.

    Raises:
        RunError: missing columns.
    """
    require_columns(frame, ["metric", "rule", "value"], "selection audit")
    metrics, rules = list(dict.fromkeys(frame["metric"])), list(dict.fromkeys(frame["rule"]))
    figure, axes = panels(len(metrics), columns=3, width=3.2, height=2.6)
    for ax, metric in zip(axes, metrics, strict=True):
        honest = np.nan
        for position, rule in enumerate(rules):
            colour = HUES[position % len(HUES)]
            values = frame.loc[(frame["metric"] == metric) & (frame["rule"] == rule), "value"].dropna()
            if values.empty:
                ax.text(position, 0.5, "missing", transform=ax.get_xaxis_transform(), ha="center", **FAINT)
                continue
            mean = values.mean()
            ax.plot(
                np.full(len(values), position), values, "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0
            )
            ax.plot(position, mean, "_", color=colour, markersize=22, markeredgewidth=2)
            if position == 0:
                honest = mean
                ax.axhline(honest, color=colour, linewidth=0.8, linestyle="--", zorder=0)
            elif np.isfinite(honest):
                above = {"xytext": (0, 12), "textcoords": "offset points", "ha": "center", "fontsize": 8}
                ax.annotate(f"{mean - honest:+.3f}".replace("-", "−"), (position, values.max()), **above)
        ax.set_xticks(
            range(len(rules)),
            [textwrap.fill(str(rule), max(8, 36 // len(rules)), break_long_words=False) for rule in rules],
        )
        ax.set(xlim=(-0.6, len(rules) - 0.4), ylabel=_with_direction(metric))
        ax.margins(y=0.2)
        ax.grid(axis="y")
    return finish(figure, title, synthetic=synthetic)


def _with_direction(metric: str) -> str:
    """Label of an axis; ``metric`` is a key of `METRIC_NAMES` or a heading made from its names."""
    return f"{METRIC_NAMES.get(metric, metric)} ({'lower' if 'mae' in metric.lower() else 'higher'} is better)"
