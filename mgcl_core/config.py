"""Every setting of a run in one place: the paper's Table 2 as presets, and strict reading of changes.

`Config` is flat on purpose: a setting has one name, which is the name on the command line, in a
notebook's `overrides`, in `config.json` and in the README's table of decisions. The number in a
field's comment is the row of that table.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .support.errors import ConfigError, nearest

# Which stage's results a setting changes. A stage-one encoder is trained again only when a setting
# of its own scope changes, so that all variants of a seed share its encoders.
TEXT, SEQUENCE, MICRO, FUSION = "text", "sequence", "micro", "mgcl"
SCOPES = (TEXT, SEQUENCE, MICRO, FUSION)
COMPARED = "compared"  # of the compared systems, which have settings of their own


def _option(default: Any, *scopes: str, later: bool = False) -> Any:
    """A setting. One that came ``later`` is named among a run's settings only where it differs from its default, so
    that the runs made before it are found again."""
    return field(default=default, metadata={"scopes": scopes or SCOPES, "later": later})


@dataclass(frozen=True)
class Config:
    """All settings of one run. Defaults are the paper's for CH-SIMS.

    Raises:
        ConfigError: a value has the wrong type or lies outside what it may be.
    """

    seed: int = _option(1111, *SCOPES, COMPARED)  # 21: covers both stages
    precision: Literal["fp32", "bf16"] = _option("fp32", *SCOPES, COMPARED)  # bf16: autocast; losses stay float32

    # Shapes of the features; a study fills them from the data (`config_for`).
    audio_dim: int = _option(33, SEQUENCE, FUSION)
    audio_steps: int = _option(400, SEQUENCE, FUSION)
    vision_dim: int = _option(709, SEQUENCE, FUSION)
    vision_steps: int = _option(55, SEQUENCE, FUSION)

    # Inputs
    normalize: bool = _option(True, SEQUENCE, FUSION, COMPARED)  # 18: z-scores over valid training steps
    tokens: Literal["file", "raw_text"] = _option("file", TEXT, COMPARED)  # 19: raw_text: tokenised again
    # 20 clips of raw_text must give the file's text_bert. Changes no result, so it is in no scope.
    check_vocabulary: bool = field(default=True, metadata={"scopes": (), "later": False})

    # Speed and memory
    # Batches of clips of like length, sorted within this many batches at a time; 1 leaves them as they were drawn.
    length_buckets: int = _option(1, later=True)  # other batches mean other pairs in L_con
    feature_cache: Literal["fp32", "fp16"] = _option("fp32", FUSION, COMPARED, later=True)  # of frozen encoders
    # Clips that pass the trained encoders of stage two at a time; L_con sees the whole batch. None: all.
    encoder_chunk: int | None = _option(None, FUSION, later=True)

    # Encoders
    encoders: Literal["dual", "shared"] = _option("dual")  # 1
    text_model: str = _option("bert-base-chinese", TEXT, COMPARED)  # 2: "minilm", a hub id or a folder
    width: int = _option(768, SEQUENCE)  # 3: of the audio and vision encoders
    layers: int = _option(1, SEQUENCE)  # 3
    heads: int = _option(8, SEQUENCE)  # 3
    feedforward: int = _option(768, SEQUENCE)  # 3
    encoder_dropout: float = _option(0.1, SEQUENCE)  # 3
    micro: Literal["sequence", "pooled"] = _option("sequence", MICRO, FUSION)  # 4
    window: int = _option(3, MICRO, FUSION)  # 4: steps of the centred mean, an odd number

    # Projections and heads
    common_width: int = _option(384, FUSION)  # 5
    micro_hidden: int = _option(384, FUSION)  # 5
    dropout: float = _option(0.1, FUSION)  # 5, 6
    predictor_hidden: tuple[int, ...] = _option((384, 192), FUSION)  # 11
    head_hidden: int = _option(192)  # 11, 13

    # Fusion
    fusion: Literal["cmgf", "concat"] = _option("cmgf", FUSION)  # 6, 20
    fusion_heads: int = _option(8, FUSION)  # 6
    fusion_feedforward: int = _option(768, FUSION)  # 6

    # Objective
    alpha: float = _option(0.1, FUSION)  # 12: weight of L_con
    beta: float = _option(0.01, FUSION)  # 12: weight of L_uni
    temperature: float = _option(0.5, FUSION)  # 12
    delta: float = _option(0.4, FUSION)  # eq. 1
    components: tuple[Literal["C1", "C2", "C3"], ...] = _option(("C1", "C2", "C3"), FUSION)  # 20
    weighted: bool = _option(True, FUSION)  # 20: False sets W = 1
    reduction: Literal["mean", "sum"] = _option("mean", FUSION)  # 9

    # Stage one, text encoders (Table 2)
    text_lr: float = _option(1e-5, TEXT, FUSION)
    text_epochs: int = _option(150, TEXT)
    text_batch_size: int = _option(64, TEXT)
    # Stage one, audio and vision encoders (Table 2)
    sequence_lr: float = _option(1e-4, SEQUENCE)
    sequence_epochs: int = _option(200, SEQUENCE)
    sequence_batch_size: int = _option(128, SEQUENCE)
    # Stage two (Table 2)
    mgcl_lr: float = _option(1e-4, FUSION)
    mgcl_epochs: int = _option(50, FUSION)
    mgcl_batch_size: int = _option(64, FUSION)
    trained_encoders: tuple[Literal["T", "V", "A"], ...] = _option(("V", "A"), FUSION)  # 14

    # Optimiser
    weight_decay: float = _option(1e-3)  # 15
    warmup_epochs: float = _option(1.0)  # 15
    clip_norm: float = _option(1.0)  # 15
    patience: int | None = _option(None)  # epochs without a better validation MAE before a stop; None: never

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):
            value = _checked(item.name, getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)
        self._check_values()

    def _check_values(self) -> None:
        at_least_one = [name for name in hints_of(int) if name not in ("seed",)]
        for name in at_least_one:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
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
        _require(len(self.predictor_hidden) > 0, "predictor_hidden", self.predictor_hidden, "not empty")
        _require(min(self.predictor_hidden) >= 1, "predictor_hidden", self.predictor_hidden, "widths of at least 1")
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

    def override(self, changes: Mapping[str, Any]) -> Config:
        """A copy with ``changes``; an unknown key is a `ConfigError` that names the nearest."""
        return dataclasses.replace(self, **read_overrides(changes))

    def scoped(self, *scopes: str) -> dict[str, Any]:
        """The settings that a stage of ``scopes`` depends on, as plain values for JSON."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if set(scopes) & set(item.metadata["scopes"])
            and not (item.metadata["later"] and getattr(self, item.name) == item.default)
        }

    def as_dict(self) -> dict[str, Any]:
        """All settings as plain values for JSON; `Config.from_dict` reads them back."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
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
        "audio_dim": 5,
        "audio_steps": 375,
        "vision_dim": 20,
        "vision_steps": 500,
    },
    "mosei": {
        "text_model": "bert-base-uncased",
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
    "paper": {},
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


def encoder_scopes(name: str) -> tuple[str, ...]:
    """The scopes of the stage-one encoder ``name``: how micro features are made is nothing to a macro encoder."""
    kind, modality = name.split("_")
    return (TEXT if modality == "T" else SEQUENCE, *(() if kind == "macro" else (MICRO,)))


def hints_of(kind: type) -> list[str]:
    """Names of the settings whose declared type is exactly ``kind``."""
    hints = typing.get_type_hints(Config)
    return [name for name, hint in hints.items() if hint is kind]


def read_overrides(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` of settings, checked by name and type, as plain values: papermill would write a tuple as text.

    Raises:
        ConfigError: an unknown name, with the nearest, or a value that is not of the setting's type.
    """
    hints = typing.get_type_hints(Config)
    for name in changes:
        if name not in hints:
            raise ConfigError(f"unknown setting {name!r}: {nearest(name, hints)}")
    return {name: _plain(_checked(name, value, hints[name])) for name, value in changes.items()}


def parse(text: str) -> tuple[str, Any]:
    """Read ``name=value`` of the command line by the declared type of ``name``.

    Tuples are written with commas (``components=C1,C2``; ``trained_encoders=`` is empty).

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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _checked(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; text is read strictly, since papermill passes some values as text."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        raise ConfigError(
            f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}; {nearest(str(value), choices)}"
        )
    if origin is types.UnionType:  # only `int | None` is used
        if value is None or value == "None":
            return None
        return _checked(name, value, typing.get_args(hint)[0])
    if origin is tuple:
        items = value
        if isinstance(value, str):
            items = [item for item in value.split(",") if item]
        if not isinstance(items, (list, tuple)):
            raise ConfigError(f"{name}={value!r}: must be a list")
        return tuple(_checked(name, item, typing.get_args(hint)[0]) for item in items)
    try:
        if hint is bool:
            if isinstance(value, str):
                return {"true": True, "false": False}[value.lower()]
            accepted = isinstance(value, bool)
        elif hint is int:
            value = int(value) if isinstance(value, str) else value
            accepted = isinstance(value, int) and not isinstance(value, bool)
        elif hint is float:
            if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
                value = float(value)
            accepted = isinstance(value, float) and value == value and abs(value) != float("inf")
        else:
            accepted = isinstance(value, hint)
    except (KeyError, ValueError, OverflowError):
        accepted = False
    if not accepted:
        raise ConfigError(f"{name}={value!r}: must be of type {hint.__name__}, not {type(value).__name__}")
    return value
