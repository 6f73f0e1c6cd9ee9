"""The neighbours of a clip in one of the six features, and what the contrastive loss makes of each pair."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ..experiments.runs import Run
from ..experiments.study import Study
from ..losses import intensity_pairs
from ..reporting.evaluation import embeddings
from ..reporting.figures.embeddings import FEATURES
from ..support.errors import ConfigError, nearest
from .showing import row_of


def neighbours(
    study: Study, run: Run, clip: int | str, feature: str = "macro_T", split: str = "valid", count: int = 8
) -> pd.DataFrame:
    """The ``count`` clips that lie nearest to a clip, and the ``count`` that lie farthest, in one of the six features.

    Args:
        study: of the run.
        run: a finished run of MGCL.
        clip: its id or number in the split.
        feature: "macro_T" … "micro_A": by whose cosine they are sorted.
        split: that the clips are of.
        count: of each end.

    Returns:
        One row per clip, the nearest first: clip, cosine, pair ("positive" or "negative", equation 1), E and W of the
        pair (equations 3 and 2), y, words.

    Raises:
        ConfigError: an unknown feature.
        RunError: there is no such clip, or the run is not finished.
    """
    if feature not in FEATURES:
        raise ConfigError(f"unknown feature {feature!r}: {nearest(feature, FEATURES)}")
    clips = getattr(study.corpus, split)
    row = row_of(clips, clip)
    vectors = embeddings(study, run, trained=True, split=split)[feature].astype(np.float64)  # (N, d)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[row] / np.maximum(norms * norms[row], np.finfo(float).tiny)
    labels = torch.tensor(np.asarray(clips.labels, np.float64) / study.corpus.bound)
    pairs = intensity_pairs(labels, run.config.delta, run.config.pair_weights)
    positive, weight = (values[row].numpy() for values in pairs)
    order = np.argsort(-cosines, kind="stable")
    order = order[order != row]
    chosen = order if len(order) <= 2 * count else np.concatenate([order[:count], order[-count:]])
    return pd.DataFrame(
        {
            "clip": [clips.ids[other] for other in chosen],
            "cosine": cosines[chosen],
            "pair": np.where(positive[chosen], "positive", "negative"),
            "E": np.abs(labels.numpy() - labels[row].item())[chosen],
            "W": weight[chosen],
            "y": np.asarray(clips.labels)[chosen],
            "words": [clips.raw_text[other] for other in chosen],
        }
    )
