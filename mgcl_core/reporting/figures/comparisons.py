"""Comparisons: systems or variants with their intervals, and what picking on the test set gains."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...metrics import HIGHER_IS_BETTER, METRIC_NAMES
from ...support.errors import ConfigError, RunError, nearest
from ...support.names import printable
from .style import HUES, finish, metric_label, panels, percent, require_columns, styled

FAINT = {"color": ".4", "fontsize": 8, "style": "italic"}


@styled()
def score_intervals(
    cells: pd.DataFrame, *, synthetic: bool, reference: str = "MGCL", title: str = "Variants against MGCL"
) -> Figure:
    """Systems or variants as points with intervals, one panel per metric; the dashed line is the reference's mean.

    Models and metrics keep the order of their first rows. A cell that is NaN or has no row says "missing"; no axis
    starts at zero.

    Args:
        cells: tidy, one row per table cell (`Table.cells`): ``model``, ``metric``, ``mean``, ``ci_low``, ``ci_high``,
            and optionally ``paper``, the paper's value (hollow diamond; NaN where it has none), drawn where the cells
            have a ``difference`` from it: where the two can be compared. Of two rows of one cell the first is drawn.
        synthetic: whether the data are.
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
    compared = "difference" in cells.columns and cells["difference"].notna().any()
    for ax, metric in zip(axes, metrics, strict=True):
        of_metric = cells[cells["metric"] == metric].drop_duplicates("model").set_index("model")
        numbers = of_metric.select_dtypes("number").columns
        of_metric[numbers] = of_metric[numbers] * percent(metric)
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
            if compared and cell is not None and np.isfinite(cell["paper"]):
                ax.plot(cell["paper"], position, "D", markerfacecolor="none", markeredgecolor=".3", markersize=5)
        ax.set_yticks(range(len(models)), [printable(model) for model in models], parse_math=False)
        ax.set(ylim=(len(models) - 0.5, -0.5), xlabel=metric_label(metric))
        ax.tick_params(labelleft=True, labelbottom=True)
        ax.grid(axis="x")
        ax.locator_params(axis="x", nbins=5)
    handles = [Line2D([], [], marker="o", color=".3", markersize=5, linewidth=2, label="ours: mean and interval")]
    if compared:
        hollow = {"marker": "D", "linestyle": "none", "markerfacecolor": "none", "markersize": 5, "color": ".3"}
        handles.append(Line2D([], [], label="the paper's value", **hollow))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return finish(figure, title, synthetic=synthetic)


@styled()
def paired_differences(
    cells: pd.DataFrame, *, synthetic: bool, reference: str = "MGCL", title: str = "Ablations: difference from MGCL"
) -> Figure:
    """Each variant minus the reference over the same seeds and clips with its 95 % interval, one panel per metric.

    The line at 0 is the reference. A difference whose p is below .05 after Holm's correction over its table is filled.
    The paper's own difference (hollow diamond) stands beside it where the two can be compared, that is where the cells
    have a ``difference`` from the paper. What has no pair says "missing".

    Args:
        cells: tidy, one row per table cell (`Table.cells`): ``model``, ``metric``, ``paired_difference``,
            ``paired_low``, ``paired_high``, ``p_holm``, ``paper``, ``difference``. Of two rows of one cell the first is
            drawn.
        synthetic: whether the data are.
        reference: the model that the differences are from.
        title: of the figure.

    Raises:
        RunError: missing columns, or no other model.
    """
    needed = ["model", "metric", "paired_difference", "paired_low", "paired_high", "p_holm", "paper", "difference"]
    require_columns(cells, needed, "cells of a table")
    cells = cells.drop_duplicates(["model", "metric"]).set_index(["metric", "model"])
    metrics, models = (list(dict.fromkeys(cells.index.get_level_values(level))) for level in ("metric", "model"))
    models = [model for model in models if model != reference]
    if not models:
        raise RunError(f"paired differences: expected models other than {reference}, found none")
    compared = cells["difference"].notna().any()
    figure, axes = panels(len(metrics), columns=3, width=3.2, height=0.9 + 0.26 * len(models), sharey=True)
    for ax, metric in zip(axes, metrics, strict=True):
        scale, of_metric = percent(metric), cells.loc[metric]
        own = of_metric["paper"].get(reference, np.nan)
        for position, model in enumerate(models):
            cell = of_metric.loc[model] if model in of_metric.index else None
            if cell is None or not np.isfinite(cell["paired_difference"]):
                ax.text(0.02, position, "missing", transform=ax.get_yaxis_transform(), va="center", **FAINT)
                continue
            ax.hlines(position, scale * cell["paired_low"], scale * cell["paired_high"], color=HUES[0], linewidth=2)
            ground = HUES[0] if cell["p_holm"] < 0.05 else "white"
            look = {"color": HUES[0], "markersize": 6, "markerfacecolor": ground}
            ax.plot(scale * cell["paired_difference"], position, "o", **look)
            if compared:
                ax.plot(scale * (cell["paper"] - own), position + 0.2, "D", color=HUES[3], markerfacecolor="none")
        ax.axvline(0, color=".3", linewidth=0.8, linestyle="--", zorder=0)
        ax.set_yticks(range(len(models)), [printable(model) for model in models], parse_math=False)
        ax.set(ylim=(len(models) - 0.5, -0.5), xlabel=_difference_label(metric))
        ax.tick_params(labelleft=True, labelbottom=True)
        ax.grid(axis="x")
        ax.locator_params(axis="x", nbins=5)
    dot = {"marker": "o", "color": HUES[0], "markersize": 6}
    handles = [
        Line2D([], [], markerfacecolor="white", linewidth=2, label="ours, with 95 % interval", **dot),
        Line2D([], [], linestyle="none", label="p < .05 (Holm)", **dot),
    ]
    if compared:
        handles.append(Line2D([], [], marker="D", linestyle="none", markerfacecolor="none", color=HUES[3],
                              label="the paper's difference"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return finish(figure, title, synthetic=synthetic)


@styled()
def selection_rules(
    frame: pd.DataFrame, *, synthetic: bool, title: str = "What picking on the test set gains"
) -> Figure:
    """Test scores under each rule of selection, one panel per metric.

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
        honest, digits = np.nan, 2 if percent(metric) == 100 else 3
        for position, rule in enumerate(rules):
            colour = HUES[position % len(HUES)]
            values = frame.loc[(frame["metric"] == metric) & (frame["rule"] == rule), "value"].dropna() * percent(
                metric
            )
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
                ax.annotate(f"{mean - honest:+.{digits}f}".replace("-", "−"), (position, values.max()), **above)
        ax.set_xticks(
            range(len(rules)),
            [textwrap.fill(str(rule), max(8, 36 // len(rules)), break_long_words=False) for rule in rules],
        )
        ax.set(xlim=(-0.6, len(rules) - 0.4), ylabel=metric_label(metric))
        ax.margins(y=0.2)
        ax.grid(axis="y")
    return finish(figure, title, synthetic=synthetic)


def _difference_label(metric: str) -> str:
    """With where a variant is worse than the reference: MAE grows to the right, all others shrink to the left."""
    unit = " (points)" if percent(metric) == 100 else ""
    return f"{METRIC_NAMES[metric]}{unit}, {'left' if HIGHER_IS_BETTER[metric] else 'right'} is worse"
