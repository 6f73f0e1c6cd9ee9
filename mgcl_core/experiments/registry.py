"""All systems under one roof: MGCL and the ten that the paper compares it with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .. import baselines
from ..config import DATASETS, PROFILES, Config, preset
from ..data import Corpus
from ..model import MGCL
from ..support.errors import ConfigError, nearest
from ..support.typed_values import read_fields
from ..system import LoopSettings, SystemEntry

#: Name → what builds it, in the order of Tables 3 and 4, MGCL last as there.
SYSTEMS: dict[str, SystemEntry] = {
    **baselines.COMPARED_SYSTEMS,
    "mgcl": SystemEntry(
        title="MGCL",
        build=MGCL,
        published={name: preset(name) for name in DATASETS},
        text="pretrained",
        reference="Liu and Tao, the paper that this package reproduces",
    ),
}

# What a profile changes of the published settings of the baselines, where they have such a setting.
_PROFILE_CHANGES: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {"epochs": 30, "batch_size": 32, "pretrain_epochs": 20, "pretrain_batch_size": 32},
    "demo": {"epochs": 20, "batch_size": 32, "pretrain_epochs": 12, "pretrain_batch_size": 32},
}
# Systems that fine-tune the text model need fewer epochs, and each costs more.
_FINETUNED_EPOCHS = {"small": 12, "demo": 6}
_SYSTEM_CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    # TFN's weights grow with the product of three widths; here the published width of text on MOSI serves both corpora.
    ("tfn", "demo"): {"text_out": 32},
    # As wide as MGCL's own encoders of audio and vision in this profile, and at their rate.
    ("confede", "demo"): {"width": PROFILES["demo"]["width"], "lr": PROFILES["demo"]["mgcl_lr"]},
    ("sfttr", "demo"): {"width": PROFILES["demo"]["width"], "lr": PROFILES["demo"]["mgcl_lr"]},
    # Its learning rate is for a wider encoder: after those epochs on MiniLM, validation still improved.
    ("mag_bert", "small"): {"epochs": 30},
    ("mag_bert", "demo"): {"epochs": 15},
}


def system_entry(name: str) -> SystemEntry:
    """The entry of `SYSTEMS` called ``name``.

    Raises:
        ConfigError: unknown, with the nearest name.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"unknown system {name!r}: {nearest(name, SYSTEMS)}")
    return SYSTEMS[name]


def compared_systems() -> list[str]:
    """Names of the systems beside MGCL, in the order of Tables 3 and 4."""
    return [name for name in SYSTEMS if name != "mgcl"]


def system_settings(name: str, dataset: str, profile: str, changes: Mapping[str, Any] | None = None) -> LoopSettings:
    """Published settings of a compared system for ``dataset``, as ``profile`` and ``changes`` have them.

    Raises:
        ConfigError: an unknown system, profile or setting, with the nearest name, or a value of a wrong type.
    """
    entry = system_entry(name)
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}: {nearest(profile, PROFILES)}")
    settings = entry.published[dataset]
    known = {field.name for field in dataclasses.fields(settings)}
    profiled = {setting: value for setting, value in _PROFILE_CHANGES[profile].items() if setting in known}
    if entry.text == "finetuned" and profile in _FINETUNED_EPOCHS:
        profiled["epochs"] = _FINETUNED_EPOCHS[profile]
    profiled.update(_SYSTEM_CHANGES.get((name, profile), {}))
    changed = read_fields(type(settings), changes or {}, f"setting of {name}")
    return dataclasses.replace(settings, **{**profiled, **changed})


def config_for(corpus: Corpus, profile: str) -> Config:
    """Preset of a corpus under ``profile``, with the shapes of its features and how it was read."""
    train, text = corpus.train, {}
    if corpus.text_dim is not None or not corpus.has_words:
        text = {"text_dim": corpus.text_dim or 1, "text_steps": corpus.text_steps or 1}
    if not corpus.has_words:
        text["text_source"] = "features"
    return preset(paper_dataset(corpus), profile).override(
        {
            "audio_dim": train.audio.shape[2],
            "audio_steps": train.audio.shape[1],
            "vision_dim": train.vision.shape[2],
            "vision_steps": train.vision.shape[1],
            "lengths": corpus.lengths,
            "nonfinite": corpus.nonfinite,
            **text,
        }
    )


def needs_words(name: str) -> bool:
    """Whether a system trains a text model of its own, and so cannot read a file with features of the text alone."""
    return system_entry(name).text == "finetuned"


def paper_dataset(corpus: Corpus) -> str:
    """The dataset of the paper that ``corpus`` stands beside: "sims", "mosi" or "mosei".

    That of the known corpus that it is, or the one that was asked for; else the one with its label scheme.
    """
    return corpus.dataset or corpus.scheme
