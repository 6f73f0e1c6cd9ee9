"""Reading a feature file: unpickled, brought into one form, checked, its arrays kept, and its steps decided on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import CorpusError
from .cache import Store
from .feature_stream import FeatureStream, observed_span
from .formats import in_mmsa_form
from .sources import read_source, sha256_of
from .validation import LENGTHS, CheckedSplit, check_file
from .values import Location

_SHIFT_CLIPS = 64


def read_file(
    path: Path, store: Store, *, lengths: str = "auto", nonfinite: str = "error", published: str | None = None
) -> dict[str, Any]:
    """Unpickle and check a feature file, without a cache.

    Args:
        path: The feature file.
        store: Keeps the arrays.
        lengths: As for `load_corpus`.
        nonfinite: As for `load_corpus`.
        published: SHA-256 that the file should have, or None.

    Returns:
        All else: ids, sentences, SHA-256, notes.

    Raises:
        CorpusError: The file breaks the format; says so where it is not the published one.
    """
    sha256 = sha256_of(path)  # first, so that an error can say that the download is damaged
    try:
        content, form = in_mmsa_form(read_source(path), path)
        checked, notes = _checked(content, form, path), Counter()
        aligned = is_aligned(checked["train"])
        keep_splits(checked, path, store, notes, lengths, nonfinite, aligned)
    except CorpusError as error:
        if published in (None, sha256):
            raise
        problem = (
            f"{error.problem}; this is not the published file but a damaged or incomplete download, or another one"
        )
        found = f"{error.found}; SHA-256 {sha256}, published {published}: download it again"
        raise CorpusError(
            problem, file=path, split=error.split, key=error.key, expected=error.expected, found=found
        ) from error
    train = checked["train"]
    return {
        "sha256": sha256,
        "form": form,
        "aligned": aligned,
        "notes": {name: count for name, count in notes.items() if count},
        "text_shape": train.features["text"].shape[1:] if "text" in {*train.features} - train.absent else None,
        "has_words": _has_words(checked),
        **{name: {"ids": split.ids, "raw_text": split.raw_text} for name, split in checked.items()},
    }


def _checked(content: Any, form: str, path: Path) -> dict[str, CheckedSplit]:
    """`check_file`, whose errors say what form the file was taken for where it is not MMSA's."""
    try:
        return check_file(content, path)
    except CorpusError as error:
        if form.startswith("MMSA's"):
            raise
        found = f"{error.found}; the form of the file is {form}"
        raise CorpusError(
            error.problem, file=path, split=error.split, key=error.key, expected=error.expected, found=found
        ) from None


def _has_words(checked: Mapping[str, CheckedSplit]) -> bool:
    return any(split.has_words for split in checked.values())


def keep_splits(
    checked: Mapping[str, CheckedSplit],
    path: Path,
    store: Store,
    notes: Counter[str],
    lengths: str,
    nonfinite: str,
    aligned: bool,
    text: bool | None = None,
) -> None:
    """Keep the arrays of all splits, and decide which steps are data.

    Of text features only those of a file without words are kept; ``text`` says otherwise.
    """
    for split in checked.values():
        notes.update(split.notes)
    for key in LENGTHS:  # audio, vision
        _keep_steps(key, checked, path, store, notes, lengths, nonfinite, aligned)
    if keeps_text := not _has_words(checked) if text is None else text:
        _keep_steps("text", checked, path, store, notes, "nonzero", nonfinite, aligned)
    for name, split in checked.items():
        if not keeps_text:
            notes["text_clips_absent"] += sum(
                int(
                    not sentence.strip() and (split.text_bert is None or split.text_bert[row, 1].sum() <= 2)
                )  # [CLS], [SEP]
                for row, sentence in enumerate(split.raw_text)
            )
        for key in ("text_bert", "labels", "unimodal_labels"):
            array = getattr(split, key)
            if array is not None:
                store.keep(f"{name}-{key}", array.shape, array.dtype.type, [array])


def _keep_steps(
    key: str,
    checked: Mapping[str, CheckedSplit],
    path: Path,
    store: Store,
    notes: Counter[str],
    lengths: str,
    nonfinite: str,
    aligned: bool,
) -> None:
    """Keep the features of one modality, all splits of it, and the mask of the steps that are data (decision 19)."""
    streams = {}
    for name, split in checked.items():
        source, known = split.features[key], split.lengths.get(key)
        streams[name] = FeatureStream(source, key, Location(path, name), nonfinite=nonfinite, lengths=known)
        store.keep(f"{name}-{key}", source.shape, np.float32, streams[name].chunks())
        notes[f"{key}_neg_inf"] += streams[name].negative_infinities
        notes[f"{key}_nonfinite"] += streams[name].replaced
    tokens = {name: split.text_bert for name, split in checked.items()}
    if key == "text" and all(
        ids is not None and ids.shape[2] == checked[name].features["text"].shape[1] for name, ids in tokens.items()
    ):  # made of these tokens, a step each
        for name, ids in tokens.items():
            store.keep(f"{name}-text_mask", ids[:, 1].shape, bool, [ids[:, 1] > 0])
        return
    known = {name: split.lengths.get(key) for name, split in checked.items()}
    for name, (start, stop) in observed_span(known, streams, lengths, notes).items():
        steps = np.arange(checked[name].features[key].shape[1])
        moved = int((start > 0).sum())
        if moved and not aligned:  # steps of an aligned file are those of its words
            notes[f"{key}_clips_shifted"] += moved
            array = store.arrays[f"{name}-{key}"]
            store.keep(f"{name}-{key}", array.shape, np.float32, _shifted(array, start))
            start, stop = np.zeros_like(start), stop - start
        mask = (start[:, None] <= steps) & (steps < stop[:, None])  # (N, L)
        store.keep(f"{name}-{key}_mask", mask.shape, bool, [mask])


def _shifted(array: np.ndarray, start: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks of (N, L, D) with every clip moved to its front by ``start`` (N,) steps."""
    for first in range(0, len(array), _SHIFT_CLIPS):
        chunk = np.zeros_like(array[first : first + _SHIFT_CLIPS])
        for row, skipped in enumerate(start[first : first + _SHIFT_CLIPS]):
            chunk[row, : array.shape[1] - skipped] = array[first + row, skipped:]
        yield chunk


def read_text(path: Path, store: Store, *, nonfinite: str, aligned: bool) -> dict[str, Any]:
    sha256 = sha256_of(path)
    checked = check_file(in_mmsa_form(read_source(path), path)[0], path)
    for name, split in checked.items():
        if "text" not in {*split.features} - split.absent:
            Location(path, name).fail("the file changed since the corpus was loaded", "text", "as before", "none")
    _keep_steps("text", checked, path, store, Counter(), "nonzero", nonfinite, aligned)
    return {"sha256": sha256}


def is_aligned(split: CheckedSplit) -> bool:
    """Whether the modalities share their steps: as many of each, and no lengths of their own."""
    text = split.features.get("text") if split.text_bert is None else split.text_bert[:, 0]
    counts = {split.features[key].shape[1] for key in LENGTHS if key not in split.absent}
    return text is not None and counts <= {text.shape[1]} and all(lengths is None for lengths in split.lengths.values())
