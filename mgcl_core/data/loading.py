"""From the name of a corpus or the path of a feature file to a checked `Corpus`."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..support.errors import ConfigError, CorpusError, nearest
from ..support.paths import data_directory
from .cache import Contents, Store, open_cached
from .corpus import BOUNDS, SPLITS, Corpus, Split
from .safe_pickle import read_pickle
from .validation import UNIMODAL, CheckedSplit, FeatureStream, Location, check_clips, check_file, decide_scheme

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus that is loaded by name.

    Attributes:
        name: As it stands in tables and folders.
        scheme: Its label scheme.
        language: As it stands in Table 1.
        file: Path of its feature file in the data folder; None for a synthetic corpus.
    """

    name: str
    scheme: str
    language: str
    file: str | None = None


_SYNTHETIC = "English (synthetic)"
KNOWN_CORPORA = {
    "demo": KnownCorpus("demo", "sims", _SYNTHETIC),
    "demo-mosi": KnownCorpus("demo-mosi", "mosi", _SYNTHETIC),
    "synthetic-sims": KnownCorpus("synthetic-sims", "sims", _SYNTHETIC),
    "synthetic-mosi": KnownCorpus("synthetic-mosi", "mosi", _SYNTHETIC),
    "synthetic-mosei": KnownCorpus("synthetic-mosei", "mosi", _SYNTHETIC),
    "sims": KnownCorpus("CH-SIMS", "sims", "Chinese", "CH-SIMS/unaligned_39.pkl"),
    "mosi": KnownCorpus("CMU-MOSI", "mosi", "English", "CMU-MOSI/unaligned_50.pkl"),
    "mosei": KnownCorpus("CMU-MOSEI", "mosi", "English", "CMU-MOSEI/unaligned_50.pkl"),
}
_ALIASES = {known.name.lower(): key for key, known in KNOWN_CORPORA.items()}

#: Published by the authors of the files (https://github.com/thuiar/MMSA), by folder and file name.
SHA256 = {
    "CMU-MOSI/unaligned_50.pkl": "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
    "CMU-MOSI/aligned_50.pkl": "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
    "CMU-MOSEI/unaligned_50.pkl": "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
    "CMU-MOSEI/aligned_50.pkl": "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    "CH-SIMS/unaligned_39.pkl": "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
}


def published_file(corpus: Corpus) -> str | None:
    """The key in `SHA256` of the published file that ``corpus`` was read from, by its hash; None for any other file."""
    return next((name for name, sha256 in SHA256.items() if sha256 == corpus.sha256), None)


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
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Corpus:
    """Load a corpus: read its feature file, check all of it, and cache it memory-mapped.

    A file whose SHA-256 differs from the published one is read with a logged warning.

    Args:
        name_or_path: A known name (``demo``, ``demo-mosi``, ``sims``, ``mosi``, ``mosei``, ``synthetic-sims``,
            ``synthetic-mosi``, ``synthetic-mosei``, in any case) or a feature file.
        scheme: ``"sims"`` (labels in [-1, 1]) or ``"mosi"`` ([-3, 3]). By default the known name or else the range of
            the labels decides, and the decision is logged.
        data_dir: Where known feature files are, and where synthetic ones are written once. By default ``MGCL_DATA``,
            else ``data`` in the project.
        cache_dir: By default ``.cache`` in ``data_dir``.

    Returns:
        The corpus, with read-only arrays.

    Raises:
        CorpusError: The name is unknown, or the file is missing or breaks the format.
        ConfigError: The scheme is unknown.
    """
    if scheme is not None and scheme not in BOUNDS:
        raise ConfigError(f"unknown label scheme {scheme!r}: {nearest(str(scheme), BOUNDS)}")
    data_dir = Path(data_dir) if data_dir is not None else data_directory()
    cache_dir = Path(cache_dir) if cache_dir is not None else data_dir / ".cache"
    known, path = _resolve(name_or_path, data_dir)
    name = known.name if known else _name_of(path)
    contents = open_cached(path, cache_dir, lambda store: read_file(path, store))
    _compare_hash(path, contents.sha256)
    if contents.notes["audio_neg_inf"]:
        log.info("%s: %d audio numbers were -inf and became 0", name, contents.notes["audio_neg_inf"])
    return Corpus(
        name=name,
        scheme=_decide_scheme(name, known, contents, scheme, path),
        **contents.splits,
        path=path,
        sha256=contents.sha256,
        aligned=contents.aligned,
        synthetic=known is not None and known.file is None,
        language=known.language if known else "",
        notes=dict(contents.notes),
    )


def read_file(path: Path, store: Store) -> Contents:
    """Unpickle and check a feature file, without a cache.

    Args:
        path: The feature file.
        store: Keeps the arrays.

    Raises:
        CorpusError: The file breaks the format.
    """
    checked = check_file(read_pickle(path), path)
    notes = {"audio_neg_inf": 0}
    splits = {name: _copy(name, checked[name], path, store, notes) for name in SPLITS}
    train = checked["train"]
    steps = {train.text_bert.shape[2], train.features["audio"].shape[1], train.features["vision"].shape[1]}
    aligned = len(steps) == 1 and all(lengths is None for lengths in train.lengths.values())
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Contents(splits, sha256, aligned, notes)


def load_clips(
    name_or_path: str | os.PathLike, *, audio_dim: int, vision_dim: int, data_dir: str | os.PathLike | None = None
) -> dict[str, Split]:
    """Load clips to predict: any of the splits train, valid and test, with or without labels, which are not kept.

    Args:
        name_or_path: As for `load_corpus`.
        audio_dim: Features per step of audio that the model takes.
        vision_dim: The same for vision.
        data_dir: As for `load_corpus`.

    Returns:
        The splits by name.

    Raises:
        CorpusError: As `load_corpus`, or the features have another width.
    """
    _, path = _resolve(name_or_path, Path(data_dir) if data_dir is not None else data_directory())
    checked = check_clips(read_pickle(path), path)
    for name, split in checked.items():
        for key, width in (("audio", audio_dim), ("vision", vision_dim)):
            if (dims := split.features[key].shape[2]) != width:
                Location(path, name).fail("features of another width", key, f"{width} values a step", f"{dims} values")
    notes = {"audio_neg_inf": 0}
    return {name: _copy(name, split, path, Store(), notes) for name, split in checked.items()}


def _copy(name: str, split: CheckedSplit, path: Path, store: Store, notes: dict[str, int]) -> Split:
    arrays = {"text": None}
    for key, source in split.features.items():
        stream = FeatureStream(source, key, Location(path, name))
        arrays[key] = store.keep(f"{name}-{key}", source.shape, np.float32, stream.chunks())
        notes["audio_neg_inf"] += stream.negative_infinities
        if key in split.lengths:  # audio and vision
            lengths = split.lengths[key] if split.lengths[key] is not None else stream.extent
            arrays[f"{key}_mask"] = np.arange(source.shape[1]) < lengths[:, None]  # (N, L)
    arrays |= {"text_bert": split.text_bert, "labels": split.labels, "unimodal_labels": split.unimodal_labels}
    for key in ("audio_mask", "vision_mask", "text_bert", "labels", "unimodal_labels"):
        array = arrays[key]
        if array is not None:
            arrays[key] = store.keep(f"{name}-{key}", array.shape, array.dtype.type, [array])
    return Split(name=name, ids=tuple(split.ids), raw_text=tuple(split.raw_text), **arrays)


def _resolve(name_or_path: str | os.PathLike, data_dir: Path) -> tuple[KnownCorpus | None, Path]:
    """Find the known corpus, if it is one, and the resolved path of the feature file."""
    if (key := known_name(name_or_path)) is not None:
        known = KNOWN_CORPORA[key]
        if known.file is None:
            return known, _generated(key, data_dir).resolve()
        path = data_dir / known.file
        if not path.is_file():
            problem = f"the features of {known.name} are missing; data/README.md says where to get them"
            raise CorpusError(problem, file=path, expected=f"the file {path}", found="none")
        return known, path.resolve()
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return None, path.resolve()
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


def _compare_hash(path: Path, sha256: str) -> None:
    published = SHA256.get(f"{path.parent.name}/{path.name}", sha256)
    if published != sha256:
        log.warning("%s has SHA-256 %s, but the published file has %s", path, sha256, published)


def _decide_scheme(name: str, known: KnownCorpus | None, contents: Contents, scheme: str | None, path: Path) -> str:
    labels = {}
    for split in contents.splits.values():
        labels[split.name, "regression_labels"] = split.labels
        for index, key in enumerate(UNIMODAL if split.unimodal_labels is not None else ()):
            labels[split.name, key] = split.unimodal_labels[index]
    decided = decide_scheme(labels, scheme or (known.scheme if known else None), path)
    reason = "as given" if scheme else "by its name" if known else "by the range of its labels"
    log.info("%s: label scheme %r, [-%g, %g], %s", name, decided, BOUNDS[decided], BOUNDS[decided], reason)
    return decided
