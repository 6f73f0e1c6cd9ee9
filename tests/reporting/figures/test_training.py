"""Figures of runs and of tables. All data here is synthetic."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from helpers.figures import SEEDS, audit, difference_cells, history, legend_of, stage_one, table_cells, texts

from mgcl_core.reporting import figures
from mgcl_core.support.errors import ConfigError, RunError


def test_training_curves_colour_by_group_and_ring_the_chosen_epoch():
    runs = {f"{stage} {seed}": history(train_odd=1.0) for stage in ("macro T", "MGCL") for seed in SEEDS}
    groups = {run: run.rsplit(" ", 1)[0] for run in runs}
    figure = figures.training_curves(runs, groups=groups, chosen=dict.fromkeys(runs, 3), synthetic=True)
    assert [ax.get_ylabel() for ax in figure.axes] == ["training loss", "validation MAE (sentiment y)", "train_odd"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}
    seeds = [f"macro T {seed}" for seed in SEEDS]
    assert legend_of(figure) == ["macro T", "MGCL", *seeds, "chosen epoch"]
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]
    assert len(lines) == len(runs) and len({line.get_color() for line in lines}) == 2
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(runs)  # seeds are told apart
    rings = [line for line in figure.axes[1].lines if line.get_linestyle() == "None"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == [(3, pytest.approx(1 / 6))] * len(runs)


def test_encoders_have_their_modalitys_colour_and_their_granularitys_line():
    runs = {f"{g}_{m}-{seed}-0123456789": history() for g in ("macro", "micro") for m in "TVA" for seed in SEEDS}
    groups = {run: run.split("-")[0] for run in runs}
    figure = figures.training_curves(runs, groups=groups, synthetic=True)
    looks = dict(zip(runs, figure.axes[0].lines, strict=True))
    for run, line in looks.items():
        other = looks[run.replace("macro", "micro")]
        assert line.get_color() == other.get_color()
        assert ("macro" in run) == (line.get_linestyle() == "-")
    assert len({line.get_color() for line in looks.values()}) == 3
    assert legend_of(figure)[-3:] == [f"seed {seed}" for seed in SEEDS]


def test_one_group_has_a_colour_a_seed():
    runs = {f"MGCL-{seed}-0123456789": history() for seed in SEEDS}
    figure = figures.training_curves(runs, groups=dict.fromkeys(runs, "MGCL"), synthetic=True)
    assert legend_of(figure) == [f"seed {seed}" for seed in SEEDS]
    assert len({tuple(line.get_color()) for line in figure.axes[0].lines}) == 3


def test_training_curves_of_one_epoch_of_many_groups_and_of_missing_columns():
    runs = {f"run {number}": history(1) for number in range(12)} | {"other": history(2, valid_corr=np.nan)}
    figure = figures.training_curves(runs, synthetic=False)
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == len(runs)
    assert len(figure.axes[2].lines) == 1  # only one run has valid_corr
    only = figures.training_curves(runs, columns=["valid_mae"], synthetic=False)
    assert len(only.axes) == 1


@pytest.mark.parametrize(
    ("runs", "settings", "error"),
    [
        ({}, {}, RunError),
        ({"a": history().drop(columns="epoch")}, {}, RunError),
        ({"a": history()[["epoch"]]}, {}, RunError),
        ({"a": history(0)}, {}, RunError),
        ({"a": history()}, {"chosen": {"a": 9}}, RunError),
        ({"a": history()}, {"chosen": {"b": 1}}, ConfigError),
        ({"a": history()}, {"groups": {"b": "x"}}, ConfigError),
        ({"a": history()}, {"columns": ["valid_maee"]}, ConfigError),
    ],
)
def test_training_curves_refuse(runs, settings, error):
    with pytest.raises(error):
        figures.training_curves(runs, synthetic=True, **settings)


def test_unimodal_scores_show_each_seed_and_the_mean():
    figure = figures.unimodal_scores(stage_one(), synthetic=True)
    assert "3 seeds" in figure.get_suptitle()
    assert [ax.get_ylabel() for ax in figure.axes] == ["validation MAE (sentiment y)", "validation Corr"]
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == [f"{m}\n{g}" for g in ("macro", "micro") for m in "TVA"]
    for ax, mean in zip(figure.axes, (0.41, 0.49), strict=True):
        assert [len(line.get_xdata()) for line in ax.lines] == [3] * 6
        assert [bar.get_segments()[0][0, 1] for bar in ax.collections] == [pytest.approx(mean)] * 6


def test_unimodal_scores_name_what_is_missing():
    frame = stage_one(seeds=[1111])
    frame.loc[frame["modality"] == "V", "corr"] = np.nan
    frame = frame[~((frame["modality"] == "A") & (frame["granularity"] == "micro"))]
    figure = figures.unimodal_scores(frame, synthetic=True)
    assert "1 seed)" in figure.get_suptitle()
    assert texts(figure.axes[0]) == ["not run"]
    assert texts(figure.axes[1]) == ["NaN", "NaN", "not run"]
    for wrong in (frame.drop(columns="mae"), frame.assign(modality="X"), frame.assign(granularity="meso"), frame[:0]):
        with pytest.raises(RunError):
            figures.unimodal_scores(wrong, synthetic=True)


def test_predictions_carry_the_metrics_and_the_mean_at_each_class():
    y = np.array([-0.4, -0.4, 0.0, 0.6])
    predictions = np.stack([y, y + [0.1, 0.3, 0.0, 0.0]])
    figure = figures.predicted_against_true(y, predictions, "sims", seeds=[1111, 1112], synthetic=True)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("true sentiment y", "predicted sentiment y")
    corr = np.corrcoef(y, predictions[1])[0, 1]
    assert legend_of(figure) == [
        "identity",
        "seed 1111: Corr 1.000, MAE 0.000",
        f"seed 1112: Corr {corr:.3f}, MAE 0.100",
    ]
    identity, _, means = ax.lines[:3]
    assert list(identity.get_xdata()) == list(identity.get_ydata())
    np.testing.assert_allclose(means.get_xydata(), [(-0.4, -0.2), (0.0, 0.0), (0.6, 0.6)], atol=1e-12)


def test_constant_predictions_have_no_correlation():
    figure = figures.predicted_against_true(np.array([0.0, 1.0]), np.zeros((1, 2)), "mosi", synthetic=True)
    assert legend_of(figure)[1] == "seed 1: Corr nan, MAE 0.500"


@pytest.mark.parametrize(
    ("y", "predictions", "scheme", "error"),
    [
        ([0.0, 1.0], [[0.0, np.nan]], "sims", RunError),
        ([0.0, 1.0], [[0.0, np.inf]], "sims", RunError),
        ([0.0, np.nan], [[0.0, 1.0]], "sims", RunError),
        ([0.0, 1.0], [0.0, 1.0], "sims", RunError),
        ([0.0, 1.0], [[0.0]], "sims", RunError),
        ([0.0, 1.0], 0.0, "sims", RunError),
        ([], [[]], "sims", RunError),
        ([0.0, 1.0], [[0.0, 1.0]], "simms", ConfigError),
    ],
)
def test_predictions_are_refused(y, predictions, scheme, error):
    with pytest.raises(error):
        figures.predicted_against_true(np.array(y), np.array(predictions), scheme, synthetic=True)


def test_points_with_intervals_reference_and_the_papers_value():
    cells = table_cells(paper=[0.75, np.nan, np.nan, 0.4], difference=[0.05, np.nan, np.nan, 0.4])
    figure = figures.score_intervals(cells, synthetic=False)
    assert [ax.get_xlabel() for ax in figure.axes] == ["Acc-2 (%), higher is better", "MAE, lower is better"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["w/o CL", "MGCL"]
    assert legend_of(figure) == ["ours: mean and interval", "the paper's value"]
    for ax, hollow, scale in zip(figure.axes, ([(75, 0)], [(0.4, 1)]), (100, 1), strict=True):  # as in the tables
        intervals = [segments.get_segments()[0] for segments in ax.collections]
        np.testing.assert_allclose(intervals, [[(0.7 * scale, row), (0.85 * scale, row)] for row in (0, 1)])
        diamonds = [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "D"]
        assert diamonds == hollow
        assert ax.get_xlim()[0] > 0
    for without in (
        figures.score_intervals(cells.assign(difference=np.nan), synthetic=False),  # other data than the paper's
        figures.score_intervals(cells.drop(columns=["paper", "difference"]), synthetic=False),
    ):
        assert legend_of(without) == ["ours: mean and interval"]


def test_paired_differences_from_the_reference():
    figure = figures.paired_differences(difference_cells(), synthetic=True)
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert labels == ["Acc-2 (points), left is worse", "MAE, right is worse"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["w/o CL", "w/o C3"]
    assert [texts(ax) for ax in figure.axes] == [["missing"], []]
    (interval,) = figure.axes[0].collections
    np.testing.assert_allclose(interval.get_segments()[0], [(-3, 0), (-1, 0)])
    dots = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in dots] == [False, True, True]
    assert len(legend_of(figure)) == 2


def test_the_papers_differences_stand_beside_ours_where_they_can_be_compared():
    figure = figures.paired_differences(difference_cells(difference=0.0), synthetic=False)
    assert legend_of(figure)[2] == "the paper's difference"
    diamonds = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"] for ax in figure.axes]
    np.testing.assert_allclose(diamonds[0], [-2.0])
    np.testing.assert_allclose(diamonds[1], [0.02, np.nan])
    for wrong in (difference_cells().drop(columns="p_holm"), difference_cells().query("model == 'MGCL'")):
        with pytest.raises(RunError):
            figures.paired_differences(wrong, synthetic=True)


def test_cells_that_were_not_computed_are_shown_as_missing():
    cells = table_cells()
    cells.loc[0, "mean"] = np.nan  # w/o CL, acc2
    cells = cells.drop(index=3)  # MGCL, mae: the reference itself
    figure = figures.score_intervals(cells, synthetic=True)
    assert [texts(ax) for ax in figure.axes] == [["missing"], ["missing"]]
    with pytest.raises(ConfigError, match="did you mean 'MGCL'"):
        figures.score_intervals(cells, reference="MGLC", synthetic=True)
    with pytest.raises(RunError, match="ci_low"):
        figures.score_intervals(cells.drop(columns="ci_low"), synthetic=True)


def test_an_interval_that_leaves_out_its_mean_and_one_that_is_unknown():
    cells = table_cells(ci_low=[0.82, np.nan, 0.7, 0.7], ci_high=[0.9, np.nan, 0.9, 0.9])
    figures.score_intervals(cells, synthetic=True).savefig(io.BytesIO(), dpi=40)


def test_audit_writes_the_rise_over_the_first_rule():
    figure = figures.selection_rules(audit(), synthetic=True)
    (ax,) = figure.axes
    assert texts(ax) == ["+7.00"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["validation", "oracle epoch"]
    assert ax.get_ylabel() == "Acc-2 (%), higher is better"


def test_audit_of_missing_values():
    more = pd.DataFrame([("corr", "validation", np.nan), ("corr", "oracle epoch", 0.5)], columns=audit().columns)
    third = pd.DataFrame([("acc2", "oracle epoch and seed", 0.74)], columns=audit().columns)
    figure = figures.selection_rules(pd.concat([audit(), more, third]), synthetic=True)
    assert texts(figure.axes[0]) == ["+7.00", "−1.00"]
    assert texts(figure.axes[1]) == ["missing", "missing"]  # nothing to compare with, and one rule without a row
    for wrong in (audit().drop(columns="rule"), audit()[:0]):
        with pytest.raises(RunError):
            figures.selection_rules(wrong, synthetic=True)
