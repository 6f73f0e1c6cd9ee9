"""Maps of the six macro and micro features (t-SNE), and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ...data.corpus import GRANULARITIES, MODALITIES
from ...support.errors import ConfigError, RunError, nearest
from .style import (
    GRANULARITY_MARKERS,
    MODALITY_COLOURS,
    MODALITY_NAMES,
    SENTIMENT,
    NotebookFigure,
    finish,
    require_columns,
    require_finite,
    styled,
)

FEATURES = tuple(f"{g}_{m}" for g in GRANULARITIES for m in MODALITIES)
NEIGHBOURS = 10  # of a clip, in the trust of a map


def tsne(features: Mapping[str, np.ndarray], *, seed: int, perplexity: float = 30.0) -> pd.DataFrame:
    """A t-SNE of each feature, started from PCA and seeded.

    Args:
        features: names of ``FEATURES`` (``"macro_T"`` ... ``"micro_A"``) to (N, d) arrays of the same N clips.
        seed: of the t-SNE.
        perplexity: for N clips at most (N - 1) / 3.

    Returns:
        One row per clip's feature: ``x``, ``y`` (coordinates on the feature's own map), ``modality``, ``granularity``,
        ``clip`` (0 ... N-1), ``trust`` of the map: scikit-learn's ``trustworthiness`` of 10 neighbours, 1 where all
        neighbours on the map are neighbours in the feature. A feature that is constant is all at 0, and its trust NaN.

    Raises:
        ConfigError: unknown names or a perplexity that is not positive.
        RunError: fewer than 3 clips, NaN, or shapes that differ.
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
    require_finite(np.stack(list(arrays.values())), "features")
    clips = len(next(iter(arrays.values())))
    if clips < 3:
        raise RunError(f"t-SNE: expected at least 3 points, found {clips}")
    frames = []
    for name, values in arrays.items():
        (x, y), trust = _map(values, seed, min(perplexity, (clips - 1) / 3))
        granularity, modality = name.split("_")
        frames.append(pd.DataFrame({"x": x, "y": y, "modality": modality, "granularity": granularity,
                                    "clip": np.arange(clips), "trust": trust}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


@styled()
def embedding_grid(
    before: pd.DataFrame,
    after: pd.DataFrame,
    intensity: np.ndarray,
    *,
    synthetic: bool,
    title: str = "The six macro and micro features (t-SNE)",
) -> Figure:
    """A map for each feature, before training (upper row) and after it, coloured by sentiment.

    The scale ends at the 95th percentile of abs(y), since labels near its middle are most of them: on the whole range
    all clips would look alike. Maps are not comparable with each other: each has its own axes.

    Args:
        before: of `tsne`.
        after: of `tsne`, the same features.
        intensity: the clips' labels y (N,).
        synthetic: whether the data are.
        title: of the figure.

    Raises:
        RunError: missing columns, NaN, an unknown modality or granularity, or a clip without a label.
    """
    intensity = np.asarray(intensity, float)
    require_finite(intensity, "intensities")
    end = float(np.quantile(np.abs(intensity), 0.95)) or 1.0
    scale = ScalarMappable(Normalize(-end, end), SENTIMENT)
    rows = (("before training", before), ("after training", after))
    for when, frame in rows:
        require_columns(frame, ["x", "y", "modality", "granularity", "clip", "trust"], f"embedding {when}")
        require_finite(frame[["x", "y"]].to_numpy(), "coordinates")
        if frame["clip"].max() >= len(intensity):
            raise RunError(f"embedding {when}: {len(intensity)} labels, but clip {frame['clip'].max()}")
        unknown = sorted(set(frame["granularity"] + "_" + frame["modality"]) - set(FEATURES))
        if unknown:
            raise RunError(f"embedding: expected features of {list(FEATURES)}, found {unknown}")
    shown = [name for name in FEATURES if name in set(before["granularity"] + "_" + before["modality"])]
    figure = NotebookFigure(figsize=(2.05 * len(shown) + 0.8, 5.1), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for row, (when, frame) in enumerate(rows):
        for ax, name in zip(axes[row], shown, strict=True):
            granularity, modality = name.split("_")
            own = frame[(frame["granularity"] == granularity) & (frame["modality"] == modality)]
            _draw(ax, own, scale.to_rgba(intensity[own["clip"].to_numpy()]), modality, granularity)
        axes[row, 0].set_ylabel(when, fontsize=10)
    figure.colorbar(scale, ax=axes, extend="both", shrink=0.7, pad=0.01, label="sentiment y")
    return finish(figure, title, synthetic=synthetic)


def _map(values: np.ndarray, seed: int, perplexity: float) -> tuple[np.ndarray, float]:
    """(N, d) to coordinates (2, N) and their trust."""
    if np.ptp(values, axis=0).max(initial=0.0) == 0:
        return np.zeros((2, len(values))), np.nan  # PCA has no direction to start from
    if values.shape[1] == 1:
        values = np.hstack([values, np.zeros_like(values)])  # PCA must yield two coordinates
    from sklearn.manifold import TSNE, trustworthiness  # slow to import, and only one notebook draws it

    points = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(values)
    neighbours = max(1, min(NEIGHBOURS, (len(values) - 1) // 2))  # it is defined below half of the clips
    return points.T, trustworthiness(values, points, n_neighbors=neighbours)


def _draw(ax: Axes, frame: pd.DataFrame, colours: np.ndarray, modality: str, granularity: str) -> None:
    """One map; title and frame have the modality's colour."""
    # In a fixed random order, so that no clip covers the others by its place in the file.
    order = np.random.default_rng(0).permutation(len(frame))
    x, y = (frame[name].to_numpy()[order] for name in "xy")
    look = {"s": 11, "marker": GRANULARITY_MARKERS[granularity], "linewidths": 0, "alpha": 0.9, "rasterized": True}
    ax.scatter(x, y, c=colours[order], **look)
    trust = frame["trust"].iloc[0]
    ax.set_title(f"{granularity} {MODALITY_NAMES[modality]}", color=MODALITY_COLOURS[modality], fontweight="bold")
    ax.set_xlabel("constant" if np.isnan(trust) else f"trust {trust:.2f}", fontsize=8)
    ax.set(xticks=[], yticks=[])
    ax.margins(0.04)
    for spine in ax.spines.values():
        spine.set(visible=True, color=MODALITY_COLOURS[modality])
