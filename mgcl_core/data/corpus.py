"""A corpus as the rest of the package sees it: three splits of arrays, padding masks, labels and ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..support.errors import ConfigError, nearest
from ..support.faces import Face

SPLITS = ("train", "valid", "test")
MODALITIES = ("T", "V", "A")
GRANULARITIES = ("macro", "micro")
#: Datasets of the paper, whose settings a corpus may take (`mgcl_core.config.DATASETS`).
PAPER_DATASETS = ("sims", "mosi", "mosei")
#: Half-width of each scheme's label range.
BOUNDS = {"sims": 1.0, "mosi": 3.0}


class EncoderName(NamedTuple):
    """An encoder of stage one, by what it reads and what it is for; written as ``macro_T`` … ``micro_A``, ``shared_T``.

    - ``granularity``: "macro", "micro", or "shared" for one that gives both features (decision 1)
    - ``modality``: "T", "V" or "A"
    """

    granularity: str
    modality: str

    def __str__(self) -> str:
        return f"{self.granularity}_{self.modality}"

    @classmethod
    def parse(cls, text: str) -> EncoderName:
        """The encoder that is written as ``text``.

        Raises:
            ConfigError: there is none.
        """
        known = {str(name): name for g in (*GRANULARITIES, "shared") for m in MODALITIES if (name := cls(g, m))}
        if text not in known:
            raise ConfigError(f"no encoder is called {text!r}: {nearest(text, known)}")
        return known[text]

    @property
    def granularities(self) -> tuple[str, ...]:
        """Granularities of the features that it gives."""
        return GRANULARITIES if self.granularity == "shared" else (self.granularity,)


@dataclass(frozen=True, repr=False)
class Split(Face):
    """One split of a corpus: N clips. Arrays may be memory-mapped and are read-only.

    Attributes:
        name: "train", "valid" or "test".
        ids: N strings, ``video$_$clip``.
        raw_text: N strings.
        text_bert: (N, 3, L) int64 token ids, attention mask, token types; None where the file has none.
        text: (N, L, D) float32 text features of the file (embeddings of words or tokens), or None; `loading.with_text`
            reads them.
        audio: (N, La, Da) float32, finite (-inf became 0).
        audio_mask: (N, La) bool padding mask, True at valid steps; none where audio is absent (decision 19).
        vision: (N, Lv, Dv) float32, finite.
        vision_mask: (N, Lv) bool padding mask, True at valid steps; none where vision is absent.
        labels: (N,) float32 multimodal labels y, in the units of the file; None only in clips to predict.
        unimodal_labels: (3, N) float32 in the order T, V, A, or None if the file has none.
        text_mask: (N, L) bool padding mask of ``text``, or None.
    """

    name: str
    ids: tuple[str, ...]
    raw_text: tuple[str, ...]
    text_bert: np.ndarray | None
    text: np.ndarray | None
    audio: np.ndarray
    audio_mask: np.ndarray
    vision: np.ndarray
    vision_mask: np.ndarray
    labels: np.ndarray | None
    unimodal_labels: np.ndarray | None
    text_mask: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, **steps: int) -> tuple[Split, dict[str, int]]:
        """Cut audio, vision or text to their first ``steps``: ``split.cut(audio=400, vision=55)``.

        Returns:
            The split, and how many clips have valid steps beyond that, as notes (`describe_notes`).
        """
        cut, notes = {}, {}
        for key, count in steps.items():
            values, mask = getattr(self, key), getattr(self, f"{key}_mask")
            cut |= {key: values[:, :count], f"{key}_mask": mask[:, :count]}
            notes[f"{key}_clips_too_long"] = int(mask[:, count:].any(axis=1).sum())
        return replace(self, **cut), notes

    def face(self) -> tuple[str, dict[str, object]]:
        text = "not tokenised" if self.text_bert is None else f"{self.text_bert.shape[2]} steps"
        width = "" if self.text is None else f", own embeddings of width {self.text.shape[2]}"
        kinds = [] if self.labels is None else ["y"] + ["y_T, y_V, y_A"] * (self.unimodal_labels is not None)
        facts = {"text": text + width}
        for name in ("audio", "vision"):
            values = getattr(self, name)
            facts[name] = f"{values.shape[1]} steps × {values.shape[2]} dimensions"
        facts |= {"labels": ", ".join(kinds) or "none", "first clip": ", ".join(self.ids[:1]) or "none"}
        return f"Split {self.name!r}: {len(self):,} clips of {len(set(map(video_of, self.ids))):,} videos", facts

    def first(self, clips: int) -> Split:
        """Take the first ``clips`` of the split."""
        return self.take(slice(clips))

    def take(self, rows: slice | np.ndarray) -> Split:
        """Take the clips at ``rows``, in that order."""
        cut = {
            item.name: tuple(np.array(value, dtype=object)[rows]) if isinstance(value, tuple) else value[rows]
            for item in fields(self)
            if item.name not in ("name", "unimodal_labels") and (value := getattr(self, item.name)) is not None
        }
        unimodal = None if self.unimodal_labels is None else self.unimodal_labels[:, rows]
        return replace(self, unimodal_labels=unimodal, **cut)


@dataclass(frozen=True, repr=False)
class Corpus(Face):
    """The three splits of one dataset.

    Attributes:
        name: As it stands in tables and directories.
        scheme: Label scheme, "sims" or "mosi" (``BOUNDS``).
        path: The feature file.
        sha256: Its hash.
        aligned: Whether the three modalities share their steps.
        synthetic: Whether this package generated it.
        language: As it stands in Table 1.
        notes: Counts of what reading decided and changed, for example ``{"audio_neg_inf": 12}``; `describe_notes`.
        dataset: "sims", "mosi" or "mosei", whose settings of the paper it takes; None where nobody said.
        lengths: How the file's lengths were read, as for `load_corpus`.
        nonfinite: What became of numbers that are not finite, as for `load_corpus`.
        text_dim: Width of the file's own text features, or None.
        text_steps: Their steps, or None.
        has_words: Whether the file has sentences or token ids. Without them text is features alone, or absent.
        form: Whose form the file has, in words.
        cache_dir: Where what is read of the file is cached.
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
    dataset: str | None = None
    lengths: str = "auto"
    nonfinite: str = "error"
    text_dim: int | None = None
    text_steps: int | None = None
    has_words: bool = True
    form: str = "MMSA's"
    cache_dir: Path | None = None

    @property
    def bound(self) -> float:
        """Half-width of the label range: labels lie in [-bound, bound]."""
        return BOUNDS[self.scheme]

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.valid, self.test

    def face(self) -> tuple[str, dict[str, object]]:
        _, of_clips = self.train.face()
        of_clips["labels"] += f" in [-{self.bound:g}, {self.bound:g}]"
        del of_clips["first clip"]
        facts = {"clips": ", ".join(f"{name} {len(split):,}" for name, split in zip(SPLITS, self.splits, strict=True))}
        facts |= of_clips | {"steps": "shared by the modalities (aligned)" if self.aligned else "unaligned"}
        facts |= {"what reading changed": "; ".join(describe_notes(self.notes)) or "nothing"}
        facts |= {"file": self.path, "SHA-256": f"{self.sha256[:12]}…"}
        return f"Corpus {self.name!r}{', synthetic' if self.synthetic else ''}", facts


def video_of(clip: str) -> str:
    """The video of the clip with the id ``clip`` (``video$_$clip``); an id of another form is its own video."""
    video, separator, _ = clip.rpartition("$_$")
    return video if separator else clip


def table1(corpora: list[Corpus]) -> pd.DataFrame:
    """Make Table 1 of the paper: for each corpus the clips of each split and in total, and the language."""
    rows = []
    for corpus in corpora:
        sizes = [len(split) for split in corpus.splits]
        rows.append([corpus.name, *sizes, sum(sizes), corpus.language])
    return pd.DataFrame(rows, columns=["Dataset", "#Train", "#Valid", "#Test", "#Total", "Language"])


_NOTES = {
    "neg_inf": "{count} numbers of {what} were -inf and became 0",
    "nonfinite": "{count} numbers of {what} were not finite and became 0 (nonfinite='zero')",
    "clips_beyond_length": "{what}: {count} clips go on beyond their length in the file, so that no length is believed "
    "and a clip runs from its first to its last step that is not zero (lengths='file' believes them)",
    "steps_beyond_length": "{what}: {count} observed steps lie beyond those lengths and are read",
    "clips_cut_by_length": "{what}: {count} clips are cut by their length in the file (lengths='file')",
    "steps_cut_by_length": "{what}: {count} observed steps are lost with it",
    "clips_shifted": "{what}: {count} clips that are padded in front are moved to step 0",
    "clips_absent": "{what} is absent in {count} clips",
    "lengths_cut": "{what}: {count} lengths lie beyond the array, as they were before it was cut, and end with it",
    "clips_too_long": "{what}: {count} clips are longer than the model takes, and are cut to its first steps",
}


def describe_notes(notes: Mapping[str, int]) -> list[str]:
    """A sentence for each count of `Corpus.notes` that is not 0."""
    sentences = []
    for name, count in notes.items():
        what, _, kind = name.partition("_")
        if count:
            sentences.append(_NOTES[kind].format(what=what, count=f"{count:,}"))
    return sentences
