"""Checks of ``mgcl doctor`` about feature files and text models."""

from __future__ import annotations

from pathlib import Path

from ..support.doctor import Check, attempt
from ..support.errors import ConfigError
from .known_files import KNOWN_CORPORA, SHA256
from .sources import sha256_of
from .text_model import find_text_model

GIB = 2**30


def data_checks(data: Path) -> list[Check]:
    """The paper's feature files in the folder ``data``: found or not, and whose they are by their hash."""
    return [
        attempt(known.name, lambda known=known: _feature_file(known.name, [data / file for file in known.files]))
        for known in KNOWN_CORPORA.values()
        if known.files
    ]


def _feature_file(name: str, places: list[Path]) -> tuple[str, str]:
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return "note", f"not found: {' or '.join(map(str, places))} (data/README.md says where to get it)"
    size, sha256 = found.stat().st_size, sha256_of(found)
    published = SHA256.get(f"{name}/{found.name}")
    about = "the published file" if sha256 == published else "another file than the published one"
    return ("ok" if sha256 == published else "note"), f"{found}, {size / GIB:.2f} GiB, {about}\nSHA-256 {sha256}"


def text_model_checks(names: tuple[str, ...]) -> list[Check]:
    """Whether text models are on this machine; nothing is fetched."""
    return [attempt(name, lambda name=name: _text_model(name)) for name in names]


def _text_model(name: str) -> tuple[str, str]:
    try:
        return "ok", f"text model: {find_text_model(name)}"
    except ConfigError as error:
        reason = "not on this machine; the first run that needs it fetches it, or text_model=FOLDER names one"
        return "note", f"text model: {error if name == 'minilm' else reason}"
