"""How much of a number is noise: means over seeds, their intervals, paired differences and tests.

A score varies with the videos that happen to be in the test set (clips of one video are alike, so the video is the
unit of sampling) and with the seed of the training. Both are crossed: every seed is scored on the same clips. For any
metric, leaving out one video at a time (the jackknife) gives a table of videos by seeds, and three variances of the
mean over S seeds:

- A, of the mean over seeds, from the videos. It holds what the videos do to all seeds and, S times smaller, what they
  do to each seed by itself;
- W, the second part of A: the videos' effect on a seed's deviation from the mean over seeds;
- B, the sample variance of the S seeds over S. It holds the seeds' own effect and W once more.

The variance of the mean is max(0, A - W) + B, as in the two-way analysis of variance with random rows and columns.
Its degrees of freedom weigh those of the videos and of the seeds by their shares of it (`SHARE_EXPONENT`). The
simulation in `mgcl_core.bench.simulation` (``make statistics``, docs/statistics.md) holds intervals and tests against
a known truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, nctdtrinc
from scipy.stats import t as student

from .metrics import clip_terms, metrics_of_sums
from .support.errors import RunError

#: With fewer seeds, nothing known about two sources of noise keeps the error of a test near 5 % (docs/statistics.md).
MIN_SEEDS = 3
#: Effective number of videos (`effective_videos`) below which neither an interval nor a p is given.
MIN_VIDEOS = 7.0
#: 2 is Satterthwaite's formula. With three seeds it rejects up to .08 where .05 is said, since the seeds' share is
#: itself an estimate and the formula trusts it most when it is small by chance; 1 rejects too little.
SHARE_EXPONENT = 1.5


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1, NaN for a single value) of ``n`` seeds."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Estimate:
    """A metric's mean over seeds, or a paired difference of two, with its noise. Floats, or arrays of one shape.

    - ``value``: the mean; ``standard_error`` and ``df``: of it, in the sense of Student's t
    - ``seed_share``: the share of its variance that comes from the seeds, 0 to 1
    - ``seeds``, ``videos``: what it rests on; ``videos`` is the effective number

    All are NaN where the metric is undefined for a seed or without one of the videos.
    """

    value: np.ndarray
    standard_error: np.ndarray
    df: np.ndarray
    seed_share: np.ndarray
    seeds: int
    videos: float

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Low and high end. Of one seed, it covers the choice of videos only.

        NaN where there are too few videos, or two seeds, which say too little about seeds (`MIN_SEEDS`).
        """
        given = self.videos >= MIN_VIDEOS and (self.seeds == 1 or self.seeds >= MIN_SEEDS)
        half = student.ppf((1 + confidence) / 2, self.df) * self.standard_error if given else np.nan
        return self.value - half, self.value + half

    @property
    def p(self) -> np.ndarray:
        """Two-sided p of "the truth is 0"; NaN where seeds or videos are too few to keep its promise."""
        if self.seeds < MIN_SEEDS or self.videos < MIN_VIDEOS:
            return np.full_like(self.value, np.nan)[()]
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.where(self.value == 0, 0.0, np.abs(self.value) / self.standard_error)
        return np.where(np.isnan(self.standard_error), np.nan, 2 * student.sf(statistic, self.df))[()]

    def critical(self, alpha: float | np.ndarray) -> np.ndarray:
        """Cochran's critical value: those of the videos and of the seeds, weighed by their shares of the variance.

        `p` is made for 5 %; with three seeds, it can fall below .002 five times as often as it should. This one holds
        its level at the small ones of Holm too, and is more cautious at 5 % (Cochran and Cox, Experimental Designs,
        section 4.14).
        """
        half = np.asarray(alpha) / 2
        of_seeds = student.isf(half, max(self.seeds - 1, 1))
        return (1 - self.seed_share) * student.isf(half, max(self.videos - 1, 1e-9)) + self.seed_share * of_seeds

    @property
    def p_to_correct(self) -> np.ndarray:
        """Two-sided p by `critical`, for corrections such as `holm`; NaN where `p` is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.where(self.value == 0, 0.0, np.abs(self.value) / self.standard_error)
        low, high = np.full(np.shape(statistic), -30.0), np.zeros(np.shape(statistic))  # of log10(p)
        for _ in range(60):
            middle = (low + high) / 2
            too_large = statistic > self.critical(10**middle)
            low, high = np.where(too_large, low, middle), np.where(too_large, middle, high)
        return np.where(np.isnan(self.p), np.nan, 10**high)[()]

    def detectable(self, alpha: float | np.ndarray = 0.05, power: float = 0.8) -> np.ndarray:
        """Smallest true value that the test `p_to_correct` at ``alpha`` finds with probability ``power``.

        In standard errors, the noncentrality at which Student's t passes `critical` so often; NaN where `p` is.
        """
        factor = nctdtrinc(self.df, 1 - power, self.critical(alpha))
        return np.where(np.isnan(self.p), np.nan, factor * self.standard_error)[()]

    def power(self, true: float | np.ndarray, alpha: float | np.ndarray = 0.05) -> np.ndarray:
        """Probability that the test `p_to_correct` at ``alpha`` finds a true value ``true``, in its own direction.

        The inverse of `detectable`; NaN where `p` is, and where there is no noise to speak of.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.where(self.standard_error > 0, np.abs(true) / self.standard_error, np.nan)
        return np.where(np.isnan(self.p), np.nan, 1 - nctdtr(self.df, shift, self.critical(alpha)))[()]


def summary(values: Iterable[float]) -> Summary:
    """Mean and sample sd of one metric over seeds; a NaN among them makes both NaN, never drops it."""
    values = np.asarray(list(values), dtype=np.float64)
    if len(values) == 0:
        raise RunError("a summary needs the metric of at least one seed; found none")
    sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(values.mean()), sd, len(values))


@dataclass(frozen=True)
class LeaveOneOut:
    """Metrics of S seeds on the test set, and on it without each of its V videos.

    ``observed`` maps a metric to (..., S), ``without`` to (..., S, V); ``videos`` is the effective number of videos.
    Those of one test set can be subtracted.
    """

    observed: dict[str, np.ndarray]
    without: dict[str, np.ndarray]
    videos: float

    @classmethod
    def of(cls, y_true, pred, scheme: str, videos) -> LeaveOneOut:
        """Of predictions ``pred`` (..., S, N) for labels ``y_true`` (N,) or (..., 1, N).

        ``videos`` (N,) names the video of each clip. Raises what `clip_terms` raises, and `RunError` for shapes that
        do not fit.
        """
        pred, videos = np.asarray(pred), np.asarray(videos)
        if pred.ndim < 2 or 0 in pred.shape:
            raise RunError(f"expected predictions of shape (seeds, clips), one seed or more; found {pred.shape}")
        if videos.shape != pred.shape[-1:]:
            raise RunError(f"expected the video of each clip, shape {pred.shape[-1:]}; found {videos.shape}")
        _, inverse, clips = np.unique(videos, return_inverse=True, return_counts=True)
        order, starts = np.argsort(inverse, kind="stable"), np.cumsum(clips) - clips
        whole, without = {}, {}
        for name, term in clip_terms(y_true, pred, scheme).items():
            of_videos = np.add.reduceat(term[..., order], starts, axis=-1)  # (..., S, V)
            whole[name] = of_videos.sum(axis=-1)
            without[name] = whole[name][..., None] - of_videos
        seeds = pred.shape[:-1]
        observed = {m: np.broadcast_to(v, seeds) for m, v in metrics_of_sums(whole, scheme).items()}
        with np.errstate(invalid="ignore"):  # without the only video, there is nothing
            left = {m: np.broadcast_to(v, (*seeds, len(clips))) for m, v in metrics_of_sums(without, scheme).items()}
        return cls(observed, left, effective_videos(videos))

    def __sub__(self, other: LeaveOneOut) -> LeaveOneOut:
        """The differences, seed by seed and video by video."""
        return LeaveOneOut(
            {metric: values - other.observed[metric] for metric, values in self.observed.items()},
            {metric: values - other.without[metric] for metric, values in self.without.items()},
            self.videos,
        )

    @classmethod
    def stacked(cls, parts: Sequence[LeaveOneOut]) -> LeaveOneOut:
        """Several of the same seeds and videos, along a new first axis."""
        observed = {metric: np.stack([part.observed[metric] for part in parts]) for metric in parts[0].observed}
        without = {metric: np.stack([part.without[metric] for part in parts]) for metric in parts[0].without}
        return cls(observed, without, parts[0].videos)

    def weighted(self, weights) -> LeaveOneOut:
        """Sum over the first axis, each entry times its weight; one of weight 0 is not looked at, NaN or not."""
        weights = np.asarray(weights, dtype=np.float64)
        used = np.flatnonzero(weights)
        return LeaveOneOut(
            {metric: np.tensordot(weights[used], values[used], 1) for metric, values in self.observed.items()},
            {metric: np.tensordot(weights[used], values[used], 1) for metric, values in self.without.items()},
            self.videos,
        )

    def take(self, seeds: Sequence[int]) -> LeaveOneOut:
        """Those of some seeds, by their positions."""
        seeds = list(seeds)
        return LeaveOneOut(
            {metric: values[..., seeds] for metric, values in self.observed.items()},
            {metric: values[..., seeds, :] for metric, values in self.without.items()},
            self.videos,
        )

    def estimate(self, metric: str) -> Estimate:
        """The mean over seeds of ``metric``, its standard error and degrees of freedom."""
        observed, without = self.observed[metric], self.without[metric]
        seeds, videos = without.shape[-2:]
        value = observed.mean(axis=-1)
        deviations = without - without.mean(axis=-1, keepdims=True)  # (..., S, V)
        shared = deviations.mean(axis=-2)  # (..., V)
        jackknife = (videos - 1) / videos
        of_videos = jackknife * (shared**2).sum(axis=-1)  # A
        if seeds == 1:
            of_seeds = np.zeros_like(of_videos)
        else:
            own = jackknife * ((deviations - shared[..., None, :]) ** 2).sum(axis=(-2, -1)) / (seeds - 1)
            of_videos = np.maximum(0.0, of_videos - own / seeds)  # A - W
            of_seeds = observed.var(axis=-1, ddof=1) / seeds  # B
        variance = of_videos + of_seeds
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(variance == 0, 0.0, of_seeds / variance)[()]
            df = 1 / ((1 - share) ** SHARE_EXPONENT / (self.videos - 1) + share**SHARE_EXPONENT / max(seeds - 1, 1))
        # NaN where the metric is; without a second video there is no error to speak of.
        undefined = np.where(np.isnan(variance) | (videos < 2), np.nan, 0.0)[()]
        return Estimate(value, np.sqrt(variance) + undefined, df + undefined, share + undefined, seeds, self.videos)


def effective_videos(videos) -> float:
    """Number of equally long videos that would say as much: (sum of n)^2 / sum of n^2 for videos of n clips (Kish)."""
    clips = np.unique(np.asarray(videos), return_counts=True)[1].astype(np.float64)
    return float(clips.sum() ** 2 / (clips**2).sum())


def mean_estimates(y_true, pred, scheme: str, videos) -> dict[str, Estimate]:
    """Every metric's mean over seeds: ``pred`` (S, N), ``y_true`` and ``videos`` (N,); see `LeaveOneOut`."""
    left = LeaveOneOut.of(y_true, pred, scheme, videos)
    return {metric: left.estimate(metric) for metric in left.observed}


def paired_differences(y_true, pred_a, pred_b, scheme: str, videos) -> dict[str, Estimate]:
    """Mean difference a - b of every metric over the same seeds (rows, in the same order) and clips.

    ``pred_a``, ``pred_b`` (S, N), ``y_true`` and ``videos`` (N,). Raises `RunError` where the shapes differ.
    """
    if np.shape(pred_a) != np.shape(pred_b):
        raise RunError(
            "a paired difference needs the same seeds and clips: expected equal shapes (seeds, clips); "
            f"found {np.shape(pred_a)} and {np.shape(pred_b)}"
        )
    a, b = (LeaveOneOut.of(y_true, pred, scheme, videos) for pred in (pred_a, pred_b))
    return {metric: (a - b).estimate(metric) for metric in a.observed}


def prediction_interval(values: Iterable[float], others: int = 3, confidence: float = 0.95) -> tuple[float, float]:
    """Where the mean of ``others`` further runs on the same clips is expected, from S runs (S,) of the same kind.

    mean ± t_{S-1} · s · √(1/S + 1/others), of normal seeds. NaN for fewer than two values.
    """
    values = np.asarray(list(values), dtype=np.float64)
    if len(values) < 2:
        return float("nan"), float("nan")
    spread = values.std(ddof=1) * np.sqrt(1 / len(values) + 1 / others)
    half = student.ppf((1 + confidence) / 2, len(values) - 1) * spread
    return float(values.mean() - half), float(values.mean() + half)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm's step-down adjustment, in the order given. NaN stays NaN and does not count as a test."""
    p_values = np.asarray(list(p_values), dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN sorts last
    adjusted[order] = np.minimum(np.maximum.accumulate(_holm_factors(len(order)) * p_values[order]), 1.0)
    return adjusted


def holm_levels(p_values: Iterable[float], alpha: float = 0.05) -> np.ndarray:
    """The level that Holm holds each p against: alpha / m for the smallest of m, alpha for the largest; NaN for NaN."""
    p_values = np.asarray(list(p_values), dtype=np.float64)
    levels = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    levels[order] = alpha / _holm_factors(len(order))
    return levels


def _holm_factors(tests: int) -> np.ndarray:
    return tests - np.arange(tests)
