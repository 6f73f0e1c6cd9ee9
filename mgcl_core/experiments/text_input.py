"""What a run reads of the text: words, as token ids of a text model, or features of the file (`text_source`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config import Config
from ..data import Corpus, Split
from ..data.loading import with_text
from ..data.text_model import check_text, corpus_tokens, text_config
from ..support.errors import ConfigError


def with_text_input(corpus: Corpus, config: Config) -> Corpus:
    """The corpus with what a study under ``config`` reads of its text.

    Raises:
        ConfigError: Words or features are asked for that the file lacks.
    """
    if config.reads_words:
        if not corpus.has_words:
            raise ConfigError(f"text_source='words', but {corpus.path} has none: take text_source='features'")
        return corpus
    if corpus.has_words and corpus.text_dim is None:
        raise ConfigError(f"text_source='features', but {corpus.path} has no features of the text (key 'text')")
    return with_text(corpus)


def text_tokens(split: Split, config: Config) -> np.ndarray:
    """Token ids, mask and types (N, 3, L) of a split; where text is features, their mask with ids of 0."""
    if config.reads_words:
        return corpus_tokens(split, config.text_model, config.tokens)
    tokens = np.zeros((len(split), 3, split.text.shape[1]), np.int64)
    tokens[:, 1] = split.text_mask
    return tokens


def check_text_input(splits: Sequence[Split], config: Config, file: Path) -> None:
    """Make sure that the text model can read the words of ``splits``, where words are read.

    Raises:
        CorpusError: It cannot (`data.text_model.check_text`).
    """
    if config.reads_words:
        check_text(config.text_model, splits, file, config.tokens, compare=config.check_vocabulary)


def encoded_width(config: Config) -> int:
    """Width of the states that an encoder of the text gives."""
    return text_config(config.text_model).hidden_size if config.reads_words else config.width
