"""t-SNE of the six macro and micro features, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...data.corpus import GRANULARITIES, MODALITIES
from ...support.errors import ConfigError, RunError, nearest
from .style import (
    GRANULARITY_COLOURS,
    GRANULARITY_MARKERS,
    MODALITY_COLOURS,
    MODALITY_MARKERS,
    MODALITY_NAMES,
    NotebookFigure,
    finish,
    require_columns,
    require_finite,
    styled,
)

FEATURES = tuple(f"{g}_{m}" for g in GRANULARITIES for m in MODALITIES)
#: A kind of colouring, and the categories it knows with their colours (None: a continuous scale).
KINDS = {"intensity": None, "modality": MODALITY_COLOURS, "granularity": GRANULARITY_COLOURS}
LEGEND = {"ncols": 5, "handlelength": 1, "handletextpad": 0.2, "columnspacing": 0.7, "borderaxespad": 0.2}
MARKERS = {**GRANULARITY_MARKERS, **MODALITY_MARKERS}


def tsne(features: Mapping[str, np.ndarray], *, seed: int, perplexity: float = 30.0) -> pd.DataFrame:
    """One t-SNE of all feature sets together, started from PCA and seeded.

    Args:
        features: names of ``FEATURES`` (``"macro_T"`` ... ``"micro_A"``) to (N, d) arrays of the same N clips.
        seed: of the t-SNE.
        perplexity: for M points at most (M - 1) / 3.

    Returns:
        A row a clip's feature: ``x``, ``y`` (coordinates), ``modality``, ``granularity``, ``clip`` (0 ... N-1). Where
        all features are equal, all points are 0.

    Raises:
        ConfigError: unknown names or a perplexity that is not positive.
        RunError: fewer than 3 points, NaN, or shapes that differ.
    """
    for name in features:
        if name not in FEATURES:
            raise ConfigError(f"unknown feature {name!r}: {nearest(name, FEATURES)}")
    if not perplexity > 0:
        raise ConfigError(f"perplexity: expected a positive number, found {perplexity!r}")
    arrays = {name: np.asarray(features[name], np.float64) for name in FEATURES if name in features}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        by_name = {name: array.shape for name, array in arrays.items()}
        raise RunError(f"t-SNE: expected features of one shape (clips, width), found {by_name}")
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


@styled()
def embedding_grid(
    before: pd.DataFrame,
    after: pd.DataFrame,
    intensity: np.ndarray,
    *,
    bound: float,
    synthetic: bool,
    title: str = "The six macro and micro features (t-SNE)",
) -> Figure:
    """Points before (upper row) and after training (lower row), coloured by intensity, modality and granularity.

    Shapes tell the granularity, and where the colour does so the modality.

    Args:
        before: of `tsne`.
        after: of `tsne`.
        intensity: the clips' labels y (N,) in [-bound, bound].
        bound: half-width of the label range.
        synthetic: whether the data are.
        title: of the figure.

    Raises:
        RunError: missing columns, NaN, an unknown modality or granularity, or a clip without a label.
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


def _scatter(ax: Axes, points: np.ndarray, values: np.ndarray, kind: str, shapes: np.ndarray, bound: float):
    """Draw one panel; returns what a colour bar needs (None for categories).

    Args:
        ax: of the panel.
        points: (M, 2).
        values: (M,), intensities or categories, which the colours tell.
        kind: of ``KINDS``.
        shapes: (M,), modalities or granularities, which the markers tell.
        bound: half-width of the scale of intensities.
    """
    require_finite(points, "coordinates")
    _require_known(shapes, MARKERS, "markers")
    look = {}
    if KINDS[kind] is None:
        require_finite(values, "intensities")
        look = {"cmap": "vlag", "vmin": -bound, "vmax": bound}
    else:
        _require_known(values, KINDS[kind], kind)
        values = np.array([KINDS[kind][value] for value in values])  # (M, 3)

    # In a fixed random order, so that no category covers the others by being drawn last.
    order = np.random.default_rng(0).permutation(len(points))
    scale = None
    for name in dict.fromkeys(shapes[order]):
        chosen = order[shapes[order] == name]
        x, y = points[chosen].T
        edges = {"edgecolors": ".45", "linewidths": 0.25} if look else {"linewidths": 0}
        scale = ax.scatter(x, y, s=12, c=values[chosen], marker=MARKERS[name], alpha=0.75, **look, **edges)
    ax.set(xticks=[], yticks=[])
    ax.margins(0.04)
    for spine in ax.spines.values():
        spine.set(visible=True, color=".8")
    return scale if look else None


def _legend(kind: str, shapes: np.ndarray) -> list[Line2D]:
    """Colours of the categories, then the shapes in use."""
    dot = {"linestyle": "none", "markersize": 5}
    handles = [
        Line2D([], [], marker="o", color=colour, label=MODALITY_NAMES.get(name, name), **dot)
        for name, colour in (KINDS[kind] or {}).items()
    ]
    present = set(shapes)
    return handles + [
        Line2D([], [], marker=shape, markerfacecolor="none", color=".3", label=MODALITY_NAMES.get(name, name), **dot)
        for name, shape in MARKERS.items()
        if name in present
    ]


def _require_known(values: np.ndarray, known: Mapping, what: str) -> None:
    unknown = sorted({str(value) for value in values} - set(known))
    if unknown:
        raise RunError(f"embedding: expected {what} of {list(known)}, found {unknown}")
