"""Errors that a user can cause; each says where the problem is and what was expected."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable
from pathlib import Path

#: Set by ``mgcl --debug``, for its own process and those it starts.
DEBUG = "MGCL_DEBUG"


class MGCLError(Exception):
    """Base of every error that this package raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: one line, since the frames say nothing to whom the message is for."""
        if os.environ.get(DEBUG):
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self}"]


class ConfigError(MGCLError):
    """A setting has an unknown name, a wrong type or an impossible value."""


class CorpusError(MGCLError):
    """A feature file cannot be read or breaks the format.

    Args:
        problem: What is wrong.
        file: The feature file.
        split: Its split.
        key: Its key.
        expected: What the format asks for.
        found: What the file holds.

    The attributes have the same names; those that do not apply are None.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        split: str | None = None,
        key: str | None = None,
        expected: object = None,
        found: object = None,
    ):
        self.problem, self.file, self.split, self.key = problem, file, split, key
        self.expected, self.found = expected, found
        location = {"file": None if file is None else str(file), "split": split, "key": key}
        location = [f"{name} {value!r}" for name, value in location.items() if value is not None]
        contrast = {"expected": expected, "found": found}
        contrast = [f"{name} {value}" for name, value in contrast.items() if value is not None]
        message = problem + (f" ({', '.join(location)})" if location else "")
        super().__init__(message + (f": {'; '.join(contrast)}" if contrast else ""))


class RunError(MGCLError):
    """A run cannot be started, continued, found or evaluated."""


class DamagedFile(RunError):
    """A file that this package wrote is missing, or not as it was written.

    Args:
        path: The file.
        problem: What is wrong.
        remedy: What to do about it.

    The attributes have the same names.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str = ""):
        self.path, self.problem, self.remedy = Path(path), problem, remedy
        super().__init__(f"{path} is damaged: {problem}" + (f". {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple:
        """For another process: an exception is made again from what it was made of."""
        return type(self), (self.path, self.problem, self.remedy), vars(self)


class MachineError(MGCLError, OSError):
    """The machine lacks something: disk, memory, a permission, or a process that was killed.

    It is an OSError too, so that who can do without a file goes on without it.
    """


class Interrupted(KeyboardInterrupt):
    """The user stopped the work; the message says what is kept and how to go on."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence, since where it was stopped tells nothing."""
        return [str(self)]


def shorten(value: object) -> str:
    """Give at most 100 characters of ``value``, for a message about what a file holds."""
    text = str(value)
    return text if len(text) <= 100 else text[:100] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name for an unknown ``name``, else all of them: the end of an error's message."""
    known = [str(candidate) for candidate in known]
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}"
