"""What two equal studies share to the last bit, and the command that tests run (`cluster_job.py`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JOB = Path(__file__).with_name("cluster_job.py")


def results_of(folder: Path) -> dict[str, Any]:
    """Weights, predictions and settings of all runs in ``folder``, and their metrics but for the seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".csv") or path.name in ("selection.json", "config.json"):
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[str(path.relative_to(folder))] = [{**row, "seconds": 0} for row in rows]
    return found
