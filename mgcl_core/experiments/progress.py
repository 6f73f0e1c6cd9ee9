"""How far training is, in one display: a line in place on a terminal, a table and curves in a notebook, else log lines.

Every run writes a row of its history an epoch, in whichever process it is trained. The display reads those files, so it
shows workers and other processes as it shows this one, and no run knows of it.
"""

from __future__ import annotations

import contextlib
import contextvars
import html
import logging
import math
import multiprocessing
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import DamagedFile
from ..support.files import read_json_lines
from ..trainer import HISTORY, SELECTION

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0  # where they are logged; a display in place is renewed every second
#: Seven lines that colour-blind readers tell apart on light and dark ground.
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#949494", "#56b4e9")

_shown = threading.Lock()  # one display at a time in a process


@dataclass
class Watched:
    """A training in ``directory``: what it is called, its kind (those of one kind take equally long), its epochs.

    It is finished when there is a file ``end``, by default the one that says which epoch was chosen.
    """

    name: str
    kind: str
    directory: Path
    epochs: int
    end: Path | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    _read: tuple[int, int] = (0, 0)

    def read(self) -> None:
        """Read its history again where it changed."""
        with contextlib.suppress(OSError, DamagedFile):  # not begun, or replaced in this moment
            status = (self.directory / HISTORY).stat()
            if self._read != (now := (status.st_mtime_ns, status.st_size)):
                self.history, self._read = read_json_lines(self.directory / HISTORY), now

    @property
    def finished(self) -> bool:
        return (self.end or self.directory / SELECTION).exists()

    @property
    def maes(self) -> list[float]:
        """Validation MAE of each epoch, NaN where it is not finite."""
        return [math.nan if row["valid_mae"] is None else row["valid_mae"] for row in self.history]

    def __str__(self) -> str:
        maes = self.maes
        best = "" if np.isnan(maes).all() else f", best {np.nanmin(maes):.3f}"
        return f"{self.name} epoch {len(maes)}/{self.epochs} valid MAE {maes[-1]:.3f}{best}"


class Progress:
    """What is known of several trainings at one moment.

    Args:
        watched: all of them, those that are finished too.
        workers: how many are trained at a time.
    """

    def __init__(self, watched: Sequence[Watched], workers: int):
        self.watched, self.workers = watched, workers
        for one in watched:
            one.read()
        self.done = [one for one in watched if one.finished]
        self.running = [one for one in watched if one.history and not one.finished]

    def __str__(self) -> str:
        return " · ".join([f"{len(self.done)}/{len(self.watched)} runs", self.time_left(), *map(str, self.running)])

    def seconds_left(self) -> tuple[float, bool]:
        """Seconds from the epochs so far, NaN before the first, and whether all kinds of training have one.

        A kind without an epoch counts nothing, since kinds differ by more than any guess is worth: a text encoder's
        epoch may take a hundred times another's.
        """
        of_kind: dict[str, list[float]] = {}
        for one in self.watched:
            of_kind.setdefault(one.kind, []).extend(row["seconds"] for row in one.history)
        means = {kind: float(np.mean(seconds)) for kind, seconds in of_kind.items() if seconds}
        waiting = [one for one in self.watched if not one.finished]
        left = sum((one.epochs - len(one.history)) * means.get(one.kind, 0.0) for one in waiting)
        seconds = left / max(1, min(self.workers, len(waiting))) if means else math.nan
        return seconds, all(one.kind in means for one in waiting)

    def time_left(self) -> str:
        seconds, complete = self.seconds_left()
        if math.isnan(seconds):
            return "time left not known yet"
        return f"{'about' if complete else 'at least'} {duration(seconds)} left"

    def to_html(self) -> str:
        """For a notebook: a bar, the trainings under way, and the curves of validation MAE so far."""
        epochs = sum(one.epochs for one in self.watched)
        reached = sum(one.epochs if one.finished else len(one.history) for one in self.watched)
        left = "" if len(self.done) == len(self.watched) else f", {self.time_left()}"
        rows = "".join(
            f'<tr><td style="text-align:left"><span style="color:{COLOURS[n % len(COLOURS)]}">━</span> '
            f"{html.escape(one.name)}</td><td>{len(one.history)}/{one.epochs}</td><td>{one.maes[-1]:.3f}</td>"
            f"<td>{np.nanmin(one.maes) if np.isfinite(one.maes).any() else math.nan:.3f}</td></tr>"
            for n, one in enumerate(self.running)
        )
        head = '<tr><th style="text-align:left">training</th><th>epoch</th><th>valid MAE</th><th>best</th></tr>'
        return (
            f"<div><b>{len(self.done)} of {len(self.watched)} runs</b>{left}<br>"
            f'<progress value="{reached}" max="{epochs}" style="width:24em"></progress></div>'
            f'<div style="display:flex;gap:2em;align-items:center">{self._curves()}'
            f"<table>{head if rows else ''}{rows}</table></div>"
        )

    def _curves(self) -> str:
        """Validation MAE by epoch as SVG: trainings under way in colour, finished ones in grey."""
        lines = [(one.maes, ".8", 1) for one in self.done] + [
            (one.maes, COLOURS[n % len(COLOURS)], 2) for n, one in enumerate(self.running)
        ]
        values = np.array([mae for maes, _, _ in lines for mae in maes if math.isfinite(mae)])
        if not len(values):
            return ""
        low, high, most = values.min(), values.max(), max(len(maes) for maes, _, _ in lines)
        width, height = 300, 110

        def place(epoch: int, mae: float) -> str:
            x = 40 + (width - 50) * (epoch / max(1, most - 1))
            return f"{x:.1f},{8 + (height - 28) * (high - mae) / ((high - low) or 1):.1f}"

        drawn = "".join(
            f'<polyline fill="none" stroke="{"#999" if colour == ".8" else colour}" stroke-width="{stroke}" '
            f'stroke-opacity="{0.5 if colour == ".8" else 1}" stroke-linejoin="round" stroke-linecap="round" points="'
            # The first point twice: a single one would not be seen.
            + " ".join(
                place(epoch, mae) for epoch, mae in [*enumerate(maes[:1]), *enumerate(maes)] if math.isfinite(mae)
            )
            + '"/>'
            for maes, colour, stroke in lines
        )
        text = '<text fill="currentColor" font-size="10" '
        return (
            f'<svg width="{width}" height="{height}" role="img" aria-label="validation MAE by epoch">{drawn}'
            f'{text}x="36" y="14" text-anchor="end">{high:.2f}</text>'
            f'{text}x="36" y="{height - 18}" text-anchor="end">{low:.2f}</text>'
            f'{text}x="40" y="{height - 4}">epoch 1</text>'
            f'{text}x="{width - 10}" y="{height - 4}" text-anchor="end">{most}</text>'
            f'{text}x="{width // 2}" y="{height - 4}" text-anchor="middle">validation MAE</text></svg>'
        )


@contextlib.contextmanager
def shown(watched: Sequence[Watched], workers: int = 1) -> Iterator[None]:
    """Show how far ``watched`` are for as long as the block lasts.

    Within another such block, and in a worker process, it shows nothing more: one display is enough.
    """
    if multiprocessing.parent_process() is not None or not _shown.acquire(blocking=False):
        yield
        return
    try:
        screen = _screen()
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(screen.seconds):
                screen.show(Progress(watched, workers))

        # A notebook's messages find their cell by a context variable, which a thread does not inherit.
        thread = threading.Thread(target=contextvars.copy_context().run, args=(renew,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            screen.end(Progress(watched, workers))
    finally:
        _shown.release()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 3 min, 2.5 h, 3 days."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


class Lines:
    """A log line now and then: under papermill, in CI, in a file."""

    seconds = SECONDS_BETWEEN_LINES

    def __init__(self) -> None:
        self.last = ""

    def show(self, progress: Progress) -> None:
        if progress.running and (line := str(progress)) != self.last:
            self.last = line
            log.info("%s", line)

    def end(self, progress: Progress) -> None:
        pass  # one line per run says the rest


class Terminal:
    """One line in place; it makes way for what is logged meanwhile."""

    seconds = 1.0

    def __init__(self) -> None:
        handlers = [*logging.getLogger().handlers, *logging.getLogger("mgcl_core").handlers]
        self.handlers = list(dict.fromkeys(handlers))
        for handler in self.handlers:
            handler.addFilter(self._make_way)

    def _make_way(self, record: logging.LogRecord) -> bool:
        self._write("")
        return True

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        sys.stderr.flush()

    def show(self, progress: Progress) -> None:
        self._write(str(progress))

    def end(self, progress: Progress) -> None:
        for handler in self.handlers:
            handler.removeFilter(self._make_way)
        self._write("")


class Notebook:
    """A table and curves under the cell."""

    seconds = 1.0

    def __init__(self) -> None:
        from IPython.display import HTML, display  # absent where nobody has a notebook

        self.html = HTML
        self.handle = display(HTML(""), display_id=True)

    def show(self, progress: Progress) -> None:
        self.handle.update(self.html(progress.to_html()))

    end = show


def _screen() -> Lines | Terminal | Notebook:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    # Only where a person sits before the notebook may a cell ask for input; papermill and nbconvert do not allow it.
    if getattr(getattr(shell, "kernel", None), "_allow_stdin", False):
        return Notebook()
    return Terminal() if sys.stderr.isatty() else Lines()
