"""The ordered notebooks, and running them headlessly through papermill."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.text_model import load_text_model
from ..experiments.directories import artifact_directory, report_folder
from ..experiments.study import Study
from ..support.errors import ConfigError, RunError, nearest
from ..support.paths import shipped
from .machine_paths import without_machine_paths
from .parameters import Parameters, check_names

log = logging.getLogger(__name__)

#: Notebooks by number. About the data alone, so no setting changes what it makes:
DATA = "01"
#: Left out of the main job, since they take longer: the tables show as not run what they would fill.
AUDIT, SEARCH, SYSTEMS, ROBUSTNESS = "06", "07", "08", "12"
#: Tables 5 and 6 are about CH-SIMS, so the main job runs the ablations where labels follow its scheme.
ABLATIONS = "04"
TABLES = "09"
#: What the paper claims and what its numbers say, beside the finished runs: trains nothing, run where asked for.
CLAIMS = "10"
#: To read and play with, and for questions of one's own: run where they are asked for by number.
PAPER, EXPLORE = "00", "11"
#: Trains the ablations under every reading of the paper: run where it is asked for by number.
MULTIVERSE = "14"
#: What predictions cost, and students: left out too, since students train their text encoder.
COST = "13"
#: All that a checkout has.
NUMBERS = (*(f"{number:02}" for number in range(10)), CLAIMS, EXPLORE, ROBUSTNESS, COST, MULTIVERSE)


@dataclass(frozen=True)
class PlannedNotebook:
    """One notebook to be executed on one corpus (or, for the last one, on all of them)."""

    notebook: Path
    executed_copy: Path
    parameters: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.notebook.stem} ({self.parameters.get('corpus') or '+'.join(self.parameters['corpora'])})"

    @property
    def assembles_tables(self) -> bool:
        return self.notebook.name.startswith(TABLES)


def ordered_notebooks() -> dict[str, Path]:
    """Number → notebook, in order.

    Raises:
        RunError: the project's notebooks are not here.
    """
    folder = shipped("notebooks")
    notebooks = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if missing := [number for number in NUMBERS if number not in notebooks]:
        raise RunError(f"notebooks are missing in {folder}: {', '.join(missing)} (a fresh checkout has all)")
    return notebooks


def plan_notebooks(
    parameters: Parameters, chosen: Sequence[str] = (), *, everything: bool = False
) -> list[PlannedNotebook]:
    """The notebooks to run, in order: those ``chosen`` by number, or the main job. ``everything`` adds what is longer.

    Each runs once for every corpus; the last one assembles the tables of all. Every corpus is read
    and every setting checked here, before anything runs.

    Raises:
        ConfigError, CorpusError: an unknown notebook, setting or corpus, or a broken file.
    """
    available = ordered_notebooks()
    numbers = [number.zfill(2) for number in chosen]
    for number in numbers:
        if number not in available:
            raise ConfigError(f"no notebook has the number {number!r}: {nearest(number, available)}")
    studies = {corpus: parameters.study(corpus) for corpus in parameters.corpora}
    trains = not numbers or not set(numbers) <= {DATA, TABLES, CLAIMS}
    untrained: set[str] = set()  # text models
    for study in studies.values():
        if trains and not all(run.done for run in study.trainings()):
            if study.executor is None:  # else those who train check their own
                study.check_device()
            study.splits.check_vocabulary()
            if study.base.reads_words:
                untrained.add(study.base.text_model)
    for name in untrained:  # weights too: a run would only find out when it starts
        load_text_model(name)
    planned = []
    for corpus, study in studies.items():
        asked_for = {PAPER, SEARCH, CLAIMS, EXPLORE, COST, MULTIVERSE}
        left_out = asked_for | (set() if everything else {AUDIT, SYSTEMS, ROBUSTNESS})
        if study.corpus.scheme != "sims":
            left_out.add(ABLATIONS)
        for number, path in available.items():
            if number != TABLES and (number in numbers if numbers else number not in left_out):
                folder = study.directory if number == DATA else study.artifacts
                planned.append(_planned(path, folder / "notebooks", parameters, {"corpus": corpus}))
    if not numbers or TABLES in numbers:
        folder = report_directory(list(studies.values()))
        planned.append(_planned(available[TABLES], folder, parameters, {"corpora": list(parameters.corpora)}))
    return planned


def report_directory(studies: Sequence[Study]) -> Path:
    """Where the assembled tables and the report of several studies go, which share what they change."""
    name = report_folder([study.corpus for study in studies], studies[0].profile)
    return artifact_directory(studies[0].directory.parents[1] / "report" / name, studies[0].changes)


def run_notebooks(planned: Sequence[PlannedNotebook], *, verbose: bool = True) -> list[tuple[PlannedNotebook, float]]:
    """Execute the notebooks in order; each executed copy appears under its name only when it has finished.

    Returns:
        Each notebook with its seconds.

    Raises:
        RunError: a cell failed, or the kernel was killed or did not start; the copy that shows it is kept beside as
            ``….failed.ipynb``.
    """
    import papermill  # slow to import, and the rest of the command line does without

    from .kernels import OwnKernelManager, why_it_failed

    seconds = []
    for number, item in enumerate(planned, 1):
        log.info("[%d/%d] %s", number, len(planned), item.label)
        started = time.monotonic()
        item.executed_copy.parent.mkdir(parents=True, exist_ok=True)
        partial, failed = (item.executed_copy.with_suffix(f".{state}.ipynb") for state in ("partial", "failed"))
        try:
            papermill.execute_notebook(
                _literal(item.notebook),
                _literal(partial),
                item.parameters,
                kernel_name="python3",
                kernel_manager_class=OwnKernelManager,
                progress_bar=False,
                stdout_file=sys.stdout if verbose else None,
                extra_arguments=["--log-level=ERROR"],
                shutdown_kernel="immediate",  # all it made is on disk: tidying up would take seconds
            )
            without_machine_paths(partial, item.parameters)
            partial.replace(item.executed_copy)
            failed.unlink(missing_ok=True)
        except Exception as error:
            reason = why_it_failed(error)
            with contextlib.suppress(OSError, ValueError):  # there is none, or no room for it
                without_machine_paths(partial, item.parameters)
                partial.replace(failed)
                reason += f" (see {failed})"
            raise RunError(f"{item.label} ended {reason}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        seconds.append((item, time.monotonic() - started))
        log.info("[%d/%d] %s took %.0f s", number, len(planned), item.label, seconds[-1][1])
    return seconds


def _planned(path: Path, folder: Path, parameters: Parameters, more: Mapping[str, Any]) -> PlannedNotebook:
    import papermill

    logging.getLogger("papermill").setLevel(logging.WARNING)
    try:
        declared = list(papermill.inspect_notebook(_literal(path)))
    except Exception as error:  # of nbformat, of json and of papermill
        raise RunError(f"the notebook {path} cannot be read: {str(error).splitlines()[0]}") from error
    check_names(more, declared)
    values = parameters.plain(name for name in declared if name not in more)
    return PlannedNotebook(path, folder / path.name, {**values, **more})


def _literal(path: Path) -> str:
    """A path for papermill, which would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")
