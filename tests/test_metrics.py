"""Metrics against naive loops written from their definitions, scikit-learn and numpy; real labels where available."""

from __future__ import annotations

import csv
import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from mgcl_core.metrics import HIGHER_IS_BETTER, METRIC_NAMES, METRICS, regression_metrics
from mgcl_core.support.errors import ConfigError, RunError

PAPER_TEST_SIZES = {"CH-SIMS": 457, "CMU-MOSI": 686, "CMU-MOSEI": 4659}


def clip_to(values, bound):
    return [max(-bound, min(bound, value)) for value in values]


def interval_class(value, cuts):
    """Number of cuts below ``value``: intervals open on the left, closed on the right."""
    return sum(cut < value for cut in cuts)


def half_even(value, bound):
    return round(max(-bound, min(bound, value)))  # Python's round is half to even


def naive_corr(t, p):
    if len(set(t)) == 1 or len(set(p)) == 1:
        return math.nan
    return np.corrcoef(t, p)[0, 1]


def naive(y_true, y_pred, scheme):
    t, p = [float(v) for v in y_true], [float(v) for v in y_pred]
    out = {}
    if scheme == "sims":
        t, p = clip_to(t, 1), clip_to(p, 1)
        sides = {"acc2": ([v > 0 for v in t], [v > 0 for v in p])}
        for k, cuts in ((3, (-0.1, 0.1)), (5, (-0.7, -0.1, 0.1, 0.7))):
            out[f"acc{k}"] = accuracy_score(*([interval_class(v, cuts) for v in side] for side in (t, p)))
    else:
        some = [i for i, v in enumerate(t) if v != 0]
        sides = {
            "acc2_nn": ([v >= 0 for v in t], [v >= 0 for v in p]),
            "acc2_np": ([t[i] > 0 for i in some], [p[i] > 0 for i in some]),
        }
        for k, bound in ((5, 2), (7, 3)):
            out[f"acc{k}"] = sum(half_even(a, bound) == half_even(b, bound) for a, b in zip(t, p, strict=True)) / len(t)
    for name, (true, predicted) in sides.items():
        out[name] = accuracy_score(true, predicted) if true else math.nan
        out[name.replace("acc2", "f1")] = f1_score(true, predicted, average="weighted") if true else math.nan
    out["mae"] = sum(abs(a - b) for a, b in zip(t, p, strict=True)) / len(t)
    out["corr"] = naive_corr(t, p)
    return out


def assert_equal(actual, expected):
    assert list(actual) == list(METRICS["sims" if "acc3" in actual else "mosi"])
    assert set(actual) == set(expected)
    for name in actual:
        assert isinstance(actual[name], float)
        assert actual[name] == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name


# Values on and beside every cut and every half, and beyond the bounds.
values = st.one_of(
    st.sampled_from([-3.5, -3, -2.5, -2, -1.5, -1, -0.7, -0.5, -0.1, -0.0, 0.0, 0.1, 0.2, 0.5, 0.7, 1, 1.5, 2.5, 3, 9]),
    st.integers(-40, 40).map(lambda tenths: tenths / 10),
)


@pytest.mark.parametrize("scheme", ["sims", "mosi"])
@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(values, values), min_size=1, max_size=30))
@example(pairs=[(0.0, 0.0)])
@example(pairs=[(0.0, 1.0), (0.0, -1.0)])
@example(pairs=[(1.0, 1.0), (1.0, 1.0)])
def test_equals_naive_loops(scheme, pairs):
    y_true, y_pred = map(list, zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = regression_metrics(y_true, np.array(y_pred), scheme)
    assert_equal(actual, naive(y_true, y_pred, scheme))


@pytest.mark.parametrize("scheme", ["sims", "mosi"])
def test_equals_naive_loops_on_continuous_predictions(scheme):
    random = np.random.default_rng(0)
    for clips in (2, 3, 50, 700):
        y_true = random.integers(-15, 16, clips) / 5
        y_pred = y_true + random.normal(0, 0.8, clips)
        assert_equal(regression_metrics(y_true, y_pred, scheme), naive(y_true, y_pred, scheme))


def test_by_hand_sims():
    metrics = regression_metrics([-1.0, -0.2, 0.0, 0.2, 1.0], [-3.0, 0.05, 0.0, 0.8, 0.6], "sims")
    # Acc-2: -, -, -, +, + against -, +, -, +, +; Acc-3: the second is wrong; Acc-5: so are the last two.
    assert metrics["acc2"] == 4 / 5
    assert metrics["acc3"] == 4 / 5
    assert metrics["acc5"] == 2 / 5
    assert metrics["mae"] == pytest.approx((0 + 0.25 + 0 + 0.6 + 0.4) / 5)  # -3 is clipped to -1
    assert metrics["f1"] == pytest.approx(3 / 5 * (2 * 2 / (2 * 2 + 1)) + 2 / 5 * (2 * 2 / (2 * 2 + 1)))


def test_by_hand_mosi():
    metrics = regression_metrics([-2.0, 0.0, 0.0, 1.5, 3.0], [-4.0, -0.1, 0.0, 2.5, 0.5], "mosi")
    assert metrics["acc2_nn"] == 4 / 5
    assert metrics["acc2_np"] == 1.0
    assert metrics["f1_np"] == 1.0
    assert metrics["acc7"] == 3 / 5  # -2/-3, 0/0, 0/0, 2/2 (half to even, twice), 3/0
    assert metrics["acc5"] == 4 / 5  # clipped to 2 first: -2/-2 too
    assert metrics["mae"] == pytest.approx((2 + 0.1 + 0 + 1 + 2.5) / 5)  # nothing clipped


@pytest.mark.parametrize("true_type", [np.float32, np.float64])
@pytest.mark.parametrize("predicted_type", [np.float32, np.float64])
def test_a_cut_belongs_to_the_class_on_its_left_in_either_precision(true_type, predicted_type):
    cuts = np.array([-0.7, -0.1, 0.0, 0.1, 0.7])
    left = np.array([-0.8, -0.6, -0.05, 0.05, 0.6])
    right = np.array([-0.6, 0.05, 0.05, 0.6, 0.8])
    own = regression_metrics(cuts.astype(true_type), left.astype(predicted_type), "sims")
    other = regression_metrics(cuts.astype(true_type), right.astype(predicted_type), "sims")
    assert (own["acc2"], own["acc3"], own["acc5"]) == (1, 1, 1)
    assert other["acc5"] == 1 / 5  # 0.0 and 0.05 share (-0.1, 0.1]; every other cut is crossed
    as_predictions = regression_metrics(left.astype(true_type), cuts.astype(predicted_type), "sims")
    assert (as_predictions["acc2"], as_predictions["acc3"], as_predictions["acc5"]) == (1, 1, 1)


@pytest.mark.parametrize("constant", [0.0, 0.1, -0.3, 1e-30, 5.0])
@pytest.mark.parametrize("scheme", ["sims", "mosi"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_constant_predictions_or_labels_have_no_corr(constant, scheme, kind):
    varied, same = np.linspace(-1, 1, 77).astype(kind), np.full(77, constant, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for y_true, y_pred in ((varied, same), (same, varied), (same, same)):
            metrics = regression_metrics(y_true, y_pred, scheme)
            assert math.isnan(metrics["corr"])
            assert math.isfinite(metrics["mae"])


def test_predictions_beyond_the_bound_are_constant_on_sims():
    assert math.isnan(regression_metrics([0.2, -0.4, 1.0], [1.5, 2.0, 3.0], "sims")["corr"])


def test_neutral_labels_only_leave_np_undefined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = regression_metrics([0.0, -0.0, 0.0], [1.0, -1.0, 0.5], "mosi")
    assert math.isnan(metrics["acc2_np"])
    assert math.isnan(metrics["f1_np"])
    assert metrics["acc2_nn"] == 2 / 3


def test_corr_is_exact_far_from_zero():
    y_true = np.arange(50) / 10 - 2.5
    assert regression_metrics(y_true, 1e6 + 1e-3 * y_true, "mosi")["corr"] == pytest.approx(1.0, abs=1e-9)
    assert regression_metrics(y_true, -y_true, "mosi")["corr"] == pytest.approx(-1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([0.0, 1.0], [0.0], "shape"),
        ([], [], "N >= 1"),
        ([[0.0]], [[0.0]], "shape"),
        (0.0, 0.0, "shape"),
        ([0.0, math.nan], [0.0, 1.0], "finite labels"),
        ([0.0, 1.0], [math.nan, 1.0], "finite predictions"),
        ([0.0, 1.0], [math.inf, 1.0], "finite predictions"),
        (["a", "b"], [0.0, 1.0], "numeric"),
        ([None, 1.0], [0.0, 1.0], "numeric"),
    ],
)
def test_bad_arrays_are_typed_errors(y_true, y_pred, message):
    with pytest.raises(RunError, match=message):
        regression_metrics(y_true, y_pred, "mosi")


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'mosi'"):
        regression_metrics([0.0], [0.0], "mosei")


def test_every_metric_has_a_name_and_a_direction():
    for names in METRICS.values():
        assert set(names) <= set(METRIC_NAMES)
    assert set(HIGHER_IS_BETTER) == set(METRIC_NAMES)
    assert [name for name, higher in HIGHER_IS_BETTER.items() if not higher] == ["mae"]


def test_labels_of_any_numeric_type():
    expected = regression_metrics([1.0, 0.0, -1.0], [0.5, 0.0, -1.0], "mosi")
    assert regression_metrics(np.array([1, 0, -1]), [0.5, 0.0, -1.0], "mosi") == expected
    on_ints = regression_metrics([0.15, 0.3], [1, 0], "sims")
    assert (on_ints["acc3"], on_ints["acc5"]) == (0.5, 0.0)


def real_labels(shared_data, dataset):
    path = shared_data / dataset / "labels.csv"
    if not path.is_file():
        pytest.skip(f"real labels are absent ({path})")
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row["label"]) for row in csv.DictReader(file) if row["mode"] == "test"])


@pytest.mark.parametrize("dataset", PAPER_TEST_SIZES)
def test_real_labels(shared_data, dataset):
    labels = real_labels(shared_data, dataset)
    scheme = "sims" if dataset == "CH-SIMS" else "mosi"
    assert len(labels) == PAPER_TEST_SIZES[dataset]
    perfect = regression_metrics(labels.astype(np.float32), labels, scheme)
    assert all(value == pytest.approx(0 if name == "mae" else 1, abs=1e-7) for name, value in perfect.items())

    predictions = labels + np.random.default_rng(0).normal(0, 0.5, len(labels))
    actual = regression_metrics(labels, predictions, scheme)
    assert_equal(actual, naive(labels, predictions, scheme))
    single = regression_metrics(labels.astype(np.float32), predictions.astype(np.float32), scheme)
    assert single == pytest.approx(actual, abs=1e-6)

    # Always "positive": accuracies are shares of classes. MOSI has 656 clips that are not neutral, MOSEI 3634.
    positive = regression_metrics(labels, np.full(len(labels), 1.0), scheme)
    if scheme == "sims":
        assert positive["acc2"] == np.mean(labels > 0)
        assert not np.isin(np.round(labels, 6), (-0.7, -0.1, 0.1, 0.7)).any()  # no label lies on a cut
    else:
        clear = {"CMU-MOSI": 656, "CMU-MOSEI": 3634}[dataset]
        assert positive["acc2_np"] * clear == pytest.approx((labels > 0).sum())
        assert positive["acc2_nn"] == np.mean(labels >= 0)
