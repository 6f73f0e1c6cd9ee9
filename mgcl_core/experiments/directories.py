"""Where a study keeps what it makes of its runs: figures, tables, executed notebooks, a search.

A run is named by its settings, so all studies of a corpus and profile keep their runs in one folder. A figure is named
by its number alone; so that two studies do not overwrite each other's, one that changes something has its own folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import Corpus
from ..data.known_files import published_file
from ..support.files import write_json
from ..support.names import folder_name

OVERRIDES = "overrides.json"


def corpus_folder(corpus: Corpus) -> str:
    """The folder of a corpus among the results: its name, and the start of its hash.

    A synthetic corpus and a published file have their name to themselves. Any other file may share it with others.
    """
    own_name = corpus.synthetic or published_file(corpus) is not None
    return folder_name(corpus.name, "" if own_name else corpus.sha256[:8])


def report_folder(corpora: Sequence[Corpus], profile: str) -> str:
    """The folder of the tables of several corpora; where their names are too long for one, a hash stands for them."""
    names = [corpus_folder(corpus) for corpus in corpora]
    joined = "+".join(names)
    if len(joined.encode()) > 200:
        joined = f"{len(names)}-corpora-{digest(names)}"
    return f"{joined}-{profile}"


def artifact_directory(directory: Path, changes: Mapping[str, Any]) -> Path:
    """``directory``, or ``changed/NAMES-HASH`` in it where ``changes`` (`Study.changes`) says that something is."""
    if not changes:
        return directory
    names = [name for kind, changed in changes.items() for name in ([kind] if kind == "seeds" else sorted(changed))]
    label = "+".join(names) if len(names) < 4 else f"{len(names)}-settings"
    return directory / "changed" / f"{label}-{digest(changes)}"


def write_overrides(directory: Path, changes: Mapping[str, Any]) -> None:
    """Say in ``overrides.json`` of such a folder what is changed there."""
    if changes:
        write_json(directory / OVERRIDES, changes)


def digest(value: Any) -> str:
    """Ten hexadecimal digits that name ``value``, of plain values for JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
