"""t-SNE of the six macro and micro features, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...data.corpus import MODALITIES
from ...support.errors import ConfigError, RunError, nearest
from .style import (
    GRANULARITIES,
    GRANULARITY_COLOURS,
    GRANULARITY_MARKERS,
    MODALITY_COLOURS,
    MODALITY_MARKERS,
    MODALITY_NAMES,
    NotebookFigure,
    finish,
    require_columns,
    require_finite,
    style,
)

FEATURES = tuple(f"{g}_{m}" for g in GRANULARITIES for m in MODALITIES)
#: A kind of colouring, and the categories it knows with their colours (None: a continuous scale).
KINDS = {"intensity": None, "modality": MODALITY_COLOURS, "granularity": GRANULARITY_COLOURS}
LEGEND = {"ncols": 5, "handlelength": 1, "handletextpad": 0.2, "columnspacing": 0.7, "borderaxespad": 0.2}
MARKERS = {**GRANULARITY_MARKERS, **MODALITY_MARKERS}


def tsne(features: Mapping[str, np.ndarray], *, seed: int, perplexity: float = 30.0) -> pd.DataFrame:
    """One t-SNE of all feature sets together, started from PCA and seeded.

    ``features`` maps names of ``FEATURES`` (``"macro_T"`` ... ``"micro_A"``) to (N, d) arrays of the same N clips. A
    row of the result is one clip's feature: ``x``, ``y`` (coordinates), ``modality``, ``granularity``, ``clip``
    (0 ... N-1). For M points the perplexity is at most (M - 1) / 3. Where all features are equal, all points are 0.
    Raises ConfigError on unknown names or a perplexity that is not positive; RunError on fewer than 3 points, NaN,
    or shapes that differ.
    """
    for name in features:
        if name not in FEATURES:
            raise ConfigError(f"unknown feature {name!r}: {nearest(name, FEATURES)}")
    if not perplexity > 0:
        raise ConfigError(f"perplexity: expected a positive number, found {perplexity!r}")
    arrays = {name: np.asarray(features[name], np.float64) for name in FEATURES if name in features}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        found = {name: array.shape for name, array in arrays.items()}
        raise RunError(f"t-SNE: expected features of one shape (clips, width), found {found}")
    points = np.concatenate(list(arrays.values()))  # (M, d)
    require_finite(points, "features")
    if len(points) < 3:
        raise RunError(f"t-SNE: expected at least 3 points, found {len(points)}")

    clips = len(points) // len(arrays)
    parts = [name.split("_") for name in arrays for _ in range(clips)]
    x, y = _coordinates(points, seed, perplexity).T
    granularity, modality = zip(*parts, strict=True)
    clip = np.tile(np.arange(clips), len(arrays))
    return pd.DataFrame({"x": x, "y": y, "modality": modality, "granularity": granularity, "clip": clip})


@style()
def embedding(
    points: np.ndarray,
    values: np.ndarray,
    *,
    kind: str,
    synthetic: bool,
    markers: np.ndarray | None = None,
    bound: float = 1.0,
    title: str = "Embedding",
) -> Figure:
    """Scatter of points (M, 2), coloured by values (M,).

    ``kind`` says what the values are: ``"intensity"`` (sentiment in [-bound, bound], a diverging scale centred at 0),
    ``"modality"`` (T, V, A) or ``"granularity"`` (macro, micro). ``markers`` (M,), modalities or granularities, gives
    the marker shapes. Raises ConfigError on an unknown kind, RunError on NaN, unknown categories or wrong shapes.
    """
    figure = NotebookFigure(figsize=(5, 3.8), layout="constrained")
    ax = figure.subplots()
    scale = _scatter(ax, np.asarray(points, float), np.asarray(values), kind, markers, bound)
    if scale is not None:
        figure.colorbar(scale, ax=ax, label="sentiment y")
    if handles := _legend(kind, markers):
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), **LEGEND)
    return finish(figure, title, synthetic=synthetic)


@style()
def embedding_grid(
    before: pd.DataFrame,
    after: pd.DataFrame,
    intensity: np.ndarray,
    *,
    bound: float,
    synthetic: bool,
    title: str = "The six macro and micro features (t-SNE)",
) -> Figure:
    """Frames of ``tsne`` before (upper row) and after training (lower row), coloured by the three kinds.

    ``intensity`` (N,) holds the clips' labels y in [-bound, bound]. Shapes tell the granularity, and where the colour
    does so the modality. Raises RunError as ``embedding``, or where a clip has no label.
    """
    intensity, scale = np.asarray(intensity, float), None
    figure = NotebookFigure(figsize=(10.5, 6.9), layout="constrained")
    axes = figure.subplots(2, 3)
    for row, (when, frame) in enumerate((("before training", before), ("after training", after))):
        require_columns(frame, ["x", "y", "modality", "granularity", "clip"], f"embedding {when}")
        if frame["clip"].max() >= len(intensity):
            raise RunError(f"embedding {when}: {len(intensity)} labels, but clip {frame['clip'].max()}")
        points = frame[["x", "y"]].to_numpy()
        values = {kind: frame[kind].to_numpy() for kind in ("modality", "granularity")}
        values["intensity"] = intensity[frame["clip"].to_numpy()]
        for ax, kind in zip(axes[row], KINDS, strict=True):
            shape = values["modality" if kind == "granularity" else "granularity"]
            scale = _scatter(ax, points, values[kind], kind, shape, bound) or scale
            if row == 0:
                ax.set_title(f"by {kind}")
            else:
                ax.legend(handles=_legend(kind, shape), loc="upper center", bbox_to_anchor=(0.5, -0.01), **LEGEND)
        axes[row, 0].set_ylabel(when, fontsize=10)
    figure.colorbar(scale, ax=axes[:, 0], location="left", label="sentiment y", shrink=0.5)
    return finish(figure, title, synthetic=synthetic)


def _coordinates(points: np.ndarray, seed: int, perplexity: float) -> np.ndarray:
    """(M, d) to (M, 2)."""
    if np.ptp(points, axis=0).max(initial=0.0) == 0:
        return np.zeros((len(points), 2))  # PCA has no direction to start from
    if points.shape[1] == 1:
        points = np.hstack([points, np.zeros_like(points)])  # PCA must yield two coordinates
    perplexity = min(perplexity, (len(points) - 1) / 3)
    from sklearn.manifold import TSNE  # slow to import, and only one notebook draws it

    return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(points)


def _scatter(ax: Axes, points: np.ndarray, values: np.ndarray, kind: str, markers, bound: float):
    """Draws one panel; returns what a colour bar needs (None for categories)."""
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}: {nearest(kind, KINDS)}")
    markers = np.full(len(points), "macro") if markers is None else np.asarray(markers)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) == len(values) == len(markers) > 0:
        raise RunError(
            "embedding: expected points (M, 2) and M > 0 values and markers, found "
            f"{points.shape}, {len(values)} and {len(markers)}"
        )
    require_finite(points, "coordinates")
    _require_known(markers, MARKERS, "markers")
    look = {}
    if KINDS[kind] is None:
        values = values.astype(float)
        require_finite(values, "intensities")
        look = {"cmap": "vlag", "vmin": -bound, "vmax": bound}
    else:
        _require_known(values, KINDS[kind], kind)
        values = np.array([KINDS[kind][value] for value in values])  # (M, 3)

    # In a fixed random order, so that no category covers the others by being drawn last.
    order = np.random.default_rng(0).permutation(len(points))
    scale = None
    for name in dict.fromkeys(markers[order]):
        chosen = order[markers[order] == name]
        x, y = points[chosen].T
        edges = {"edgecolors": ".45", "linewidths": 0.25} if look else {"linewidths": 0}
        scale = ax.scatter(x, y, s=12, c=values[chosen], marker=MARKERS[name], alpha=0.75, **look, **edges)
    ax.set(xticks=[], yticks=[])
    ax.margins(0.04)
    for spine in ax.spines.values():
        spine.set(visible=True, color=".8")
    return scale if look else None


def _legend(kind: str, markers) -> list[Line2D]:
    """Colours of the categories, then the shapes in use."""
    dot = {"linestyle": "none", "markersize": 5}
    handles = [
        Line2D([], [], marker="o", color=colour, label=MODALITY_NAMES.get(name, name), **dot)
        for name, colour in (KINDS[kind] or {}).items()
    ]
    if markers is not None:
        present = set(markers)
        handles += [
            Line2D([], [], marker=shape, markerfacecolor="none", color=".3", label=MODALITY_NAMES.get(n, n), **dot)
            for n, shape in MARKERS.items()
            if n in present
        ]
    return handles


def _require_known(values: np.ndarray, known: Mapping, what: str) -> None:
    unknown = sorted({str(value) for value in values} - set(known))
    if unknown:
        raise RunError(f"embedding: expected {what} of {list(known)}, found {unknown}")
