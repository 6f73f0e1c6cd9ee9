"""One setting, several values: what each does to the validation scores, seed by seed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..config import variant_settings
from ..data.corpus import video_of
from ..experiments.runs import Run, describe
from ..experiments.study import Study
from ..metrics import METRIC_NAMES, METRICS, regression_metrics
from ..reporting.figures.style import HUES, finish, panels, styled
from ..statistics import mean_estimates, paired_differences
from ..support.errors import ConfigError
from .showing import Finding

log = logging.getLogger(__name__)

NOTE = (
    "On the validation clips, on which the epoch was chosen too; no test data is read. Differences are to the study's "
    "own value ({name} = {own}) over the same seeds and clips, with their 95 % interval and the p of a paired test, "
    "not corrected for the number of values that were tried."
)


def vary(study: Study, variant: str = "MGCL", **values: Sequence[Any]) -> Finding:
    """Train ``variant`` with each value of one setting and every seed: ``vary(study, alpha=[0, 0.1, 0.3])``.

    The study's own value is always among them. Runs are named by their settings, so what is there is not trained again,
    and stage one is shared where the setting does not change it.

    Returns:
        ``table`` has a row for each value and metric: value, metric, mean and sd over seeds, difference, low, high, p.

    Raises:
        ConfigError: not exactly one setting, one that is not known or that the variant itself sets, or a value of a
            wrong type.
    """
    if len(values) != 1:
        raise ConfigError(f"vary takes one setting and its values, as alpha=[0, 0.1, 0.3]; found {list(values)}")
    ((name, asked),) = values.items()
    studies = {getattr(changed.base, name): changed for changed in (study.with_overrides({name: v}) for v in asked)}
    if name in variant_settings(variant):
        raise ConfigError(f"{name} is what makes the variant {variant!r}: vary it with 'MGCL'")
    own = getattr(study.base, name)
    studies[own] = study
    if all(isinstance(value, (int, float)) for value in studies):
        studies = dict(sorted(studies.items()))
    valid, scheme = study.corpus.valid, study.corpus.scheme
    predicted = {value: _predictions(changed, variant) for value, changed in studies.items()}  # (S, N) each
    videos, rows = [video_of(clip) for clip in valid.ids], []
    for value, of_seeds in predicted.items():
        means = mean_estimates(valid.labels, of_seeds, scheme, videos)
        differences = paired_differences(valid.labels, of_seeds, predicted[own], scheme, videos)
        scores = pd.DataFrame([regression_metrics(valid.labels, each, scheme) for each in of_seeds])
        for metric in METRICS[scheme]:
            low, high = differences[metric].interval()
            row = {name: value, "metric": METRIC_NAMES[metric], "mean": float(means[metric].value)}
            row |= {"sd": scores[metric].std(), "difference": float(differences[metric].value)}
            rows.append({**row, "low": float(low), "high": float(high), "p": float(differences[metric].p)})
    table = pd.DataFrame(rows)
    table.loc[table[name] == own, ["low", "high", "p"]] = np.nan
    title = f"{study.corpus.name}: {variant} by {name}, validation, {len(study.seeds)} seeds"
    figure = _draw(predicted, np.asarray(valid.labels), scheme, name, title, synthetic=study.corpus.synthetic)
    return Finding(table, figure, NOTE.format(name=name, own=own))


def _predictions(study: Study, variant: str) -> np.ndarray:
    """Validation predictions (S, N) of the study's runs of ``variant``, trained where they are missing."""
    runs = study.trainings([variant])
    parents = {parent.directory: parent for run in runs for parent in run.parents if not parent.trained}
    for group in (list(parents.values()), [run for run in runs if not run.trained]):
        for line in study.side_by_side(_train, group):
            if study.workers > 1:  # otherwise the study has said so itself
                log.info(line)
    return np.stack([run.predictions("valid")["prediction"].to_numpy() for run in runs])


def _train(study: Study, run: Run) -> str:
    return describe(study.finish(run, test=False))


@styled()
def _draw(
    predicted: Mapping[Any, np.ndarray], labels: np.ndarray, scheme: str, name: str, title: str, *, synthetic: bool
) -> Figure:
    """One panel per metric: the mean over seeds as a line, each seed thin."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in predicted)
    place = list(predicted) if numbers else list(range(len(predicted)))
    scores = [[regression_metrics(labels, seed, scheme) for seed in of_seeds] for of_seeds in predicted.values()]
    figure, axes = panels(len(METRICS[scheme]), columns=3, width=3, height=2)
    for ax, metric in zip(axes, METRICS[scheme], strict=True):
        values = np.array([[seed[metric] for seed in of_seeds] for of_seeds in scores])  # (values, S)
        ax.plot(place, values, "-o", color=".7", linewidth=0.8, markersize=2.5)
        ax.plot(place, values.mean(axis=1), "-o", color=HUES[0], linewidth=2, markersize=5)
        ax.set_xticks(place, [f"{value:g}" if numbers else str(value) for value in predicted])
        ax.set(xlabel=name, ylabel=METRIC_NAMES[metric])
        ax.grid(axis="y")
    return finish(figure, title, synthetic=synthetic)
