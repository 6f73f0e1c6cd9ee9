"""The errors a user can cause, each naming where it was and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MGCLError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(MGCLError):
    """A setting has an unknown name, a wrong type or an impossible value."""


class CorpusError(MGCLError):
    """A feature file cannot be read or breaks the format.

    Attributes hold what the message says: ``file``, ``split``, ``key``, ``expected`` and ``found``
    (``None`` where one does not apply).
    """

    def __init__(self, problem: str, *, file=None, split=None, key=None, expected=None, found=None):
        self.problem, self.file, self.split, self.key = problem, file, split, key
        self.expected, self.found = expected, found
        where = [
            f"{name} {value!r}"
            for name, value in (("file", None if file is None else str(file)), ("split", split), ("key", key))
            if value is not None
        ]
        what = [f"{name} {value}" for name, value in (("expected", expected), ("found", found)) if value is not None]
        message = problem
        if where:
            message += f" ({', '.join(where)})"
        if what:
            message += f": {'; '.join(what)}"
        super().__init__(message)


class RunError(MGCLError):
    """A run cannot be started, continued, found or evaluated."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending for an error about an unknown ``name``: the nearest known one, or all of them."""
    known = [str(candidate) for candidate in known]
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}"
