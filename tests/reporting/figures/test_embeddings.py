"""t-SNE and its figures. All data here is synthetic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.figures import coordinates

from mgcl_core.reporting import figures
from mgcl_core.support.errors import ConfigError, RunError


def six_features(clips: int, width: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"{g}_{m}": random.normal(size=(clips, width)) for g in ("micro", "macro") for m in "AVT"}


def test_tsne_is_seeded_and_names_each_point():
    features = six_features(5)
    frame = figures.tsne(features, seed=1111)
    assert list(frame.columns) == ["x", "y", "modality", "granularity", "clip"]
    assert len(frame) == 30 and np.isfinite(frame[["x", "y"]].to_numpy()).all()
    names = [f"{g}_{m}" for g in ("macro", "micro") for m in "TVA" for _ in range(5)]
    assert list(frame["granularity"] + "_" + frame["modality"]) == names
    assert list(frame["clip"]) == [0, 1, 2, 3, 4] * 6
    pd.testing.assert_frame_equal(frame, figures.tsne(features, seed=1111))


def test_tsne_keeps_what_is_apart_apart():
    features = six_features(6)
    features = {name: values + (100 if name == "macro_T" else 0) for name, values in features.items()}
    frame = figures.tsne(features, seed=1)
    own = (frame["modality"] == "T") & (frame["granularity"] == "macro")
    xy = frame[["x", "y"]].to_numpy()
    centre = xy[own].mean(axis=0)
    distance = np.linalg.norm(xy - centre, axis=1)
    assert distance[own].max() < distance[~own].min()


@pytest.mark.parametrize("width", [1, 4])
def test_tsne_of_equal_or_few_points(width):
    equal = figures.tsne({name: np.ones((4, width)) for name in six_features(1)}, seed=0)
    assert (equal[["x", "y"]] == 0).all(axis=None)
    few = figures.tsne({"macro_T": six_features(3, width)["macro_T"]}, seed=0)
    assert len(few) == 3 and np.isfinite(few[["x", "y"]].to_numpy()).all()


@pytest.mark.parametrize(
    ("features", "settings", "error", "words"),
    [
        ({"macro_T": np.ones((2, 4))}, {}, RunError, "at least 3 points, found 2"),
        ({}, {}, RunError, "one shape"),
        ({"macro_T": np.ones((3, 4)), "micro_T": np.ones((3, 5))}, {}, RunError, "one shape"),
        ({"macro_T": np.ones(3)}, {}, RunError, "one shape"),
        ({"macro_T": np.full((3, 4), np.nan)}, {}, RunError, "12 of 12"),
        ({"T_macro": np.ones((3, 4))}, {}, ConfigError, "unknown feature"),
        ({"macro_T": np.ones((3, 4))}, {"perplexity": 0}, ConfigError, "perplexity"),
    ],
)
def test_tsne_refuses(features, settings, error, words):
    with pytest.raises(error, match=words):
        figures.tsne(features, seed=0, **settings)


def grid(frame: pd.DataFrame, intensity: np.ndarray | None = None, bound: float = 1.0):
    intensity = np.linspace(-bound, bound, 5) if intensity is None else intensity
    return figures.embedding_grid(coordinates(), frame, intensity, bound=bound, synthetic=True)


def test_intensity_is_coloured_around_zero():
    figure = grid(coordinates(), bound=3.0)
    for points in figure.axes[0].collections:
        assert points.get_clim() == (-3, 3) and points.get_cmap().name == "vlag"
    assert figure.axes[-1].get_ylabel() == "sentiment y"


def test_categories_have_a_legend_of_colours_and_shapes():
    _, by_modality, by_granularity = grid(coordinates()).axes[3:6]
    for ax, colours, shapes in (
        (by_modality, ["text", "vision", "audio"], ["macro", "micro"]),
        (by_granularity, ["macro", "micro"], ["text", "vision", "audio"]),
    ):
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [*colours, *shapes]
        assert len(ax.collections) == len(shapes)


@pytest.mark.parametrize(
    ("frame", "intensity"),
    [
        (coordinates().replace({"modality": {"A": "X"}}), None),
        (coordinates().replace({"granularity": {"micro": "meso"}}), None),
        (coordinates().assign(x=np.nan), None),
        (coordinates(), np.full(5, np.nan)),
        (coordinates()[:0], None),
    ],
)
def test_embedding_grid_refuses(frame, intensity):
    with pytest.raises(RunError):
        grid(frame, intensity)


def test_embedding_grid_has_rows_of_time_and_columns_of_colour():
    intensity = np.linspace(-1, 1, 5)
    figure = figures.embedding_grid(coordinates(), coordinates(), intensity, bound=1.0, synthetic=True)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["by intensity", "by modality", "by granularity"]
    assert [figure.axes[place].get_ylabel() for place in (0, 3)] == ["before training", "after training"]
    drawn = np.concatenate([points.get_array() for points in figure.axes[0].collections])
    np.testing.assert_allclose(np.sort(drawn), np.sort(np.tile(intensity, 6)))
    for ax in figure.axes[:6]:
        assert sum(len(points.get_offsets()) for points in ax.collections) == 30
    with pytest.raises(RunError, match="4 labels, but clip 4"):
        figures.embedding_grid(coordinates(), coordinates(), intensity[:4], bound=1.0, synthetic=True)
    with pytest.raises(RunError, match="missing"):
        figures.embedding_grid(coordinates(), coordinates().drop(columns="clip"), intensity, bound=1.0, synthetic=True)
