"""The metrics of the paper's section 4.1, as the field computes them (thuiar/MMSA).

Every metric is a function of sums over clips (`clip_terms`, `metrics_of_sums`): the metrics of a test set without
one of its videos then need differences of sums only, and come from the same code as the reported ones.
"""

from __future__ import annotations

import numpy as np

from .support.errors import ConfigError, RunError, nearest

#: Keys of `regression_metrics` in the order of the paper's columns.
METRICS = {
    "sims": ("acc2", "f1", "acc3", "acc5", "mae", "corr"),
    "mosi": ("acc2_nn", "f1_nn", "acc2_np", "f1_np", "acc5", "acc7", "mae", "corr"),
}
#: Column names. NN: negative / non-negative; NP: negative / positive, without the neutral clips.
METRIC_NAMES = {
    "acc2": "Acc-2", "f1": "F1", "acc3": "Acc-3", "acc5": "Acc-5", "acc7": "Acc-7",
    "acc2_nn": "Acc-2 NN", "f1_nn": "F1 NN", "acc2_np": "Acc-2 NP", "f1_np": "F1 NP",
    "mae": "MAE", "corr": "Corr",
}  # fmt: skip
#: F1 with labels and predictions in each other's place, as `f1_score(preds, truth, average="weighted")` of MulT's
#: src/eval_metrics.py and of code that descends from it gives it: classes are weighted by the predictions.
SWAPPED_F1 = {"f1_swapped": ("f1", "pn"), "f1_nn_swapped": ("f1_nn", "nn"), "f1_np_swapped": ("f1_np", "np")}
METRIC_NAMES |= {name: f"{METRIC_NAMES[metric]}, arguments swapped" for name, (metric, _) in SWAPPED_F1.items()}
HIGHER_IS_BETTER = {metric: metric != "mae" for metric in METRIC_NAMES}

# Classes of CH-SIMS are intervals between these cuts, open on the left and closed on the right (so the
# two classes of Acc-2 are y <= 0 and y > 0).
SIMS_CUTS = {3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}


def regression_metrics(y_true, y_pred, scheme: str) -> dict[str, float]:
    """Metrics of predictions ``y_pred`` (N,) against labels ``y_true`` (N,), in the units of the file.

    ``scheme`` is ``"sims"`` (labels and predictions clipped to [-1, 1] first, for MAE and Corr too) or
    ``"mosi"`` (labels in [-3, 3]; nothing clipped for MAE and Corr). Returns the keys of `METRICS`:
    accuracies and F1 as fractions, MAE in label units, unrounded. F1 is weighted by support. Corr is
    NaN where either side is constant; the NP metrics are NaN where every label is 0.

    Raises `ConfigError` for an unknown scheme, `RunError` for arrays that are empty, not of one
    common length, not numeric or not finite.
    """
    if (shape := np.shape(y_true)) != np.shape(y_pred) or len(shape) != 1:
        raise RunError(f"metrics need labels and predictions of one shape (N,): found {shape} and {np.shape(y_pred)}")
    sums = {name: terms.sum() for name, terms in clip_terms(y_true, y_pred, scheme).items()}
    return {name: float(value) for name, value in metrics_of_sums(sums, scheme).items()}


def swapped_f1(y_true, y_pred, scheme: str) -> dict[str, float]:
    """Each F1 of ``scheme`` with its arguments swapped (`SWAPPED_F1`); takes and raises what `regression_metrics` does.

    The same clips count as in F1: those with a neutral label are left out of NP, whatever is predicted.
    """
    sums = {name: terms.sum() for name, terms in clip_terms(y_true, y_pred, scheme).items()}
    found = {}
    for name, (metric, cells) in SWAPPED_F1.items():
        if metric in METRICS[scheme]:
            swapped = {**sums, f"{cells}_fn": sums[f"{cells}_fp"], f"{cells}_fp": sums[f"{cells}_fn"]}
            found[name] = float(weighted_f1(swapped, cells))
    return found


def clip_terms(y_true, y_pred, scheme: str) -> dict[str, np.ndarray]:
    """What each clip adds to the sums that make the metrics: name to float64 (..., N).

    Takes and raises what `regression_metrics` does; the last axis of both arrays is the clips, and their other axes
    must fit (labels (N,) and predictions (S, N), say). A term of the labels alone has the labels' shape.
    """
    if scheme not in METRICS:
        raise ConfigError(f"unknown scheme {scheme!r}: {nearest(scheme, METRICS)}")
    y_true, y_pred = _checked(y_true, "labels"), _checked(y_pred, "predictions")
    if y_true.shape[-1] != y_pred.shape[-1]:
        raise RunError(
            f"metrics need one prediction per label: expected shape (..., {y_true.shape[-1]}); found {y_pred.shape}"
        )
    terms = {"n": np.ones(y_true.shape[-1])}
    if scheme == "sims":
        y_true, y_pred = np.clip(y_true, -1, 1), np.clip(y_pred, -1, 1)
        terms |= _confusion("pn", y_true > 0, y_pred > 0)
        for k, cuts in SIMS_CUTS.items():
            terms[f"acc{k}"] = _interval(y_true, cuts) == _interval(y_pred, cuts)
    else:
        terms |= _confusion("nn", y_true >= 0, y_pred >= 0)
        terms |= _confusion("np", y_true > 0, y_pred > 0, counted=y_true != 0)
        for k, bound in ((5, 2), (7, 3)):  # np.round: half to even
            terms[f"acc{k}"] = _rounded(y_true, bound) == _rounded(y_pred, bound)
    y_true, y_pred = y_true.astype(np.float64), y_pred.astype(np.float64)
    terms["absolute_error"] = np.abs(y_true - y_pred)
    t, p = _centred(y_true), _centred(y_pred)
    terms |= {"t": t, "p": p, "tt": t * t, "pp": p * p, "tp": t * p}
    return {name: np.asarray(term, dtype=np.float64) for name, term in terms.items()}


def metrics_of_sums(sums: dict[str, np.ndarray], scheme: str) -> dict[str, np.ndarray]:
    """The metrics from sums of `clip_terms` over clips, of any common shape (one entry a resample)."""
    n = sums["n"]
    if scheme == "sims":
        values = {
            "acc2": _binary_accuracy(sums, "pn"),
            "f1": weighted_f1(sums, "pn"),
            "acc3": sums["acc3"] / n,
            "acc5": sums["acc5"] / n,
        }
    else:
        values = {
            "acc2_nn": _binary_accuracy(sums, "nn"),
            "f1_nn": weighted_f1(sums, "nn"),
            "acc2_np": _binary_accuracy(sums, "np"),
            "f1_np": weighted_f1(sums, "np"),
            "acc5": sums["acc5"] / n,
            "acc7": sums["acc7"] / n,
        }
    return values | {"mae": sums["absolute_error"] / n, "corr": _pearson(sums)}


def _checked(values, what: str) -> np.ndarray:
    """A finite array (..., N) of a floating type; float32 and float64 are kept as they are."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise RunError(f"metrics need numeric {what}; found dtype {values.dtype}")
    if values.ndim == 0 or values.size == 0:
        raise RunError(f"metrics need {what} of shape (..., N) with N >= 1; found {values.shape}")
    if not np.isfinite(values).all():
        raise RunError(f"metrics need finite {what}; found {np.sum(~np.isfinite(values))} NaN or infinite")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _interval(values: np.ndarray, cuts: tuple[float, ...]) -> np.ndarray:
    """Index of the interval (cut, next cut] that holds each value.

    The cuts take the array's own type, as they do in the field's code: 0.1 and -0.7 then fall on the
    closed side both as float32 and as float64 (float32's 0.1 exceeds float64's 0.1).
    """
    return np.searchsorted(np.asarray(cuts, dtype=values.dtype), values, side="left")


def _rounded(values: np.ndarray, bound: int) -> np.ndarray:
    return np.round(np.clip(values, -bound, bound))


def _confusion(name: str, true: np.ndarray, predicted: np.ndarray, counted=True) -> dict[str, np.ndarray]:
    """Indicators of the four cells of a binary confusion matrix, zero for clips not ``counted``."""
    cells = {"tp": true & predicted, "fn": true & ~predicted, "fp": ~true & predicted, "tn": ~true & ~predicted}
    return {f"{name}_{cell}": indicator & counted for cell, indicator in cells.items()}


def _binary_accuracy(sums: dict[str, np.ndarray], name: str) -> np.ndarray:
    tp, fn, fp, tn = (sums[f"{name}_{cell}"] for cell in ("tp", "fn", "fp", "tn"))
    return _ratio(tp + tn, tp + fn + fp + tn)


def weighted_f1(sums: dict[str, np.ndarray], name: str) -> np.ndarray:
    """scikit-learn's ``f1_score(true, predicted, average="weighted")`` from ``NAME_tp``, ``_fn``, ``_fp``, ``_tn``."""
    tp, fn, fp, tn = (sums[f"{name}_{cell}"] for cell in ("tp", "fn", "fp", "tn"))
    positive = np.nan_to_num(_ratio(2 * tp, 2 * tp + fp + fn))  # 0 where the class never occurs
    negative = np.nan_to_num(_ratio(2 * tn, 2 * tn + fp + fn))
    return _ratio((tp + fn) * positive + (tn + fp) * negative, tp + fn + fp + tn)


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean, over the largest one: exactly 0 for constant values, whatever they are."""
    deviations = values - values[..., :1]
    deviations = deviations - deviations.mean(axis=-1, keepdims=True)
    largest = np.abs(deviations).max(axis=-1, keepdims=True)
    return deviations / np.where(largest == 0, 1.0, largest)


def _pearson(sums: dict[str, np.ndarray]) -> np.ndarray:
    n = sums["n"]
    true_mean, predicted_mean = sums["t"] / n, sums["p"] / n
    covariance = sums["tp"] / n - true_mean * predicted_mean
    true_variance = _variance(sums["tt"] / n, true_mean)
    predicted_variance = _variance(sums["pp"] / n, predicted_mean)
    return np.clip(_ratio(covariance, np.sqrt(true_variance * predicted_variance)), -1, 1)


def _variance(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Variance from moments, 0 where only rounding is left: a resample of equal values is constant."""
    variance = mean_square - mean**2
    return np.where(variance > 1e-13 * mean_square, variance, 0.0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0, without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, np.divide(numerator, denominator))
