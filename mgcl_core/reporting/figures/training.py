"""Figures of runs: curves over epochs, the scores of stage one, predictions against labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...data.corpus import BOUNDS, GRANULARITIES, MODALITIES, EncoderName
from ...metrics import regression_metrics
from ...support.errors import ConfigError, RunError, nearest
from .style import (
    GRANULARITY_LINES,
    GRANULARITY_MARKERS,
    HUES,
    LABEL_STEP,
    MODALITY_COLOURS,
    NotebookFigure,
    counted,
    finish,
    panels,
    require_columns,
    require_finite,
    seed_looks,
    styled,
)

#: Labels of the columns of a history, in the order of their panels.
CURVES = {
    "train_loss": "training loss",
    "train_pred": "training $L_{pred}$",
    "train_con": r"training $\alpha L_{con}$",
    "train_uni": r"training $\beta L_{uni}$",
    "valid_loss": "validation loss",
    "valid_mae": "validation MAE (sentiment y)",
    "valid_corr": "validation Corr",
}
STAGE_ONE = {"mae": "validation MAE (sentiment y)", "corr": "validation Corr"}


@styled()
def training_curves(
    histories: Mapping[str, pd.DataFrame],
    *,
    synthetic: bool,
    columns: Sequence[str] | None = None,
    groups: Mapping[str, str] | None = None,
    chosen: Mapping[str, int] | None = None,
    title: str = "Training",
) -> Figure:
    """Curves over epochs: one panel per column, a thin line per run.

    A group (stage, variant) has a colour, and seeds within it have markers; one group alone has a colour a seed. Groups
    that are encoders of stage one have their modality's colour and their granularity's kind of line.

    Args:
        histories: a run to a frame with ``epoch`` and columns named ``train_...`` or ``valid_...``. A run without a
            column is absent from that panel, NaN leaves a gap.
        synthetic: whether the data are.
        columns: those to draw; all when None.
        groups: runs to groups; by default each run is its own.
        chosen: runs to the epoch that validation chose, which is ringed.
        title: of the figure.

    Raises:
        RunError: frames without epochs or curves, or a chosen epoch that its run has not.
        ConfigError: unknown columns or runs.
    """
    if not histories:
        raise RunError("training curves: expected at least one history, found none")
    for run, history in histories.items():
        require_columns(history, ["epoch"], f"history of {run!r}")
    groups, chosen = groups or {}, chosen or {}
    for run in [*groups, *chosen]:
        if run not in histories:
            raise ConfigError(f"unknown run {run!r}: {nearest(run, histories)}")
    curves = dict.fromkeys(c for h in histories.values() for c in h.columns if c.startswith(("train_", "valid_")))
    present = [c for c in CURVES if c in curves] + [c for c in curves if c not in CURVES]
    for column in columns or ():
        if column not in present:
            raise ConfigError(f"unknown curve {column!r}: {nearest(column, present)}")
    columns = list(columns or present)
    if not columns:
        raise RunError("training curves: expected at least one column named train_... or valid_...")

    group_of = {run: groups.get(run, run) for run in histories}
    kinds = list(dict.fromkeys(group_of.values()))
    looks, handles = _looks(group_of, kinds)
    figure, axes = panels(len(columns), columns=3, width=3.3, height=2.6)
    for ax, column in zip(axes, columns, strict=True):
        for run, history in histories.items():
            if column not in history.columns:
                continue
            colour = looks[run]["color"]
            ax.plot(history["epoch"], history[column], linewidth=1, markersize=3, **looks[run])
            if run in chosen:
                at = history.loc[history["epoch"] == chosen[run], column]
                if at.empty:
                    raise RunError(f"history of {run!r}: the chosen epoch {chosen[run]} is not in it")
                ring = {"markersize": 7, "markerfacecolor": "none", "markeredgecolor": colour}
                ax.plot([chosen[run]], at.iloc[:1], marker="o", linestyle="none", zorder=3, **ring)
        ax.set(xlabel="epoch", ylabel=CURVES.get(column, column))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(axis="y")

    if chosen:
        ring = {"marker": "o", "linestyle": "none", "markerfacecolor": "none", "markeredgecolor": ".3"}
        handles.append(Line2D([], [], label="chosen epoch", **ring))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2 * len(axes) + 1))
    return finish(figure, title, synthetic=synthetic)


def _looks(group_of: Mapping[str, str], kinds: list[str]) -> tuple[dict[str, dict], list[Line2D]]:
    """How each run's line looks, and the handles of the legend."""
    members = {kind: [run for run, own in group_of.items() if own == kind] for kind in kinds}
    if len(kinds) == 1:
        seeds = seed_looks(len(group_of))
        looks = {run: {"linestyle": "-", **seed} for run, seed in zip(group_of, seeds, strict=True)}
        handles = [Line2D([], [], label=_seed_of(run), markersize=4, **look) for run, look in looks.items()]
        return looks, handles
    encoders = {str(name): name for name in map(_encoder, kinds) if name is not None}
    looks, handles = {}, []
    for number, kind in enumerate(kinds):
        if kind in encoders:
            colour = MODALITY_COLOURS[encoders[kind].modality]
            dash = GRANULARITY_LINES[encoders[kind].granularity]
        else:
            colour, dash = HUES[number % len(HUES)], ("-", "--", ":")[number // len(HUES) % 3]
        handles.append(Line2D([], [], color=colour, linestyle=dash, label=kind.replace("_", " ")))
        for run, seed in zip(members[kind], seed_looks(len(members[kind])), strict=True):
            looks[run] = {"color": colour, "linestyle": dash, "marker": seed["marker"]}
    most = max(members.values(), key=len)
    if len(most) > 1:
        dot = {"color": ".3", "linestyle": "none", "markersize": 4}
        for run, seed in zip(most, seed_looks(len(most)), strict=True):
            handles.append(Line2D([], [], label=_seed_of(run), marker=seed["marker"], **dot))
    return looks, handles


def _encoder(kind: str) -> EncoderName | None:
    try:
        return EncoderName.parse(kind)
    except ConfigError:
        return None


def _seed_of(run: str) -> str:
    """The seed in a run's name (``macro_T-1111-0a1b2c3d4e``), or the whole name where it has none."""
    found = re.search(r"-(\d+)-[0-9a-f]{10}$", run)
    return f"seed {found[1]}" if found else run


@styled()
def unimodal_scores(
    frame: pd.DataFrame, *, synthetic: bool, title: str = "Stage one: each encoder against its own label"
) -> Figure:
    """Validation MAE and Corr of the six encoders: one point per seed, a bar at the mean.

    Macro encoders learn y, micro encoders y_T, y_V, y_A. An encoder without scores says "not run"; NaN scores
    (constant predictions have no Corr) say "NaN".

    Args:
        frame: tidy, with ``modality`` (T, V, A), ``granularity`` (macro, micro), ``seed``, ``mae``, ``corr``.
        synthetic: whether the data are.
        title: of the figure.

    Raises:
        RunError: the frame is not so.
    """
    require_columns(frame, ["modality", "granularity", "seed", *STAGE_ONE], "stage-one scores")
    _require_values(frame, "modality", MODALITIES)
    _require_values(frame, "granularity", GRANULARITIES)
    encoders = [(m, g) for g in GRANULARITIES for m in MODALITIES]
    figure, axes = panels(2, columns=2, width=4, height=2.9)
    for ax, (metric, label) in zip(axes, STAGE_ONE.items(), strict=True):
        for position, (modality, granularity) in enumerate(encoders):
            rows = frame[(frame["modality"] == modality) & (frame["granularity"] == granularity)]
            values = rows[metric].dropna().to_numpy(float)
            if values.size == 0:
                word = "not run" if rows.empty else "NaN"
                ax.text(position, 0.5, word, transform=ax.get_xaxis_transform(), rotation=90, ha="center", va="center")
                continue
            colour, marker = MODALITY_COLOURS[modality], GRANULARITY_MARKERS[granularity]
            at = position + 0.12 * (np.arange(values.size) - (values.size - 1) / 2)
            ax.plot(at, values, marker, color=colour, markersize=5, alpha=0.8)
            ax.hlines(values.mean(), position - 0.35, position + 0.35, color=colour, linewidth=2)
        ax.set_xticks(range(len(encoders)), [f"{m}\n{g}" for m, g in encoders])
        ax.set(xlabel="encoder (its seeds from left to right)", ylabel=label, xlim=(-0.6, len(encoders) - 0.4))
        ax.grid(axis="y")
    return finish(figure, f"{title} ({counted(frame['seed'].nunique(), 'seed')})", synthetic=synthetic)


@styled()
def predicted_against_true(
    y_true: np.ndarray,
    predictions: np.ndarray,
    scheme: str,
    *,
    synthetic: bool,
    seeds: Sequence[int] | None = None,
    title: str = "Predicted against true",
) -> Figure:
    """Scatter of predictions against labels, a colour a seed, with the identity.

    The lines join the mean predictions at each class of labels (the 0.2 grid of ``"sims"``, the integers of
    ``"mosi"``). Seeds are shifted a little along x, so that they do not hide each other on a grid of labels. Corr and
    MAE are those of the tables.

    Args:
        y_true: labels (N,).
        predictions: (S, N), one row per seed.
        scheme: "sims" or "mosi".
        synthetic: whether the data are.
        seeds: S names of the seeds; 1 … S when None.
        title: of the figure.

    Raises:
        RunError: NaN, or shapes that do not fit.
        ConfigError: an unknown scheme.
    """
    if scheme not in BOUNDS:
        raise ConfigError(f"unknown scheme {scheme!r}: {nearest(scheme, BOUNDS)}")
    y_true, predictions = np.asarray(y_true, float), np.atleast_1d(np.asarray(predictions, float))
    seeds = range(1, len(predictions) + 1) if seeds is None else seeds
    if y_true.ndim != 1 or y_true.size == 0 or predictions.shape != (len(seeds), y_true.size):
        raise RunError(
            "predicted against true: expected labels (N,) and predictions (seeds, N) with N > 0, found "
            f"{y_true.shape} and {predictions.shape} for {len(seeds)} seeds"
        )
    require_finite(y_true, "labels")
    require_finite(predictions, "predictions")

    bound = BOUNDS[scheme]
    step = LABEL_STEP[scheme]
    classes = np.rint(y_true / step) * step  # (N,)
    figure = NotebookFigure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.plot([-bound, bound], [-bound, bound], color=".4", linewidth=1, linestyle="--", label="identity")
    looks = seed_looks(len(seeds))
    for position, (seed, predicted, look) in enumerate(zip(seeds, predictions, looks, strict=True)):
        metrics = regression_metrics(y_true, predicted, scheme)
        label = f"seed {seed}: Corr {metrics['corr']:.3f}, MAE {metrics['mae']:.3f}"
        shift = 0.015 * bound * (position - (len(seeds) - 1) / 2)
        ax.scatter(y_true + shift, predicted, s=7, alpha=0.35, linewidths=0, rasterized=True, **look)
        means = pd.Series(predicted).groupby(classes).mean()
        ax.plot(means.index, means, linewidth=1.5, markersize=4, label=label, **look)
    ax.axhline(0, color=".9", zorder=0)
    ax.axvline(0, color=".9", zorder=0)
    ax.set_xticks(np.linspace(-bound, bound, 7 if scheme == "mosi" else 5))
    ax.set(xlabel="true sentiment y", ylabel="predicted sentiment y", xlim=(-1.08 * bound, 1.08 * bound))
    figure.legend(loc="outside lower center", ncols=2)
    return finish(
        figure, f"{title} ({counted(y_true.size, 'clip')}, {counted(len(seeds), 'seed')})", synthetic=synthetic
    )


def _require_values(frame: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    unknown = sorted(set(frame[column].astype(str)) - set(allowed))
    if unknown:
        raise RunError(f"stage-one scores: expected {column} of {list(allowed)}, found {unknown}")
