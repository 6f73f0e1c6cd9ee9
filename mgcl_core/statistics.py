"""How much of a number is noise: means over seeds, bootstrap intervals, paired differences.

A score varies with the seed of the training and with the clips that happen to be in the test set.
`Replicates` resamples both at once: clips with replacement, the same ones for every seed and every
system (the test set is one factor, the seed another, and they are crossed), and seeds with
replacement. ``scipy.stats.bootstrap`` resamples one axis only; since every metric is a function of
sums over clips (`mgcl_core.metrics.clip_terms`), all resamples are one matrix product here.

Limits, as simulations with three seeds show them (tests/test_statistics.py holds two): 95 % intervals
cover about .94 to .97 where clips or both levels matter, nearly 1 where the only noise is that of
single predictions (it is counted at both levels), .90 where a seed's own effect is as large as 2.8
standard errors of the clips, and .74 where it is all there is: three seeds say little about seeds.
One seed leaves that spread out altogether. Clips of one video count as independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from .metrics import clip_terms, metrics_of_sums
from .support.errors import RunError

#: Table 4 in full makes 140 comparisons: Holm's smallest p-value is then 140 / (RESAMPLES + 1) = .028.
RESAMPLES = 5000
#: Resamples held in memory at once.
CHUNK = 500
SEED = 20240


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1, NaN for a single value) of ``n`` seeds."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, its percentile bootstrap interval and bootstrap standard error.

    All are NaN where the metric is undefined for one of the seeds.
    """

    estimate: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference of means, with the two-sided p-value of "there is none"."""

    p: float


def summary(values: Iterable[float]) -> Summary:
    """Mean and sample sd of one metric over seeds; a NaN among them makes both NaN, never drops it."""
    values = np.asarray(list(values), dtype=np.float64)
    if len(values) == 0:
        raise RunError("a summary needs the metric of at least one seed; found none")
    sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(values.mean()), sd, len(values))


@dataclass(frozen=True)
class Replicates:
    """Metrics of S seeds on the test set and on R resamples of its clips.

    ``observed`` maps a metric to (S,), ``resampled`` to (R, S); ``seed`` drives both levels of the
    resampling, so replicates of equal R, N and seed rest on the same clips and can be subtracted.
    """

    observed: dict[str, np.ndarray]
    resampled: dict[str, np.ndarray]
    seed: int

    @classmethod
    def of(cls, y_true, pred, scheme: str, *, resamples: int = RESAMPLES, seed: int = SEED) -> Replicates:
        """Replicates of predictions ``pred`` (S, N) for labels ``y_true`` (N,).

        Raises what `regression_metrics` raises, and `RunError` for ``pred`` that is not (S, N).
        """
        pred = np.asarray(pred)
        if pred.ndim != 2 or len(pred) == 0:
            raise RunError(f"expected predictions of shape (seeds, clips), one seed or more; found {pred.shape}")
        if resamples < 1:
            raise RunError(f"expected one bootstrap resample or more; found {resamples}")
        terms = [clip_terms(y_true, row, scheme) for row in pred]
        stacked = np.stack([np.stack(list(of_seed.values())) for of_seed in terms])  # (S, K, N)
        observed = _metrics(terms[0], stacked.sum(axis=2), scheme)  # (S,)
        clips, parts = stacked.shape[2], []
        generator = np.random.default_rng([seed, 0])
        for start in range(0, resamples, CHUNK):
            # How often each clip is drawn: (<= CHUNK, N), each row with sum N.
            counts = generator.multinomial(clips, np.full(clips, 1 / clips), size=min(CHUNK, resamples - start))
            parts.append(np.einsum("rn,skn->rsk", counts.astype(np.float64), stacked, optimize=True))
        resampled = _metrics(terms[0], np.concatenate(parts), scheme)  # (R, S)
        return cls(observed, resampled, seed)

    def __sub__(self, other: Replicates) -> Replicates:
        """Replicates of the difference, seed by seed and clip by clip."""
        return Replicates(
            {metric: self.observed[metric] - other.observed[metric] for metric in self.observed},
            {metric: self.resampled[metric] - other.resampled[metric] for metric in self.observed},
            self.seed,
        )

    def take(self, seeds: Sequence[int]) -> Replicates:
        """The replicates of some seeds, by their positions."""
        seeds = list(seeds)
        return Replicates(
            {metric: values[seeds] for metric, values in self.observed.items()},
            {metric: values[:, seeds] for metric, values in self.resampled.items()},
            self.seed,
        )

    def means(self, metric: str) -> np.ndarray:
        """Bootstrap distribution (R,) of the mean over seeds, clips and seeds resampled."""
        values = self.resampled[metric]  # (R, S)
        resamples, seeds = values.shape
        generator = np.random.default_rng([self.seed, 1])
        draws = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # (R, S)
        return (draws * values).sum(axis=1) / seeds

    def interval(self, metric: str, confidence: float = 0.95) -> Interval:
        """Percentile interval of the mean over seeds; undefined resamples are left out."""
        estimate, means = self._distribution(metric)
        if np.isnan(estimate) or len(means) < 2:
            return Interval(estimate, *[float("nan")] * 3)
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(estimate, float(low), float(high), float(means.std(ddof=1)))

    def difference(self, metric: str, confidence: float = 0.95) -> Difference:
        """Interval and p-value of a difference made by ``a - b``.

        The p-value is that of the bootstrap test: how often a resampled difference, centred at the
        observed one, is at least as far from it as the observed one is from 0, as (k + 1)/(R + 1).
        """
        interval = self.interval(metric, confidence)
        estimate, means = self._distribution(metric)
        if np.isnan(interval.low):
            return Difference(**vars(interval), p=float("nan"))
        # Metrics are fractions of small whole numbers, so ties are common: rounding must not split them.
        extreme = np.abs(means - estimate) >= abs(estimate) - 1e-12
        return Difference(**vars(interval), p=float((extreme.sum() + 1) / (len(means) + 1)))

    def _distribution(self, metric: str) -> tuple[float, np.ndarray]:
        means = self.means(metric)
        return float(self.observed[metric].mean()), means[~np.isnan(means)]


def _metrics(names: Iterable[str], sums: np.ndarray, scheme: str) -> dict[str, np.ndarray]:
    """Metrics from sums (..., K) of the K named clip terms."""
    return metrics_of_sums(dict(zip(names, np.moveaxis(sums, -1, 0), strict=True)), scheme)


def bootstrap_interval(
    y_true, pred, scheme: str, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Interval of every metric's mean over seeds: ``pred`` (S, N), ``y_true`` (N,); see `Replicates`."""
    replicates = Replicates.of(y_true, pred, scheme, resamples=resamples, seed=seed)
    return {metric: replicates.interval(metric, confidence) for metric in replicates.observed}


def paired_difference(
    y_true, pred_a, pred_b, scheme: str, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Mean difference a - b of every metric over the same seeds (rows, in the same order) and clips.

    ``pred_a``, ``pred_b`` (S, N), ``y_true`` (N,). Raises `RunError` where the shapes differ.
    """
    if np.shape(pred_a) != np.shape(pred_b):
        raise RunError(
            "a paired difference needs the same seeds and clips: expected equal shapes (seeds, clips); "
            f"found {np.shape(pred_a)} and {np.shape(pred_b)}"
        )
    a, b = (Replicates.of(y_true, pred, scheme, resamples=resamples, seed=seed) for pred in (pred_a, pred_b))
    return {metric: (a - b).difference(metric, confidence) for metric in a.observed}


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm's step-down adjustment, in the order given. NaN stays NaN and does not count as a test."""
    p_values = np.asarray(list(p_values), dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN sorts last
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def detectable_difference(standard_error: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference that a two-sided test at ``alpha`` finds with probability ``power``.

    (z_{1 - alpha/2} + z_power) standard errors, 2.80 by default. ``standard_error`` is that of the
    paired difference; where only one system exists, its own times sqrt(2) stands in for it (two
    systems of equal, independent error), which a real pair on the same clips usually undercuts.
    """
    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * standard_error)
