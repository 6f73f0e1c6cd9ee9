"""From arrays and data frames to figures: every function returns a Figure and shows or saves nothing.

A figure of generated data says "synthetic" in its title. No global setting of matplotlib changes, and no figure is
registered with pyplot, so none has to be closed. `reporting.page.save_figure` saves one.
"""

from .absence import absence_curves
from .comparisons import paired_differences, score_intervals, selection_rules
from .costs import pareto
from .data import clip_signals, label_agreement, label_distributions, length_distributions
from .embeddings import embedding_grid, tsne
from .multiverse import specification_curve
from .search import search_trials
from .training import predicted_against_true, training_curves, unimodal_scores

__all__ = [
    "absence_curves",
    "clip_signals",
    "embedding_grid",
    "label_agreement",
    "label_distributions",
    "length_distributions",
    "paired_differences",
    "pareto",
    "predicted_against_true",
    "score_intervals",
    "search_trials",
    "selection_rules",
    "specification_curve",
    "training_curves",
    "tsne",
    "unimodal_scores",
]
