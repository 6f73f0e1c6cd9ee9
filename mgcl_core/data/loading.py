"""From the name of a corpus or the path of a feature file to a checked `Corpus`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ..support.errors import ConfigError, CorpusError, nearest
from ..support.paths import data_directory, find
from .cache import Contents, Store, open_cached
from .corpus import BOUNDS, PAPER_DATASETS, SPLITS, Corpus, Split, describe_notes
from .safe_pickle import read_pickle
from .validation import (
    LENGTHS,
    UNIMODAL,
    CheckedSplit,
    FeatureStream,
    Location,
    check_clips,
    check_file,
    decide_scheme,
    observed_span,
)

log = logging.getLogger(__name__)

#: How the file's lengths are read (decision 19), and what becomes of numbers that are not finite.
LENGTH_RULES, NONFINITE_RULES = ("auto", "file", "nonzero"), ("error", "zero")
_SHIFT_CLIPS = 64


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus that is loaded by name.

    Attributes:
        name: As it stands in tables and folders.
        scheme: Its label scheme.
        language: As it stands in Table 1.
        dataset: The dataset of the paper whose settings it takes.
        files: Where its feature file may lie in the data folder: as `data/README.md` has it, or as MMSA has it; empty
            for a synthetic corpus.
        clips: Of train, valid and test, in Table 1.
    """

    name: str
    scheme: str
    language: str
    dataset: str
    files: tuple[str, ...] = ()
    clips: tuple[int, int, int] | None = None


_SYNTHETIC = "English (synthetic)"
KNOWN_CORPORA = {
    "demo": KnownCorpus("demo", "sims", _SYNTHETIC, "sims"),
    "demo-mosi": KnownCorpus("demo-mosi", "mosi", _SYNTHETIC, "mosi"),
    "synthetic-sims": KnownCorpus("synthetic-sims", "sims", _SYNTHETIC, "sims"),
    "synthetic-mosi": KnownCorpus("synthetic-mosi", "mosi", _SYNTHETIC, "mosi"),
    "synthetic-mosei": KnownCorpus("synthetic-mosei", "mosi", _SYNTHETIC, "mosei"),
    "sims": KnownCorpus(
        "CH-SIMS",
        "sims",
        "Chinese",
        "sims",
        ("CH-SIMS/unaligned_39.pkl", "SIMS/Processed/unaligned_39.pkl"),
        (1368, 456, 457),
    ),
    "mosi": KnownCorpus(
        "CMU-MOSI",
        "mosi",
        "English",
        "mosi",
        ("CMU-MOSI/unaligned_50.pkl", "MOSI/Processed/unaligned_50.pkl"),
        (1284, 229, 686),
    ),
    "mosei": KnownCorpus(
        "CMU-MOSEI",
        "mosi",
        "English",
        "mosei",
        ("CMU-MOSEI/unaligned_50.pkl", "MOSEI/Processed/unaligned_50.pkl"),
        (16326, 1871, 4659),
    ),
}
_ALIASES = {known.name.lower(): key for key, known in KNOWN_CORPORA.items()}

#: Published by the authors of the files (https://github.com/thuiar/MMSA), by name of the corpus and of the file.
SHA256 = {
    "CMU-MOSI/unaligned_50.pkl": "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
    "CMU-MOSI/aligned_50.pkl": "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
    "CMU-MOSEI/unaligned_50.pkl": "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
    "CMU-MOSEI/aligned_50.pkl": "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    "CH-SIMS/unaligned_39.pkl": "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
}
_PUBLISHED = {sha256: name for name, sha256 in SHA256.items()}
_MMSA_FOLDERS = {"SIMS": "CH-SIMS", "MOSI": "CMU-MOSI", "MOSEI": "CMU-MOSEI"}


def published_file(corpus: Corpus) -> str | None:
    """The key in `SHA256` of the published file that ``corpus`` was read from, by its hash; None for any other file."""
    return _PUBLISHED.get(corpus.sha256)


def known_name(name: object) -> str | None:
    """Look up ``name`` in `KNOWN_CORPORA`, in any spelling (``Demo``, ``CH-SIMS``).

    Returns:
        The key there, or None for the path of a file.
    """
    key = str(name).lower()
    key = _ALIASES.get(key, key)
    return key if isinstance(name, str) and key in KNOWN_CORPORA else None


def load_corpus(
    name_or_path: str | os.PathLike,
    scheme: str | None = None,
    *,
    dataset: str | None = None,
    lengths: str = "auto",
    nonfinite: str = "error",
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Corpus:
    """Load a corpus: read its feature file, check all of it, and cache it memory-mapped.

    A published file is recognised by its SHA-256, wherever it lies. One in a published file's place that has another is
    read with a logged warning.

    Args:
        name_or_path: A known name (``demo``, ``demo-mosi``, ``sims``, ``mosi``, ``mosei``, ``synthetic-sims``,
            ``synthetic-mosi``, ``synthetic-mosei``, in any case) or a feature file.
        scheme: ``"sims"`` (labels in [-1, 1]) or ``"mosi"`` ([-3, 3]). By default the known corpus or else the range of
            the labels decides, and the decision is logged.
        dataset: ``"sims"``, ``"mosi"`` or ``"mosei"``, whose settings of the paper it is to be run with; by default
            that of a known corpus.
        lengths: ``"auto"`` believes the file's lengths where they cut off no observed step, ``"file"`` always, and
            ``"nonzero"`` never (decision 19).
        nonfinite: ``"error"``, or ``"zero"`` to read NaN and infinity as 0.
        data_dir: Where known feature files are, and where synthetic ones are written once. By default ``MGCL_DATA``,
            else ``data`` in the project.
        cache_dir: By default ``.cache`` in ``data_dir``.

    Returns:
        The corpus, with read-only arrays. The file's text features are read by `with_text`.

    Raises:
        CorpusError: The name is unknown, or the file is missing or breaks the format.
        ConfigError: An argument is none of its values.
    """
    choices = (("scheme", scheme, BOUNDS), ("dataset", dataset, PAPER_DATASETS))
    for what, value, known_values in (
        *choices,
        ("lengths", lengths, LENGTH_RULES),
        ("nonfinite", nonfinite, NONFINITE_RULES),
    ):
        if value not in known_values and not (value is None and what in ("scheme", "dataset")):
            raise ConfigError(f"unknown {what} {value!r}: {nearest(str(value), known_values)}")
    data_dir = Path(data_dir) if data_dir is not None else data_directory()
    cache_dir = Path(cache_dir) if cache_dir is not None else data_dir / ".cache"
    known, place = _resolve(name_or_path, data_dir)
    path = place.resolve()
    read = functools.partial(read_file, path, lengths=lengths, nonfinite=nonfinite, published=_published(known, place))
    contents = open_cached(path, cache_dir, read, ("features", lengths, nonfinite))
    facts, splits = contents.facts, {name: _split(name, contents) for name in SPLITS}
    name, recognised = known.name if known else _name_of(path), _PUBLISHED.get(facts["sha256"])
    if recognised:
        if known and known.files and known.name != recognised.split("/")[0]:
            log.warning("%s is asked for as %s, but it is %s by its SHA-256", place, known.name, recognised)
        known = KNOWN_CORPORA[_ALIASES[recognised.split("/")[0].lower()]]
        name = known.name + ("-aligned" if facts["aligned"] else "")
        log.info("%s: the published file %s, by its SHA-256", name, recognised)
    else:
        _warn_of_another_file(place, known, facts["sha256"], [len(split) for split in splits.values()])
    for line in describe_notes(facts["notes"]):
        log.info("%s: %s", name, line)
    return Corpus(
        name=name,
        scheme=_decide_scheme(name, known, splits, scheme, path),
        **splits,
        path=path,
        sha256=facts["sha256"],
        aligned=facts["aligned"],
        synthetic=known is not None and not known.files,
        language=known.language if known else "",
        notes=facts["notes"],
        dataset=dataset or (known.dataset if known else None),
        lengths=lengths,
        nonfinite=nonfinite,
        text_dim=facts["text_dim"],
        cache_dir=cache_dir,
    )


def with_text(corpus: Corpus) -> Corpus:
    """The corpus with the file's own contextual embeddings (`Split.text`), where it has any.

    Few systems read them, and they are most of a feature file; so they are read and cached only here.

    Raises:
        CorpusError: The file is another one by now, or a number is not finite and the corpus was not read with
            ``nonfinite="zero"``.
    """
    if corpus.text_dim is None or corpus.train.text is not None:
        return corpus
    read = functools.partial(_read_text, corpus.path, nonfinite=corpus.nonfinite)
    contents = open_cached(corpus.path, corpus.cache_dir, read, ("text", corpus.nonfinite))
    if contents.facts["sha256"] != corpus.sha256:
        problem = "the file changed since the corpus was loaded: load it again"
        found = f"SHA-256 {contents.facts['sha256']}"
        raise CorpusError(problem, file=corpus.path, key="text", expected=f"SHA-256 {corpus.sha256}", found=found)
    present = {split.name: split for split in corpus.splits if isinstance(split, Split)}
    texts = {name: dataclasses.replace(split, text=contents.arrays[f"{name}-text"]) for name, split in present.items()}
    return dataclasses.replace(corpus, **texts)


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
    sha256 = _sha256(path)  # first, so that an error can say that the download is damaged
    try:
        checked, notes = check_file(read_pickle(path), path), Counter()
        aligned = _is_aligned(checked["train"])
        _copy(checked, path, store, notes, lengths, nonfinite, aligned)
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
    text = checked["train"].features.get("text")
    return {
        "sha256": sha256,
        "aligned": aligned,
        "notes": {name: count for name, count in notes.items() if count},
        "text_dim": None if text is None else text.shape[2],
        **{name: {"ids": split.ids, "raw_text": split.raw_text} for name, split in checked.items()},
    }


def load_clips(
    name_or_path: str | os.PathLike,
    *,
    audio_dim: int,
    vision_dim: int,
    splits: Sequence[str] = (),
    lengths: str = "auto",
    nonfinite: str = "error",
    data_dir: str | os.PathLike | None = None,
) -> dict[str, Split]:
    """Load clips to predict: any of the splits train, valid and test, with or without labels, which are not kept.

    Args:
        name_or_path: As for `load_corpus`.
        audio_dim: Features per step of audio that the model takes.
        vision_dim: The same for vision.
        splits: Which splits; all that there are by default. The others are not looked at.
        lengths: As for `load_corpus`.
        nonfinite: As for `load_corpus`.
        data_dir: As for `load_corpus`.

    Returns:
        The splits by name. A modality that the file lacks is absent in every clip.

    Raises:
        CorpusError: As `load_corpus`, a split is missing, or the features have another width.
    """
    _, path = _resolve(name_or_path, Path(data_dir) if data_dir is not None else data_directory())
    checked = check_clips(read_pickle(path), path, splits)
    for name, split in checked.items():
        for key, width in (("audio", audio_dim), ("vision", vision_dim)):
            dims = split.features[key].shape[2]
            if key in split.absent:
                split.features[key] = np.zeros((len(split.ids), 1, width), np.float32)
            elif dims != width:
                Location(path, name).fail("features of another width", key, f"{width} values a step", f"{dims} values")
    store, notes = Store(), Counter()
    _copy(checked, path, store, notes, lengths, nonfinite, _is_aligned(next(iter(checked.values()))))
    for line in describe_notes(notes):
        log.info("%s: %s", path.name, line)
    texts = {name: {"ids": split.ids, "raw_text": split.raw_text} for name, split in checked.items()}
    return {name: _split(name, Contents(store.arrays, texts)) for name in checked}


def _copy(
    checked: Mapping[str, CheckedSplit],
    path: Path,
    store: Store,
    notes: Counter[str],
    lengths: str,
    nonfinite: str,
    aligned: bool,
) -> None:
    """Keep the arrays of all splits, but their text features; decide which steps are data."""
    for key in LENGTHS:  # audio, vision
        streams = {}
        for name, split in checked.items():
            source, known = split.features[key], split.lengths[key]
            streams[name] = FeatureStream(source, key, Location(path, name), nonfinite=nonfinite, lengths=known)
            store.keep(f"{name}-{key}", source.shape, np.float32, streams[name].chunks())
            notes[f"{key}_neg_inf"] += streams[name].negative_infinities
            notes[f"{key}_nonfinite"] += streams[name].replaced
        known = {name: split.lengths[key] for name, split in checked.items()}
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
    for name, split in checked.items():
        notes["text_clips_absent"] += sum(
            int(not text.strip() and (split.text_bert is None or split.text_bert[row, 1].sum() <= 2))  # [CLS] and [SEP]
            for row, text in enumerate(split.raw_text)
        )
        for key in ("text_bert", "labels", "unimodal_labels"):
            array = getattr(split, key)
            if array is not None:
                store.keep(f"{name}-{key}", array.shape, array.dtype.type, [array])


def _shifted(array: np.ndarray, start: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks of (N, L, D) with every clip moved to its front by ``start`` (N,) steps."""
    for first in range(0, len(array), _SHIFT_CLIPS):
        chunk = np.zeros_like(array[first : first + _SHIFT_CLIPS])
        for row, skipped in enumerate(start[first : first + _SHIFT_CLIPS]):
            chunk[row, : array.shape[1] - skipped] = array[first + row, skipped:]
        yield chunk


def _read_text(path: Path, store: Store, *, nonfinite: str) -> dict[str, Any]:
    sha256 = _sha256(path)
    for name, split in check_file(read_pickle(path), path).items():
        if "text" not in split.features:
            Location(path, name).fail("the file changed since the corpus was loaded", "text", "as before", "none")
        source = split.features["text"]
        stream = FeatureStream(source, "text", Location(path, name), nonfinite=nonfinite)
        store.keep(f"{name}-text", source.shape, np.float32, stream.chunks())
    return {"sha256": sha256}


def _split(name: str, contents: Contents) -> Split:
    arrays = {
        key: contents.arrays.get(f"{name}-{key}")
        for key in ("text_bert", "audio", "audio_mask", "vision", "vision_mask", "labels", "unimodal_labels")
    }
    texts = contents.facts[name]
    return Split(name=name, ids=tuple(texts["ids"]), raw_text=tuple(texts["raw_text"]), text=None, **arrays)


def _is_aligned(split: CheckedSplit) -> bool:
    """Whether the modalities share their steps: as many of each, and no lengths of their own."""
    text = split.features.get("text") if split.text_bert is None else split.text_bert[:, 0]
    counts = {split.features[key].shape[1] for key in LENGTHS if key not in split.absent}
    return text is not None and counts <= {text.shape[1]} and all(lengths is None for lengths in split.lengths.values())


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(
            "the file cannot be opened", file=path, expected="a file to read", found=error.strerror
        ) from error


def _resolve(name_or_path: str | os.PathLike, data_dir: Path) -> tuple[KnownCorpus | None, Path]:
    """Find the known corpus, if it is one, and the path of the feature file."""
    if (key := known_name(name_or_path)) is not None:
        known = KNOWN_CORPORA[key]
        if not known.files:
            return known, _generated(key, data_dir)
        places = [data_dir / file for file in known.files]
        for place in places:
            if place.is_file():
                return known, place
        problem = f"the features of {known.name} are missing; data/README.md says where to get them"
        raise CorpusError(
            problem, file=places[0], expected=f"the file {' or '.join(map(str, places))}", found="neither"
        )
    path = find(name_or_path)
    if path.is_file():
        return None, path.absolute()
    if path.is_dir():
        raise CorpusError("a folder is not a corpus", file=path, expected="a feature file", found="a folder")
    problem = (
        f"no corpus and no file is called {str(name_or_path)!r}: {nearest(str(name_or_path).lower(), KNOWN_CORPORA)}"
    )
    raise CorpusError(problem, expected="a known name or a feature file", found="neither")


def _generated(key: str, data_dir: Path) -> Path:
    """Write a synthetic corpus, unless this version of it is there already."""
    from . import synthetic  # only the demos need it

    folder = data_dir / "demo"
    path = folder / f"{key}.v{synthetic.VERSION}.pkl"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if path.is_file():  # another process wrote it
                return path
            for outdated in folder.glob(f"{key}.v*"):
                outdated.unlink()
            log.info("generating the synthetic corpus %s", path)
            synthetic.write_corpus(key, path)
    except OSError as error:
        problem = "a synthetic corpus cannot be written; set MGCL_DATA to a folder that takes it"
        raise CorpusError(problem, file=path, found=error) from error
    return path


def _name_of(path: Path) -> str:
    """Name a corpus by its file's stem, with the folder's name before a stem that says nothing (`unaligned_50`)."""
    if not re.fullmatch(r"(un)?aligned(_\d+)?|features?|data", path.stem):
        return path.stem
    folder = path.parent.parent if path.parent.name == "Processed" else path.parent
    return f"{folder.name}-{path.stem}"


def _published(known: KnownCorpus | None, place: Path) -> str | None:
    """SHA-256 of the published file in whose place a file lies, or None."""
    folder = place.parent.parent.name if place.parent.name == "Processed" else place.parent.name
    folder = known.name if known and known.files else _MMSA_FOLDERS.get(folder, folder)
    return SHA256.get(f"{folder}/{place.name}")


def _warn_of_another_file(place: Path, known: KnownCorpus | None, sha256: str, clips: list[int]) -> None:
    published = _published(known, place)
    if published is not None:
        log.warning("%s has SHA-256 %s, but the published file has %s", place, sha256, published)
    if known and known.clips and tuple(clips) != known.clips:
        log.warning("%s has %s clips, but %s in Table 1 has %s", place, clips, known.name, list(known.clips))


def _decide_scheme(
    name: str, known: KnownCorpus | None, splits: Mapping[str, Split], scheme: str | None, path: Path
) -> str:
    labels = {}
    for split in splits.values():
        labels[split.name, "regression_labels"] = split.labels
        for index, key in enumerate(UNIMODAL if split.unimodal_labels is not None else ()):
            labels[split.name, key] = split.unimodal_labels[index]
    decided = decide_scheme(labels, scheme or (known.scheme if known else None), path)
    reason = "as given" if scheme else "by its name" if known else "by the range of its labels"
    log.info("%s: label scheme %r, [-%g, %g], %s", name, decided, BOUNDS[decided], BOUNDS[decided], reason)
    return decided
