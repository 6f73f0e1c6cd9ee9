"""Checks of ``mgcl doctor --verify``: everything that is kept, by its contents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..data.cache import check_caches
from ..support.doctor import Check, attempt
from ..support.errors import DamagedFile
from .frozen_features import check_features
from .run_records import RECORD, RUN_FORMAT, records_in
from .runs import Run
from .stages import stage_from_record


def verification_checks(results: Path, data: Path) -> list[Check]:
    """Compare all runs and features below ``results``, and all caches of feature files below ``data``."""
    return [
        attempt("runs", lambda: _status(*_runs(results))),
        attempt("features", lambda: _status(*_features(results))),
        attempt("caches", lambda: _status("of feature files", [str(error) for error in check_caches(data / ".cache")])),
    ]


def _runs(results: Path) -> tuple[str, list[str]]:
    folders = sorted({path.parents[1] for path in results.rglob(f"runs/*/{RECORD}")})
    checked, problems = 0, []
    for folder in folders:
        readable = dict(records_in(folder))
        for directory in sorted(path.parent for path in folder.glob(f"*/{RECORD}")):
            record = readable.get(directory)
            if record is None:
                problems.append(f"{directory / RECORD} cannot be read")
            elif record.get("format") == RUN_FORMAT:
                checked += 1
                problems += _verified(directory, record)
    return f"{checked} finished runs", problems


def _verified(directory: Path, record: dict) -> Iterable[str]:
    try:
        return Run(stage_from_record(record), directory).verify()
    except Exception as error:  # a damaged record may hold anything
        return [f"{directory / RECORD} is damaged: {type(error).__name__}: {error}"]


def _features(results: Path) -> tuple[str, list[str]]:
    markers = sorted({*results.rglob("features-*.json"), *results.rglob("features/text-*/*.json")})
    problems = []
    for marker in markers:
        try:
            check_features(marker)
        except (DamagedFile, KeyError, TypeError, AttributeError) as error:
            problems.append(str(error) if isinstance(error, DamagedFile) else f"{marker} is damaged")
    return f"{len(markers)} sets of kept features", problems


def _status(what: str, problems: list[str]) -> tuple[str, str]:
    if not problems:
        return "ok", f"{what}: as they were written"
    return "problem", "\n".join([f"{what}: {len(problems)} problems", *problems])
