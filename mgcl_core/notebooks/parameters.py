"""What every notebook opens with: its parameters checked by name and type, the versions, and quiet logging.

papermill only warns of a parameter that a notebook does not know, and passes some values as text. So
a notebook's first act is `begin(globals(), ...)`, however it was started.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import logging
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from ..config import PROFILES, read_overrides
from ..data.known_files import known_name
from ..experiments.clusters import check_cluster, connect, started
from ..experiments.presets import read_preset, read_system_overrides
from ..experiments.study import SEEDS, Study
from ..support.errors import ConfigError, nearest
from ..support.paths import find, project_root
from ..support.provenance import PACKAGES, package_versions
from ..support.typed_values import plain, read_fields

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parameters:
    """Every parameter that a notebook may declare; text is read for any of them, as papermill's ``-p`` may pass it.

    Raises:
        ConfigError: a value of a wrong type.
    """

    corpus: str = "demo"  # a known name or the path of a feature file
    corpora: tuple[str, ...] = ("demo", "demo-mosi")  # of the notebook that assembles the tables
    profile: str = "auto"  # "paper", "small", "demo"; auto: "demo" for the demo corpora, "paper" for all others
    seeds: tuple[int, ...] = SEEDS
    overrides: Any = field(default_factory=dict)  # settings that differ, or the path of a preset file (….json)
    system_overrides: Any = field(default_factory=dict)  # of compared systems, by system: {"misa": {"lr": 5e-5}}
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int | Literal["auto"] = "auto"  # runs side by side (`mgcl_core.experiments.study.Study`)
    dataset: Literal["sims", "mosi", "mosei"] | None = None  # whose settings of the paper; None: as the corpus is known
    results: Path | None = None  # the project's results/
    trials: int = 20  # of the search
    cluster: str | None = None  # where runs are trained (`mgcl_core.experiments.clusters`); None: in this process

    def __post_init__(self) -> None:
        values = {item.name: getattr(self, item.name) for item in fields(self) if "overrides" not in item.name}
        systems = _dictionary("system_overrides", self.system_overrides)
        if isinstance(self.overrides, str) and self.overrides.endswith(".json"):
            overrides, systems = read_preset(self.overrides), {**read_system_overrides(self.overrides), **systems}
        else:
            overrides = read_overrides(_dictionary("overrides", self.overrides))
        values = read_fields(Parameters, values) | {"overrides": overrides, "system_overrides": systems}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.profile != "auto" and self.profile not in PROFILES:
            raise ConfigError(f"unknown profile {self.profile!r}: {nearest(self.profile, [*PROFILES, 'auto'])}")
        for name in ("corpora", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty: must be a list of at least one")
        if self.trials < 1:
            raise ConfigError(f"trials={self.trials}: must be at least 1")
        if self.cluster is not None:
            check_cluster(self.cluster)
        if self.results is None:
            object.__setattr__(self, "results", project_root() / "results")
        else:
            object.__setattr__(self, "results", find(self.results))

    def study(self, corpus: str | None = None) -> Study:
        """The runs that these parameters ask for."""
        name = corpus or self.corpus
        profile = resolve_profile(self.profile, name)
        if self.profile == "auto":
            log.info("profile 'auto' is %r for %s: %s", profile, name, _ABOUT[profile])
        executor, workers = None, self.workers
        if self.cluster is not None:
            executor, workers = connect(self.cluster, self.workers, self.results / "cluster")
        return Study(
            name,
            profile,
            seeds=self.seeds,
            overrides=self.overrides,
            system_overrides=self.system_overrides,
            device=self.device,
            precision=self.precision,
            workers=workers,
            executor=executor,
            dataset=self.dataset,
            results=self.results,
        )

    @contextlib.contextmanager
    def on_one_cluster(self) -> Iterator[Parameters]:
        """These parameters with the address of the cluster that they ask for, which all notebooks then share."""
        if self.cluster is None:
            yield self
            return
        with started(self.cluster, self.workers, self.results / "cluster") as address:
            yield dataclasses.replace(self, cluster=address)

    def plain(self, names: Iterable[str]) -> dict[str, Any]:
        """The parameters ``names`` as plain values for papermill."""
        values = {name: plain(getattr(self, name)) for name in names}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


#: What "auto" stands for, as a person should know before it starts.
_ABOUT = {
    "demo": "made to run in minutes on a CPU, not Table 2",
    "paper": "Table 2, for a GPU; profile 'small' is for small files and a CPU",
}


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
    parameters = Parameters(**{name: namespace[name] for name in declared})
    _log_to_stdout()
    # MathJax would take what lies between the dollars of two clip ids (video$_$clip) for mathematics.
    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    pd.set_option("display.max_colwidth", 100)  # sentences
    return parameters


def versions() -> dict[str, str]:
    """Python and the packages that decide a result, for a notebook's first output."""
    return {"python": platform.python_version(), **package_versions(PACKAGES)}


def check_names(given: Iterable[str], declared: Sequence[str]) -> None:
    """Refuse a parameter that is not declared.

    Raises:
        ConfigError: with the nearest declared name.
    """
    for name in given:
        if name not in declared:
            raise ConfigError(f"unknown parameter {name!r}: {nearest(name, declared)}")


def resolve_profile(profile: str, corpus: str) -> str:
    """The profile that "auto" stands for."""
    if profile != "auto":
        return profile
    return "demo" if known_name(corpus) in ("demo", "demo-mosi") else "paper"


def _assigned(cells: Sequence[str], declared: Sequence[str]) -> list[str]:
    """Names that parameters cells assign, among ``cells`` as they were run, the last of which calls `begin`.

    A parameters cell is what papermill injects, or one that assigns at least half of the declared names; it counts if
    it was run since the `begin` before.
    """
    recent: list[str] = []
    for number, cell in enumerate(cells, 1):
        try:
            statements = ast.parse(cell).body
        except SyntaxError:  # an IPython magic
            continue
        if any(_calls_begin(node) for statement in statements for node in ast.walk(statement)):
            if number < len(cells):
                recent = []
            continue
        targets = [
            target
            for statement in statements
            if isinstance(statement, (ast.Assign, ast.AnnAssign))
            for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        ]
        assigned = [target.id for target in targets if isinstance(target, ast.Name)]
        if cell.startswith("# Parameters") or 2 * len({*assigned} & {*declared}) >= len(declared):
            recent += assigned
    return recent


def _calls_begin(node: ast.AST) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", None)) == "begin"


def _dictionary(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value) or {}  # YAML holds JSON, and is what `papermill -y` reads
        except yaml.YAMLError as error:
            raise ConfigError(f"{name}={value!r}: must be an object of JSON or YAML ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name}={value!r}: must be a dictionary of settings")
    return value


def _log_to_stdout() -> None:
    """One line per event under the running cell; standard error would show in red."""
    logger = logging.getLogger("mgcl_core")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]
