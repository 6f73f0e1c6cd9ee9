"""``load_corpus``: from a name or a path to a checked ``Corpus``."""

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
from . import cache
from . import validation as checks
from .cache import Contents, Store
from .corpus import BOUNDS, SPLITS, Corpus, Split
from .safe_pickle.reader import read_pickle

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """A corpus with a name: its label scheme, and its place in the data folder unless it is generated."""

    name: str
    scheme: str
    language: str
    place: str | None = None


_SYNTHETIC = "English (synthetic)"
KNOWN = {
    "demo": Known("demo", "sims", _SYNTHETIC),
    "demo-mosi": Known("demo-mosi", "mosi", _SYNTHETIC),
    "synthetic-sims": Known("synthetic-sims", "sims", _SYNTHETIC),
    "synthetic-mosi": Known("synthetic-mosi", "mosi", _SYNTHETIC),
    "synthetic-mosei": Known("synthetic-mosei", "mosi", _SYNTHETIC),
    "sims": Known("CH-SIMS", "sims", "Chinese", "CH-SIMS/unaligned_39.pkl"),
    "mosi": Known("CMU-MOSI", "mosi", "English", "CMU-MOSI/unaligned_50.pkl"),
    "mosei": Known("CMU-MOSEI", "mosi", "English", "CMU-MOSEI/unaligned_50.pkl"),
}
_ALIASES = {known.name.lower(): key for key, known in KNOWN.items()}

#: Published by the authors of the files (https://github.com/thuiar/MMSA), by folder and file name.
SHA256 = {
    "CMU-MOSI/unaligned_50.pkl": "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
    "CMU-MOSI/aligned_50.pkl": "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
    "CMU-MOSEI/unaligned_50.pkl": "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
    "CMU-MOSEI/aligned_50.pkl": "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    "CH-SIMS/unaligned_39.pkl": "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
}


def known_name(name: object) -> str | None:
    """The key of ``name`` in `KNOWN`, however it is written (``Demo``, ``CH-SIMS``); None for the path of a file."""
    key = str(name).lower()
    key = _ALIASES.get(key, key)
    return key if isinstance(name, str) and key in KNOWN else None


def load_corpus(
    name_or_path: str | os.PathLike,
    scheme: str | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Corpus:
    """Reads a feature file of the field's pickle format, checks it whole, and caches it memory-mapped.

    ``name_or_path`` is a known name (``demo``, ``demo-mosi``, ``sims``, ``mosi``, ``mosei``,
    ``synthetic-sims``, ``synthetic-mosi``, ``synthetic-mosei``, in any case) or a file. ``scheme`` is
    ``"sims"`` (labels in [-1, 1]) or ``"mosi"`` ([-3, 3]); without it a known name or else the labels'
    range decides, and what was decided is logged. Known files are looked for in ``data_dir``
    (``MGCL_DATA``, else ``data`` in the project), and generated ones are written there once. The cache
    goes to ``cache_dir`` (``.cache`` in ``data_dir``).

    Raises ``CorpusError`` for an unknown name, a missing file and a file that breaks the format, and
    ``ConfigError`` for an unknown scheme. A file whose SHA-256 is not the published one is read with
    a logged warning.
    """
    if scheme is not None and scheme not in BOUNDS:
        raise ConfigError(f"unknown label scheme {scheme!r}: {nearest(str(scheme), BOUNDS)}")
    data_dir = Path(data_dir) if data_dir is not None else data_directory()
    cache_dir = Path(cache_dir) if cache_dir is not None else data_dir / ".cache"
    known, path = _find(name_or_path, data_dir)
    name = known.name if known else _name_of(path)
    contents = cache.cached(path, cache_dir, lambda store: read_file(path, store))
    _compare_hash(path, contents.sha256)
    if contents.notes["audio_neg_inf"]:
        logger.info("%s: %d audio numbers were -inf and became 0", name, contents.notes["audio_neg_inf"])
    return Corpus(
        name=name,
        scheme=_decide_scheme(name, known, contents, scheme, path),
        **contents.splits,
        path=path,
        sha256=contents.sha256,
        aligned=contents.aligned,
        synthetic=known is not None and known.place is None,
        language=known.language if known else "",
        notes=dict(contents.notes),
    )


def read_file(path: Path, store: Store) -> Contents:
    """Unpickles and checks a feature file and copies its arrays into ``store``, without a cache."""
    checked = checks.check_file(read_pickle(path), path)
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
    """The splits of a file of clips to predict: any of train, valid and test, labels neither needed nor kept.

    ``audio_dim`` and ``vision_dim`` are what the model takes. Raises ``CorpusError`` as ``load_corpus``
    does, and where the features are of another width.
    """
    _, path = _find(name_or_path, Path(data_dir) if data_dir is not None else data_directory())
    checked = checks.check_clips(read_pickle(path), path)
    for name, split in checked.items():
        for key, width in (("audio", audio_dim), ("vision", vision_dim)):
            if split.features[key].shape[2] != width:
                found = f"{split.features[key].shape[2]} values"
                checks.Where(path, name).fail("features of another width", key, f"{width} values a step", found)
    notes = {"audio_neg_inf": 0}
    return {name: _copy(name, split, path, Store(), notes) for name, split in checked.items()}


def _copy(name: str, split: checks.CheckedSplit, path: Path, store: Store, notes: dict[str, int]) -> Split:
    arrays = {"text": None}
    for key, source in split.features.items():
        stream = checks.FeatureStream(source, key, checks.Where(path, name))
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


def _find(name_or_path: str | os.PathLike, data_dir: Path) -> tuple[Known | None, Path]:
    """The known corpus, if it is one, and the resolved path of its file."""
    key = known_name(name_or_path)
    if key is not None:
        known = KNOWN[key]
        if known.place is None:
            return known, _generated(key, data_dir).resolve()
        path = data_dir / known.place
        if not path.is_file():
            problem = f"the features of {known.name} are missing; data/README.md says where to get them"
            raise CorpusError(problem, file=path, expected=f"the file {path}", found="none")
        return known, path.resolve()
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return None, path.resolve()
    if path.is_dir():
        raise CorpusError("a folder is no corpus", file=path, expected="a feature file", found="a folder")
    problem = f"no corpus and no file is called {str(name_or_path)!r}: {nearest(str(name_or_path).lower(), KNOWN)}"
    raise CorpusError(problem, expected="a known name or a feature file", found="neither")


def _generated(key: str, data_dir: Path) -> Path:
    """The synthetic corpus of this version of the generator, written if it is not there yet."""
    from .synthetic import demo

    folder = data_dir / "demo"
    path = folder / f"{key}.v{demo.VERSION}.pkl"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if path.is_file():  # another process wrote it meanwhile
                return path
            for old in folder.glob(f"{key}.v*"):
                old.unlink()
            logger.info("generating the synthetic corpus %s", path)
            unfinished = path.with_suffix(".unfinished")
            demo.write(key, unfinished)
            os.replace(unfinished, path)
    except OSError as error:
        problem = "a synthetic corpus cannot be written; set MGCL_DATA to a folder that takes it"
        raise CorpusError(problem, file=path, found=error) from error
    return path


def _name_of(path: Path) -> str:
    """The file's stem, after the folder's name where the stem alone says nothing (`unaligned_50`)."""
    if not re.fullmatch(r"(un)?aligned(_\d+)?|features?|data", path.stem):
        return path.stem
    folder = path.parent.parent if path.parent.name == "Processed" else path.parent
    return f"{folder.name}-{path.stem}"


def _compare_hash(path: Path, sha256: str) -> None:
    published = SHA256.get(f"{path.parent.name}/{path.name}", sha256)
    if published != sha256:
        logger.warning("%s has SHA-256 %s, but the published file has %s", path, sha256, published)


def _decide_scheme(name: str, known: Known | None, contents: Contents, scheme: str | None, path: Path) -> str:
    labels = {}
    for split in contents.splits.values():
        labels[split.name, "regression_labels"] = split.labels
        for index, key in enumerate(checks.UNIMODAL if split.unimodal_labels is not None else ()):
            labels[split.name, key] = split.unimodal_labels[index]
    wanted = scheme or (known.scheme if known else None)
    decided = checks.decide_scheme(labels, wanted, path)
    reason = "as given" if scheme else "by its name" if known else "by the range of its labels"
    logger.info("%s: label scheme %r, [-%g, %g], %s", name, decided, BOUNDS[decided], BOUNDS[decided], reason)
    return decided
