"""Executed notebooks without the folders of the machine that they ran on, so that they can be handed on."""

from __future__ import annotations

import html
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..support.files import atomic
from ..support.paths import data_directory, project_root


def without_machine_paths(file: Path, parameters: Mapping[str, Any]) -> None:
    """Rewrite an executed notebook: ``results``, ``data``, ``python`` ... in place of absolute folders.

    Args:
        file: The notebook.
        parameters: What it was executed with. Files and folders that they name keep their own name alone.

    Raises:
        OSError, ValueError: There is no such notebook.
    """
    folders = _folders(parameters)
    # As they are written in text, in a cell that papermill injects, and in HTML.
    spelt = {write(path): name for path, name in folders.items() for write in (str, _escaped, html.escape)}
    longest_first = "|".join(map(re.escape, sorted(spelt, key=len, reverse=True)))
    known = re.compile(rf"(?<![\w.~-])(?:{longest_first})(?![\w-])")

    def cleaned(value: Any) -> Any:
        if isinstance(value, str):
            return known.sub(lambda found: spelt[found[0]], value)
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        return {key: cleaned(item) for key, item in value.items()} if isinstance(value, dict) else value

    notebook = cleaned(json.loads(file.read_text(encoding="utf-8")))
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")


def _folders(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Short names of absolute folders; of two names for one folder the later is taken."""
    named = {Path(tempfile.gettempdir()): "tmp", Path.home(): "~"}
    named |= {Path(prefix): "python" for prefix in (sys.base_prefix, sys.prefix)}
    named |= {path.parent: "…" for path in _absolute_paths(parameters)}
    named |= {Path.cwd(): ".", project_root(): ".", data_directory(): "data"}
    if parameters.get("results"):
        named[Path(parameters["results"])] = "results"
    named |= {path.resolve(): name for path, name in named.items()}
    return {str(path): name for path, name in named.items() if path.is_absolute() and path != Path(path.anchor)}


def _absolute_paths(value: Any) -> list[Path]:
    if isinstance(value, str):
        path = Path(value).expanduser()
        return [path, path.absolute()] if "\0" not in value and path.exists() else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [path for item in items for path in _absolute_paths(item)]


def _escaped(path: str) -> str:
    return path.encode("unicode_escape").decode()
