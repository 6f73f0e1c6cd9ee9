"""Runs on any executor of the `concurrent.futures` protocol: each once, after those that it starts from.

What is sent to a worker is how to build the study, and a run; what comes back is a line. All else passes through the
study's folder, which every worker must see.
"""

from __future__ import annotations

import contextlib
import platform
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..support.ends import AGAIN, explain, killed
from ..support.errors import ConfigError, MachineError, RunError
from ..support.provenance import PACKAGES, package_digest, package_versions
from .runs import Run

#: One study at a time in a process, and one run: seeds and deterministic kernels are settings of the process.
_working = threading.Lock()
_last: list[Any] = ["", None]  # the study that was built last, by the job's key
#: A piece of work: a run, or runs that are worked on together.
Work = Run | tuple[Run, ...]


@dataclass(frozen=True)
class Job:
    """What a worker does for each run of a study. Picklable.

    Args:
        build: makes the study.
        work: called with the study and a run, or a group of runs.
        check: called with the study and a run before; raises where they are not the same here as where they were sent.
        key: of the study; a worker builds it once.
        versions: of this package and those it computes with, where the runs were asked for.
        mark: a file in the study's folder, which a worker must see; None in processes of one machine.
    """

    build: Callable[[], Any]
    work: Callable[[Any, Any], Any]
    check: Callable[[Any, Run], None]
    key: str
    versions: dict[str, str | None]
    mark: Path | None = None

    def __call__(self, piece: Work) -> Any:
        try:
            with _working:
                if _last[0] != self.key:
                    self._check_machine()
                    _last[:] = "", None  # its splits may fill the device
                    _last[:] = self.key, self.build()
                for run in runs_in(piece):
                    self.check(_last[1], run)
                return self.work(_last[1], piece)
        except Exception as error:
            error.add_note(platform.node())  # pickled with it
            raise

    def _check_machine(self) -> None:
        here = versions()
        for name, wanted in self.versions.items():
            if here[name] != wanted:
                raise ConfigError(
                    f"this worker has {name} {here[name]}, and the runs were asked for by {wanted}: numbers would "
                    "differ; start workers from the same environment and checkout"
                )
        if self.mark is not None and not self.mark.exists():
            raise ConfigError(
                f"this worker does not see {self.mark.parent}: results must lie in a folder that all workers share, "
                "under one path"
            )


def versions() -> dict[str, str | None]:
    """Of Python, the packages that decide a result, and the sources of this one."""
    return {"python": platform.python_version(), **package_versions(PACKAGES), "sources": package_digest()}


def runs_in(piece: Work) -> tuple[Run, ...]:
    """The runs of a piece of work."""
    return (piece,) if isinstance(piece, Run) else piece


def run_on(executor: Executor, task: Callable[[Work], Any], work: Sequence[Work]) -> Iterator[Any]:
    """What ``task`` gives for each piece of ``work``, as they finish; one is sent when all that it starts from is done.

    A run that fails does not stop the others, but for those that start from it.

    Args:
        executor: of the protocol of `concurrent.futures`.
        task: picklable.
        work: sent in this order where they can be.

    Raises:
        RunError: runs failed; said when all others are done.
        MachineError: the executor is broken, since one of its processes was killed, or its scheduler.
    """
    by_directory = {runs_in(piece)[0].directory: piece for piece in work}
    order = {directory: place for place, directory in enumerate(by_directory)}
    graph = {
        directory: {parent.directory for run in runs_in(piece) for parent in run.parents} & by_directory.keys()
        for directory, piece in by_directory.items()
    }
    sorter, failed, sent = TopologicalSorter(graph), {}, {}
    sorter.prepare()
    try:
        while sorter.is_active():
            for directory in sorted(sorter.get_ready(), key=order.__getitem__):
                if any(parent in failed for parent in graph[directory]):
                    failed[directory] = None
                    sorter.done(directory)
                else:
                    sent[executor.submit(task, by_directory[directory])] = directory
            for future in wait(sent, return_when=FIRST_COMPLETED).done:
                directory = sent.pop(future)
                try:
                    yield future.result()
                except BrokenExecutor as error:
                    raise MachineError(killed("a worker process")) from error
                except CancelledError as error:  # by whoever has the executor, as this function cancels nothing yet
                    raise MachineError(f"the cluster that trains the runs has ended; {AGAIN}") from error
                except Exception as error:
                    failed[directory] = error
                sorter.done(directory)
    finally:
        for future in sent:
            future.cancel()
    if failed:
        raise _failure({directory.name: error for directory, error in failed.items()}, len(work))


def _failure(failed: dict[str, Exception | None], count: int) -> Exception:
    """One error for all runs that failed; those that only start from them are counted."""
    reasons = []
    for name, error in failed.items():
        if error is not None:
            where = "".join(f" on {note}" for note in getattr(error, "__notes__", ())[:1])
            reasons.append(f"{name}{where}: {explain(error) or f'{type(error).__name__}: {error}'}")
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    waiting = f"; {len(failed) - len(reasons)} start from them" if len(failed) > len(reasons) else ""
    result = RunError(f"{len(reasons)} of {count} runs failed: {'; '.join(reasons[:3])}{more}{waiting}")
    result.__cause__ = next(error for error in failed.values() if error is not None)
    return result


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """A file in ``folder`` that was never looked for, so that a worker that does not see it has another folder."""
    mark = Path(folder).absolute() / f".shared-{secrets.token_hex(4)}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
