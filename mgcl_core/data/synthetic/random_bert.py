"""BERT-base with random weights: for what a text model costs, where its own weights are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BertConfig

VOCABULARY, ENGLISH_VOCABULARY = 21128, 30522  # words of BERT's Chinese vocabulary, and of the English one
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


def save_random_bert(folder: Path, *, layers: int = 12, words: int = VOCABULARY) -> None:
    """Write a BERT of width 768 with random weights, and a vocabulary of placeholders."""
    from transformers import BertModel  # slow to import

    BertModel(save_bert_config(folder, layers=layers, words=words)).save_pretrained(folder)


def save_bert_config(folder: Path, *, layers: int, words: int = VOCABULARY) -> BertConfig:
    """Write the configuration of a BERT of width 768, and its vocabulary of placeholders, without weights."""
    from transformers import BertConfig

    config = BertConfig(vocab_size=words, num_hidden_layers=layers)
    config.save_pretrained(folder)
    lines = [SPECIAL.get(number, f"[unused{number}]") for number in range(words)]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config
