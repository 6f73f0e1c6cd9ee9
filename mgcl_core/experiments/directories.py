"""Where a study keeps what it makes of its runs: figures, tables, executed notebooks, a search.

A run is named by its settings, so all studies of a corpus and profile keep their runs in one folder. A figure is named
by its number alone; so that two studies do not overwrite each other's, one that changes something has its own folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..support.files import write_json

NOTE = "overrides.json"


def own_folder(directory: Path, changes: Mapping[str, Any]) -> Path:
    """``directory``, or ``changed/NAMES-HASH`` in it where ``changes`` (`Study.changes`) says that something is."""
    if not changes:
        return directory
    names = [name for kind, changed in changes.items() for name in ([kind] if kind == "seeds" else sorted(changed))]
    label = "+".join(names) if len(names) < 4 else f"{len(names)}-settings"
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:10]
    return directory / "changed" / f"{label}-{digest}"


def write_note(directory: Path, changes: Mapping[str, Any]) -> None:
    """Say in ``overrides.json`` of an own folder what is changed there."""
    if changes:
        write_json(directory / NOTE, changes)
