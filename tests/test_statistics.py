"""Intervals, tests and corrections against closed forms, naive resampling and small synthetic simulations."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import kstest

from mgcl_core.metrics import METRICS, regression_metrics
from mgcl_core.statistics import (
    CHUNK,
    Replicates,
    bootstrap_interval,
    detectable_difference,
    holm,
    paired_difference,
    summary,
)
from mgcl_core.support.errors import ConfigError, RunError


def simulated(clips=120, seeds=3, noise=0.6, seed=0):
    random = np.random.default_rng(seed)
    y_true = random.integers(-5, 6, clips) / 5
    return y_true, y_true + random.normal(0, noise, (seeds, clips))


def errors_as_predictions(errors):
    """Labels and predictions whose absolute errors are ``errors`` + 50, so that MAE is a plain mean."""
    labels = np.zeros(errors.shape[1])
    return labels, errors + 50


@pytest.mark.parametrize("scheme", ["sims", "mosi"])
def test_resampled_metrics_are_those_of_the_resampled_clips(scheme):
    y_true, pred = simulated(clips=23)
    pred[0] = np.round(pred[0])  # ties, and values on the cuts
    replicates = Replicates.of(y_true, pred, scheme, resamples=40, seed=7)
    counts = np.random.default_rng([7, 0]).multinomial(23, np.full(23, 1 / 23), size=40)
    for r, s in np.ndindex(40, 3):
        drawn = np.repeat(np.arange(23), counts[r])
        expected = regression_metrics(y_true[drawn], pred[s][drawn], scheme)
        for metric in METRICS[scheme]:
            assert replicates.resampled[metric][r, s] == pytest.approx(expected[metric], abs=1e-12), (metric, r, s)
    for s in range(3):
        observed = {metric: values[s] for metric, values in replicates.observed.items()}
        assert observed == pytest.approx(regression_metrics(y_true, pred[s], scheme), abs=1e-12)


def test_two_levels_equal_naive_resampling():
    y_true, pred = simulated(clips=40)
    seed_draws = np.random.default_rng([3, 1]).multinomial(3, np.full(3, 1 / 3), size=50)
    replicates = Replicates.of(y_true, pred, "sims", resamples=50, seed=3)
    expected = [np.repeat(replicates.resampled["mae"][r], seed_draws[r]).mean() for r in range(50)]
    assert replicates.means("mae") == pytest.approx(np.array(expected))


def test_chunks_change_nothing(monkeypatch):
    y_true, pred = simulated()
    whole = bootstrap_interval(y_true, pred, "sims", resamples=CHUNK + 10)
    monkeypatch.setattr("mgcl_core.statistics.CHUNK", 7)
    chunked = bootstrap_interval(y_true, pred, "sims", resamples=CHUNK + 10)
    for metric, interval in whole.items():
        assert vars(chunked[metric]) == pytest.approx(vars(interval), abs=1e-12)


def test_same_seed_same_interval_other_seed_another():
    y_true, pred = simulated()
    first = bootstrap_interval(y_true, pred, "mosi", resamples=200, seed=1)
    assert bootstrap_interval(y_true, pred, "mosi", resamples=200, seed=1) == first
    assert bootstrap_interval(y_true, pred, "mosi", resamples=200, seed=2)["mae"] != first["mae"]


def test_standard_error_of_a_mean_and_of_a_share():
    y_true, pred = simulated(clips=900, seeds=1)
    intervals = bootstrap_interval(y_true, pred, "mosi", resamples=4000)
    errors = np.abs(y_true - pred[0])
    assert intervals["mae"].estimate == pytest.approx(errors.mean())
    assert intervals["mae"].standard_error == pytest.approx(errors.std() / 30, rel=0.05)
    assert intervals["mae"].low == pytest.approx(errors.mean() - 1.96 * errors.std() / 30, rel=0.01)
    assert intervals["mae"].high == pytest.approx(errors.mean() + 1.96 * errors.std() / 30, rel=0.01)
    share = intervals["acc2_nn"].estimate
    assert intervals["acc2_nn"].standard_error == pytest.approx(math.sqrt(share * (1 - share) / 900), rel=0.05)
    rho = intervals["corr"].estimate
    assert intervals["corr"].standard_error == pytest.approx((1 - rho**2) / 30, rel=0.25)  # bivariate normal


def test_standard_error_of_seeds_that_differ_by_a_constant():
    errors = np.array([[0.0], [0.3], [0.9]]) + np.zeros((3, 50))
    y_true, pred = errors_as_predictions(errors)
    y_true[0] = 1e-9  # labels that vary, as real ones do
    interval = bootstrap_interval(y_true, pred, "mosi", resamples=4000)["mae"]
    assert interval.standard_error == pytest.approx(np.std([0, 0.3, 0.9]) / math.sqrt(3), rel=0.05)


def test_confidence_widens_the_interval():
    y_true, pred = simulated()
    narrow, wide = (bootstrap_interval(y_true, pred, "sims", confidence=c, resamples=500)["mae"] for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_difference_is_paired():
    y_true, pred = simulated(clips=400)
    shifted = pred + np.random.default_rng(1).normal(0, 0.02, pred.shape)
    difference = paired_difference(y_true, shifted, pred, "mosi", resamples=500)
    alone = bootstrap_interval(y_true, pred, "mosi", resamples=500)
    for metric in ("mae", "corr"):
        expected = np.mean(
            [
                regression_metrics(y_true, a, "mosi")[metric] - regression_metrics(y_true, b, "mosi")[metric]
                for a, b in zip(shifted, pred, strict=True)
            ]
        )
        assert difference[metric].estimate == pytest.approx(expected, abs=1e-12)
        assert difference[metric].standard_error < alone[metric].standard_error / 5
        assert difference[metric].low < difference[metric].estimate < difference[metric].high


def test_difference_changes_sign_with_its_order():
    y_true, pred = simulated(seed=1)
    _, other = simulated(noise=0.9, seed=2)
    forward = paired_difference(y_true, pred, other, "sims", resamples=300)
    backward = paired_difference(y_true, other, pred, "sims", resamples=300)
    for metric in forward:
        assert forward[metric].estimate == pytest.approx(-backward[metric].estimate)
        assert forward[metric].low == pytest.approx(-backward[metric].high)
        assert forward[metric].p == backward[metric].p


def test_a_system_against_itself_has_p_one_and_a_clear_difference_the_least():
    y_true, pred = simulated()
    assert all(d.p == 1 and d.low == d.high == 0 for d in
               paired_difference(y_true, pred, pred, "sims", resamples=200).values())  # fmt: skip
    far = paired_difference(y_true, pred, -pred, "sims", resamples=200)
    assert far["corr"].p == pytest.approx(1 / 201)
    assert far["corr"].estimate > 0


def test_null_p_values_are_nearly_uniform():
    random = np.random.default_rng(0)
    p_values = []
    for trial in range(100):  # one seed, errors of a and b exchangeable
        shared = random.normal(size=(1, 100))
        y_true, a = errors_as_predictions(shared + random.normal(size=(1, 100)))
        _, b = errors_as_predictions(shared + random.normal(size=(1, 100)))
        p_values.append(paired_difference(y_true, a, b, "mosi", resamples=150, seed=trial)["mae"].p)
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) < 0.12


@pytest.mark.parametrize(
    ("seed_effect", "clip_effect", "noise", "least", "most"), [(0.0, 1.0, 0.0, 0.88, 0.99), (0.07, 1.0, 1.0, 0.90, 1.0)]
)
def test_coverage_with_three_seeds(seed_effect, clip_effect, noise, least, most):
    random = np.random.default_rng(0)
    covered = []
    for trial in range(100):
        errors = (
            seed_effect * random.normal(size=(3, 1))
            + clip_effect * random.normal(size=(1, 100))
            + noise * random.normal(size=(3, 100))
        )
        interval = bootstrap_interval(*errors_as_predictions(errors), "mosi", resamples=200, seed=trial)["mae"]
        covered.append(interval.low <= 50 <= interval.high)
    assert least <= np.mean(covered) <= most


def test_undefined_metric_is_nan_and_the_others_are_not():
    y_true, pred = simulated()
    pred[1] = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = bootstrap_interval(y_true, pred, "sims", resamples=100)
        difference = paired_difference(y_true, pred, pred + 0.01, "sims", resamples=100)
    assert np.isnan(list(vars(intervals["corr"]).values())).all()
    assert np.isnan(list(vars(difference["corr"]).values())).all()
    assert np.isfinite(list(vars(intervals["mae"]).values())).all()


def test_resamples_that_leave_a_metric_undefined_are_left_out():
    y_true = np.array([0.0, 0.0, 0.0, 1.0, -1.0])  # a resample may hold neutral clips only
    replicates = Replicates.of(y_true, np.array([[0.1, -0.2, 0.0, 0.5, 0.3]]), "mosi", resamples=500)
    assert np.isnan(replicates.means("acc2_np")).any()
    interval = replicates.interval("acc2_np")
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_one_clip_of_predictions_in_single_precision():
    interval = bootstrap_interval(np.float32([0.2]), np.float32([[0.4]]), "sims", resamples=50)["mae"]
    assert interval.low == interval.high == pytest.approx(0.2, abs=1e-7)


def test_summary():
    assert summary([0.5, 0.7, 0.9]).mean == pytest.approx(0.7)
    assert summary([0.5, 0.7, 0.9]).sd == pytest.approx(0.2)
    assert summary([0.5, 0.7, 0.9]).n == 3
    one = summary([0.5])
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.sd)
    assert math.isnan(summary([0.5, math.nan]).mean)
    with pytest.raises(RunError, match="at least one seed"):
        summary([])


def test_holm_by_hand():
    # Ordered .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, made non-decreasing.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


def test_holm_keeps_nan_and_does_not_count_it():
    adjusted = holm([math.nan, 0.01, math.nan, 0.04])
    assert np.isnan(adjusted).tolist() == [True, False, True, False]
    assert adjusted[[1, 3]] == pytest.approx([0.02, 0.04])
    assert np.isnan(holm([math.nan])).all()


def test_detectable_difference():
    assert detectable_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert detectable_difference(0.02, power=0.5) == pytest.approx(0.02 * 1.959964, abs=1e-6)
    assert math.isnan(detectable_difference(math.nan))


def test_detectable_difference_is_found_four_times_in_five():
    random = np.random.default_rng(0)
    difference = detectable_difference(1 / math.sqrt(100))
    found = []
    for trial in range(100):
        y_true, a = errors_as_predictions(difference + random.normal(size=(1, 100)))
        b = np.full((1, 100), 50.0)
        found.append(paired_difference(y_true, a, b, "mosi", resamples=150, seed=trial)["mae"].p <= 0.05)
    assert 0.7 <= np.mean(found) <= 0.9


@pytest.mark.parametrize("pred", [np.zeros(5), np.zeros((0, 5)), np.zeros((2, 2, 5)), np.zeros((2, 4))])
def test_wrong_shapes_are_typed_errors(pred):
    with pytest.raises(RunError, match="shape"):
        bootstrap_interval(np.zeros(5), pred, "sims")


def test_other_bad_arguments_are_typed_errors():
    with pytest.raises(RunError, match="same seeds and clips"):
        paired_difference(np.zeros(5), np.zeros((2, 5)), np.zeros((3, 5)), "sims")
    with pytest.raises(RunError, match="one bootstrap resample"):
        bootstrap_interval(np.zeros(5), np.zeros((1, 5)), "sims", resamples=0)
    with pytest.raises(ConfigError, match="scheme"):
        bootstrap_interval(np.zeros(5), np.zeros((1, 5)), "simz")
