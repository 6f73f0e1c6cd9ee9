"""What was tried in a folder of results: which settings, how it scored on validation, how old and how large it is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..config import CONTROLS, VARIANTS, preset
from ..data.known_files import KNOWN_CORPORA, known_name
from ..support.errors import MGCLError
from ..support.files import read_json
from ..trainer import SELECTION
from .registry import system_settings
from .run_records import DONE, RECORD, RUN_FORMAT
from .stages import ComparedStage, EncoderStage, stage_from_record

STAGE_ONE = "stage one"
#: Settings that come from the data, or change no result.
_NOT_TRIED = {"seed", "check_vocabulary", "lengths", "nonfinite"} | {
    f"{name}_{what}" for name in ("audio", "vision") for what in ("dim", "steps")
}
COLUMNS = ["corpus", "profile", "run", "experiment", "changed", "seed", "state", "valid_mae", "finished", "bytes"]


def list_runs(folder: Path) -> pd.DataFrame:
    """A row for each run directory in ``folder``, the ``runs`` of a corpus and profile.

    ``state`` is "done", "trained" (test predictions are missing), "unfinished", "damaged" or "other version" (of this
    package); of the last three only name, state and size are known.
    """
    rows = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            rows.append({"run": path.name, "bytes": size(path), **_described(path)})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.fillna({"corpus": folder.parent.parent.name, "profile": folder.parent.name})


def experiments(folder: Path) -> pd.DataFrame:
    """What was tried in ``folder``, a row for each system or variant and each way in which its settings were changed.

    Scores are those on validation, at the chosen epoch: what is tried must not be judged by test data.

    Returns:
        Columns corpus, profile, experiment, changed (settings that differ from the profile's), seeds, runs, done,
        valid MAE and sd (over seeds), age (of the newest) and MB; the newest first.
    """
    runs, rows = list_runs(folder), []
    for key, group in runs.groupby(["corpus", "profile", "experiment", "changed"], dropna=False, sort=False):
        corpus, profile, experiment, changed = key
        unknown = not isinstance(experiment, str)
        # Encoders of stage one learn different labels: their mean would say nothing.
        scores = group["valid_mae"].astype(float) if experiment != STAGE_ONE else pd.Series(dtype=float)
        rows.append(
            {
                "corpus": corpus,
                "profile": profile,
                "experiment": f"({', '.join(sorted(set(group['state'])))})" if unknown else experiment,
                "changed": "" if unknown else changed,
                "seeds": ", ".join(sorted({str(seed) for seed in group["seed"].dropna().astype(int)})),
                "runs": len(group),
                "done": int((group["state"] == "done").sum()),
                "valid MAE": scores.mean(),
                "sd": scores.std(),
                "finished": group["finished"].max(),
                "MB": group["bytes"].sum() / 1e6,
            }
        )
    frame = pd.DataFrame(rows, columns=["corpus", "profile", "experiment", "changed", "seeds", "runs", "done",
                                        "valid MAE", "sd", "finished", "MB"])  # fmt: skip
    frame = frame.sort_values("finished", ascending=False, na_position="last", kind="stable", ignore_index=True)
    frame["finished"] = [_age(value) for value in frame["finished"]]
    return frame.rename(columns={"finished": "age"})


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_symlink() or not file.is_dir())


def _described(path: Path) -> dict[str, Any]:
    """What the record of the run in ``path`` says."""
    if not (path / RECORD).exists():
        return {"state": "unfinished"}
    try:
        record = read_json(path / RECORD)
        if record.get("format") != RUN_FORMAT:
            return {"state": "other version"}
        stage = stage_from_record(record)
        return {
            "corpus": record["corpus"]["name"],
            "profile": record["profile"],
            "experiment": STAGE_ONE if isinstance(stage, EncoderStage) else stage.label,
            "changed": ", ".join(f"{name}={_short(value)}" for name, value in _changes(record).items()),
            "seed": stage.config.seed,
            "state": "done" if (path / DONE).exists() else "trained",
            "valid_mae": float(read_json(path / SELECTION)["valid_mae"]),
            "finished": (path / RECORD).stat().st_mtime,
        }
    except (MGCLError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"state": "damaged"}


def _changes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run that differ from its profile's own; those of its variant are no change."""
    stage, corpus = stage_from_record(record), record["corpus"]
    known = known_name(corpus["name"])
    dataset = (KNOWN_CORPORA[known].dataset if known else None) or corpus["scheme"]
    usual = preset(dataset, record["profile"]).override((VARIANTS | CONTROLS).get(stage.variant, {}))
    if isinstance(stage, EncoderStage):  # of the settings in its record, those of stage two did not matter
        own, expected = stage.settings, dataclasses.replace(stage, config=usual).settings
    elif isinstance(stage, ComparedStage):
        published = system_settings(stage.system, dataset, record["profile"])
        own, expected = (
            {**each.settings, **each.settings["system"], "system": None}
            for each in (stage, ComparedStage(usual, stage.system, published))
        )
    else:
        own, expected = stage.config.as_dict(), usual.as_dict()
    return {name: value for name, value in own.items() if name not in _NOT_TRIED and value != expected.get(name)}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _age(finished: float) -> str:
    """Of a time in seconds, as "5 min"."""
    seconds = time.time() - finished
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "–" if seconds != seconds else f"{max(0, seconds):.0f} s"
