"""Reading the field's feature files safely, checking them, and the synthetic demo corpora."""

from .corpus import BOUNDS, MODALITIES, SPLITS, Corpus, Split, table1
from .loading import load_clips, load_corpus

__all__ = ["BOUNDS", "MODALITIES", "SPLITS", "Corpus", "Split", "load_clips", "load_corpus", "table1"]
