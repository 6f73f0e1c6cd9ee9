"""Preset files: chosen settings and where they came from (``from``), as JSON.

``overrides`` are settings of `mgcl_core.config.Config`, ``system_overrides`` those of compared systems, by system.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import read_overrides
from ..support.errors import ConfigError, DamagedFile, nearest
from ..support.files import read_json, write_json
from ..support.paths import find
from ..support.provenance import PACKAGES, git_state, package_versions
from ..support.typed_values import plain

KEYS = ("overrides", "system_overrides", "from")


def read_preset(path: Path | str) -> dict[str, Any]:
    """The overrides of a preset file.

    Raises:
        ConfigError: the file cannot be read, or holds a key or a setting that is not known.
    """
    return _read(find(path))["overrides"]


def read_system_overrides(path: Path | str) -> dict[str, dict[str, Any]]:
    """The settings of compared systems in a preset file, by system; they are checked by the `Study` that gets them.

    Raises:
        ConfigError: as for `read_preset`.
    """
    return _read(find(path)).get("system_overrides", {})


def trials_behind(folder: Path, system: str, overrides: Mapping[str, Any]) -> int:
    """Trials of the search in ``folder`` (of a corpus and profile) that chose the settings ``overrides`` of ``system``.

    A search chose them if its preset holds them all. 0: no search did.
    """
    where = "search" if system == "mgcl" else f"search/{system}"
    counts = [0]
    for path in [*folder.glob(f"{where}/*.json"), *folder.glob(f"changed/*/{where}/*.json")]:
        try:
            preset = _read(path)
        except ConfigError:
            continue  # no preset: the trials themselves, say
        found = preset["overrides"] if system == "mgcl" else preset.get("system_overrides", {}).get(system, {})
        searched = preset.get("from", {}).get("searched", {})
        same = bool(searched) and all(
            name in overrides and plain(overrides[name]) == found.get(name) for name in searched
        )
        if same and preset["from"].get("system", "mgcl") == system:
            trials = preset["from"].get("trials", {})
            counts.append(sum(trials.get(state, 0) for state in ("completed", "pruned", "failed")))
    return max(counts)


def write_preset(
    path: Path,
    overrides: Mapping[str, Any],
    origin: Mapping[str, Any],
    system_overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write a preset with ``origin``, the date, the git commit and the package versions; returns what it holds.

    A file that already says the same keeps its date.
    """
    if path.exists():
        try:
            before = _read(path)
        except ConfigError:
            before = {"overrides": {}}
        same = before["overrides"] == dict(overrides) and before.get("system_overrides", {}) == (system_overrides or {})
        if same and origin.items() <= before.get("from", {}).items():
            return before
    made = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git": git_state(),
        "packages": package_versions([*PACKAGES, "optuna"]),
    }
    systems = {"system_overrides": system_overrides} if system_overrides else {}
    write_json(path, {"overrides": overrides, **systems, "from": {**origin, **made}})
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except DamagedFile as error:
        raise ConfigError(f"preset {str(path)!r} cannot be read: {error.problem}") from error
    if not isinstance(content, dict) or not isinstance(content.get("overrides"), dict):
        raise ConfigError(f"preset {str(path)!r}: expected a JSON object with an object 'overrides'")
    for name in content:
        if name not in KEYS:
            raise ConfigError(f"preset {str(path)!r}: unknown key {name!r}: {nearest(name, KEYS)}")
    systems = content.get("system_overrides", {})
    if not isinstance(systems, dict) or not all(isinstance(changes, dict) for changes in systems.values()):
        raise ConfigError(f"preset {str(path)!r}: expected an object of objects in 'system_overrides'")
    try:
        content["overrides"] = read_overrides(content["overrides"])
    except ConfigError as error:
        raise ConfigError(f"preset {str(path)!r}: {error}") from error
    return content
