"""Intervals, tests and corrections against closed forms, naive computation and small simulations."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from mgcl_core.metrics import METRICS, regression_metrics
from mgcl_core.statistics import (
    MIN_VIDEOS,
    LeaveOneOut,
    effective_videos,
    holm,
    holm_levels,
    mean_estimates,
    paired_differences,
    prediction_interval,
    summary,
)
from mgcl_core.support.errors import ConfigError, RunError


def simulated(clips=120, seeds=3, noise=0.6, seed=0):
    random = np.random.default_rng(seed)
    y_true = random.integers(-5, 6, clips) / 5
    return y_true, y_true + random.normal(0, noise, (seeds, clips))


def in_videos(clips, videos=12):
    return np.arange(clips) % videos


def errors_as_predictions(errors):
    """Labels and predictions whose absolute errors are ``errors`` + 50, so that MAE is a plain mean."""
    return np.zeros(errors.shape[-1]), errors + 50


@pytest.mark.parametrize("scheme", ["sims", "mosi"])
def test_metrics_without_a_video_are_those_of_the_other_clips(scheme):
    y_true, pred = simulated(clips=23)
    pred[0] = np.round(pred[0])  # ties, and values on the cuts
    videos = np.array(list("aabbbbcccddddddeeeeefgg"))
    left = LeaveOneOut.of(y_true, pred, scheme, videos)
    for v, s in np.ndindex(7, 3):
        kept = videos != "abcdefg"[v]
        expected = regression_metrics(y_true[kept], pred[s][kept], scheme)
        for metric in METRICS[scheme]:
            assert left.without[metric][s, v] == pytest.approx(expected[metric], abs=1e-12), (metric, v, s)
    for s in range(3):
        observed = {metric: values[s] for metric, values in left.observed.items()}
        assert observed == pytest.approx(regression_metrics(y_true, pred[s], scheme), abs=1e-12)


def test_standard_error_is_that_of_the_two_way_analysis_of_variance():
    """Equal videos and a plain mean: the mean squares of the textbook, (MSv + MSs - MSe) / (V S)."""
    random = np.random.default_rng(0)
    videos, seeds, clips = 10, 4, 6
    errors = (
        random.normal(size=(1, videos, 1)) + random.normal(size=(seeds, 1, 1))
        + 0.5 * random.normal(size=(seeds, videos, 1)) + 0.1 * random.normal(size=(seeds, videos, clips))
    )  # fmt: skip
    table = errors.mean(axis=2)  # (S, V)
    grand, rows, columns = table.mean(), table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    of_videos = seeds * ((columns - grand) ** 2).sum() / (videos - 1)
    of_seeds = videos * ((rows - grand) ** 2).sum() / (seeds - 1)
    rest = ((table - rows - columns + grand) ** 2).sum() / (seeds - 1) / (videos - 1)
    y_true, pred = errors_as_predictions(errors.reshape(seeds, -1))
    y_true[0] = 1e-9  # labels that vary, as real ones do
    estimate = mean_estimates(y_true, pred, "mosi", np.repeat(np.arange(videos), clips))["mae"]
    variance = (of_videos + of_seeds - rest) / videos / seeds
    assert estimate.standard_error == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert estimate.seed_share == pytest.approx(of_seeds / videos / seeds / variance, rel=1e-6)


def test_one_seed_has_the_error_of_the_videos_alone():
    y_true, pred = simulated(clips=900, seeds=1)
    estimates = mean_estimates(y_true, pred, "mosi", np.arange(900))
    errors = np.abs(y_true - pred[0])
    assert estimates["mae"].value == pytest.approx(errors.mean())
    assert estimates["mae"].standard_error == pytest.approx(errors.std(ddof=1) / 30)
    assert estimates["mae"].df == pytest.approx(899)
    share = estimates["acc2_nn"].value
    assert estimates["acc2_nn"].standard_error == pytest.approx(math.sqrt(share * (1 - share) / 899), rel=1e-6)
    rho = estimates["corr"].value
    assert estimates["corr"].standard_error == pytest.approx((1 - rho**2) / 30, rel=0.25)  # bivariate normal
    low, high = estimates["mae"].interval()
    half = student.ppf(0.975, 899) * estimates["mae"].standard_error
    assert (low, high) == pytest.approx((errors.mean() - half, errors.mean() + half))
    assert math.isnan(estimates["mae"].p)


def test_seeds_that_differ_by_a_constant_leave_the_degrees_of_the_seeds():
    y_true, pred = errors_as_predictions(np.array([[0.0], [0.3], [0.9]]) + np.zeros((3, 50)))
    y_true[0] = 1e-9
    estimate = mean_estimates(y_true, pred, "mosi", in_videos(50))["mae"]
    assert estimate.standard_error == pytest.approx(np.std([0, 0.3, 0.9], ddof=1) / math.sqrt(3), rel=1e-6)
    assert (estimate.df, estimate.seed_share) == pytest.approx((2, 1))


def test_seeds_that_are_equal_leave_the_degrees_of_the_videos():
    y_true, pred = simulated(seeds=1)
    estimate = mean_estimates(y_true, np.repeat(pred, 3, axis=0), "mosi", in_videos(120))["mae"]
    assert (estimate.df, estimate.seed_share) == pytest.approx((11, 0))


def test_clips_alike_within_videos_widen_the_interval():
    random = np.random.default_rng(0)
    videos = np.repeat(np.arange(30), 10)
    y_true, pred = errors_as_predictions(random.normal(size=(1, 30)).repeat(10, axis=1) + np.zeros((3, 300)))
    y_true[0] = 1e-9
    by_video, by_clip = (mean_estimates(y_true, pred, "mosi", v)["mae"] for v in (videos, np.arange(300)))
    assert by_video.standard_error > 2.5 * by_clip.standard_error


def test_confidence_widens_the_interval():
    y_true, pred = simulated()
    estimate = mean_estimates(y_true, pred, "sims", in_videos(120))["mae"]
    narrow, wide = estimate.interval(0.5), estimate.interval(0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_p_and_interval_agree():
    y_true, pred = simulated(clips=400)
    estimate = paired_differences(y_true, pred, simulated(clips=400, seed=1)[1], "mosi", in_videos(400))["mae"]
    low, high = estimate.interval(1 - float(estimate.p))
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


def test_the_p_to_correct_is_that_of_the_weighed_critical_values():
    y_true, pred = simulated(clips=400)
    estimate = paired_differences(y_true, pred, simulated(clips=400, seed=1)[1], "mosi", in_videos(400))["mae"]
    p, share = estimate.p_to_correct, estimate.seed_share
    critical = (1 - share) * student.isf(p / 2, 11) + share * student.isf(p / 2, 2)
    assert critical * estimate.standard_error == pytest.approx(abs(estimate.value), rel=1e-4)
    assert p > estimate.p


def test_difference_is_paired():
    y_true, pred = simulated(clips=400)
    shifted = pred + np.random.default_rng(1).normal(0, 0.02, pred.shape)
    difference = paired_differences(y_true, shifted, pred, "mosi", in_videos(400))
    alone = mean_estimates(y_true, pred, "mosi", in_videos(400))
    for metric in ("mae", "corr"):
        expected = np.mean(
            [
                regression_metrics(y_true, a, "mosi")[metric] - regression_metrics(y_true, b, "mosi")[metric]
                for a, b in zip(shifted, pred, strict=True)
            ]
        )
        assert difference[metric].value == pytest.approx(expected, abs=1e-12)
        assert difference[metric].standard_error < alone[metric].standard_error / 5


def test_difference_changes_sign_with_its_order():
    y_true, pred = simulated(seed=1)
    _, other = simulated(noise=0.9, seed=2)
    forward = paired_differences(y_true, pred, other, "sims", in_videos(120))
    backward = paired_differences(y_true, other, pred, "sims", in_videos(120))
    for metric in forward:
        assert forward[metric].value == pytest.approx(-backward[metric].value)
        assert forward[metric].interval()[0] == pytest.approx(-backward[metric].interval()[1])
        assert forward[metric].p == pytest.approx(backward[metric].p)


def test_a_system_against_itself_has_p_one_and_a_clear_difference_a_small_one():
    y_true, pred = simulated()
    same = paired_differences(y_true, pred, pred, "sims", in_videos(120))
    assert all(d.p == d.p_to_correct == 1 and d.interval() == (0, 0) for d in same.values())
    assert paired_differences(y_true, pred, -pred, "sims", in_videos(120))["corr"].p < 1e-3


@pytest.mark.parametrize(("seeds", "given"), [(1, False), (2, False), (3, True), (5, True)])
def test_no_p_below_three_common_seeds(seeds, given):
    y_true, pred = simulated(seeds=seeds)
    estimate = paired_differences(y_true, pred, -pred, "sims", in_videos(120))["mae"]
    assert np.isnan([estimate.p, estimate.detectable()]).tolist() == [not given] * 2
    assert np.isnan(estimate.interval()).all() == (seeds == 2)


@pytest.mark.parametrize(("videos", "given"), [(1, False), (6, False), (8, True)])
def test_no_p_and_no_interval_below_seven_videos(videos, given):
    y_true, pred = simulated()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = paired_differences(y_true, pred, -pred, "sims", in_videos(120, videos))["mae"]
        assert np.isnan([estimate.p, *estimate.interval()]).tolist() == [not given] * 3


def test_effective_videos():
    assert effective_videos(in_videos(120)) == pytest.approx(12)
    uneven = np.repeat(np.arange(11), [100] + [1] * 10)  # one video holds nearly all clips
    assert effective_videos(uneven) == pytest.approx(110**2 / (100**2 + 10))
    assert effective_videos(uneven) < MIN_VIDEOS


def test_undefined_metric_is_nan_and_the_others_are_not():
    y_true, pred = simulated()
    pred[1] = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimates = mean_estimates(y_true, pred, "sims", in_videos(120))
        difference = paired_differences(y_true, pred, pred + 0.01, "sims", in_videos(120))
        for undefined in (estimates["corr"], difference["corr"]):
            assert np.isnan([undefined.value, undefined.standard_error, undefined.p, *undefined.interval()]).all()
        assert np.isfinite([estimates["mae"].standard_error, *estimates["mae"].interval()]).all()


def test_one_clip_of_predictions_in_single_precision():
    estimate = mean_estimates(np.float32([0.2]), np.float32([[0.4]]), "sims", [0])["mae"]
    assert estimate.value == pytest.approx(0.2, abs=1e-7)
    assert math.isnan(estimate.standard_error)


def test_many_test_sets_at_once_equal_one_at_a_time():
    parts = [simulated(seed=seed) for seed in range(3)]
    y_true, pred = np.stack([y for y, _ in parts])[:, None], np.stack([p for _, p in parts])
    together = LeaveOneOut.of(y_true, pred, "mosi", in_videos(120))
    for position, (labels, predictions) in enumerate(parts):
        one = mean_estimates(labels, predictions, "mosi", in_videos(120))
        for metric in METRICS["mosi"]:
            estimate = together.estimate(metric)
            assert estimate.value[position] == pytest.approx(one[metric].value)
            assert estimate.standard_error[position] == pytest.approx(one[metric].standard_error)
            assert estimate.p[position] == pytest.approx(one[metric].p)


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


def test_prediction_interval_by_hand():
    # s = .2, t_2 = 4.3027, sqrt(1/3 + 1/3) = .8165
    assert prediction_interval([0.5, 0.7, 0.9]) == pytest.approx((0.7 - 0.70263, 0.7 + 0.70263), abs=1e-4)
    assert np.isnan(prediction_interval([0.5])).all()
    assert np.isnan(prediction_interval([0.5, math.nan])).all()


def test_prediction_interval_holds_the_mean_of_three_further_runs():
    random = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        low, high = prediction_interval(random.normal(size=3))
        held.append(low <= random.normal(size=3).mean() <= high)
    assert 0.935 <= np.mean(held) <= 0.965


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


def test_levels_are_those_that_holm_holds_each_p_against():
    levels = holm_levels([0.04, math.nan, 0.01, 0.03])
    assert levels[[0, 2, 3]] == pytest.approx([0.05, 0.05 / 3, 0.025])
    assert math.isnan(levels[1])


def test_detectable_difference_of_known_degrees():
    y_true, pred = errors_as_predictions(np.array([[0.0], [0.3], [0.9]]) + np.zeros((3, 50)))
    y_true[0] = 1e-9
    estimate = mean_estimates(y_true, pred, "mosi", in_videos(50))["mae"]  # df = 2
    error = estimate.standard_error
    factor = estimate.detectable() / error  # all from the seeds: Cochran's critical value is that of t_2
    assert nct.sf(4.302653, 2, factor) == pytest.approx(0.8, abs=1e-5)
    assert nct.sf(9.924843, 2, estimate.detectable(0.01, power=0.5) / error) == pytest.approx(0.5, abs=1e-5)


def test_power_is_the_inverse_of_detectable_and_the_chance_of_noncentral_t():
    estimate = mean_estimates(*simulated(), "sims", np.arange(120) % 12)["mae"]
    for alpha, power in ((0.05, 0.8), (0.002, 0.3)):
        assert estimate.power(estimate.detectable(alpha, power), alpha) == pytest.approx(power, abs=1e-6)
    shift = 0.03 / estimate.standard_error
    assert estimate.power(-0.03) == pytest.approx(nct.sf(estimate.critical(0.05), estimate.df, shift), abs=1e-6)
    assert np.isnan(mean_estimates(*simulated(seeds=2), "sims", np.arange(120) % 12)["mae"].power(0.03))  # as p


def test_detectable_difference_is_found_four_times_in_five():
    random = np.random.default_rng(0)
    y_true = np.zeros((1000, 1, 30))
    y_true[..., 0] = 1e-9
    noise = random.normal(size=(1000, 1, 30)) + 0.1 * random.normal(size=(1000, 3, 1))
    estimate = LeaveOneOut.of(y_true, 50 + noise, "mosi", np.arange(30)).estimate("mae")
    # What test sets call detectable on average, added to each.
    difference = estimate.detectable().mean()
    found = np.abs(estimate.value - 50 + difference) / estimate.standard_error > estimate.critical(0.05)
    assert 0.76 <= found.mean() <= 0.84


@pytest.mark.parametrize("pred", [np.zeros(5), np.zeros((0, 5)), np.zeros((2, 4))])
def test_wrong_shapes_are_typed_errors(pred):
    with pytest.raises(RunError, match="shape"):
        mean_estimates(np.zeros(5), pred, "sims", np.arange(5))


def test_other_bad_arguments_are_typed_errors():
    with pytest.raises(RunError, match="same seeds and clips"):
        paired_differences(np.zeros(5), np.zeros((2, 5)), np.zeros((3, 5)), "sims", np.arange(5))
    with pytest.raises(RunError, match="video of each clip"):
        mean_estimates(np.zeros(5), np.zeros((1, 5)), "sims", np.arange(4))
    with pytest.raises(ConfigError, match="scheme"):
        mean_estimates(np.zeros(5), np.zeros((1, 5)), "simz", np.arange(5))


def test_a_weighted_sum_of_scores_is_that_of_every_seed_and_video():
    y_true, _ = simulated()
    pred = np.stack([simulated(seed=seed)[1] for seed in (1, 2, 3)])  # (masks, seeds, clips)
    pred[2] = 0.5  # constant: no Corr
    videos = in_videos(len(y_true))
    left = LeaveOneOut.of(y_true, pred, "sims", videos)
    mean = left.weighted([0.5, 0.5, 0])
    one, two = (LeaveOneOut.of(y_true, values, "sims", videos) for values in pred[:2])
    for metric in METRICS["sims"]:
        np.testing.assert_allclose(mean.observed[metric], (one.observed[metric] + two.observed[metric]) / 2)
        np.testing.assert_allclose(mean.without[metric], (one.without[metric] + two.without[metric]) / 2)
    assert np.isfinite(mean.estimate("corr").p) and np.isnan(left.weighted([0.5, 0, 0.5]).estimate("corr").value)
