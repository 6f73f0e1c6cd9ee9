"""Errors that a user can cause; each says where the problem is and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class MGCLError(Exception):
    """Base of every error that this package raises on purpose."""


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

    The first two are attributes, too.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str = ""):
        self.path, self.problem = Path(path), problem
        super().__init__(f"{path} is damaged: {problem}" + (f". {remedy}" if remedy else ""))


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
