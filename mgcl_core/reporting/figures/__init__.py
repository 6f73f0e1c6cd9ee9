"""From arrays and data frames to figures: every function returns a Figure and shows or saves nothing.

A figure of generated data says "synthetic" in its title. No global setting of matplotlib changes, and no figure is
registered with pyplot, so none has to be closed. Save one by ``figure.savefig(path, dpi=150)``.
"""

from .architecture import architecture, cmgf_block
from .data import label_agreement, label_distributions, length_distributions
from .embeddings import embedding, embedding_grid, tsne
from .search import search_trials
from .style import NotebookFigure, style
from .tables import ablation_points, selection_audit
from .training import predicted_against_true, training_curves, unimodal_scores

__all__ = [
    "NotebookFigure",
    "ablation_points",
    "architecture",
    "cmgf_block",
    "embedding",
    "embedding_grid",
    "label_agreement",
    "label_distributions",
    "length_distributions",
    "predicted_against_true",
    "search_trials",
    "selection_audit",
    "style",
    "training_curves",
    "tsne",
    "unimodal_scores",
]
