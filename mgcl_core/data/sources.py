"""What lies at a path: the pickle of a corpus, a folder with one for each split, or something else, which is named."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..support.errors import CorpusError
from .safe_pickle import read_pickle

#: Names of the splits in files of this field → ours.
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "dev": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
_FEATURES = "docs/features.md says how features are made"
_FORM = "write what it holds as a pickle of the form that data/README.md describes"
_UNPACK = "unpack it and give the file inside"
#: Beginning of a file, and its place → what it is, what to do.
_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file with `git lfs pull`"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as the .csd files of the CMU-MultimodalSDK are",
     f"align its sequences to the clips with that SDK and {_FORM}"),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x93NUMPY", "a single array of numpy.save", _FORM),
    (4, b"ftyp", "a video (MP4), not its features", _FEATURES),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska, WebM), not its features", _FEATURES),
    (0, b"RIFF", "an audio or video file (WAV, AVI), not its features", _FEATURES),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a file of torch.save",
     f"load it with torch.load, if you trust who made it, and {_FORM}"),
)  # fmt: skip
_WEB_PAGE = (
    "a web page, such as a hoster's warning or sign-in page that was saved in place of the file",
    "download the file itself (in a browser) and compare its size and SHA-256 with data/README.md",
)


def parts_of(path: Path) -> tuple[Path, ...]:
    """The files of a corpus: ``path`` itself, or in a folder one file a split, as MISA has them.

    Raises:
        CorpusError: A folder without them.
    """
    if not path.is_dir():
        return (path,)
    parts = {}
    for name, split in SPLIT_NAMES.items():
        if (path / f"{name}.pkl").is_file():
            parts.setdefault(split, path / f"{name}.pkl")
    if set(parts) != set(SPLIT_NAMES.values()):
        found = ", ".join(part.name for part in parts.values()) or "none of them"
        expected = "a feature file, or a folder with train.pkl, dev.pkl (or valid.pkl) and test.pkl"
        raise CorpusError("a folder is not a corpus", file=path, expected=expected, found=f"a folder with {found}")
    return tuple(parts[split] for split in ("train", "valid", "test"))


def size_of(path: Path) -> int:
    """Bytes of all files of a corpus."""
    return sum(part.stat().st_size for part in parts_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the hashes of its parts in order.

    Raises:
        CorpusError: A file cannot be opened.
    """
    hashes = []
    for part in parts_of(path):
        try:
            with open(part, "rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            problem = "the file cannot be opened"
            raise CorpusError(problem, file=part, expected="a file to read", found=error.strerror) from error
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode("ascii")).hexdigest()


def read_source(path: Path) -> Any:
    """What the pickle at ``path`` holds; of a folder, a dict with what the file of each split holds.

    Raises:
        CorpusError: It is no pickle of data; what is recognised as something else is named.
    """
    parts = parts_of(path)
    for part in parts:
        _refuse_other_kinds(part)
    if len(parts) == 1:
        return read_pickle(path)
    return {split: read_pickle(part) for split, part in zip(("train", "valid", "test"), parts, strict=True)}


def _refuse_other_kinds(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            beginning = file.read(512)
    except OSError:
        return  # the reader says so
    kind = _kind_of(beginning)
    if kind is not None:
        what, advice = kind
        expected = f'a pickle of features (data/README.md, "The format"); {advice}'
        raise CorpusError(
            f"the file is {what}", file=path, expected=expected, found=f"it begins with {beginning[:16]!r}"
        )


def _kind_of(beginning: bytes) -> tuple[str, str] | None:
    """What a file with this beginning is and what to do with it, or None where it may be a pickle."""
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return _WEB_PAGE
    if beginning.startswith(b"PK\x03\x04"):
        first = beginning[30 : 30 + int.from_bytes(beginning[26:28], "little")]  # name of the first file inside
        if first.endswith((b"/data.pkl", b"/.format_version", b"/byteorder")):
            return "a file of torch.save", f"load it with torch.load(weights_only=True) and {_FORM}"
        if first.endswith(b".npy"):
            return "a file of numpy.savez", f"load it with numpy.load and {_FORM}"
        return "a zip archive", _UNPACK
    for place, mark, what, advice in _KINDS:
        if beginning[place : place + len(mark)] == mark:
            return what, advice
    return None
