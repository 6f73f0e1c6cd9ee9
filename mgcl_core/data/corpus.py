"""What every later room sees of a feature file: splits of arrays, masks, labels and ids."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

SPLITS = ("train", "valid", "test")
MODALITIES = ("T", "V", "A")
#: Half-width of each scheme's label range.
BOUNDS = {"sims": 1.0, "mosi": 3.0}


@dataclass(frozen=True)
class Split:
    """One split of a corpus: N clips. Arrays may be memory-mapped and must not be written to.

    - ``ids``: N strings, ``video$_$clip``; ``raw_text``: N strings
    - ``text_bert`` (N, 3, L) int64: token ids, attention mask, token types
    - ``text`` (N, L, D) float32 or None: the file's own contextual embeddings
    - ``audio`` (N, La, Da), ``vision`` (N, Lv, Dv) float32, finite (audio -inf became 0)
    - ``audio_mask`` (N, La), ``vision_mask`` (N, Lv) bool, True at the valid steps
    - ``labels`` (N,) float32: the multimodal label y, in the units of the file (None only in clips to predict)
    - ``unimodal_labels`` (3, N) float32 in the order T, V, A, or None where the file has none
    """

    name: str
    ids: tuple[str, ...]
    raw_text: tuple[str, ...]
    text_bert: np.ndarray
    text: np.ndarray | None
    audio: np.ndarray
    audio_mask: np.ndarray
    vision: np.ndarray
    vision_mask: np.ndarray
    labels: np.ndarray | None
    unimodal_labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, clips: int) -> Split:
        """The first ``clips`` of the split."""
        cut = {
            item.name: value[:clips]
            for item in fields(self)
            if item.name not in ("name", "unimodal_labels") and (value := getattr(self, item.name)) is not None
        }
        unimodal = None if self.unimodal_labels is None else self.unimodal_labels[:, :clips]
        return replace(self, unimodal_labels=unimodal, **cut)


@dataclass(frozen=True)
class Corpus:
    """The three splits of one dataset.

    ``name`` labels tables and directories; ``scheme`` is ``"sims"`` or ``"mosi"`` (``BOUNDS``);
    ``sha256`` is the source file's hash; ``aligned`` says that all three modalities share their
    steps; ``synthetic`` marks what this package generated; ``notes`` counts what reading changed
    (for example ``{"audio_neg_inf": 12}``).
    """

    name: str
    scheme: str
    train: Split
    valid: Split
    test: Split
    path: Path
    sha256: str
    aligned: bool = False
    synthetic: bool = False
    language: str = ""
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        """Half-width of the label range: labels lie in [-bound, bound]."""
        return BOUNDS[self.scheme]

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.valid, self.test


def table1(corpora: list[Corpus]) -> pd.DataFrame:
    """Table 1 of the paper, a row a corpus: clips in each split and in total, and the language."""
    rows = []
    for corpus in corpora:
        sizes = [len(split) for split in corpus.splits]
        rows.append([corpus.name, *sizes, sum(sizes), corpus.language])
    return pd.DataFrame(rows, columns=["Dataset", "#Train", "#Valid", "#Test", "#Total", "Language"])
