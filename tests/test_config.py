"""Strict reading of settings, and the presets against Table 2."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from mgcl_core.config import (
    DATASETS,
    PROFILES,
    VARIANTS,
    ComparedSettings,
    Config,
    MGCLSettings,
    MicroSettings,
    SequenceEncoderSettings,
    TextEncoderSettings,
    TextFeatureEncoderSettings,
    parse,
    plain_settings,
    preset,
)
from mgcl_core.support.errors import ConfigError

TABLE2 = Path(__file__).parents[1] / "data" / "paper" / "table2.csv"


def table2_rows() -> list[tuple[str, str, str, float, int, int]]:
    rows, stage = [], ""
    for row in list(csv.reader(TABLE2.open()))[1:]:
        stage = row[0] or stage
        rows.append((stage, row[1], row[2], float(row[3]), int(row[4]), int(row[5])))
    return rows


@pytest.mark.parametrize(("stage", "dataset", "model", "rate", "epochs", "batch"), table2_rows())
def test_presets_are_table_2(stage, dataset, model, rate, epochs, batch):
    config = preset({"CH-SIMS": "sims", "CMU-MOSI": "mosi", "CMU-MOSEI": "mosei"}[dataset], "paper")
    if model.startswith("bert"):
        found = (config.text_model, config.text_lr, config.text_epochs, config.text_batch_size)
        assert (stage, *found) == ("Unimodal", model, rate, epochs, batch)
    elif model == "MGCL":
        assert (stage, config.mgcl_lr, config.mgcl_epochs, config.mgcl_batch_size) == (
            "Multimodal",
            rate,
            epochs,
            batch,
        )
    else:
        found = (config.sequence_lr, config.sequence_epochs, config.sequence_batch_size)
        assert (stage, f"{config.layers}-layer Transformer (V/A)", *found) == ("Unimodal", model, rate, epochs, batch)


def test_table_2_has_nine_rows():
    assert len(table2_rows()) == 9


def test_feature_shapes_of_the_published_files():
    shapes = {
        name: tuple(values[key] for key in ("audio_steps", "audio_dim", "vision_steps", "vision_dim"))
        for name, values in DATASETS.items()
    }
    assert shapes == {"sims": (400, 33, 55, 709), "mosi": (375, 5, 500, 20), "mosei": (500, 74, 500, 35)}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_preset_and_variant_is_valid(dataset, profile):
    config = preset(dataset, profile)
    assert (config.delta, config.temperature, config.alpha, config.beta) == (0.4, 0.5, 0.1, 0.01)
    for changes in VARIANTS.values():
        config.override(changes)


def test_demo_and_small_profiles_leave_the_method_alone():
    kept = ("components", "weighted", "fusion", "encoders", "micro", "trained_encoders", "alpha", "beta", "delta")
    for name in ("small", "demo"):
        assert not set(PROFILES[name]) & set(kept)


def test_variants_are_the_rows_of_tables_5_and_6():
    assert list(VARIANTS) == ["MGCL", "w/o CL", "w/o C3", "w/o uni", "w/o fusion", "w/o weight"]
    for changes in VARIANTS.values():
        assert len(changes) <= 1  # each ablation is one field


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError, match="unknown setting 'temprature': did you mean 'temperature'"):
        Config().override({"temprature": 0.1})
    with pytest.raises(ConfigError, match="unknown setting 'betas'.*'beta'"):
        parse("betas=1")
    with pytest.raises(ConfigError, match="unknown dataset 'moseii': did you mean 'mosei'"):
        preset("moseii")
    with pytest.raises(ConfigError, match="unknown profile 'papr': did you mean 'paper'"):
        preset("sims", "papr")
    with pytest.raises(ConfigError, match="unknown setting"):
        Config.from_dict({"sead": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.5),
        ("seed", True),
        ("seed", "one"),
        ("seed", None),
        ("layers", "2.0"),
        ("layers", [1]),
        ("alpha", True),
        ("alpha", "high"),
        ("alpha", None),
        ("alpha", float("nan")),
        ("alpha", "inf"),
        ("alpha", 10**400),
        ("scaling", True),
        ("scaling", "minmax"),
        ("scaling", None),
        ("text_model", 3),
        ("text_model", None),
        ("encoders", "duel"),
        ("encoders", 1),
        ("precision", None),
        ("components", "C9"),
        ("components", 1),
        ("components", ("C1", 2)),
        ("trained_encoders", ["text"]),
        ("predictor_hidden", (3, 2.5)),
        ("predictor_hidden", "a"),
        ("patience", "soon"),
        ("patience", 1.5),
    ],
)
def test_wrong_types_are_errors_that_name_the_setting(name, value):
    with pytest.raises(ConfigError, match=f"^{name}="):
        Config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", 0),
        ("mgcl_batch_size", 0),
        ("text_epochs", -1),
        ("dropout", 1.0),
        ("encoder_dropout", -0.1),
        ("temperature", 0),
        ("mgcl_lr", 0.0),
        ("clip_norm", 0),
        ("alpha", -0.1),
        ("beta", -1),
        ("delta", -0.4),
        ("weight_decay", -1e-3),
        ("warmup_epochs", -1),
        ("window", 2),
        ("components", ()),
        ("predictor_hidden", ()),
        ("predictor_hidden", (8, 0)),
        ("heads", 7),
        ("fusion_heads", 5),
        ("patience", 0),
    ],
)
def test_impossible_values_are_errors(name, value):
    with pytest.raises(ConfigError, match="must be"):
        Config(**{name: value})


def test_a_literal_error_names_choices_and_the_nearest():
    with pytest.raises(ConfigError, match=r"encoders='duel': must be one of 'dual', 'shared'; did you mean 'dual'"):
        Config(encoders="duel")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=7", ("seed", 7)),
        ("alpha=1e-4", ("alpha", 1e-4)),
        ("alpha=1", ("alpha", 1.0)),
        ("weighted=true", ("weighted", True)),
        ("weighted=False", ("weighted", False)),
        ("components=C1,C3", ("components", ["C1", "C3"])),
        ("trained_encoders=", ("trained_encoders", [])),
        ("predictor_hidden=64,32", ("predictor_hidden", [64, 32])),
        ("patience=None", ("patience", None)),
        ("patience=3", ("patience", 3)),
        ("text_model=a=b", ("text_model", "a=b")),
        ("fusion=concat", ("fusion", "concat")),
    ],
)
def test_parse(text, expected):
    found = parse(text)
    assert found == expected
    assert type(found[1]) is type(expected[1])


@pytest.mark.parametrize("text", ["alpha", "alpha=high", "seed=1.0", "weighted=1", "nothing=1", "components=C4", ""])
def test_parse_errors(text):
    with pytest.raises(ConfigError):
        parse(text)


def test_text_values_become_typed_as_papermill_passes_them():
    config = Config(alpha="1e-4", weighted="true", seed="3", components="C1,C2")
    assert (config.alpha, config.weighted, config.seed, config.components) == (1e-4, True, 3, ("C1", "C2"))


def test_round_trip_through_json():
    config = preset("mosei", "demo").override({"components": ["C2"], "trained_encoders": [], "patience": 4, "seed": 5})
    again = Config.from_dict(json.loads(json.dumps(config.as_dict())))
    assert again == config
    assert again.components == ("C2",) and again.trained_encoders == ()
    assert list(config.as_dict()) == [item.name for item in dataclasses.fields(Config)]


def test_a_config_is_frozen_and_override_copies():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.alpha = 1.0
    assert config.override({"alpha": 0.3}).alpha == 0.3
    assert config.alpha == 0.1


def settings(config, kind):
    return plain_settings(config.part(kind))


STAGE_ONE = (TextEncoderSettings, TextFeatureEncoderSettings, SequenceEncoderSettings, MicroSettings)


def test_the_parts_hold_every_setting_but_two_that_name_no_run():
    parts = {item.name for kind in (*STAGE_ONE, MGCLSettings, ComparedSettings) for item in dataclasses.fields(kind)}
    # Which encoders there are shows in the runs that MGCL starts from; the check changes no result.
    assert {item.name for item in dataclasses.fields(Config)} - parts == {"encoders", "check_vocabulary"}


@pytest.mark.parametrize(
    "changes",
    [
        *[changes for changes in VARIANTS.values() if changes],
        {"alpha": 0.5},
        {"temperature": 0.1},
        {"trained_encoders": ()},
        {"mgcl_epochs": 3},
        {"common_width": 64},
    ],
)
def test_stage_two_settings_leave_stage_one_alone(changes):
    before, after = Config(), Config().override(changes)
    assert all(settings(after, kind) == settings(before, kind) for kind in STAGE_ONE)
    assert settings(after, MGCLSettings) != settings(before, MGCLSettings)


def test_settings_of_one_kind_of_encoder_leave_the_other_alone():
    before = Config()
    for changed, same, changes in (
        (TextEncoderSettings, SequenceEncoderSettings, {"text_epochs": 1}),
        (SequenceEncoderSettings, TextEncoderSettings, {"width": 64}),
    ):
        after = before.override(changes)
        assert settings(after, changed) != settings(before, changed)
        assert settings(after, same) == settings(before, same)


def test_the_seed_belongs_to_every_stage():
    before, after = Config(), Config(seed=2)
    for kind in (*STAGE_ONE, MGCLSettings, ComparedSettings):
        assert settings(after, kind) != settings(before, kind)
        assert json.dumps(settings(after, kind))
