"""Preset files: chosen settings (``overrides``) and where they came from (``from``), as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import read_overrides
from ..support.errors import ConfigError, DamagedFile, nearest
from ..support.files import read_json, write_json
from ..support.provenance import PACKAGES, git_state, package_versions


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
        "packages": package_versions([*PACKAGES, "optuna"]),
    }
    write_json(path, {"overrides": overrides, "from": {**origin, **made}})
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except DamagedFile as error:
        raise ConfigError(f"preset {str(path)!r} cannot be read: {error.problem}") from error
    if not isinstance(content, dict) or not isinstance(content.get("overrides"), dict):
        raise ConfigError(f"preset {str(path)!r}: expected a JSON object with an object 'overrides'")
    for name in content:
        if name not in ("overrides", "from"):
            raise ConfigError(f"preset {str(path)!r}: unknown key {name!r}: {nearest(name, ('overrides', 'from'))}")
    try:
        content["overrides"] = read_overrides(content["overrides"])
    except ConfigError as error:
        raise ConfigError(f"preset {str(path)!r}: {error}") from error
    return content
