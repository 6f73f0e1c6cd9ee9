"""Reading the field's feature files safely, checking them, and the synthetic demo corpora."""

from mgcl_core.corpus.data import BOUNDS, MODALITIES, SPLITS, Corpus, Split, table1
from mgcl_core.corpus.reading import load_clips, load_corpus

__all__ = ["BOUNDS", "MODALITIES", "SPLITS", "Corpus", "Split", "load_clips", "load_corpus", "table1"]
