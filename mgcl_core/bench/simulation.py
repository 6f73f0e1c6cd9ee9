"""Test sets with a known truth: do the package's intervals cover it, do its tests reject no more than they say?

A simulated test set has labels of a real distribution, alike within a video. A run predicts each label with a
correlation r of its own and noise of four parts: common to all systems, of the system, of the seed (common to two
systems that share encoders), and of the run. A seed moves r: its Fisher z is normal about the systems' common mean,
with the deviation at which the seeds' own variance of the metric is a given multiple of the variance from the clips of
one run. Two systems of one such law have no true difference, whatever their seeds do.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import gamma, norm
from scipy.stats import t as student

from ..metrics import METRIC_NAMES, clip_terms, metrics_of_sums
from ..statistics import Estimate, LeaveOneOut
from ..support.errors import ConfigError
from ..support.parallel import run_parallel

#: Environment variable: a folder with ``CH-SIMS/labels.csv`` and ``CMU-MOSI/labels.csv`` (a column ``label``). Without
#: it, labels are drawn from `APPROXIMATE_LABELS`.
LABELS_VARIABLE = "MGCL_LABELS"
_FILES = {"sims": "CH-SIMS/labels.csv", "mosi": "CMU-MOSI/labels.csv"}
#: Mean and deviation of a normal variable that becomes labels by clipping to the bound and rounding to steps of 0.2.
APPROXIMATE_LABELS = {"sims": (-0.25, 0.9, 1.0), "mosi": (0.07, 1.7, 3.0)}
#: Of the labels within videos (intraclass correlation), and of the videos' lengths (coefficient of variation).
LABELS_ALIKE = {"sims": 0.04, "mosi": 0.27}
LENGTHS_VARY = {"sims": 0.92, "mosi": 0.35}
METRICS = {"sims": ("acc2", "mae", "corr"), "mosi": ("acc2_np", "mae", "corr")}
RATIOS = (0.0, 0.1, 0.5, 2.0, 8.0)
#: A level that Holm holds the smallest p of a table against: 5 % over 25 comparisons.
FAR = 0.002

#: What is simulated: one system's interval, or the test of two systems that share encoders or do not.
KINDS = ("one system", "pair, own encoders", "pair, shared encoders")
_CORRELATION = 0.75  # of predictions and labels
_SPREAD = 0.8  # of the predictions, in deviations of the labels
_NOISE_ALIKE = 0.1  # intraclass correlation of each part of the noise
_NOISE_PARTS = {  # variances: common, of the system, of the seed, of the run
    "one system": (0.4, 0.3, 0.0, 0.3),
    "pair, own encoders": (0.4, 0.3, 0.0, 0.3),
    "pair, shared encoders": (0.6, 0.1, 0.15, 0.15),
}
_SEEDS_SHARED = {"one system": 0.0, "pair, own encoders": 0.0, "pair, shared encoders": 0.5}
_CHUNK = 50  # test sets held in memory at once


@dataclass(frozen=True)
class Design:
    """A test set and how often the systems were trained."""

    scheme: str
    clips: int
    videos: int
    seeds: int

    def __post_init__(self):
        if not (2 <= self.videos <= self.clips and self.seeds >= 1):
            raise ConfigError(
                f"expected two videos or more, a clip or more in each, and a seed or more; found {self.clips} clips, "
                f"{self.videos} videos, {self.seeds} seeds"
            )

    @property
    def lengths(self) -> np.ndarray:
        """Clips of each video (V,), as unequal as the dataset's."""
        shape = LENGTHS_VARY[self.scheme] ** -2
        wanted = gamma.ppf((np.arange(self.videos) + 0.5) / self.videos, shape)
        lengths = np.maximum(1, np.floor(wanted / wanted.sum() * self.clips)).astype(int)
        missing = self.clips - lengths.sum()
        lengths[-abs(missing) :] += np.sign(missing)  # the longest take what rounding left
        return lengths

    @property
    def video(self) -> np.ndarray:
        """The video of each clip (N,)."""
        return np.repeat(np.arange(self.videos), self.lengths)


#: The test sets of the promise: a small file of 8 videos, CH-SIMS with three and five seeds, CMU-MOSI.
DESIGNS = (
    Design("mosi", 180, 8, 3),
    Design("sims", 457, 59, 3),
    Design("sims", 457, 59, 5),
    Design("mosi", 686, 31, 3),
)


#: Where the rule gives no interval and no p (`MIN_SEEDS`, `MIN_VIDEOS`), and what they would be worth.
WITHHELD = (Design("sims", 457, 59, 2), Design("mosi", 100, 4, 3))


@dataclass(frozen=True)
class Cell:
    """One cell of the simulation; ``ratio``: variance of the seeds' own effect to that from the clips of a run."""

    design: Design
    kind: str
    metric: str
    ratio: float


def cells(designs: Sequence[Design] = DESIGNS) -> list[Cell]:
    """All cells: designs × kinds × metrics × ratios."""
    return [
        Cell(design, kind, metric, ratio)
        for design in designs
        for kind in KINDS
        for metric in METRICS[design.scheme]
        for ratio in RATIOS
    ]


def simulate(cell: Cell, data_sets: int, seed: int = 0) -> dict[str, object]:
    """How often the interval of ``data_sets`` simulated test sets misses the truth, and how often it is given at all.

    Returns:
        The cell and: ``error``, the share of test sets that reject a true 0 at 5 %, or of one system, whose 95 %
        interval misses the truth; ``simulation_error``, the standard error of that share; ``given``, whether the rule
        gives interval and p at all (the error is counted all the same); ``error_far``, the share below the level `FAR`
        by `Estimate.critical`; ``df``, the median.
    """
    deviation = _seed_deviation(cell)
    truth = _expected(cell.design.scheme, cell.metric, deviation) if cell.kind == KINDS[0] else 0.0
    given, missed, far, df = 0, 0, 0, []
    for estimate in _estimates(cell, deviation, data_sets, seed):
        given += np.count_nonzero(~np.isnan(estimate.p))
        half = student.ppf(0.975, estimate.df) * estimate.standard_error
        missed += np.count_nonzero(np.abs(estimate.value - truth) > half)
        far += np.count_nonzero(np.abs(estimate.value - truth) > estimate.critical(FAR) * estimate.standard_error)
        df.append(estimate.df)
    share, design = missed / data_sets, cell.design
    return {
        "labels": design.scheme, "clips": design.clips, "videos": design.videos, "seeds": design.seeds,
        "kind": cell.kind, "metric": METRIC_NAMES[cell.metric], "ratio": cell.ratio, "error": share,
        "simulation_error": math.sqrt(share * (1 - share) / data_sets), "given": given / data_sets,
        "error_far": far / data_sets, "df": float(np.median(np.concatenate(df))),
    }  # fmt: skip


def simulate_all(data_sets: int, workers: int, designs: Sequence[Design] = (*DESIGNS, *WITHHELD)) -> pd.DataFrame:
    """`simulate` for every cell, in processes; a row for each cell, in the order of `cells`."""
    todo = cells(designs)
    prepare = functools.partial(_worker, data_sets)
    rows = dict(run_parallel(prepare, list(enumerate(todo)), workers))
    return pd.DataFrame([rows[number] for number in range(len(todo))])


def power(
    scheme: str, clips: int, videos: int, seeds: int, *, ratio: float = 0.5, comparisons: int = 1, data_sets: int = 400
) -> pd.DataFrame:
    """What a test set could show, before anything is trained on it: the true difference found four times in five.

    5 % two-sided, at Holm's first step over ``comparisons``. The systems are the simulation's, of correlation .75 with
    the labels; real ones vary less or more.

    Args:
        scheme: "sims" or "mosi", for labels, how alike they are within a video, and metrics.
        clips, videos, seeds: the design.
        ratio: variance of the seeds' own effect to that from the clips of a run.
        comparisons: how many a table would hold against 5 % together.
        data_sets: how many are simulated.

    Returns:
        One row per metric, one column per kind of pair, in the units of `regression_metrics`; NaN where no p
        would be given.

    Raises:
        ConfigError: a design that is none.
    """
    if comparisons < 1:
        raise ConfigError(f"comparisons={comparisons}: must be at least 1")
    design = Design(scheme, clips, videos, seeds)
    rows = {}
    for metric in METRICS[scheme]:
        of_kinds = {}
        for kind in KINDS[1:]:
            needed = _needed(Cell(design, kind, metric, ratio), comparisons, data_sets)
            of_kinds[kind] = float(np.quantile(needed, 0.8))
        rows[METRIC_NAMES[metric]] = of_kinds
    return pd.DataFrame.from_dict(rows, orient="index")


def needed_quantiles(cell: Cell, levels: Sequence[float], data_sets: int) -> np.ndarray:
    """True differences that a test of a single comparison at 5 % finds with the probabilities ``levels``.

    `power` gives that of .8. NaN where no p would be given.
    """
    return np.quantile(_needed(cell, 1, data_sets), levels)


def _needed(cell: Cell, comparisons: int, data_sets: int) -> np.ndarray:
    """Of each simulated test set (data_sets,), the true difference that it would take to be rejected there."""
    needed = [
        np.where(np.isnan(e.p), np.nan, e.critical(0.05 / comparisons) * e.standard_error - e.value)
        for e in _estimates(cell, _seed_deviation(cell), data_sets, 0)
    ]
    return np.concatenate(needed)


def as_markdown(frame: pd.DataFrame) -> str:
    """Errors of `simulate_all` as the table of docs/statistics.md; in brackets where the rule gives no p."""
    header = ["labels", "clips / videos × seeds", "of", "metric", *(f"{ratio:g}" for ratio in RATIOS)]
    lines = [header, ["---"] * len(header)]
    of_rows = frame.groupby(["labels", "clips", "videos", "seeds", "kind", "metric"], sort=False)
    for (labels, clips, videos, seeds, kind, metric), rows in of_rows:
        shown = [f"{row.error:.3f}" if row.given == 1 else f"({row.error:.3f})" for row in rows.itertuples()]
        lines.append([labels, f"{clips} / {videos} × {seeds}", kind, metric, *shown])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _worker(data_sets: int) -> Callable[[tuple[int, Cell]], tuple[int, dict[str, object]]]:
    return functools.partial(_simulate_numbered, data_sets)


def _simulate_numbered(data_sets: int, task: tuple[int, Cell]) -> tuple[int, dict[str, object]]:
    number, cell = task
    return number, simulate(cell, data_sets, seed=number)


def _estimates(cell: Cell, deviation: float, data_sets: int, seed: int) -> Iterator[Estimate]:
    """Estimates of ``data_sets`` test sets, as arrays of up to `_CHUNK`."""
    random = np.random.default_rng([20240, seed])
    for start in range(0, data_sets, _CHUNK):
        y_true, pred = _draw(random, cell, deviation, min(_CHUNK, data_sets - start))
        left = [LeaveOneOut.of(y_true, of_system, cell.design.scheme, cell.design.video) for of_system in pred]
        yield (left[0] - left[1] if len(left) == 2 else left[0]).estimate(cell.metric)


def _draw(
    random: np.random.Generator, cell: Cell, deviation: float, count: int, seeds: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (D, 1, N) and predictions (systems, D, S, N) of ``count`` test sets."""
    design, systems = cell.design, 1 if cell.kind == KINDS[0] else 2
    seeds = seeds or design.seeds

    def alike(correlation: float, *shape: int) -> np.ndarray:
        """Standard normal (*shape, N), correlated within videos."""
        of_video = random.standard_normal((*shape, design.videos))[..., design.video]
        own = random.standard_normal((*shape, design.clips))
        return math.sqrt(correlation) * of_video + math.sqrt(1 - correlation) * own

    y_true = _labels(design.scheme)(norm.cdf(alike(LABELS_ALIKE[design.scheme], count, 1)))
    mean, spread = _moments(design.scheme)
    common, of_system, of_seed, of_run = (math.sqrt(part) for part in _NOISE_PARTS[cell.kind])
    noise = (
        common * alike(_NOISE_ALIKE, 1, count, 1)
        + of_system * alike(_NOISE_ALIKE, systems, count, 1)
        + (of_seed * alike(_NOISE_ALIKE, 1, count, seeds) if of_seed else 0.0)
        + of_run * alike(_NOISE_ALIKE, systems, count, seeds)
    )
    shared = _SEEDS_SHARED[cell.kind]
    z = math.atanh(_CORRELATION) + deviation * (
        math.sqrt(shared) * random.standard_normal((1, count, seeds, 1))
        + math.sqrt(1 - shared) * random.standard_normal((systems, count, seeds, 1))
    )
    r = np.tanh(z)
    return y_true, mean + spread * _SPREAD * (r * (y_true - mean) / spread + np.sqrt(1 - r**2) * noise)


def label_quantiles(scheme: str) -> Callable[[np.ndarray], np.ndarray]:
    """The quantile function of the labels, of a real file where `LABELS_VARIABLE` names a folder."""
    if folder := os.environ.get(LABELS_VARIABLE):
        values = np.sort(pd.read_csv(Path(folder) / _FILES[scheme])["label"].to_numpy(np.float64))
        return lambda u: values[np.minimum((u * len(values)).astype(int), len(values) - 1)]
    mean, deviation, bound = APPROXIMATE_LABELS[scheme]
    return lambda u: np.round(np.clip(mean + deviation * norm.ppf(u), -bound, bound) * 5) / 5


_labels = functools.cache(label_quantiles)


@functools.cache
def _moments(scheme: str) -> tuple[float, float]:
    values = _labels(scheme)((np.arange(100_000) + 0.5) / 100_000)
    return float(values.mean()), float(values.std())


@functools.cache
def _curve(scheme: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Fisher z of a run's correlation, and the metric of a run of that z on a very large test set."""
    random = np.random.default_rng(1)
    clips = 50_000
    y_true = _labels(scheme)((np.arange(clips) + 0.5) / clips)
    mean, spread = _moments(scheme)
    noise = random.standard_normal(clips)
    z = math.atanh(_CORRELATION) + np.linspace(-3, 3, 61)
    values = []
    for r in np.tanh(z):
        pred = mean + spread * _SPREAD * (r * (y_true - mean) / spread + math.sqrt(1 - r**2) * noise)
        sums = {name: term.sum() for name, term in clip_terms(y_true, pred, scheme).items()}
        values.append(float(metrics_of_sums(sums, scheme)[metric]))
    return z, np.array(values)


def _moments_over_seeds(scheme: str, metric: str, deviation: float) -> tuple[float, float]:
    """Mean and variance over seeds of the metric on a very large test set."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    values = np.interp(math.atanh(_CORRELATION) + deviation * nodes, *_curve(scheme, metric))
    weights = weights / weights.sum()
    mean = float(weights @ values)
    return mean, float(weights @ (values - mean) ** 2)


def _expected(scheme: str, metric: str, deviation: float) -> float:
    return _moments_over_seeds(scheme, metric, deviation)[0]


@functools.cache
def _clip_variance(design: Design, kind: str, metric: str) -> float:
    """Variance over test sets of the metric (of a pair, of its difference) of one run whose seed moves nothing."""
    random = np.random.default_rng(2)
    cell, values = Cell(design, kind, metric, 0.0), []
    for _ in range(20):
        y_true, pred = _draw(random, cell, 0.0, 100, seeds=1)
        sums = {name: term.sum(axis=-1) for name, term in clip_terms(y_true, pred, design.scheme).items()}
        scores = metrics_of_sums(sums, design.scheme)[metric][..., 0]  # (systems, D)
        values.append(scores[0] - scores[1] if len(scores) == 2 else scores[0])
    return float(np.concatenate(values).var(ddof=1))


def _seed_deviation(cell: Cell) -> float:
    """Deviation of the seeds' z at which their own variance is ``ratio`` times the clips'."""
    if cell.ratio == 0:
        return 0.0
    scheme, metric = cell.design.scheme, cell.metric
    wanted = cell.ratio * _clip_variance(cell.design, cell.kind, metric)
    if cell.kind != KINDS[0]:
        wanted /= 2 * (1 - _SEEDS_SHARED[cell.kind])
    return brentq(lambda d: _moments_over_seeds(scheme, metric, d)[1] - wanted, 0.0, 2.0, xtol=1e-4)
