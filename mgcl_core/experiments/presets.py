"""Preset files: chosen settings (``overrides``) and where they came from (``from``), as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import Config
from ..support.errors import ConfigError, nearest
from ..support.files import read_json, write_json
from ..support.provenance import PACKAGES, environment_versions, git_state


def read_preset(path: Path | str) -> dict[str, Any]:
    """The overrides of a preset file.

    Raises:
        ConfigError: the file cannot be read, or holds a key or a setting that is not known.
    """
    return _read(Path(path))["overrides"]


def write_preset(path: Path, overrides: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Write a preset with ``origin``, the date, the git commit and the package versions; returns what it holds.

    A file that already says the same keeps its date.
    """
    if path.exists():
        try:
            before = _read(path)
        except ConfigError:
            before = {"overrides": {}}
        if before["overrides"] == dict(overrides) and origin.items() <= before.get("from", {}).items():
            return before
    made = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git": git_state(),
        "packages": environment_versions([*PACKAGES, "optuna"]),
    }
    write_json(path, {"overrides": overrides, "from": {**origin, **made}})
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"preset {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("overrides"), dict):
        raise ConfigError(f"preset {str(path)!r}: expected a JSON object with an object 'overrides'")
    settings = [item.name for item in fields(Config)]
    for names, known in ((content, ("overrides", "from")), (content["overrides"], settings)):
        for name in names:
            if name not in known:
                raise ConfigError(f"preset {str(path)!r}: unknown key {name!r}: {nearest(name, known)}")
    return content
