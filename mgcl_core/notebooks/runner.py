"""The ordered notebooks, and running them headlessly through papermill."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.errors import ConfigError, RunError, nearest
from ..experiments.study import Study
from .parameters import Parameters, check_names
from ..experiments.directories import own_folder
from ..support.paths import project_root

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One notebook on one corpus (or, for the last one, on all of them)."""

    notebook: Path
    output: Path
    parameters: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.notebook.stem} ({self.parameters.get('corpus') or '+'.join(self.parameters['corpora'])})"


def notebooks() -> dict[str, Path]:
    """Number → notebook, in order.

    Raises:
        RunError: the project's notebooks are not here.
    """
    folder = project_root() / "notebooks"
    found = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise RunError(f"no notebooks in {folder} (MGCL_ROOT names the checkout of a package installed elsewhere)")
    return found


#: About the data alone, so no setting changes what it makes.
DATA = "01"
#: Left out of the main job, since they take longer: the tables show as not run what they would fill.
AUDIT, SEARCH, SYSTEMS = "06", "07", "08"
#: Tables 5 and 6 are about CH-SIMS, so the main job runs the ablations where labels follow its scheme.
ABLATIONS = "04"
TABLES = "09"


def plan(parameters: Parameters, chosen: Sequence[str] = (), *, everything: bool = False) -> list[Step]:
    """The notebooks to run, in order: those ``chosen`` by number, or the main job. ``everything`` adds what is longer.

    Each runs once for every corpus; the last one assembles the tables of all. Every corpus is read
    and every setting checked here, before anything runs.

    Raises:
        ConfigError, CorpusError: an unknown notebook, setting or corpus, or a broken file.
    """
    available = notebooks()
    numbers = [number.zfill(2) for number in chosen]
    for number in numbers:
        if number not in available:
            raise ConfigError(f"no notebook has the number {number!r}: {nearest(number, available)}")
    studies = {corpus: parameters.study(corpus) for corpus in parameters.corpora}
    steps = []
    if not set(numbers) <= {DATA, TABLES} or not numbers:
        for study in studies.values():
            if not all(run.done for run in study.trainings()):
                study.check_device()
    for corpus, study in studies.items():
        left_out = {SEARCH} if everything else {AUDIT, SEARCH, SYSTEMS}
        if study.corpus.scheme != "sims":
            left_out.add(ABLATIONS)
        for number, path in available.items():
            if number != TABLES and (number in numbers if numbers else number not in left_out):
                folder = study.directory if number == DATA else study.output
                steps.append(_step(path, folder / "notebooks", parameters, {"corpus": corpus}))
    if not numbers or TABLES in numbers:
        folder = report_directory(list(studies.values()))
        steps.append(_step(available[TABLES], folder, parameters, {"corpora": list(parameters.corpora)}))
    return steps


def report_directory(studies: Sequence[Study]) -> Path:
    """Where the assembled tables and the report of several studies go, which share what they change."""
    name = "+".join(study.corpus.name for study in studies)
    results = studies[0].directory.parent.parent
    return own_folder(results / "report" / f"{name}-{studies[0].profile}", studies[0].changes)


def run(steps: Sequence[Step], *, verbose: bool = True) -> list[tuple[Step, float]]:
    """Execute the notebooks in order; each executed copy appears under its name only when it has finished.

    Returns:
        Each step with its seconds.

    Raises:
        RunError: a cell failed; the copy that shows it is kept beside as ``….failed.ipynb``.
    """
    import papermill  # slow to import, and the rest of the command line does without

    seconds = []
    for place, step in enumerate(steps, 1):
        log.info("[%d/%d] %s", place, len(steps), step.label)
        started = time.monotonic()
        step.output.parent.mkdir(parents=True, exist_ok=True)
        partial, failed = (step.output.with_suffix(f".{state}.ipynb") for state in ("partial", "failed"))
        try:
            papermill.execute_notebook(str(step.notebook), str(partial), step.parameters, kernel_name="python3",
                                       progress_bar=False, stdout_file=sys.stdout if verbose else None,
                                       extra_arguments=["--log-level=ERROR"],
                                       # All it made is in the copy or on disk: one to three seconds of tidying up.
                                       shutdown_kernel="immediate")
            partial.replace(step.output)
            failed.unlink(missing_ok=True)
        except papermill.PapermillExecutionError as error:
            partial.replace(failed)
            raise RunError(f"{step.label} failed in cell {error.exec_count}: {error.ename}: {error.evalue} "
                           f"(see {failed})") from error
        finally:
            partial.unlink(missing_ok=True)
        seconds.append((step, time.monotonic() - started))
        log.info("[%d/%d] %s took %.0f s", place, len(steps), step.label, seconds[-1][1])
    return seconds


def _step(path: Path, folder: Path, parameters: Parameters, own: Mapping[str, Any]) -> Step:
    import papermill

    logging.getLogger("papermill").setLevel(logging.WARNING)
    declared = list(papermill.inspect_notebook(str(path)))
    check_names(own, declared)
    values = {"profile": parameters.profile, "seeds": list(parameters.seeds), "overrides": parameters.overrides,
              "device": parameters.device, "precision": parameters.precision, "workers": parameters.workers,
              "results": str(parameters.results), "trials": parameters.trials, **own}
    return Step(path, folder / path.name, {name: value for name, value in values.items() if name in declared})
