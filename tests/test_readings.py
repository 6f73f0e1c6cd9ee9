"""What the paper leaves open, read as its lineage does: each is one setting, and its default renames no run."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.models import build, gradients

from mgcl_core import reference as naive
from mgcl_core.config import CONTROLS, LATER, Config, meanings, named_settings, plain_settings, variant_settings
from mgcl_core.data.corpus import EncoderName
from mgcl_core.experiments.directories import digest
from mgcl_core.experiments.registry import system_settings
from mgcl_core.experiments.stages import ComparedStage, EncoderStage, MGCLStage
from mgcl_core.losses import PAIR_WEIGHTS, collaborative_contrastive_loss, intensity_pairs, unimodal_loss
from mgcl_core.metrics import regression_metrics, swapped_f1
from mgcl_core.stage_one import UnimodalRegressor
from mgcl_core.support.errors import ConfigError
from mgcl_core.trainer import SELECTIONS, Schedule, best_epoch, fit, make_optimizer, predict

READINGS = {
    "pair_weights": "clgsi",
    "unimodal_reduction": "mean",
    "frozen_dropout": True,
    "stage_one_target": "unimodal",
    "trained_text_layers": 1,
    "selection": "acc2",
    "regime": "dropout",
    "epoch_on": "masked",
    "gate": True,
}
#: Of stages with the settings of the paper, as they were named before these settings came.
NAMES = {
    "macro_T": "5e35feaa7a", "micro_T": "bff415922e", "macro_V": "b371f7b710", "micro_A": "0f774b1a57",
    "mgcl": "bd45ccc842", "mult": "9b19729c0a",
}  # fmt: skip


def stages(config: Config) -> dict:
    encoders = {name: EncoderStage(config, EncoderName.parse(name)) for name in list(NAMES)[:4]}
    mult = ComparedStage(config, "mult", system_settings("mult", "sims", "paper"))
    return {**encoders, "mgcl": MGCLStage(config), "mult": mult}


def test_at_their_defaults_they_leave_every_name_as_it_was():
    assert {name: digest(stage.settings) for name, stage in stages(Config()).items()} == NAMES


@pytest.mark.parametrize(("setting", "value"), READINGS.items())
def test_each_names_the_runs_that_it_decides_and_no_others(setting, value):
    changed = stages(Config(**{setting: value}))
    renamed = {name for name, stage in changed.items() if digest(stage.settings) != NAMES[name]}
    assert renamed == {
        "stage_one_target": {"macro_T", "micro_T", "macro_V", "micro_A"},
        "trained_text_layers": {"macro_T", "micro_T"},
        "selection": {"mgcl", "mult"},
        "regime": {"mgcl", "mult"},
        "epoch_on": {"mgcl", "mult"},
    }.get(setting, {"mgcl"})


def test_a_later_setting_is_in_the_name_only_where_it_is_changed():
    later = {name for name, value in plain_settings(Config()).items() if name not in named_settings(Config())}
    assert later == set(READINGS)
    changed = Config(**READINGS)
    assert named_settings(changed) == plain_settings(changed)
    assert Config.from_dict(json.loads(json.dumps(changed.as_dict()))) == changed
    assert all("decision" in meanings()[name] for name in later) and LATER not in meanings().values()


# The weights of equation 2


def features(batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(3, batch, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("weights", PAIR_WEIGHTS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_loss_under_each_reading_of_the_weights_is_the_naive_loop(weights, batch):
    random = np.random.default_rng(batch)
    for values in (random.integers(-5, 6, batch) / 5, np.full(batch, 0.2), np.linspace(-1, 1, batch)):
        labels = torch.from_numpy(values)
        _, W = intensity_pairs(labels, 0.4, weights)
        for i, j in itertools.product(range(batch), repeat=2):
            assert W[i, j].item() == pytest.approx(naive.weight(values.tolist(), i, j, 0.4, weights), abs=1e-12)
        macro, micro = features(batch)
        loss = collaborative_contrastive_loss(macro, micro, labels, weights=weights)
        expected = naive.contrastive_loss(macro.tolist(), micro.tolist(), values.tolist(), weights=weights)
        assert loss.item() == pytest.approx(expected, abs=1e-10)
        loss.backward()
        assert all(part.grad is None or part.grad.isfinite().all() for part in (macro, micro))


def test_clgsi_weighs_near_pairs_most_and_the_control_keeps_only_the_mean():
    labels = torch.tensor([0.0, 0.2, 0.4, -1.0], dtype=torch.float64)
    positive, printed = intensity_pairs(labels, 0.4)
    _, clgsi = intensity_pairs(labels, 0.4, "clgsi")
    assert printed[0, 2].item() == pytest.approx(0, abs=1e-12)
    assert clgsi[0, 0] > clgsi[0, 1] > clgsi[0, 2] == pytest.approx(1.5 * np.tanh(0.4))
    assert torch.equal(clgsi[~positive], printed[~positive])
    _, mean = intensity_pairs(labels, 0.4, "mean")
    for side in (positive, ~positive):
        assert mean[side].unique().numel() == 1
        assert mean[side].mean().item() == pytest.approx(printed[side].mean().item())
    with pytest.raises(ConfigError, match="unknown weights 'clgsl': did you mean 'clgsi'"):
        intensity_pairs(labels, 0.4, "clgsl")


def test_weights_of_the_positive_training_pairs_of_ch_sims(shared_data):
    """What docs/decisions.md says of them."""
    frame = pd.read_csv(shared_data / "CH-SIMS" / "labels.csv")
    labels = torch.from_numpy(frame.loc[frame["mode"] == "train", "label"].to_numpy())
    positive, W = intensity_pairs(labels, 0.4)
    others = positive & ~torch.eye(len(labels), dtype=torch.bool)
    assert (W[others] < 1e-6).double().mean().item() == pytest.approx(0.306, abs=5e-4)
    assert 1 / W[others].mean().item() == pytest.approx(3.27, abs=5e-3)
    assert intensity_pairs(labels, 0.4, "clgsi")[1][positive].min() > 0.5


def test_the_control_variant_changes_the_weights_alone():
    (name,) = CONTROLS
    assert variant_settings(name) == {"pair_weights": "mean"} and variant_settings("w/o CL") == {"alpha": 0.0}
    with pytest.raises(ConfigError, match="unknown variant 'mean wait': did you mean 'mean weight'"):
        variant_settings("mean wait")


# The six heads, and what frozen encoders do


def test_the_mean_of_six_heads_is_a_sixth_of_the_sum(tiny_config, split):
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 5), (5,), (3, 5))
    given = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    present = torch.tensor([[True, False, True, True, True]] * 3)
    for here in (None, present):
        plain = [values.tolist() for values in (*given, *([] if here is None else [here]))]
        found = unimodal_loss(*given, here, "mean").item()
        assert found == pytest.approx(naive.unimodal_loss(*plain, reduction="mean"), abs=1e-12)
        assert found == pytest.approx(unimodal_loss(*given, here).item() / 6)
    models = [build(tiny_config.override({"unimodal_reduction": by})).eval() for by in ("sum", "mean")]
    terms = [model(split.batch()).losses for model in models]
    assert terms[1]["uni"].item() == pytest.approx(terms[0]["uni"].item() / 6, rel=1e-6)
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in ("pred", "con"))


def test_frozen_encoders_with_dropout_do_not_learn_but_do_not_repeat_either(tiny_config, split):
    config = tiny_config.override({"frozen_dropout": True})
    model, batch = build(config).train(), split.batch()
    assert all(module.training for module in model.encoders["macro_T"].modules())
    first, second = (model.encode("T", batch)["macro_T"] for _ in range(2))
    assert not torch.equal(first, second)
    sum(model(batch).losses.values()).backward()
    assert not any(name.startswith("encoders.macro_T") for name in gradients(model))
    model.eval()
    assert torch.equal(model.encode("T", batch)["macro_T"], model.encode("T", batch)["macro_T"])
    # Batches cannot carry their features, so the run holds them.
    stage = MGCLStage(config)
    assert stage.frozen_parents == () and len(MGCLStage(tiny_config).frozen_parents) == 2
    assert not EncoderStage(config, EncoderName("macro", "T")).is_frozen_later


# Stage one


@pytest.mark.parametrize(
    ("target", "own"), [("split", {"micro"}), ("unimodal", {"macro", "micro"}), ("multimodal", set())]
)
def test_what_stage_one_learns(tiny_config, make_split, split, target, own):
    config, batch = tiny_config.override({"stage_one_target": target}), split.batch()
    for granularity in ("macro", "micro"):
        name = EncoderName(granularity, "A")
        system = UnimodalRegressor(name, config).eval()
        label = batch.unimodal_labels[2] if granularity in own else batch.labels
        assert torch.equal(system.target(batch), label)
        output = system(batch)
        loss = naive.squared_error(output.prediction.tolist(), label.tolist())
        assert output.losses[granularity].item() == pytest.approx(loss, rel=1e-5)
        clips = make_split(12)
        learned = clips.unimodal_labels[2] if granularity in own else clips.labels
        assert np.array_equal(EncoderStage(config, name).labels(clips), learned)


def test_the_last_layers_of_a_text_model_alone(tiny_config, split):
    system = UnimodalRegressor(EncoderName("macro", "T"), tiny_config.override({"trained_text_layers": 1}))
    sum(system(split.batch()).losses.values()).backward()
    learned = gradients(system)
    assert any(".layer.0." in name for name in learned) and any(name.startswith("heads") for name in learned)
    assert not any("embeddings" in name for name in learned)
    groups = make_optimizer(system, Schedule(1, 4)).param_groups
    frozen = set(system.encoder.bert.embeddings.parameters())
    assert not frozen & {parameter for group in groups for parameter in group["params"]}
    with pytest.raises(ConfigError, match="trained_text_layers=2: the text model has 1 layers"):
        UnimodalRegressor(EncoderName("macro", "T"), tiny_config.override({"trained_text_layers": 2}))


# The choice of the epoch


def test_the_epoch_is_the_earliest_of_the_best():
    history = [
        {"epoch": 1, "valid_mae": 0.5, "valid_loss": 0.3, "valid_acc2": 0.8},
        {"epoch": 2, "valid_mae": 0.4, "valid_loss": 0.4, "valid_acc2": 0.8},
        {"epoch": 3, "valid_mae": 0.6, "valid_loss": 0.2, "valid_acc2": 0.7},
        {"epoch": 4, "valid_mae": None, "valid_loss": float("nan"), "valid_acc2": float("nan")},
    ]
    assert {rule: best_epoch(history, rule) for rule in SELECTIONS} == {"mae": 2, "acc2": 1, "loss": 3}
    assert best_epoch([{"epoch": 1, "valid_mae": 0.5}], "acc2") == 0  # of a version that did not record it


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("scheme", ["sims", "mosi"])
def test_a_run_keeps_the_weights_of_the_epoch_that_its_rule_chooses(tiny_config, split, tmp_path, selection, scheme):
    system = UnimodalRegressor(EncoderName("macro", "A"), tiny_config.override({"sequence_lr": 0.05}))
    schedule = Schedule(epochs=6, batch_size=5, selection=selection)
    result = fit(system, split, split, schedule, seed=1, directory=tmp_path, scheme=scheme)
    labels, predicted = split.batch().labels.numpy(), predict(system, split, schedule)["prediction"]
    row = result.history[result.chosen_epoch - 1]
    assert row["valid_loss"] == pytest.approx(np.square(predicted - labels).mean(), rel=1e-5)
    acc2 = regression_metrics(labels, predicted, scheme)["acc2" if scheme == "sims" else "acc2_np"]
    assert row["valid_acc2"] == acc2 == pytest.approx(acc2)
    column, higher = SELECTIONS[selection]
    values = [each[column] for each in result.history]
    assert row[column] == (max if higher else min)(values) and values.index(row[column]) == result.chosen_epoch - 1
    recorded = json.loads((tmp_path / "selection.json").read_text())
    assert recorded["rule"] == ("validation" if selection == "mae" else f"validation, {selection}")


def test_selection_reaches_the_schedules_of_stage_two_and_of_compared_systems_alone():
    for name, stage in stages(Config(selection="loss")).items():
        assert stage.schedule.selection == ("loss" if name in ("mgcl", "mult") else "mae")
    mult = stages(Config(selection="loss"))["mult"]
    assert dataclasses.replace(mult.schedule, selection="mae") == stages(Config())["mult"].schedule


# F1 with its arguments swapped


def test_swapped_f1_is_scikit_learns_with_its_arguments_swapped():
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    labels, predicted = random.integers(-3, 4, 60).astype(float), random.normal(size=60) + 0.5
    swapped = swapped_f1(labels / 3, predicted / 3, "sims")
    assert swapped == {"f1_swapped": pytest.approx(f1_score(predicted > 0, labels > 0, average="weighted"))}
    kept = labels != 0
    assert swapped_f1(labels, predicted, "mosi") == {
        "f1_nn_swapped": pytest.approx(f1_score(predicted >= 0, labels >= 0, average="weighted")),
        "f1_np_swapped": pytest.approx(f1_score(predicted[kept] > 0, labels[kept] > 0, average="weighted")),
    }
    assert swapped["f1_swapped"] != pytest.approx(regression_metrics(labels / 3, predicted / 3, "sims")["f1"])
