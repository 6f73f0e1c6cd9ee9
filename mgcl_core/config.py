"""Every setting of a run in one place: the paper's Table 2 as presets, and strict reading of changes.

`Config` is flat on purpose: a setting has one name, which is the name on the command line, in a
notebook's `overrides`, in `config.json` and in the README's table of decisions. It is put together from
one small class for each thing that settings decide, so that a run of one stage can be named by its own
settings alone (`Config.part`). The number in a field's comment is the row of the table of decisions.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .support.errors import ConfigError, nearest
from .support.typed_values import plain, read_fields

PartT = TypeVar("PartT", bound="EveryRun")


@dataclass(frozen=True)
class EveryRun:
    """What every run has."""

    seed: int = 1111  # 21: covers both stages
    # 22: bf16: autocast; losses, and the layers that end in a prediction, stay float32
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class BothStages(EveryRun):
    """What MGCL's two stages share."""

    head_hidden: int = 192  # 11, 13
    # Optimiser
    weight_decay: float = 1e-3  # 15
    warmup_epochs: float = 1.0  # 15
    clip_norm: float = 1.0  # 15
    patience: int | None = None  # epochs without a better validation MAE before a stop; None: never
    # Batches of clips of similar length, sorted within this many batches at a time; 1 leaves them as they were drawn.
    length_buckets: int = 1  # other batches mean other pairs in L_con
    # Clips that pass the trained encoders at a time; L_con sees the whole batch. None: all.
    encoder_chunk: int | None = None


@dataclass(frozen=True)
class TextInput:
    """Token ids and the model that reads them."""

    text_model: str = "bert-base-chinese"  # 2: "minilm", a hub id or a folder
    tokens: Literal["file", "raw_text"] = "file"  # 19: raw_text: tokenised again


@dataclass(frozen=True)
class TextFeatureInput:
    """Text as features of the file, without a text model; their shape, which a study fills from the data."""

    text_source: Literal["words", "features"] = "words"  # 2: features: GloVe, BERT vectors …, read by sequence encoders
    text_dim: int = 768
    text_steps: int = 39


@dataclass(frozen=True)
class AudioVisionInput:
    """Shapes of audio and vision and how they were read, which a study fills from the data; their scaling."""

    audio_dim: int = 33
    audio_steps: int = 400
    vision_dim: int = 709
    vision_steps: int = 55
    scaling: Literal["robust", "zscore", "none"] = "robust"  # 18: over valid training steps
    lengths: Literal["auto", "file", "nonzero"] = "auto"  # 19: "auto": believed where they cut off no observed step
    nonfinite: Literal["error", "zero"] = "error"  # 19: "zero": NaN and infinity are read as 0


@dataclass(frozen=True)
class TextEncoderSettings(TextInput, BothStages):
    """Stage one of a text encoder (Table 2)."""

    text_lr: float = 1e-5
    text_epochs: int = 150
    text_batch_size: int = 64


@dataclass(frozen=True)
class SequenceTraining(BothStages):
    """An encoder of a sequence of features, and its stage one (Table 2)."""

    width: int = 768  # 3
    layers: int = 1  # 3
    heads: int = 8  # 3
    feedforward: int = 768  # 3
    encoder_dropout: float = 0.1  # 3
    sequence_lr: float = 1e-4
    sequence_epochs: int = 200
    sequence_batch_size: int = 128


@dataclass(frozen=True)
class SequenceEncoderSettings(AudioVisionInput, SequenceTraining):
    """Stage one of an audio or vision encoder."""


@dataclass(frozen=True)
class TextFeatureEncoderSettings(TextFeatureInput, SequenceTraining):
    """Stage one of an encoder of text features."""


@dataclass(frozen=True)
class MicroSettings(EveryRun):
    """How micro features are made, in both stages."""

    micro: Literal["sequence", "pooled"] = "sequence"  # 4
    window: int = 3  # 4: steps of the centred mean, an odd number


@dataclass(frozen=True)
class FrozenFeatureSettings:
    """How the features of frozen encoders are kept."""

    feature_cache: Literal["fp32", "fp16"] = "fp32"


@dataclass(frozen=True)
class MGCLSettings(FrozenFeatureSettings, BothStages):
    """Stage two (Table 2). What the encoders depend on is not here: a run of MGCL names the runs it starts from."""

    # Projections and predictor
    common_width: int = 384  # 5
    micro_hidden: int = 384  # 5
    dropout: float = 0.1  # 5, 6
    predictor_hidden: tuple[int, ...] = (384, 192)  # 11

    # Fusion
    fusion: Literal["cmgf", "concat"] = "cmgf"  # 6, 20
    fusion_heads: int = 8  # 6
    fusion_feedforward: int = 768  # 6

    # Objective
    alpha: float = 0.1  # 12: weight of L_con
    beta: float = 0.01  # 12: weight of L_uni
    temperature: float = 0.5  # 12
    delta: float = 0.4  # eq. 1
    components: tuple[Literal["C1", "C2", "C3"], ...] = ("C1", "C2", "C3")  # 20
    weighted: bool = True  # 20: False sets W = 1
    reduction: Literal["mean", "sum"] = "mean"  # 9

    # Training
    mgcl_lr: float = 1e-4
    mgcl_epochs: int = 50
    mgcl_batch_size: int = 64
    trained_encoders: tuple[Literal["T", "V", "A"], ...] = ("V", "A")  # 14


@dataclass(frozen=True)
class ComparedSettings(FrozenFeatureSettings, AudioVisionInput, TextInput, EveryRun):
    """What a compared system takes from here; all else it has in settings of its own."""


@dataclass(frozen=True)
class Config(
    MGCLSettings,
    MicroSettings,
    SequenceEncoderSettings,
    TextFeatureEncoderSettings,
    TextEncoderSettings,
    ComparedSettings,
):
    """All settings of one run. Defaults are the paper's for CH-SIMS.

    Raises:
        ConfigError: a value has the wrong type or lies outside what it may be.
    """

    encoders: Literal["dual", "shared"] = "dual"  # 1
    # 20 clips of raw_text must give the file's text_bert. Changes no result.
    check_vocabulary: bool = True

    def __post_init__(self) -> None:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        for name, value in read_fields(Config, values).items():
            object.__setattr__(self, name, value)
        self._check_values()

    def _check_values(self) -> None:
        hints = typing.get_type_hints(Config)
        for name in [name for name, hint in hints.items() if hint is int and name != "seed"]:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        # Beyond these, building a system would take hours before its size is known.
        for name, most in (("layers", 100), ("window", 999)):
            _require(getattr(self, name) <= most, name, getattr(self, name), f"at most {most}")
        _require(len(self.predictor_hidden) <= 100, "predictor_hidden", self.predictor_hidden, "at most 100 widths")
        for name in ("encoder_dropout", "dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        for name in ("temperature", "clip_norm", "text_lr", "sequence_lr", "mgcl_lr"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("alpha", "beta", "delta", "weight_decay", "warmup_epochs"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _require(self.window % 2 == 1, "window", self.window, "odd, so that it has a centre")
        _require(len(self.components) > 0, "components", self.components, "not empty (w/o CL is alpha=0)")
        for name in ("components", "trained_encoders"):
            value = getattr(self, name)
            _require(len(set(value)) == len(value), name, value, "without repeats")
        widths = self.predictor_hidden
        _require(len(widths) > 0 and min(widths) >= 1, "predictor_hidden", widths, "widths of at least 1, not empty")
        _require(self.width % self.heads == 0, "width", self.width, f"a multiple of heads={self.heads}")
        _require(
            self.common_width % self.fusion_heads == 0,
            "common_width",
            self.common_width,
            f"a multiple of fusion_heads={self.fusion_heads}",
        )
        for name in ("patience", "encoder_chunk"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or None")

    @property
    def reads_words(self) -> bool:
        """Whether a text model reads the text; else it is features, or absent."""
        return self.text_source == "words"

    def override(self, changes: Mapping[str, Any]) -> Config:
        """A copy with ``changes``; an unknown key is a `ConfigError` that names the nearest."""
        return dataclasses.replace(self, **read_fields(Config, changes))

    def part(self, kind: type[PartT]) -> PartT:
        """The settings that the class ``kind`` holds, alone."""
        return kind(**{item.name: getattr(self, item.name) for item in dataclasses.fields(kind)})

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain values for JSON; `Config.from_dict` reads them back."""
        return plain_settings(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The settings that `as_dict` wrote; those that are missing have their defaults."""
        return cls().override(values)


# Table 2, and what section 4.2 says of the encoders.
DATASETS: dict[str, dict[str, Any]] = {
    "sims": {
        "text_model": "bert-base-chinese",
        "audio_dim": 33,
        "audio_steps": 400,
        "vision_dim": 709,
        "vision_steps": 55,
    },
    "mosi": {
        "text_model": "bert-base-uncased",
        "text_steps": 50,
        "audio_dim": 5,
        "audio_steps": 375,
        "vision_dim": 20,
        "vision_steps": 500,
    },
    "mosei": {
        "text_model": "bert-base-uncased",
        "text_steps": 50,
        "layers": 3,
        "mgcl_epochs": 25,
        "mgcl_batch_size": 8,
        "audio_dim": 74,
        "audio_steps": 500,
        "vision_dim": 35,
        "vision_steps": 500,
    },
}

# What a profile changes of Table 2. Only `paper` may be called the paper's settings.
PROFILES: dict[str, dict[str, Any]] = {
    # The profile's, not the machine's: a login node without a GPU must find the runs of one that has it.
    "paper": {"precision": "bf16"},  # 22
    # Small real files on a CPU, with a small pretrained text encoder: not Table 2.
    "small": {
        "text_model": "minilm",
        "text_lr": 5e-5,
        "text_batch_size": 32,
        "text_epochs": 12,
        "width": 128,
        "heads": 4,
        "feedforward": 128,
        "sequence_epochs": 20,
        "sequence_batch_size": 32,
        "mgcl_epochs": 20,
        "mgcl_batch_size": 32,
    },
    # The embedded demo corpora in minutes on two cores: not Table 2.
    "demo": {
        "text_model": "minilm",
        "text_lr": 5e-5,
        "text_batch_size": 32,
        "text_epochs": 3,
        "width": 64,
        "heads": 4,
        "feedforward": 64,
        "common_width": 64,
        "micro_hidden": 64,
        "predictor_hidden": (64, 32),
        "head_hidden": 32,
        "fusion_heads": 4,
        "fusion_feedforward": 128,
        "sequence_lr": 1e-3,
        "sequence_epochs": 10,
        "sequence_batch_size": 32,
        "mgcl_lr": 1e-3,
        "mgcl_epochs": 8,
        "mgcl_batch_size": 32,
    },
}

# The ablations of Tables 5 and 6 (20).
VARIANTS: dict[str, dict[str, Any]] = {
    "MGCL": {},
    "w/o CL": {"alpha": 0.0},
    "w/o C3": {"components": ("C1", "C2")},
    "w/o uni": {"beta": 0.0},
    "w/o fusion": {"fusion": "concat"},
    "w/o weight": {"weighted": False},
}


def preset(dataset: str = "sims", profile: str = "paper") -> Config:
    """The settings of ``profile`` for ``dataset`` ("sims", "mosi" or "mosei").

    Raises:
        ConfigError: one of the two is unknown.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"unknown dataset {dataset!r}: {nearest(dataset, DATASETS)}")
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}: {nearest(profile, PROFILES)}")
    return Config().override({**DATASETS[dataset], **PROFILES[profile]})


def plain_settings(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass of settings as plain values for JSON."""
    return {item.name: plain(getattr(settings, item.name)) for item in dataclasses.fields(settings)}


def read_overrides(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` of settings, checked by name and type, as plain values for JSON and for papermill.

    Raises:
        ConfigError: an unknown name, with the nearest, or a value that is not of the setting's type.
    """
    return {name: plain(value) for name, value in read_fields(Config, changes).items()}


def parse(text: str) -> tuple[str, Any]:
    """Read ``name=value`` of the command line by the declared type of ``name``.

    Lists are written with commas (``components=C1,C2``; ``trained_encoders=`` is empty).

    Raises:
        ConfigError: no ``=``, an unknown name, or a value that is not of the setting's type.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not of the form name=value")
    return name, read_overrides({name: value})[name]


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}={value!r}: must be {expected}")
