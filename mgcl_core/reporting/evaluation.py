"""What finished runs reached: results for the tables, scores, curves, embeddings and their contrast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import VARIANTS
from ..data.corpus import GRANULARITIES, MODALITIES
from ..data.known_files import published_file
from ..experiments.presets import trials_behind
from ..experiments.registry import paper_dataset, system_entry
from ..experiments.runs import Run
from ..experiments.study import Study
from ..losses import intensity_pairs
from ..metrics import regression_metrics
from ..trainer import correlation, predict, selection_rule
from .cells import Result
from .published import DATASETS

#: The paper prints "MuT" for MulT; its row goes by that name.
AS_PRINTED = {"MulT": "MuT"}


def results_of(study: Study, runs: Iterable[Run]) -> list[Result]:
    """Test predictions of the finished ones among ``runs`` of MGCL and compared systems, as the tables take them."""
    results = []
    # The paper reads the unaligned files.
    own_file = f"{DATASETS[paper_dataset(study.corpus)]}/unaligned"
    known_file = (published_file(study.corpus) or "").startswith(own_file)
    changed = bool({"overrides", "system_overrides"} & study.changes.keys())
    runs = list(runs)
    tuned = {
        name: trials_behind(
            study.directory, name, study.overrides if name == "mgcl" else study.system_overrides.get(name, {})
        )
        for name in {run.stage.name for run in runs}
    }
    for run in runs:
        if run.done:
            frame = study.predictions(run)
            title = system_entry(run.stage.name).title
            results.append(
                Result(
                    corpus=study.corpus.name,
                    paper_dataset=paper_dataset(study.corpus),
                    scheme=study.corpus.scheme,
                    synthetic=study.corpus.synthetic,
                    system=AS_PRINTED.get(title, title),
                    variant=run.variant,
                    seed=run.seed,
                    ids=tuple(frame["id"]),
                    y_true=frame["label"].to_numpy(),
                    y_pred=frame["prediction"].to_numpy(),
                    run=run.name,
                    profile=study.profile,
                    selection=selection_rule(run.config.selection),
                    known_file=known_file,
                    changed=changed,
                    precision=run.config.precision,
                    text_source=run.config.text_source,
                    tuned=tuned[run.stage.name],
                )
            )
    return results


def all_results(study: Study) -> list[Result]:
    """Test predictions of every finished run that a table shows."""
    return results_of(study, [*study.trainings(tuple(VARIANTS)), *study.comparisons()])


def scores(study: Study, runs: Sequence[Run], split: str = "test") -> pd.DataFrame:
    """The metrics of each finished run on ``split``, one row per run."""
    rows = []
    for run in runs:
        frame = study.predictions(run, split)
        metrics = regression_metrics(frame["label"].to_numpy(), frame["prediction"].to_numpy(), study.corpus.scheme)
        rows.append({"variant": run.variant, "seed": run.seed, "epoch": run.chosen_epoch, **metrics})
    return pd.DataFrame(rows)


def stage_one_scores(study: Study, split: str = "valid") -> pd.DataFrame:
    """Scores of every stage-one encoder and seed, a row each.

    ``mae`` and ``corr`` are against the label that the encoder learned; ``mae_y`` and ``corr_y`` against
    the multimodal label y.
    """
    y = getattr(study.corpus, split).labels.astype(np.float64)
    rows = []
    for run in study.pretrainings():
        if run.done:
            frame, encoder = study.predictions(run, split), run.stage.encoder
            predicted, label = frame["prediction"].to_numpy(), frame["label"].to_numpy()
            rows.append(
                {"encoder": str(encoder), "granularity": encoder.granularity, "modality": encoder.modality}
                | {"seed": run.seed, "epoch": run.chosen_epoch}
                | {"mae": np.abs(predicted - label).mean(), "corr": correlation(predicted, label)}
                | {"mae_y": np.abs(predicted - y).mean(), "corr_y": correlation(predicted, y)}
            )
    return pd.DataFrame(rows)


def curves(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    """Arguments of `figures.training_curves`: histories, groups and chosen epochs of ``runs``."""
    return {
        "histories": {run.name: run.history for run in runs},
        "groups": {run.name: run.stage.label for run in runs},
        "chosen": {run.name: run.chosen_epoch for run in runs},
    }


def embeddings(study: Study, run: Run, *, trained: bool, split: str = "test") -> dict[str, np.ndarray]:
    """The six features of every clip, at the start of stage two or at its end.

    Returns:
        "macro_T" … "micro_A", each (N, d).
    """
    outputs = predict(study.build(run, trained=trained), study.split(split, run), run.stage.schedule)
    return {
        f"{granularity}_{modality}": outputs[granularity][position]
        for granularity in GRANULARITIES
        for position, modality in enumerate(MODALITIES)
    }


def contrast(
    study: Study, run: Run, features: Mapping[str, Mapping[str, np.ndarray]], split: str = "test"
) -> pd.DataFrame:
    """Mean cosine of positive pairs of clips minus that of negative pairs, for each feature: what L_con should raise.

    Args:
        study: of the run.
        run: its delta tells positive from negative pairs (equation 1).
        features: a name (a row) to the six features of `embeddings`.
        split: that the features are of.
    """
    from sklearn.metrics.pairwise import cosine_similarity  # slow to import, and only one notebook asks

    labels = torch.from_numpy(getattr(study.corpus, split).labels / study.corpus.bound)
    positive = intensity_pairs(labels, run.config.delta)[0].numpy()
    other = ~np.eye(len(labels), dtype=bool)
    rows = {}
    for name, six in features.items():
        cosines = {feature: cosine_similarity(values) for feature, values in six.items()}
        rows[name] = {
            feature: cosine[positive & other].mean() - cosine[~positive].mean() for feature, cosine in cosines.items()
        }
    return pd.DataFrame(rows).T
