"""Which runs are there already, what trained them, and whether the same would train them today."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence

from .runs import Run

log = logging.getLogger(__name__)


def outdated(run: Run) -> str | None:
    """Why a trained run would come out otherwise if it were trained today, None where nothing says so."""
    record = run.record()
    if record["sources"] != run.stage.sources:
        return "other sources of this package trained it"
    for parent in run.parents:
        if parent.trained and record["parent_weights"].get(parent.name) != parent.weights_sha256:
            return f"it started from other weights of {parent.name}"
    return None


def report_reuse(runs: Sequence[Run]) -> None:
    """Log, in one line, how many of ``runs`` are there and how many are to train; warn of those that are outdated."""
    trained = [run for run in runs if run.trained]
    line = f"{len(runs)} run{'s' * (len(runs) != 1)}: {len(trained)} reused"
    if trained:
        records = [run.record() for run in trained]
        commits = sorted({(record["environment"]["git"]["commit"] or "no commit")[:10] for record in records})
        ages = sorted({_age(record["finished"]) for record in records}, key=lambda age: age[0])
        shown = commits[0] if len(commits) == 1 else f"{len(commits)} commits"
        between = ages[0][1] if ages[0][1] == ages[-1][1] else f"{ages[0][1]} to {ages[-1][1]}"
        line += f" ({shown}, {between} old)"
    log.info("%s, %d to train", line, len(runs) - len(trained))
    reasons = {run.name: reason for run in trained if (reason := outdated(run))}
    if reasons:
        name, reason = next(iter(reasons.items()))
        log.warning(
            "%d of the %d reused runs may come out otherwise today (%s: %s). again=True trains them again, "
            "mgcl clean removes them",
            len(reasons), len(trained), name, reason,
        )  # fmt: skip


def _age(finished: str) -> tuple[float, str]:
    """Seconds since a time stamp, and the same in words."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        seconds = (now - datetime.datetime.fromisoformat(finished)).total_seconds()
    except (ValueError, TypeError):
        return 0.0, "of unknown age"
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return seconds, f"{count} {unit}{'s' * (count != 1)}"
    return seconds, "less than a minute"
