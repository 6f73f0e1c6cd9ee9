"""Figures of a corpus. All data here is synthetic."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from helpers.figures import legend_of, texts, three_splits

from mgcl_core.reporting import figures
from mgcl_core.support.errors import ConfigError


@pytest.fixture
def corpus(make_split, make_corpus):
    return make_corpus(*three_splits(make_split))


def test_label_histogram_counts_the_grid_of_train_and_valid(corpus):
    figure = figures.label_distributions(corpus)
    assert [ax.get_xlabel() for ax in figure.axes] == [f"sentiment ${n}$" for n in ("y", "y_T", "y_V", "y_A")]
    assert legend_of(figure) == ["train (8 clips)", "valid (8 clips)"]
    for row, ax in enumerate(figure.axes):
        for bars, split in zip(ax.containers, (corpus.train, corpus.valid), strict=True):
            values = split.labels if row == 0 else split.unimodal_labels[row - 1]
            expected = [100 * np.mean(np.abs(values - grid / 5) < 0.05) for grid in range(-5, 6)]
            np.testing.assert_allclose([bar.get_height() for bar in bars], expected, atol=1e-9)


def test_labels_of_the_mosi_scheme_fall_into_the_classes_of_acc7(make_split, make_corpus):
    train, valid, test = three_splits(make_split, 4, unimodal=False)
    train = dataclasses.replace(train, labels=np.array([-3, 0.4, 0.5, 1.5], np.float32))
    corpus = dataclasses.replace(make_corpus(train, valid, test), scheme="mosi")
    figure = figures.label_distributions(corpus, splits=["train"])
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == [25, 0, 0, 50, 0, 25, 0]  # half to even: 0.5 is 0, 1.5 is 2
    assert "no unimodal" in figure.get_suptitle()


def test_test_labels_are_shown_only_when_asked_for(corpus):
    assert not any("test" in name for name in legend_of(figures.label_distributions(corpus)))
    assert any("test" in name for name in legend_of(figures.label_distributions(corpus, splits=["test"])))
    with pytest.raises(ConfigError, match="did you mean 'valid'"):
        figures.label_distributions(corpus, splits=["vaild"])
    with pytest.raises(ConfigError, match="at least one split"):
        figures.length_distributions(corpus, splits=[])


def test_length_histograms_hold_every_clip(corpus):
    mask = corpus.train.audio_mask.copy()
    mask[:2] = False
    corpus = dataclasses.replace(corpus, train=dataclasses.replace(corpus.train, audio_mask=mask))
    figure = figures.length_distributions(corpus)
    titles = [ax.get_title() for ax in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["text", "vision", "audio"]
    assert titles[2].endswith("of 9, 2 empty") and "empty" not in titles[0]
    for ax in figure.axes:
        assert ax.get_xlabel() == "valid steps of a clip"
        for stairs in ax.patches:
            assert stairs.get_data().values.sum() == pytest.approx(100)
    values, edges, _ = figure.axes[1].patches[0].get_data()
    lengths = corpus.train.vision_mask.sum(1)
    np.testing.assert_allclose(values, [100 * np.mean(lengths == step) for step in range(len(values))])
    np.testing.assert_array_equal(edges, np.arange(len(values) + 1) - 0.5)


def test_agreement_equals_its_definition(make_split):
    split = make_split(40)
    figure = figures.label_agreement(split, synthetic=True)
    labels = np.vstack([split.labels, split.unimodal_labels]).astype(float)
    share, correlation = (ax.images[0].get_array() for ax in figure.axes[:2])
    for i in range(4):
        for j in range(4):
            assert share[i, j] == pytest.approx(100 * np.mean(np.abs(labels[i] - labels[j]) < 1e-3))
            assert correlation[i, j] == pytest.approx(np.corrcoef(labels[i], labels[j])[0, 1])
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["$y$", "$y_T$", "$y_V$", "$y_A$"]


def test_agreement_on_the_labels_of_ch_sims(make_split, shared_data):
    """y_T, y_V, y_A differ from y in 68, 54 and 59 % of the clips."""
    frame = pd.read_csv(shared_data / "CH-SIMS" / "labels.csv")
    unimodal = frame[["label_T", "label_V", "label_A"]].to_numpy(np.float32).T
    split = dataclasses.replace(make_split(1), labels=frame["label"].to_numpy(np.float32), unimodal_labels=unimodal)
    figure = figures.label_agreement(split, synthetic=False)
    assert texts(figure.axes[0])[:4] == ["100", "32", "46", "41"]


@pytest.mark.parametrize("constant", [0.2, -1.0])
def test_constant_labels_agree_but_do_not_correlate(make_split, constant):
    split = make_split(5)
    same = np.full((3, 5), constant, np.float32)
    figure = figures.label_agreement(dataclasses.replace(split, labels=same[0], unimodal_labels=same), synthetic=True)
    assert texts(figure.axes[0]) == ["100"] * 16
    assert texts(figure.axes[1]) == ["–"] * 16


def test_a_file_without_unimodal_labels_is_said_to_have_none(make_split):
    figure = figures.label_agreement(make_split(unimodal=False), synthetic=True)
    assert "no unimodal labels" in texts(figure.axes[0])[0]


def test_a_single_clip_of_one_class(make_split, make_corpus):
    corpus = make_corpus(*three_splits(make_split, 1))
    for figure in (
        figures.label_distributions(corpus),
        figures.length_distributions(corpus),
        figures.label_agreement(corpus.train, synthetic=True),
    ):
        figure.savefig(io.BytesIO(), dpi=40)
    assert legend_of(figures.label_distributions(corpus)) == ["train (1 clip)", "valid (1 clip)"]


@pytest.mark.parametrize("name", ["a$\\x$b", "cost$_$x", "$"])
def test_a_name_with_dollars_is_no_mathematics(tiny_corpus, name, tmp_path):
    figure = figures.label_distributions(dataclasses.replace(tiny_corpus, name=name))
    figure.savefig(tmp_path / "x.png")
    assert name in figure.get_suptitle()


def test_signals_of_clips_are_scaled_and_an_absent_modality_is_named(make_split, make_corpus):
    train = make_split(9, seed=3)
    vision_mask = train.vision_mask.copy()
    vision_mask[np.argsort(train.labels, kind="stable")[0]] = False
    train = dataclasses.replace(train, vision_mask=vision_mask)
    corpus = make_corpus(train, make_split(3), make_split(3))
    figure = figures.clip_signals(corpus, count=3)
    axes = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title().split(",")[0] for ax in axes] == ["audio"] * 3 + ["vision"] * 3
    assert "absent" in axes[3].get_title() and "absent" not in axes[0].get_title()
    lowest = int(np.argsort(train.labels, kind="stable")[0])
    assert axes[0].images[0].get_array().shape == (train.audio.shape[2], train.audio_mask[lowest].sum())
    assert "synthetic" in figure.get_suptitle()
