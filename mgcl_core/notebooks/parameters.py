"""What every notebook opens with: its parameters checked by name and type, the versions, and quiet logging.

papermill only warns of a parameter that a notebook does not know, and passes some values as text. So
a notebook's first act is `begin(globals(), ...)`, however it was started.
"""

from __future__ import annotations

import ast
import logging
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..config import PROFILES, read_overrides
from ..data.loading import known_name
from ..support.errors import ConfigError, nearest
from ..experiments.study import SEEDS, Study
from ..support.paths import project_root
from ..experiments.presets import read_preset
from ..support.provenance import PACKAGES, environment_versions

#: Every parameter a notebook may declare, with its default.
DEFAULTS: dict[str, Any] = {
    "corpus": "demo",  # a known name or the path of a feature file
    "corpora": ["demo", "demo-mosi"],  # of the notebook that assembles the tables
    "profile": "auto",  # "paper", "small", "demo"; auto: "demo" for the demo corpora, "paper" for all others
    "seeds": list(SEEDS),
    "overrides": {},  # settings that differ from the profile's, or the path of a preset file (….json)
    "device": "auto",
    "precision": "auto",
    "workers": "auto",  # runs side by side (`mgcl_core.experiments.study.Study`)
    "results": None,  # the project's results/
    "trials": 20,  # of the search
}


@dataclass(frozen=True)
class Parameters:
    """Checked parameters; fields are as in `DEFAULTS`, and default where a notebook does not declare them."""

    corpus: str
    corpora: tuple[str, ...]
    profile: str
    seeds: tuple[int, ...]
    overrides: dict[str, Any]
    device: str
    precision: str
    workers: int | str
    results: Path
    trials: int

    def study(self, corpus: str | None = None) -> Study:
        """The runs that these parameters ask for."""
        name = corpus or self.corpus
        return Study(name, resolve_profile(self.profile, name), seeds=self.seeds, overrides=self.overrides,
                     device=self.device, precision=self.precision, workers=self.workers, results=self.results)


def begin(namespace: Mapping[str, Any], *declared: str) -> Parameters:
    """Check the parameters of a notebook before anything runs, and set up its log.

    Args:
        namespace: the notebook's ``globals()``.
        declared: the names that its parameters cell assigns.

    Raises:
        ConfigError: a name that the notebook does not declare (with the nearest), or one that is missing,
            or a value of a wrong type.
    """
    check_names(_assigned(namespace.get("In", ()), declared), declared)
    for name in declared:
        if name not in namespace:
            raise ConfigError(f"the parameters cell does not assign {name!r}")
    parameters = check({name: namespace[name] for name in declared})
    _log_to_stdout()
    # MathJax would take what lies between the dollars of two clip ids (video$_$clip) for mathematics.
    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    return parameters


def versions() -> dict[str, str]:
    """Python and the packages that decide a result, for a notebook's first output."""
    return {"python": platform.python_version(), **environment_versions(PACKAGES)}


def check_names(given: Iterable[str], declared: Sequence[str]) -> None:
    """Refuse a parameter that is not declared.

    Raises:
        ConfigError: with the nearest declared name.
    """
    for name in given:
        if name not in declared:
            raise ConfigError(f"unknown parameter {name!r}: {nearest(name, declared)}")


def check(given: Mapping[str, Any]) -> Parameters:
    """Read parameters strictly; text is accepted for any of them, as papermill's ``-p`` may pass it.

    Raises:
        ConfigError: a value of a wrong type.
    """
    values = {**DEFAULTS, **given}
    for name in ("corpus", "profile", "device", "precision"):
        if not isinstance(values[name], str) or not values[name]:
            raise ConfigError(f"{name}={values[name]!r}: must be text")
    if values["profile"] != "auto" and values["profile"] not in PROFILES:
        raise ConfigError(f"unknown profile {values['profile']!r}: {nearest(values['profile'], [*PROFILES, 'auto'])}")
    if values["precision"] not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision={values['precision']!r}: must be 'auto', 'fp32' or 'bf16'")
    trials, workers = (int(value) if isinstance(value, str) and value.isdecimal() else value
                       for value in (values["trials"], values["workers"]))
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise ConfigError(f"trials={trials!r}: must be a number of trials, at least 1")
    results = values["results"]
    if results is not None and not isinstance(results, (str, Path)):
        raise ConfigError(f"results={results!r}: must be a folder or None")
    return Parameters(
        corpus=values["corpus"], corpora=tuple(map(str, _listed("corpora", values["corpora"], str))),
        profile=values["profile"], seeds=tuple(_listed("seeds", values["seeds"], int)),
        overrides=_overrides(values["overrides"]), device=values["device"], precision=values["precision"],
        workers=workers, results=Path(results) if results not in (None, "None") else project_root() / "results",
        trials=trials)


def resolve_profile(profile: str, corpus: str) -> str:
    """The profile that "auto" stands for."""
    if profile != "auto":
        return profile
    return "demo" if known_name(corpus) in ("demo", "demo-mosi") else "paper"


def _assigned(cells: Sequence[str], declared: Sequence[str]) -> list[str]:
    """Names that parameters cells assign, among ``cells`` as they were run, the last of which calls `begin`.

    Before the first `begin` every cell is one: papermill injects its own after the notebook's. Later ones, run again by
    hand, are told by what they assign: at least half of the declared names, since the last `begin`.
    """
    recent: list[str] = []  # since the last `begin`
    first = True
    for place, cell in enumerate(cells):
        try:
            statements = ast.parse(cell).body
        except SyntaxError:  # an IPython magic
            continue
        if any(isinstance(node, ast.Attribute) and node.attr == "begin" for s in statements for node in ast.walk(s)):
            if place < len(cells) - 1:
                first, recent = False, []
            continue
        targets = [target for s in statements if isinstance(s, (ast.Assign, ast.AnnAssign))
                   for target in (s.targets if isinstance(s, ast.Assign) else [s.target])]
        assigned = [target.id for target in targets if isinstance(target, ast.Name)]
        if first or 2 * len({*assigned} & {*declared}) >= len(declared):
            recent += assigned
    return recent


def _listed(name: str, value: Any, kind: type) -> list[Any]:
    if isinstance(value, kind) and kind is int and not isinstance(value, bool):
        return [value]
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        value = [item.strip().strip("'\"") for item in text.split(",") if item.strip()]
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(f"{name}={value!r}: must be a list of {kind.__name__}, not empty")
    try:
        items = [kind(item) for item in value]
    except (TypeError, ValueError):
        items = None
    if items is None or any(isinstance(item, (bool, float)) for item in value):
        raise ConfigError(f"{name}={value!r}: must be a list of {kind.__name__}")
    return items


def _overrides(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.endswith(".json"):
        return read_preset(value)
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value) or {}  # YAML holds JSON, and is what `papermill -y` reads
        except yaml.YAMLError as error:
            raise ConfigError(f"overrides={value!r}: must be an object of JSON or YAML ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"overrides={value!r}: must be a dictionary of settings")
    return read_overrides(value)


def _log_to_stdout() -> None:
    """One line per event under the running cell; standard error would show in red."""
    logger = logging.getLogger("mgcl_core")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]
