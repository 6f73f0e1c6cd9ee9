"""Every setting of a run in one place: the paper's Table 2 as presets, and strict reading of changes.

`Config` is flat on purpose: a setting has one name, which is the name on the command line, in a
notebook's `overrides`, in `config.json` and in docs/decisions.md. It is put together from
one small class for each thing that settings decide, so that a run of one stage can be named by its own
settings alone (`Config.part`). What a setting does stands in its type (`meanings`), with the row of the table of
decisions.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from .support.errors import ConfigError, nearest
from .support.faces import Face
from .support.typed_values import plain, read_fields

PartT = TypeVar("PartT", bound="EveryRun")

#: Marks a setting that came after runs were first named: at its default it is left out of a run's name
#: (`named_settings`), so that runs from before it are found.
LATER = "later"


@dataclass(frozen=True)
class EveryRun:
    """What every run has."""

    seed: Annotated[int, "decision 21: of every random choice, in both stages"] = 1111
    precision: Annotated[
        Literal["fp32", "bf16"],
        "decision 22: bf16 is autocast; losses and the last layers of a prediction stay float32",
    ] = "fp32"


@dataclass(frozen=True)
class BothStages(EveryRun):
    """What MGCL's two stages share."""

    head_hidden: Annotated[int, "decisions 11, 13: width of the hidden layer of unimodal heads"] = 192
    # Optimiser
    weight_decay: Annotated[float, "decision 15: of AdamW; none on biases and norms"] = 1e-3
    warmup_epochs: Annotated[float, "decision 15: linear warm-up, then linear decay to 0"] = 1.0
    clip_norm: Annotated[float, "decision 15: largest norm of the gradient"] = 1.0
    patience: Annotated[int | None, "epochs without a better validation MAE before a stop; None: never"] = None
    length_buckets: Annotated[
        int, "clips are sorted by length within this many batches; 1: not. Other pairs in L_con"
    ] = 1
    encoder_chunk: Annotated[
        int | None, "clips that pass the trained encoders at a time, to save memory; None: the batch"
    ] = None


@dataclass(frozen=True)
class StageOneTarget(EveryRun):
    """What an encoder of stage one learns."""

    stage_one_target: Annotated[
        Literal["split", "unimodal", "multimodal"],
        "decision 13: macro encoders learn y and micro encoders y_T, y_V, y_A (split); all learn y_T, y_V, y_A "
        "(unimodal), or y (multimodal)",
        LATER,
    ] = "split"


@dataclass(frozen=True)
class EpochSelection(EveryRun):
    """Which epoch of a system a run keeps."""

    selection: Annotated[
        Literal["mae", "acc2", "loss"],
        "decision 16: the epoch is chosen by validation MAE, Acc-2 (NP where labels reach 3) or squared error; "
        "stage one always by MAE",
        LATER,
    ] = "mae"


@dataclass(frozen=True)
class TextInput:
    """Token ids and the model that reads them."""

    text_model: Annotated[str, 'decision 2: "minilm", a hub id or a folder'] = "bert-base-chinese"
    tokens: Annotated[
        Literal["file", "raw_text"], "decision 19: token ids of the file, or its sentences tokenised again"
    ] = "file"


@dataclass(frozen=True)
class TextFeatureInput:
    """Text as features of the file, without a text model; their shape, which a study fills from the data."""

    text_source: Annotated[
        Literal["words", "features"],
        "decision 2: words, read by the text model; or the file's features (GloVe, BERT vectors), by sequence encoders",
    ] = "words"
    text_dim: Annotated[int, "width of text features; filled from the data"] = 768
    text_steps: Annotated[int, "steps of text features; filled from the data"] = 39


@dataclass(frozen=True)
class AudioVisionInput:
    """Shapes of audio and vision and how they were read, which a study fills from the data; their scaling."""

    audio_dim: Annotated[int, "width of the audio features; filled from the data"] = 33
    audio_steps: Annotated[int, "steps of the audio features; filled from the data"] = 400
    vision_dim: Annotated[int, "width of the vision features; filled from the data"] = 709
    vision_steps: Annotated[int, "steps of the vision features; filled from the data"] = 55
    scaling: Annotated[
        Literal["robust", "zscore", "none"], "decision 18: of audio and vision per dimension, over valid training steps"
    ] = "robust"
    lengths: Annotated[
        Literal["auto", "file", "nonzero"],
        "decision 19: which steps are data; auto believes the file's lengths where they lose none",
    ] = "auto"
    nonfinite: Annotated[Literal["error", "zero"], "decision 19: NaN and infinity are an error, or read as 0"] = "error"


@dataclass(frozen=True)
class TextEncoderSettings(TextInput, StageOneTarget, BothStages):
    """Stage one of a text encoder (Table 2)."""

    text_lr: Annotated[float, "Table 2: learning rate of text encoders in stage one"] = 1e-5
    text_epochs: Annotated[int, "Table 2: epochs of text encoders in stage one"] = 150
    text_batch_size: Annotated[int, "Table 2: batch size of text encoders in stage one"] = 64
    trained_text_layers: Annotated[
        int | None, "decision 13: last layers of the text model that stage one trains; None: all, and embeddings", LATER
    ] = None


@dataclass(frozen=True)
class SequenceTraining(StageOneTarget, BothStages):
    """An encoder of a sequence of features, and its stage one (Table 2)."""

    width: Annotated[int, "decision 3: of the audio and vision Transformers"] = 768
    layers: Annotated[int, "decision 3: of the audio and vision Transformers; 3 on MOSEI"] = 1
    heads: Annotated[int, "decision 3: attention heads of the audio and vision Transformers"] = 8
    feedforward: Annotated[int, "decision 3: width of their feed-forward layers"] = 768
    encoder_dropout: Annotated[float, "decision 3: dropout in the audio and vision Transformers"] = 0.1
    sequence_lr: Annotated[float, "Table 2: learning rate of audio and vision encoders in stage one"] = 1e-4
    sequence_epochs: Annotated[int, "Table 2: epochs of audio and vision encoders in stage one"] = 200
    sequence_batch_size: Annotated[int, "Table 2: batch size of audio and vision encoders in stage one"] = 128


@dataclass(frozen=True)
class SequenceEncoderSettings(AudioVisionInput, SequenceTraining):
    """Stage one of an audio or vision encoder."""


@dataclass(frozen=True)
class TextFeatureEncoderSettings(TextFeatureInput, SequenceTraining):
    """Stage one of an encoder of text features."""


@dataclass(frozen=True)
class MicroSettings(EveryRun):
    """How micro features are made, in both stages."""

    micro: Annotated[
        Literal["sequence", "pooled"], "decision 4: micro features as a sequence, or pooled to one vector"
    ] = "sequence"
    window: Annotated[int, "decision 4: steps of the centred mean in micro enhancement, an odd number"] = 3


@dataclass(frozen=True)
class FrozenFeatureSettings:
    """How the features of frozen encoders are kept."""

    feature_cache: Annotated[Literal["fp32", "fp16"], "precision in which the features of frozen encoders are kept"] = (
        "fp32"
    )


@dataclass(frozen=True)
class RegimeSettings:
    """What a system learns from: complete clips, or clips that lack something. Stage one is the same for both."""

    regime: Annotated[
        Literal["complete", "dropout"],
        "decision 19: trained on complete clips; or half of them lose steps, at a rate from U(0, 1), each epoch",
        LATER,
    ] = "complete"
    epoch_on: Annotated[
        Literal["complete", "masked"],
        "decision 16: the epoch is chosen on complete validation clips, or under one mask for all epochs",
        LATER,
    ] = "complete"

    @property
    def loses_steps(self) -> bool:
        """Whether clips lose steps in training or where the epoch is chosen."""
        return self.regime != "complete" or self.epoch_on != "complete"


@dataclass(frozen=True)
class MGCLSettings(RegimeSettings, FrozenFeatureSettings, EpochSelection, BothStages):
    """Stage two (Table 2). What the encoders depend on is not here: a run of MGCL names the runs it starts from."""

    # Projections and predictor
    common_width: Annotated[int, "decision 5: of the six projected features"] = 384
    micro_hidden: Annotated[int, "decision 5: hidden width of the micro projection"] = 384
    dropout: Annotated[float, "decisions 5, 6: in projections and fusion"] = 0.1
    predictor_hidden: Annotated[tuple[int, ...], "decision 11: hidden widths of the predictor"] = (384, 192)

    # Fusion
    fusion: Annotated[
        Literal["cmgf", "concat"], "decisions 6, 20: equations 13 to 16, or the six features concatenated (w/o fusion)"
    ] = "cmgf"
    fusion_heads: Annotated[int, "decision 6: attention heads of an MTM"] = 8
    fusion_feedforward: Annotated[int, "decision 6: width of the feed-forward layer of an MTM"] = 768
    gate: Annotated[
        bool,
        "beside decision 6, not in the paper: each feature of equation 16 (cmgf) times a learned trust in its modality",
        LATER,
    ] = False

    # Objective
    alpha: Annotated[float, "decision 12: weight of L_con in equation 22; 0: w/o CL"] = 0.1
    beta: Annotated[float, "decision 12: weight of L_uni in equation 22; 0: w/o uni"] = 0.01
    temperature: Annotated[float, "decision 12: tau of equation 12"] = 0.5
    delta: Annotated[float, "equation 1: labels in [-1, 1] that differ by at most this make a positive pair"] = 0.4
    components: Annotated[
        tuple[Literal["C1", "C2", "C3"], ...], "decision 20: which pairs L_con has; without C3: w/o C3"
    ] = ("C1", "C2", "C3")
    weighted: Annotated[bool, "decision 20: pairs weighted by equation 2; False sets W = 1 (w/o weight)"] = True
    pair_weights: Annotated[
        Literal["printed", "clgsi", "mean"],
        "decision 8: weights of equation 2 as printed; CLGSI's, 1.5 tanh(2 delta - E) for positive pairs; or, as a "
        "control, the mean of equation 2 over a batch's positive and over its negative pairs",
        LATER,
    ] = "printed"
    reduction: Annotated[Literal["mean", "sum"], "decision 9: L_con divided by the batch size, or its sum"] = "mean"
    unimodal_reduction: Annotated[
        Literal["sum", "mean"], "decision 10: L_uni is the sum over the six heads, or their mean", LATER
    ] = "sum"

    # Training
    mgcl_lr: Annotated[float, "Table 2: learning rate of stage two"] = 1e-4
    mgcl_epochs: Annotated[int, "Table 2: epochs of stage two"] = 50
    mgcl_batch_size: Annotated[int, "Table 2: batch size of stage two"] = 64
    trained_encoders: Annotated[
        tuple[Literal["T", "V", "A"], ...], "decision 14: encoders that stage two trains; the others are frozen"
    ] = ("V", "A")
    frozen_dropout: Annotated[
        bool, "decision 14: dropout in frozen encoders while stage two trains; they then run in every step", LATER
    ] = False


@dataclass(frozen=True)
class ComparedSettings(RegimeSettings, FrozenFeatureSettings, AudioVisionInput, TextInput, EpochSelection, EveryRun):
    """What a compared system takes from here; all else it has in settings of its own."""


@dataclass(frozen=True, repr=False)
class Config(
    Face,
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

    encoders: Annotated[
        Literal["dual", "shared"], "decision 1: six encoders, or one per modality for macro and micro"
    ] = "dual"
    check_vocabulary: Annotated[bool, "whether 20 clips of raw_text must give the file's tokens; changes no result"] = (
        True
    )

    def __repr__(self) -> str:
        """What differs from the defaults, as Python."""
        default = Config().as_dict()
        changed = [name for name, value in self.as_dict().items() if value != default[name]]
        return f"Config({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    def face(self) -> tuple[str, dict[str, object]]:
        default, does = Config().as_dict(), meanings()
        facts = {
            f"{name} = {value}" + ("" if value == default[name] else " *"): does[name]
            for name, value in self.as_dict().items()
        }
        return "Config (*: differs from the paper's CH-SIMS settings)", facts

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
        for name in ("patience", "encoder_chunk", "trained_text_layers"):
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

#: Variants that are in no table of the paper. W = 1 also divides the temperature of positive pairs, whose mean weight
#: is .306 on CH-SIMS, by 3.3; this control takes from W only that it depends on E.
CONTROLS: dict[str, dict[str, Any]] = {"mean weight": {"pair_weights": "mean"}}


def variant_settings(name: str) -> dict[str, Any]:
    """What the variant ``name``, of the tables or a control, changes.

    Raises:
        ConfigError: unknown, with the nearest name.
    """
    known = VARIANTS | CONTROLS
    if name not in known:
        raise ConfigError(f"unknown variant {name!r}: {nearest(name, known)}")
    return known[name]


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


def meanings() -> dict[str, str]:
    """What each setting of `Config` does, in a sentence."""
    return {name: hint.__metadata__[0] for name, hint in typing.get_type_hints(Config, include_extras=True).items()}


def plain_settings(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass of settings as plain values for JSON."""
    return {item.name: plain(getattr(settings, item.name)) for item in dataclasses.fields(settings)}


def named_settings(settings: Any) -> dict[str, Any]:
    """Those of `plain_settings` that are part of a run's name: one marked `LATER` only where it is not its default."""
    later, values = _later(type(settings)), plain_settings(settings)
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


@functools.cache
def _later(kind: type) -> dict[str, Any]:
    """The defaults of those settings of ``kind`` that are marked `LATER`, as plain values."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        item.name: plain(item.default)
        for item in dataclasses.fields(kind)
        if LATER in getattr(hints[item.name], "__metadata__", ())
    }


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
