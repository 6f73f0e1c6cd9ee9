"""What a search may change of each system, and the runs of a trial: MGCL's open settings, or a compared system's own.

All systems get the same trials, seeds, epochs and pruning; only the settings differ.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, plain_settings
from ..support.errors import ConfigError
from ..system import LoopSettings
from .registry import system_entry
from .runs import Run
from .stages import ComparedStage, MGCLStage
from .study import Study


@dataclass(frozen=True)
class Range:
    """Real values between two bounds, both included; ``log`` draws them evenly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


#: A setting → what is searched of it: a range of real values, or choices (label → value).
Space = dict[str, Range | dict[str, Any]]

#: What is searched of MGCL. All belong to stage two; `micro` also decides how micro encoders are pretrained, once for
#: each of its readings.
SPACE: Space = {
    "temperature": Range(0.02, 2.0, log=True),  # decision 12; CLGSI, whose loss L_con is made from, has .03
    "alpha": Range(0.01, 1.0, log=True),  # 12
    "beta": Range(0.001, 1.0, log=True),  # 12
    "mgcl_lr": Range(2e-5, 2e-3, log=True),
    "dropout": Range(0.0, 0.5),
    "micro": {"sequence": "sequence", "pooled": "pooled"},  # 4
    "trained_encoders": {"V,A": ("V", "A"), "none": ()},  # 14
}
#: Of a compared system: the weight decays that mmsa's tuner chooses among, and dropouts up to its largest.
WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 5e-3, 1e-2)
DROPOUT = Range(0.0, 0.7)


def system_space(settings: LoopSettings) -> Space:
    """What is searched of a compared system, by the names of its settings, so that a new system has a space too.

    Learning rates, the weights of its losses and its temperature: from a tenth of their value to ten times, on a
    logarithmic scale; dropouts: `DROPOUT`; the weight decay: `WEIGHT_DECAYS`. Widths, batch size and epochs, which
    decide what a trial costs, stay.
    """
    space: Space = {}
    for name, value in plain_settings(settings).items():
        if name == "weight_decay":
            space[name] = {f"{choice:g}": choice for choice in sorted({*WEIGHT_DECAYS, value})}
        elif name.endswith("dropout"):
            space[name] = DROPOUT
        elif (name in ("lr", "temperature") or name.endswith(("_lr", "_weight"))) and value > 0:
            space[name] = Range(value / 10, value * 10, log=True)
    return space


class Subject(ABC):
    """The system that is searched, on a study without its test split.

    Attributes:
        name: "mgcl" or a compared system's.
        title: Its row in the tables.
        space: What is searched; what the study overrides is not.
        default: The study's own settings, as a trial writes them.
        epochs: Of a seed, at most.
        folder: Where its trials and its preset are kept.
    """

    name: str
    epochs: int

    def __init__(self, study: Study, space: Space, values: Mapping[str, Any], folder: Path):
        if not space:
            raise ConfigError("nothing is left to search: every setting of the search is overridden")
        self.study, self.space, self.folder = study, space, folder
        self.default = {name: _default(choices, values[name], name) for name, choices in space.items()}

    @property
    def title(self) -> str:
        return system_entry(self.name).title

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The labels of a trial as values of the settings."""
        return {
            name: params[name] if isinstance(choices, Range) else choices[params[name]]
            for name, choices in self.space.items()
        }

    def ranges(self) -> Space:
        """The space, widened where the default lies outside."""
        return {
            name: Range(min(choices.low, self.default[name]), max(choices.high, self.default[name]), choices.log)
            if isinstance(choices, Range)
            else choices
            for name, choices in self.space.items()
        }

    @abstractmethod
    def fixed(self) -> dict[str, Any]:
        """The settings that no trial changes, for the name of the search."""

    @abstractmethod
    def runs(self, params: Mapping[str, Any], folder: Path) -> list[Run]:
        """The runs of a trial in ``folder``, one per seed."""

    @abstractmethod
    def chosen(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The ``overrides`` and ``system_overrides`` of the preset that a trial gives, with those of the study."""


class MGCLSubject(Subject):
    """Stage two of MGCL, from the encoders of stage one that all runs share."""

    name = "mgcl"

    def __init__(self, study: Study):
        self.epochs = study.base.mgcl_epochs
        space = {name: choices for name, choices in SPACE.items() if name not in study.overrides}
        super().__init__(study, space, vars(study.base), study.artifacts / "search")

    def fixed(self) -> dict[str, Any]:
        return {name: value for name, value in self.study.base.as_dict().items() if name not in (*self.space, "seed")}

    def runs(self, params: Mapping[str, Any], folder: Path) -> list[Run]:
        return [
            Run(MGCLStage(config), folder / str(config.seed), self.study.encoder_runs(config))
            for config in self._configs(params)
        ]

    def _configs(self, params: Mapping[str, Any]) -> list[Config]:
        return [self.study.config(seed).override(self.values(params)) for seed in self.study.seeds]

    def chosen(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        base = self.study.base.as_dict()
        values = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.values(params).items()
        }
        return {
            "overrides": {**{name: base[name] for name in self.study.overrides}, **values},
            "system_overrides": self.study.system_overrides,
        }


class SystemSubject(Subject):
    """A compared system's own settings."""

    def __init__(self, study: Study, name: str):
        self.name, self.overridden = name, study.system_overrides.get(name, {})
        self.planned = [study.system_run(name, seed) for seed in study.seeds]
        self.settings = self._stage(self.planned[0]).own_settings
        self.epochs = self.settings.epochs
        space = system_space(self.settings)
        space = {setting: choices for setting, choices in space.items() if setting not in self.overridden}
        super().__init__(study, space, vars(self.settings), study.artifacts / "search" / name)

    @staticmethod
    def _stage(run: Run) -> ComparedStage:
        assert isinstance(run.stage, ComparedStage)
        return run.stage

    def fixed(self) -> dict[str, Any]:
        own = {name: value for name, value in plain_settings(self.settings).items() if name not in self.space}
        return {**self._stage(self.planned[0]).settings, "system": {"name": self.name, **own}}

    def runs(self, params: Mapping[str, Any], folder: Path) -> list[Run]:
        settings = dataclasses.replace(self.settings, **self.values(params))
        return [
            Run(dataclasses.replace(self._stage(run), own_settings=settings), folder / str(run.seed), run.parents)
            for run in self.planned
        ]

    def chosen(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        base = self.study.base.as_dict()
        return {
            "overrides": {name: base[name] for name in self.study.overrides},
            "system_overrides": {**self.study.system_overrides, self.name: {**self.overridden, **self.values(params)}},
        }


def subject_of(study: Study, system: str) -> Subject:
    """What is searched of ``system``.

    Raises:
        ConfigError: An unknown system, one that cannot read the corpus, or nothing is left to search.
    """
    system_entry(system)
    return MGCLSubject(study) if system == "mgcl" else SystemSubject(study, system)


def _default(choices: Range | dict[str, Any], value: Any, name: str) -> Any:
    """The study's own value as a trial writes it.

    Raises:
        ConfigError: it is none of the choices.
    """
    if isinstance(choices, Range):
        return value
    for label, choice in choices.items():
        if choice == value:
            return label
    raise ConfigError(f"{name}={value!r} is none of what is searched ({', '.join(choices)}); override it to keep it")
