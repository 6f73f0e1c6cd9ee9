"""Who trains which run, where, and since when without a sign of life: from a study's folder alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from ..config import VARIANTS
from ..support.leases import LEASE_SECONDS, holder
from .progress import Watched, duration
from .runs import Run
from .study import Study


def pages(studies: Sequence[Study], seconds: float = 5.0) -> Iterator[str]:
    """What `page` says of each study, every so many ``seconds`` until all of their runs are done."""
    over = False
    while not over:
        over = all(run.state == "finished" for study in studies for run in asked_for(study))
        yield "\n".join(map(page, studies))
        time.sleep(0 if over else seconds)


def asked_for(study: Study) -> list[Run]:
    """The runs of the paper's tables, MGCL's and the ablations'; those of compared systems once one was begun."""
    compared = study.comparisons()
    begun = any(run.directory.exists() for run in compared)
    return [*study.pretrainings(), *study.trainings(tuple(VARIANTS)), *(compared if begun else ())]


def page(study: Study) -> str:
    """How many runs of ``study`` are done, a line for each that is under way, and what is missing.

    A run is under way while somebody holds its claim. The age of the last sign of life is by the clocks of this host
    and of the file server, and says nothing where these differ.
    """
    runs = asked_for(study)
    done = [run for run in runs if run.state == "finished"]
    lines, missing = [], []
    for run in runs:
        if run in done:
            continue
        watched = Watched(f"{run.stage.label} {run.seed}", "", run.directory, run.stage.schedule.epochs)
        watched.read()
        reached = f"epoch {len(watched.history)}/{watched.epochs}"
        if (found := holder(run.directory)) is not None:
            silent = max(0.0, time.time() - found.seen)
            dead = ", taken over by the next who asks" if silent > LEASE_SECONDS else ""
            lines.append(
                f"  {watched.name:<24} {reached:<14} {found.host}, process {found.process} of {found.user}, "
                f"last sign of life {duration(silent)} ago{dead}"
            )
        else:
            if watched.history:
                lines.append(f"  {watched.name:<24} {reached:<14} stopped; it goes on when it is asked for")
            missing.append(run.stage.label)
    under_way = len(runs) - len(done) - len(missing)
    head = (
        f"{study.corpus.name}, profile {study.profile}: {len(done)} of {len(runs)} runs done, {under_way} under way, "
        f"{len(missing)} missing ({study.directory / 'runs'})"
    )
    if missing:
        lines.append("  missing: " + ", ".join(f"{count} × {label}" for label, count in Counter(missing).items()))
    return "\n".join([head, *lines])
