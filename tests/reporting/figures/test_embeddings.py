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
    assert list(frame.columns) == ["x", "y", "modality", "granularity", "clip", "trust"]
    assert len(frame) == 30 and np.isfinite(frame[["x", "y"]].to_numpy()).all()
    names = [f"{g}_{m}" for g in ("macro", "micro") for m in "TVA" for _ in range(5)]
    assert list(frame["granularity"] + "_" + frame["modality"]) == names
    assert list(frame["clip"]) == [0, 1, 2, 3, 4] * 6
    pd.testing.assert_frame_equal(frame, figures.tsne(features, seed=1111))


def test_each_feature_has_a_map_of_its_own():
    features = six_features(12)
    alone = figures.tsne({"macro_V": features["macro_V"]}, seed=1)
    both = figures.tsne(features, seed=1)
    own = both[(both["modality"] == "V") & (both["granularity"] == "macro")].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, alone)


def test_tsne_keeps_what_is_apart_apart_and_trust_says_whether_it_did():
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[:20] += 100
    frame = figures.tsne({"macro_T": np.hstack([values, np.zeros((40, 3))])}, seed=1)
    xy = frame[["x", "y"]].to_numpy()
    centre = xy[:20].mean(axis=0)
    distance = np.linalg.norm(xy - centre, axis=1)
    assert distance[:20].max() < distance[20:].min()
    hard = figures.tsne({"macro_T": np.random.default_rng(0).normal(size=(40, 30))}, seed=1)
    assert 0.5 < hard["trust"].iloc[0] < frame["trust"].iloc[0] <= 1
    assert frame["trust"].nunique() == 1


@pytest.mark.parametrize("width", [1, 4])
def test_tsne_of_equal_or_few_points(width):
    equal = figures.tsne({name: np.ones((4, width)) for name in six_features(1)}, seed=0)
    assert (equal[["x", "y"]] == 0).all(axis=None) and equal["trust"].isna().all()
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


def grid(frame: pd.DataFrame, intensity: np.ndarray | None = None):
    intensity = np.linspace(-1, 1, 5) if intensity is None else intensity
    return figures.embedding_grid(coordinates(), frame, intensity, synthetic=True)


def test_embedding_grid_has_a_map_for_each_feature_before_and_after():
    figure = grid(coordinates().assign(trust=0.875))
    names = [f"{g} {m}" for g in ("macro", "micro") for m in ("text", "vision", "audio")]
    maps, bar = figure.axes[:12], figure.axes[12]
    assert [ax.get_title() for ax in maps] == names * 2
    assert [maps[place].get_ylabel() for place in (0, 6)] == ["before training", "after training"]
    assert {ax.get_xlabel() for ax in maps[6:]} == {"trust 0.88"}
    assert bar.get_ylabel() == "sentiment y"
    for ax in maps:
        (points,) = ax.collections
        assert len(points.get_offsets()) == 5
    assert len({ax.spines["left"].get_edgecolor() for ax in maps}) == 3  # a modality is a colour


def test_the_scale_shows_sentiment_where_most_labels_are_small():
    narrow = np.r_[np.linspace(-0.1, 0.1, 99), 3.0]
    frame = coordinates(100)
    figure = figures.embedding_grid(frame, frame, narrow, synthetic=True)
    low, high = figure.axes[-1].get_ylim()
    assert high == pytest.approx(-low) and high < 0.2
    colours = figure.axes[0].collections[0].get_facecolors()
    assert np.ptp(colours[:, 0]) > 0.5 and len(np.unique(colours, axis=0)) > 50


@pytest.mark.parametrize(
    ("frame", "intensity"),
    [
        (coordinates().replace({"modality": {"A": "X"}}), None),
        (coordinates().replace({"granularity": {"micro": "meso"}}), None),
        (coordinates().assign(x=np.nan), None),
        (coordinates(), np.full(5, np.nan)),
        (coordinates()[:0], None),
        (coordinates().drop(columns="clip"), None),
        (coordinates(), np.linspace(-1, 1, 4)),
    ],
)
def test_embedding_grid_refuses(frame, intensity):
    with pytest.raises(RunError):
        grid(frame, intensity)
