"""The kinds of run: a stage-one encoder, MGCL, its student, and a compared system; what each is, builds and reads.

What a run depends on besides is its data and the stage-one runs that it starts from, its *parents*.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file

from ..config import (
    ComparedSettings,
    Config,
    MGCLSettings,
    MicroSettings,
    SequenceEncoderSettings,
    TextEncoderSettings,
    TextFeatureEncoderSettings,
    TextFeatureInput,
    named_settings,
    plain_settings,
)
from ..data.corpus import MODALITIES, EncoderName, Split
from ..encoders import encoder_names, frozen_encoders
from ..model import MGCL
from ..stage_one import UnimodalRegressor, learns_own_label
from ..support.errors import ConfigError, RunError
from ..support.provenance import source_digest
from ..support.runtime import derive_seed
from ..support.typed_values import read_fields
from ..system import LoopSettings, Shapes, System
from ..trainer import Schedule, check_shapes, load_weights
from .registry import system_entry
from .student import Student, StudentSettings

#: What computes every run; those of the second line without what they import, which is the registry of all systems.
_EVERY_RUN = ("trainer", "data.loading", "data.scaling", "experiments.frozen_features")
_ORCHESTRATION = ("experiments.stages", "experiments.splits", "experiments.study", "experiments.absence")


@dataclass(frozen=True)
class Stage(ABC):
    """What a run trains, with the settings of the study and its seed."""

    config: Config

    #: Of the six variants of MGCL, "" for all else.
    variant = ""
    #: Whether it learns from what ``regime`` says; stage one always from complete clips.
    has_regime = True
    #: The run that it learns from, of a student.
    teacher: ClassVar[str | None] = None
    #: Whether it reads contextual text embeddings of a text model that is not fine-tuned (`Batch.text`).
    reads_text_embeddings = False
    #: Whether it reads nothing of audio and vision but their means (`DeviceSplit.averaged`).
    reads_means = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the encoder or system, as records and seeds have it: "macro_T", "mgcl", "misa" …"""

    @property
    def label(self) -> str:
        """In directories, lists and legends."""
        return self.variant or self.name

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings that decide its result, as plain values."""

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """The settings of a study that its record holds: of stage one those alone that decide its result."""
        return self.config.as_dict()

    @property
    @abstractmethod
    def module(self) -> str:
        """The module of this package that its system comes from."""

    @property
    def sources(self) -> str:
        """SHA-256 of the modules that it is computed by, and of those that they import."""
        return source_digest((self.module, *_EVERY_RUN), alone=_ORCHESTRATION)

    @property
    def reads_text(self) -> bool:
        """Whether it, or a run that it starts from, reads words, with the text model."""
        return self.config.reads_words

    @property
    def system_settings(self) -> LoopSettings | StudentSettings | None:
        """Of a compared system or a student, which have settings of their own."""
        return None

    @property
    def takes_long(self) -> bool:
        """Whether it should be started before others: a text encoder, or a system that may hold one."""
        return False

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """Epochs, batch size and optimiser."""

    @property
    def parents(self) -> tuple[EncoderName, ...]:
        """The encoders of stage one that it starts from."""
        return ()

    @property
    def frozen_parents(self) -> tuple[EncoderName, ...]:
        """Those that it does not train: batches carry their features."""
        return ()

    def labels(self, split: Split) -> np.ndarray:
        """The labels (N,) that its prediction is compared with."""
        return split.labels

    def build(
        self,
        shapes: Shapes,
        device: torch.device,
        *,
        parent_weights: Mapping[EncoderName, Path] | None = None,
        weights: Path | None = None,
        pretrained: bool = True,
    ) -> System:
        """The system on ``device``, as it starts from the seed and its parents' weights, or with the final ones.

        ``pretrained=False`` leaves a student's text model random: what it costs does not depend on its weights.
        """
        if weights is not None:
            self._check(shapes, weights)
        torch.manual_seed(derive_seed(self.config.seed, self.name, "initialisation"))
        system = self._system(
            shapes, {} if weights else parent_weights or {}, pretrained=pretrained and weights is None
        )
        if weights is not None:
            load_weights(system, weights)
        return system.to(device)

    def _check(self, shapes: Shapes, weights: Path) -> None:
        """Refuse weights of another architecture before memory is taken for this one.

        Raises:
            RunError: they are, or the settings give none that could be built.
        """
        try:
            with torch.device("meta"):
                system = self._system(shapes, {}, pretrained=False)
        except RuntimeError as error:
            raise RunError(f"the settings of {self.label} give no system: {error}") from error
        check_shapes(system, weights)

    @abstractmethod
    def _system(self, shapes: Shapes, parent_weights: Mapping[EncoderName, Path], *, pretrained: bool) -> System: ...


@dataclass(frozen=True)
class EncoderStage(Stage):
    """Stage one: an encoder learns y, or as a micro encoder the label of its modality (decision 13)."""

    encoder: EncoderName
    module = "stage_one"
    has_regime = False

    @property
    def name(self) -> str:
        return str(self.encoder)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        return self.settings

    @property
    def reads_text(self) -> bool:
        return self.encoder.modality == "T" and self.config.reads_words

    @property
    def settings(self) -> dict[str, Any]:
        kind = TextEncoderSettings if self.reads_text_model else SequenceEncoderSettings
        if self.encoder.modality == "T" and not self.reads_text_model:
            kind = TextFeatureEncoderSettings
        settings = named_settings(self.config.part(kind))
        if "micro" in self.encoder.granularities:
            settings |= named_settings(self.config.part(MicroSettings))
        return settings

    @property
    def reads_text_model(self) -> bool:
        """Whether its encoder is a text model, which has settings of its own."""
        return self.encoder.modality == "T" and self.config.reads_words

    @property
    def takes_long(self) -> bool:
        return self.reads_text_model

    @property
    def is_frozen_later(self) -> bool:
        """Whether stage two reads its features and does not train it."""
        return self.encoder in frozen_encoders(self.config) and not self.config.frozen_dropout

    @property
    def schedule(self) -> Schedule:
        return _schedule(self.config, "text" if self.reads_text_model else "sequence")

    def labels(self, split: Split) -> np.ndarray:
        if learns_own_label(self.encoder.granularities[0], self.config) and split.unimodal_labels is not None:
            return split.unimodal_labels[MODALITIES.index(self.encoder.modality)]
        return split.labels

    def _system(self, shapes: Shapes, parent_weights: Mapping[EncoderName, Path], *, pretrained: bool) -> System:
        return UnimodalRegressor(self.encoder, self.config, pretrained=pretrained)


@dataclass(frozen=True)
class MGCLStage(Stage):
    """Stage two: MGCL in one variant, from the encoders of stage one.

    It holds only the encoders that it trains: the features of frozen ones come with the batches. Where it is ``whole``,
    as an exported folder is, it holds all of them and starts from no other run.
    """

    variant: str = "MGCL"
    whole: bool = False

    module = "model"

    @property
    def name(self) -> str:
        return "mgcl"

    @property
    def settings(self) -> dict[str, Any]:
        return named_settings(self.config.part(MGCLSettings))

    @property
    def schedule(self) -> Schedule:
        return dataclasses.replace(_schedule(self.config, "mgcl"), selection=self.config.selection)

    @property
    def parents(self) -> tuple[EncoderName, ...]:
        return () if self.whole else encoder_names(self.config)

    @property
    def frozen_parents(self) -> tuple[EncoderName, ...]:
        return () if self.whole or self.config.frozen_dropout else frozen_encoders(self.config)

    def _system(self, shapes: Shapes, parent_weights: Mapping[EncoderName, Path], *, pretrained: bool) -> System:
        held = [name for name in encoder_names(self.config) if name not in self.frozen_parents]
        system = MGCL(self.config, shapes, encoders=held, pretrained=False)
        for name in held if parent_weights else ():
            weights = load_file(parent_weights[name])
            prefix = "encoder."
            own = {key.removeprefix(prefix): values for key, values in weights.items() if key.startswith(prefix)}
            system.encoders[str(name)].load_state_dict(own)
        return system


@dataclass(frozen=True)
class StudentStage(MGCLStage):
    """A student of a finished MGCL, or the same without a teacher: one stage that trains all it holds."""

    variant: str = "student"
    own: StudentSettings = field(kw_only=True)

    module = "experiments.student"

    @property
    def settings(self) -> dict[str, Any]:
        text = TextEncoderSettings if self.config.reads_words else TextFeatureEncoderSettings
        parts = (SequenceEncoderSettings, MicroSettings, MGCLSettings, text)
        settings = {name: value for kind in parts for name, value in named_settings(self.config.part(kind)).items()}
        return {**settings, "encoders": self.config.encoders, "student": plain_settings(self.own)}

    @property
    def system_settings(self) -> StudentSettings:
        return self.own

    @property
    def teacher(self) -> str | None:
        return self.own.teacher

    @property
    def takes_long(self) -> bool:
        return True

    @property
    def schedule(self) -> Schedule:
        return replace(_schedule(self.config, "mgcl"), epochs=self.own.epochs)

    parents, frozen_parents = Stage.parents, Stage.frozen_parents  # none

    def _system(self, shapes: Shapes, parent_weights: Mapping[EncoderName, Path], *, pretrained: bool) -> System:
        return Student(self.config, shapes, self.own, pretrained=pretrained)


@dataclass(frozen=True)
class ComparedStage(Stage):
    """One of the systems that the paper compares with; what it reads of text, its entry in the registry says."""

    system: str
    own_settings: LoopSettings

    def __post_init__(self) -> None:
        wanted = {"scaling": "none", "precision": "fp32"}  # features as the file has them, in mmsa's precision
        if self.own_settings.published is not None:
            for name, value in wanted.items():
                if getattr(self.config, name) != value:
                    raise ConfigError(
                        f"protocol='published' of {self.system} needs {name}={value!r} (--set {name}={value})"
                    )

    @property
    def name(self) -> str:
        return self.system

    @property
    def module(self) -> str:
        return f"baselines.{self.system}"

    @property
    def settings(self) -> dict[str, Any]:
        # Runs on words are named as they always were.
        text = {} if self.config.reads_words else named_settings(self.config.part(TextFeatureInput))
        common = named_settings(self.config.part(ComparedSettings))
        return {**common, **text, "system": named_settings(self.own_settings)}

    @property
    def system_settings(self) -> LoopSettings:
        return self.own_settings

    @property
    def takes_long(self) -> bool:
        return True

    @property
    def reads_text_embeddings(self) -> bool:
        return system_entry(self.system).text == "frozen"

    @property
    def reads_means(self) -> bool:
        # What follows mmsa's model takes means over padding too, and lost steps are lost before the mean.
        whole = getattr(self.own_settings, "follows_reference", False) or self.config.loses_steps
        return system_entry(self.system).reads_means and not whole

    @property
    def schedule(self) -> Schedule:
        own = self._own_schedule("", self.own_settings.patience)
        return dataclasses.replace(own, selection=self.config.selection)

    @property
    def pretraining_schedule(self) -> Schedule:
        """Of the parts that it trains before itself (`System.pretraining`)."""
        return self._own_schedule("pretrain_", None)

    def _own_schedule(self, prefix: str, patience: int | None) -> Schedule:
        settings = self.own_settings
        epochs, batch_size, warmup = (
            getattr(settings, f"{prefix}{name}") for name in ("epochs", "batch_size", "warmup_epochs")
        )
        return Schedule(epochs, batch_size, settings.weight_decay, warmup, settings.clip_norm, patience,
                        self.config.precision, published=settings.published)  # fmt: skip

    @property
    def parents(self) -> tuple[EncoderName, ...]:
        if system_entry(self.system).text != "pretrained":
            return ()
        return tuple(name for name in encoder_names(self.config) if name.modality == "T")

    @property
    def frozen_parents(self) -> tuple[EncoderName, ...]:
        return self.parents

    def _check(self, shapes: Shapes, weights: Path) -> None:
        """Nothing: some of these load their text model while they are built, and none predicts a stranger's file."""

    def _system(self, shapes: Shapes, parent_weights: Mapping[EncoderName, Path], *, pretrained: bool) -> System:
        return system_entry(self.system).build(self.own_settings, shapes)


def stage_from_record(record: Mapping[str, Any]) -> Stage:
    """The stage that a run's record describes.

    Raises:
        ConfigError: it names an encoder, a system or a setting that is not known.
    """
    config = Config.from_dict(record["config"])
    if record["stage"] == "mgcl":
        whole = record.get("whole") is True  # only exported folders say so
        if record["system"] is None:
            return MGCLStage(config, record["variant"], whole)
        own = StudentSettings(**read_fields(StudentSettings, record["system"]))
        return StudentStage(config, record["variant"], whole, own=own)
    if record["system"] is None:
        return EncoderStage(config, EncoderName.parse(record["stage"]))
    kind = type(next(iter(system_entry(record["stage"]).published.values())))
    return ComparedStage(config, record["stage"], kind(**read_fields(kind, record["system"])))


def shapes_of(config: Config, *, bound: float, clips: int, text_dim: int, text_steps: int) -> Shapes:
    """What a system with the settings ``config`` must know of a corpus to be built."""
    return Shapes(
        text_dim=text_dim,
        text_steps=text_steps,
        audio_dim=config.audio_dim,
        audio_steps=config.audio_steps,
        vision_dim=config.vision_dim,
        vision_steps=config.vision_steps,
        bound=bound,
        clips=clips,
        text_model=config.text_model,
    )


def _schedule(config: Config, prefix: str) -> Schedule:
    epochs, batch_size = (getattr(config, f"{prefix}_{name}") for name in ("epochs", "batch_size"))
    return Schedule(epochs, batch_size, config.weight_decay, config.warmup_epochs, config.clip_norm, config.patience,
                    config.precision, config.length_buckets)  # fmt: skip
