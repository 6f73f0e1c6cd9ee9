"""BERT-base with random weights: for what a text model costs, where its own weights are not."""

from __future__ import annotations

from pathlib import Path

VOCABULARY = 21128  # words of BERT's Chinese vocabulary
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


def save_random_bert(folder: Path, *, layers: int = 12, words: int = VOCABULARY) -> None:
    """Write a BERT of width 768 with random weights, and a vocabulary of placeholders."""
    from transformers import BertConfig, BertModel  # slow to import

    BertModel(BertConfig(vocab_size=words, num_hidden_layers=layers)).save_pretrained(folder)
    lines = [SPECIAL.get(number, f"[unused{number}]") for number in range(words)]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
