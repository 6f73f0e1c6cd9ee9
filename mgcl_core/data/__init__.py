"""Reading feature files safely, checking them, and the synthetic corpora.

A feature file is the pickle; a corpus is the three splits that are read from it; steps are time steps.
"""

from .corpus import BOUNDS, MODALITIES, SPLITS, Corpus, Split, table1
from .loading import load_clips, load_corpus

__all__ = ["BOUNDS", "MODALITIES", "SPLITS", "Corpus", "Split", "load_clips", "load_corpus", "table1"]
