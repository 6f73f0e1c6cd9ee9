"""Records of runs: what a run directory says of itself, read only as it was written."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..data.corpus import BOUNDS
from ..support.errors import DamagedFile, RunError, shorten
from ..support.files import read_json, read_json_lines
from ..support.integrity import Listing, read_sealed
from ..trainer import HISTORY

RECORD, DONE, SCALER, AUDIT = "record.json", "done", "scaler.safetensors", "audit.json"
#: Of an exported folder: the text model's configuration and tokeniser, without weights.
TEXT_MODEL = "text_model"
#: Of a run directory; part of every run's name, so that runs of another format are never taken for one of this.
RUN_FORMAT = 3

#: What a record holds, where it is read.
_RECORD_KINDS: dict[str, Any] = {
    "stage": str,
    "variant": str,
    "seed": int,
    "profile": str,
    "corpus": dict,
    "parents": list,
    "parent_weights": dict,
    "config": dict,
    "system": dict | None,
    "text_model": dict,
    "environment": dict,
    "sources": str,
    "finished": str,
    "parameters": int,
    "trained_parameters": int,
    "seconds": int | float,
    "peak_memory": dict,
    "files": dict,
}


def read_record(directory: Path) -> dict[str, Any]:
    """The record of the trained run in ``directory``.

    Raises:
        DamagedFile: it is missing or not as it was written.
        RunError: it is of another version of this package.
    """
    path = directory / RECORD
    remedy = f"Restore it from a copy, or delete {directory}, and the run is trained again where it is asked for"
    found = read_json(path, remedy)
    if isinstance(found, dict) and found.get("format") != RUN_FORMAT:
        raise RunError(f"{directory} is a run of another version of this package; train it again")
    record = read_sealed(path, remedy)
    for name, expected in _RECORD_KINDS.items():
        if not isinstance(record.get(name), expected):
            raise DamagedFile(path, f"{name!r} is {shorten(record.get(name))}", remedy)
    corpus = record["corpus"]
    clips = corpus.get("clips")
    if (
        corpus.get("scheme") not in BOUNDS
        or not isinstance(clips, list)
        or [type(count) for count in clips] != [int] * 3
    ):
        raise DamagedFile(path, f"'corpus' is {shorten(corpus)}", remedy)
    return record


def records_in(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The directory and record of every trained run in ``folder``, of other formats too; damaged ones are left out."""
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            record = read_json(path)
        except DamagedFile:
            continue  # an error where its run is asked for
        if isinstance(record, dict):
            yield path.parent, record


def listed_files(value: Mapping[str, Any], path: Path, remedy: str) -> Listing:
    """The files that a record or `done` lists."""
    files = value.get("files")
    whole = isinstance(files, dict) and all(
        isinstance(listed, dict)
        and isinstance(listed.get("size"), int)
        and isinstance(listed.get("sha256"), str)
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, listed in files.items()
    )
    if not whole:
        raise DamagedFile(path, "it lists no files of the run", remedy)
    return files


def training_seconds(folder: Path) -> float:
    """Seconds of all epochs that were trained in ``folder`` and below, by whichever process, as far as it is known."""
    seconds = 0.0
    for path in folder.rglob(HISTORY):
        with contextlib.suppress(DamagedFile, KeyError, TypeError):
            seconds += sum(row["seconds"] for row in read_json_lines(path))
    return seconds


def seconds_of_kinds(folder: Path, precision: str) -> dict[str, float]:
    """Mean seconds of the finished runs in ``folder``, by what they train; damaged records are left out."""
    found: dict[str, list[float]] = {}
    for _, record in records_in(folder):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if record["config"]["precision"] == precision:
                found.setdefault(record["variant"] or record["stage"], []).append(float(record["seconds"]))
    return {label: float(np.mean(seconds)) for label, seconds in found.items()}


def other_runs(folder: Path, precision: str) -> tuple[int, Counter[str]]:
    """How many runs in ``folder`` are of another version of this package, and how many of each other precision."""
    formats, precisions = 0, Counter()
    for _, record in records_in(folder):
        config = record.get("config")
        if record.get("format") != RUN_FORMAT:
            formats += 1
        elif isinstance(config, dict) and config.get("precision", precision) != precision:
            precisions[str(config["precision"])] += 1
    return formats, precisions
