"""The ten systems: published settings, hostile batches, padding, and training and resuming by the one loop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import in_float64
from torch import nn

from mgcl_core.baselines import COMPARED_SYSTEMS
from mgcl_core.data.batches import Batch, DeviceSplit
from mgcl_core.support.errors import RunError
from mgcl_core.system import Output, Shapes, System
from mgcl_core.trainer import Schedule, fit, load_weights, predict

CLIPS, TEXT_DIM = 12, 5
#: Published settings of CH-SIMS made small; a system takes those that it has.
SMALL = {
    "text_hidden": 6,
    "audio_hidden": 4,
    "vision_hidden": 5,
    "text_out": 6,
    "audio_out": 3,
    "vision_out": 4,
    "fusion_hidden": 12,
    "memory": 4,
    "rank": 3,
    "width": 8,
    "heads": 2,
    "candidates": 3,
    "refresh_epochs": 2,
    "batch_size": 4,
    "fusion_heads": 2,
    "fusion_feedforward": 7,
    "fusion_width": 6,
    "text_width": 5,
    "audio_width": 4,
    "vision_width": 3,
    "lr": 1e-2,
    "factor_lr": 1e-2,
    "text_lr": 1e-2,
}
SCHEDULE = Schedule(epochs=4, batch_size=4, warmup_epochs=0.0)
FROZEN = [name for name, entry in COMPARED_SYSTEMS.items() if entry.text == "frozen"]
every_system = pytest.mark.parametrize("name", list(COMPARED_SYSTEMS))


@pytest.fixture
def build(tiny_bert):
    def make(name: str, clips: int = CLIPS, **changes) -> System:
        torch.manual_seed(0)
        settings = COMPARED_SYSTEMS[name].published["sims"]
        known = {field.name for field in dataclasses.fields(settings)}
        small = {key: value for key, value in SMALL.items() if key in known}
        if name in ("confede", "sfttr"):
            small["width"] = 32
        settings = dataclasses.replace(settings, **{**small, **changes})
        return COMPARED_SYSTEMS[name].build(
            settings, Shapes(TEXT_DIM, 10, 4, 9, 3, 7, bound=1.0, clips=clips, text_model=tiny_bert)
        )

    return make


def prepared(split) -> DeviceSplit:
    """On the CPU, with synthetic embeddings, also where there is no token, and synthetic features of stage one."""
    text = np.random.default_rng(3).normal(size=(len(split), 10, TEXT_DIM)).astype(np.float32)
    text[:, :, 0] += 3 * split.labels[:, None]
    device_split = DeviceSplit(dataclasses.replace(split, text=text), torch.device("cpu"))
    words = torch.from_numpy(split.text_bert[:, 0]).float()
    device_split.features["macro_T"] = torch.stack([words[:, k] / 10 for k in range(1, TEXT_DIM + 1)], -1)
    return device_split


@pytest.fixture
def splits(make_split) -> tuple[DeviceSplit, DeviceSplit]:
    return prepared(make_split(CLIPS, seed=1)), prepared(make_split(7, seed=2))


def shaken(system: System) -> System:
    """In evaluation mode, its weights so far from their start that small differences in the input show."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return system.eval()


def check(system: System, batch: Batch) -> Output:
    """Predictions and losses are finite, the gradient too, and prediction needs no labels."""
    output = system(batch)
    assert output.prediction.shape == (len(batch),) and output.prediction.dtype == torch.float32
    assert output.prediction.isfinite().all()
    total = sum(output.losses.values())
    assert total.dim() == 0 and total.isfinite()
    system.zero_grad()
    total.backward()
    gradients = [parameter.grad for parameter in system.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    system.after_step(batch, output)
    system.eval()
    with torch.no_grad():
        unlabelled = system(dataclasses.replace(batch, labels=None, unimodal_labels=None))
    assert unlabelled.losses == {} and unlabelled.prediction.isfinite().all()
    system.train()
    return output


def test_published_settings_are_what_they_were():
    """They are part of the names of runs, so that a changed default would orphan finished ones."""
    expected = json.loads(Path(__file__).with_name("published_settings.json").read_text())
    assert list(expected) == sorted(COMPARED_SYSTEMS)
    for name, entry in COMPARED_SYSTEMS.items():
        assert {key: dataclasses.asdict(settings) for key, settings in entry.published.items()} == expected[name]


@pytest.mark.parametrize("name", [name for name, entry in COMPARED_SYSTEMS.items() if entry.reads_means])
def test_systems_that_read_means_predict_the_same_from_means(name, build, splits):
    system = shaken(build(name))
    whole, means = (split.batch() for split in (splits[0], splits[0].averaged()))
    torch.testing.assert_close(system(means).prediction, system(whole).prediction)
    assert system(whole).prediction.std() > 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {}) for name in COMPARED_SYSTEMS] + [(name, {"reference_behaviour": True}) for name in FROZEN],
)
class TestHostileBatches:
    @pytest.fixture
    def system(self, name, changes, build, splits) -> System:
        system = build(name, **changes).train()
        system.begin_fit(splits[0])
        system.begin_epoch(1)
        return system

    def test_one_clip(self, system, splits):
        check(system, splits[0].batch([3]))

    @pytest.mark.parametrize("clips", [[0], [0, 1, 2]])
    def test_one_step_everywhere(self, system, splits, clips):
        batch = splits[0].batch(clips)
        batch.tokens, batch.text = batch.tokens[:, :, :1], batch.text[:, :1]
        batch.audio, batch.audio_mask = batch.audio[:, :1], batch.audio_mask[:, :1]
        batch.vision, batch.vision_mask = batch.vision[:, :1], batch.vision_mask[:, :1]
        check(system, batch)

    @pytest.mark.parametrize("modality", ["audio", "vision", "both"])
    def test_nothing_but_padding(self, system, splits, modality):
        """In one clip of three, and in all of them."""
        for clips in ([1], [0, 1, 2]):
            batch = splits[0].batch([0, 1, 2])
            for name in ("audio", "vision") if modality == "both" else (modality,):
                getattr(batch, name)[clips] = 0.0
                getattr(batch, f"{name}_mask")[clips] = False
            check(system, batch)

    def test_no_token(self, system, splits):
        batch = splits[0].batch([0, 1, 2])
        batch.tokens[1] = 0
        check(system, batch)

    def test_aligned_steps(self, system, splits):
        batch = splits[0].batch([0, 1, 2])
        mask = batch.tokens[:, 1, :7] > 0
        batch.audio, batch.vision = torch.randn(3, 7, 4) * mask[:, :, None], torch.randn(3, 7, 3) * mask[:, :, None]
        batch.tokens, batch.audio_mask, batch.vision_mask = batch.tokens[:, :, :7], mask, mask
        batch.text = batch.text[:, :7]
        check(system, batch)

    def test_later_epochs(self, system, splits):
        for epoch in (1, 2, 3):
            system.begin_epoch(epoch)
            for batch in splits[0].batches(5, seed=epoch):
                check(system, batch)


@every_system
def test_bf16_stays_close_to_float32(name, build, splits):
    system, batch = build(name).eval(), splits[0].batch([0, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        output = system(batch)
    assert output.prediction.dtype == torch.float32
    torch.testing.assert_close(output.prediction, system(batch).prediction, rtol=0.05, atol=0.02)
    assert all(term.dtype == torch.float32 for term in output.losses.values())
    sum(output.losses.values()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in system.parameters())


@every_system
def test_a_clip_is_read_the_same_alone_and_among_longer_ones(name, build, make_split, monkeypatch):
    """Its prediction, and the gradient of every weight, in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what the systems keep in full precision
    clips = 24  # several groups of similar length
    system, split = shaken(build(name, clips)).double(), prepared(make_split(clips, seed=4))
    results = []
    for batches in ([split.batch()], [split.batch([row]) for row in range(clips)]):
        unlabelled = [dataclasses.replace(batch, labels=None, unimodal_labels=None) for batch in batches]
        prediction = torch.cat([system(in_float64(batch)).prediction for batch in unlabelled])
        system.zero_grad()
        (prediction * torch.arange(clips).cos()).sum().backward()
        gradients = {key: parameter.grad for key, parameter in system.named_parameters() if parameter.grad is not None}
        results.append((prediction.detach(), gradients))
    (together, expected), (alone, gradients) = results
    assert together.dtype == torch.float64 and together.std() > 1e-3
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-10)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-8, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", FROZEN)
def test_a_clip_without_words_does_not_depend_on_its_padding(name, build, make_split):
    system, split = shaken(build(name)), make_split(CLIPS, seed=4)
    split.text_bert[2, 1] = 0
    prediction = system((clips := prepared(split)).batch()).prediction
    clips.text[2] += 1.0  # what a text model makes of nothing but padding
    torch.testing.assert_close(system(clips.batch()).prediction, prediction)


@every_system
def test_all_modalities_matter(name, build, splits):
    system, batch = shaken(build(name)), splits[0].batch()
    prediction = system(batch).prediction
    features = {key: value.roll(1, 0) for key, value in batch.features.items()}
    changes = [
        {"audio": batch.audio + batch.audio_mask[:, :, None]},
        {"vision": batch.vision + batch.vision_mask[:, :, None]},
        {"tokens": batch.tokens.roll(1, 0), "text": batch.text.roll(1, 0), "features": features},
    ]
    for change in changes:
        assert (system(dataclasses.replace(batch, **change)).prediction - prediction).abs().max() > 1e-3


@every_system
def test_every_weight_learns_and_has_a_rate(name, build, splits):
    system = build(name).train()
    system.begin_fit(splits[0])
    system.begin_epoch(1)
    sum(system(splits[0].batch()).losses.values()).backward()
    rates = system.learning_rates()
    for key, parameter in system.named_parameters():
        assert any(key.startswith(prefix) for prefix in rates), key
        assert parameter.grad is not None or key.startswith("text."), key  # of BERT, some have no use


@every_system
def test_training_lowers_the_loss(name, build, splits, tmp_path):
    system = build(name)
    for part in system.modules():  # a dropout of a half leaves little of so small a system
        if isinstance(part, nn.Dropout):
            part.p *= 0.2
    result = fit(system, *splits, dataclasses.replace(SCHEDULE, epochs=16), seed=1, directory=tmp_path)
    # Of Self-MM the multimodal term: the labels of the other three move. Of MISA the whole: its other terms weigh more.
    term = {"self_mm": "train_M", "misa": "train_loss"}.get(name, "train_pred")
    losses = [row[term] for row in result.history]
    assert min(losses[-3:]) < 0.95 * losses[0]
    restored = build(name)
    load_weights(restored, tmp_path / "weights.safetensors")
    predictions = [predict(model, splits[1], SCHEDULE)["prediction"] for model in (system, restored)]
    assert (predictions[0] == predictions[1]).all()


@pytest.mark.parametrize("name", ["self_mm", "confede"])
def test_a_stopped_run_ends_as_if_it_had_not_been(name, build, splits, tmp_path, monkeypatch):
    """What a system gathers while it trains (labels, centres, memory, ranking) is part of the checkpoint."""
    monkeypatch.setattr("mgcl_core.trainer.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    whole = build(name)
    expected = fit(whole, *splits, SCHEDULE, seed=1, directory=tmp_path / "whole")

    class Stop(Exception):
        pass

    stopped = build(name)
    begin_epoch = stopped.begin_epoch

    def stop(epoch):
        if epoch == 4:
            raise Stop
        begin_epoch(epoch)

    stopped.begin_epoch = stop
    with pytest.raises(Stop):
        fit(stopped, *splits, SCHEDULE, seed=1, directory=tmp_path / "stopped")
    resumed = build(name)
    result = fit(resumed, *splits, SCHEDULE, seed=1, directory=tmp_path / "stopped")
    assert [row["train_loss"] for row in result.history] == [row["train_loss"] for row in expected.history]
    for key, value in whole.state_dict().items():
        assert torch.equal(value.nan_to_num(9.0), resumed.state_dict()[key].nan_to_num(9.0)), key


def test_pretraining_lowers_the_loss_of_the_shared_encoder(build, splits, tmp_path):
    system = build("confede")
    for name, stage in system.pretraining().items():
        result = fit(stage, *splits, dataclasses.replace(SCHEDULE, epochs=12), seed=1, directory=tmp_path / name)
        assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    trained = {f"encoder.{key}": value for key, value in system.encoders["A"].state_dict().items()}
    assert all(torch.equal(value, trained[key]) for key, value in stage.state_dict().items() if key in trained)


@pytest.mark.parametrize("name", FROZEN)
def test_without_embeddings_there_is_an_error(name, build, splits):
    with pytest.raises(RunError, match=r"batch\.text"):
        build(name)(dataclasses.replace(splits[0].batch(), text=None))


def test_labels_of_self_mm_stay_finite_without_a_negative_clip(build, splits):
    system, train = build("self_mm").train(), splits[0]
    train.labels = train.labels.abs() + 0.1
    for epoch in (1, 2, 3):
        system.begin_epoch(epoch)
        for batch in train.batches(5, seed=epoch):
            system.after_step(batch, system(batch))
    assert system.labels.isfinite().all() and system.labels[1:].abs().max() <= 1.1
    assert not torch.equal(system.labels[1], system.labels[0])
