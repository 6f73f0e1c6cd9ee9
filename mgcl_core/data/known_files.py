"""The corpora that are known by name, their published files and hashes, and where their files lie."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..support.errors import CorpusError, nearest
from ..support.leases import lease
from ..support.names import printable
from ..support.paths import find
from .corpus import Corpus
from .sources import parts_of

log = logging.getLogger(__name__)


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
#: The names in tables, in small letters → the names for `load_corpus`.
ALIASES = {known.name.lower(): key for key, known in KNOWN_CORPORA.items()}

#: Published by the authors of the files (https://github.com/thuiar/MMSA), by name of the corpus and of the file.
SHA256 = {
    "CMU-MOSI/unaligned_50.pkl": "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
    "CMU-MOSI/aligned_50.pkl": "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
    "CMU-MOSEI/unaligned_50.pkl": "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
    "CMU-MOSEI/aligned_50.pkl": "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    "CH-SIMS/unaligned_39.pkl": "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
}
PUBLISHED = {sha256: name for name, sha256 in SHA256.items()}
_MMSA_FOLDERS = {"SIMS": "CH-SIMS", "MOSI": "CMU-MOSI", "MOSEI": "CMU-MOSEI"}


def published_file(corpus: Corpus) -> str | None:
    """The key in `SHA256` of the published file that ``corpus`` was read from, by its hash; None for any other file."""
    return PUBLISHED.get(corpus.sha256)


def known_name(name: object) -> str | None:
    """Look up ``name`` in `KNOWN_CORPORA`, in any spelling (``Demo``, ``CH-SIMS``).

    Returns:
        The key there, or None for the path of a file.
    """
    key = str(name).lower()
    key = ALIASES.get(key, key)
    return key if isinstance(name, str) and key in KNOWN_CORPORA else None


def resolve(name_or_path: str | os.PathLike, data_dir: Path) -> tuple[KnownCorpus | None, Path]:
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
        parts_of(path)  # says what a folder must hold
        return None, path.absolute()
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
        with lease(folder / key, f"the synthetic corpus {key}"):
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


def name_of(path: Path) -> str:
    """Name a corpus by its file's stem, with the folder's name before a stem that says nothing (`unaligned_50`)."""
    if not re.fullmatch(r"(un)?aligned(_\d+)?|features?|data", path.stem):
        return printable(path.stem)
    folder = path.parent.parent if path.parent.name == "Processed" else path.parent
    return printable(f"{folder.name}-{path.stem}")


def published_hash(known: KnownCorpus | None, place: Path) -> str | None:
    """SHA-256 of the published file in whose place a file lies, or None."""
    folder = place.parent.parent.name if place.parent.name == "Processed" else place.parent.name
    folder = known.name if known and known.files else _MMSA_FOLDERS.get(folder, folder)
    return SHA256.get(f"{folder}/{place.name}")


def warn_of_another_file(place: Path, known: KnownCorpus | None, sha256: str, clips: list[int]) -> None:
    """Log where a file in a published file's place has another hash, or a known corpus other clips than in Table 1."""
    published = published_hash(known, place)
    if published is not None:
        log.warning("%s has SHA-256 %s, but the published file has %s", place, sha256, published)
    if known and known.clips and tuple(clips) != known.clips:
        log.warning("%s has %s clips, but %s in Table 1 has %s", place, clips, known.name, list(known.clips))
