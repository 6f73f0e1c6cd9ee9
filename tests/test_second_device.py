"""A whole Study on a second device with real numbers, without a GPU: where it crosses and waits, in which precision.

Executed on the device of `helpers.second_device`, whose tensors hold CPU tensors; nothing here was run on a GPU.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import second_device
from helpers.models import build, in_float64
from torch import nn

from mgcl_core import SYSTEMS
from mgcl_core.bench.stages import random_features
from mgcl_core.config import Config
from mgcl_core.data.batches import Batch, DeviceSplit
from mgcl_core.data.corpus import EncoderName, Split
from mgcl_core.data.valid_steps import ValidSteps
from mgcl_core.encoders import encoder_names, frozen_encoders
from mgcl_core.experiments.prediction import predict_file
from mgcl_core.experiments.selection_audit import audit_runs
from mgcl_core.experiments.study import Study
from mgcl_core.experiments.text_input import encoded_width
from mgcl_core.reporting.evaluation import embeddings
from mgcl_core.stage_one import UnimodalRegressor
from mgcl_core.support import devices
from mgcl_core.support.errors import ConfigError
from mgcl_core.system import System
from mgcl_core.trainer import Schedule, make_optimizer, train_step

# Registered after the first backward pass of a process, no device is known to torch's autograd.
pytestmark = pytest.mark.skipif(
    "MGCL_SECOND_DEVICE" not in os.environ, reason="runs in a process of its own: test_second_device_alone.py"
)

COMPARED = [name for name in SYSTEMS if name != "mgcl"]
#: All that may cross or wait, and why. What is not here is a new hidden wait; it stands in no step of a training.
ALLOWED = {
    # once per run: weights, data, targets, what is written to disk
    ("to device", "stages.Stage.build"),
    ("to device", "study.Study._fit"),
    ("to device", "trainer.load_weights"),
    ("to host", "trainer.save_weights.<locals>.<dictcomp>"),
    ("to device", "batches.DeviceSplit.__init__"),
    ("to device", "batches.DeviceSplit.__init__.<locals>.<genexpr>"),
    ("to device", "batches._tensor"),
    ("to device", "batches.place"),
    ("to host", "batches.DeviceSplit._known_counts"),
    ("to host", "trainer.fit"),
    ("to device", "splits.StudySplits._text_embeddings.<locals>.compute"),
    ("to device", "predictor.Predictor.prepare.<locals>.<dictcomp>"),
    ("to host", "predictor.Predictor.prepare"),
    ("to device", "confede._pairs_on.<locals>.<genexpr>"),
    # once per checkpoint, and once per run that is continued
    ("to host", "trainer._checkpoint"),
    ("to device", "trainer._resume"),
    # once an epoch: its order, the means of its losses, the predictions of validation
    ("to device", "batches.DeviceSplit.batches"),
    ("to host", "trainer._epoch_means"),
    ("to host", "trainer.predict.<locals>.<dictcomp>"),
    # once per batch of frozen features, which together may be larger than the device
    ("to host", "frozen_features.encode_frozen"),
    # once a step of micro_T in stage one, and for its frozen features: which tokens are words the device alone knows
    ("shape", "valid_steps.ValidSteps.__init__"),
}


@pytest.fixture(scope="module")
def device():
    """The second device, and an LSTM by its equations: the fused one needs a kernel."""
    if not second_device.register():
        pytest.skip("this torch has no hooks for a device in Python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "SUPPORTED", (*devices.SUPPORTED, second_device.NAME))
        patch.setattr(nn.LSTM, "forward", second_device.lstm)
        patch.setattr(nn.LSTMCell, "forward", second_device.lstm_cell)
        yield torch.device(second_device.NAME)


@pytest.fixture(scope="module")
def make_study(device, tiny_corpus, tiny_overrides, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    batches = {name: 8 for name in ("text_batch_size", "sequence_batch_size", "mgcl_batch_size")}
    short = {
        name: {"batch_size": 8, **{k: 1 for k in ("epochs", "pretrain_epochs") if hasattr(settings, k)}}
        for name, settings in ((name, SYSTEMS[name].published["sims"]) for name in COMPARED)
    }

    def make(on: torch.device = device, **changes) -> Study:
        overrides = {**tiny_overrides, **batches, **changes.pop("overrides", {})}
        return Study(
            tiny_corpus, "demo", seeds=[1], device=on.type, overrides=overrides, workers=1, system_overrides=short,
            **{"results": results / on.type, **changes},
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def study(make_study) -> Study:
    """With every run trained and tested, and what crossed meanwhile."""
    second_device.crossings.clear()
    study = make_study()
    study.train(["MGCL", "w/o fusion"])
    study.compare()
    study.crossed = Counter(second_device.crossings)
    return study


def test_a_study_crosses_where_it_is_allowed_to_and_nowhere_else(study):
    unexpected = {where: count for where, count in study.crossed.items() if where not in ALLOWED}
    assert not unexpected
    places = {place for _, place in ALLOWED} - {place for _, place in study.crossed}
    assert {place.split(".")[0] for place in places} == {"predictor", "trainer"}  # of the tests below
    assert all(run.done for run in [*study.pretrainings(), *study.trainings(), *study.comparisons()])


def steps(system: System, split: DeviceSplit, schedule: Schedule):
    """Train two epochs of two steps; yields after each its number in the epoch, the batch and the output."""
    optimizer = make_optimizer(system, schedule)
    system.begin_fit(split)
    for epoch in (1, 2):
        system.train()
        system.begin_epoch(epoch)
        for number, batch in enumerate(itertools.islice(split.batches(8, seed=epoch), 2)):
            output, _ = train_step(system, batch, optimizer, schedule)
            system.after_step(batch, output)
            yield number, batch, output
            second_device.crossings.clear()  # what follows fetches the next batch


def runs_of(study: Study) -> dict:
    runs = [*study.pretrainings(), *study.trainings(["MGCL", "w/o fusion"]), *study.comparisons()]
    return {run.stage.label: run for run in runs}


def test_no_step_of_any_system_waits_or_crosses(study):
    for name, run in runs_of(study).items():
        allowed = {("shape", "valid_steps.ValidSteps.__init__"): 1} if name == "micro_T" else {}
        for number, *_ in steps(study.build(run), study.split("train", run), run.stage.schedule):
            if number:  # the first of an epoch comes with the order of all
                assert dict(second_device.crossings) == allowed, name


@pytest.mark.parametrize("changes", [{"encoder_chunk": 5}, {"micro": "pooled"}, {"encoders": "shared"}, {"layers": 2}])
def test_nor_does_stage_two_under_other_settings(device, tiny_config, make_split, changes):
    config, split = tiny_config.override(changes), DeviceSplit(make_split(16), device)
    split.features = {name: values.to(device) for name, values in frozen_features(make_split(16), config).items()}
    frozen = frozen_encoders(config)
    system = build(config, encoders=[name for name in encoder_names(config) if name not in frozen]).to(device)
    for number, *_ in steps(system, split, Schedule(2, 8)):
        if number:
            assert not second_device.crossings


def frozen_features(split: Split, config: Config) -> dict[str, torch.Tensor]:
    return random_features(DeviceSplit(split, torch.device("cpu")), config, encoded_width(config))


def test_bf16_is_in_the_products_and_not_in_predictions_heads_and_losses(make_study, study, device):
    half = make_study(precision="bf16", results=study.directory.parents[1])
    full = runs_of(study)  # their features serve; those in bf16 are other runs
    for name, run in runs_of(half).items():
        run = dataclasses.replace(run, parents=full[name].parents)
        second_device.products.clear()
        assert run.stage.schedule.precision == "bf16"
        _, batch, output = next(steps(half.build(run), half.split("train", run), run.stage.schedule))
        assert {term.dtype for term in output.losses.values()} == {torch.float32}, name
        assert output.prediction.dtype == torch.float32
        in_float32 = {"encoders.in_float32", "losses.collaborative_contrastive_loss", "confede.contrastive_loss",
                      "encoders.Readout.forward", "layers.LSTM.forward", "misa.difference_loss"}  # fmt: skip
        found = {place: types for place, types in second_device.products.items() if place != "backward"}
        for place in in_float32 & set(found):
            assert found[place] == {torch.float32}, (name, place)
        assert any(torch.float32 in types for types in found.values()), name
        assert any(torch.bfloat16 in types for types in found.values()) or name == "mfn", (
            name
        )  # MFN is float32 all over
        if name == "MGCL":
            assert found["losses.collaborative_contrastive_loss"] == {torch.float32}
            clips = len(batch.labels)
            assert len(set(output.prediction.cpu().tolist())) == clips
            assert all(len(set(head.tolist())) == clips for head in output.unimodal.cpu())


def test_a_stopped_run_repeats_its_epochs_to_the_last_bit(study, tmp_path, monkeypatch):
    (run,) = study.trainings()

    class Stop(Exception):
        pass

    def after_epoch(epoch, _system):
        monkeypatch.setattr("mgcl_core.trainer.SECONDS_BETWEEN_CHECKPOINTS", 0.0 if epoch == 1 else 1e9)
        if epoch == 3 and not stopped:
            stopped.append(epoch)
            raise Stop

    stopped = []
    second_device.crossings.clear()
    with pytest.raises(Stop):
        study.fit(run, tmp_path, after_epoch=after_epoch)
    system, again = study.fit(run, tmp_path, after_epoch=after_epoch)
    assert set(second_device.crossings) <= ALLOWED
    assert {("to host", "trainer._checkpoint"), ("to device", "trainer._resume")} <= set(second_device.crossings)
    recorded = run.history.drop(columns="seconds").to_dict("records")
    assert [{key: row[key] for key in recorded[0]} for row in again.history] == recorded
    assert (tmp_path / "weights.safetensors").read_bytes() == (run.directory / "weights.safetensors").read_bytes()


def test_predictions_and_embeddings_are_those_of_the_cpu(study, make_study, tmp_path, make_split):
    """The CPU packs and groups otherwise, so this holds the padded batch of an accelerator against it too."""
    (run,) = study.trainings()
    there = make_study(torch.device("cpu"), results=study.directory.parents[1])
    second_device.crossings.clear()
    ours, theirs = (embeddings(where, run, trained=True) for where in (study, there))
    assert set(second_device.crossings) <= ALLOWED
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-4, atol=1e-5)


def test_a_file_is_predicted_as_on_the_cpu(study, tmp_path, monkeypatch):
    (run,), clips = study.trainings(), {"test": study.corpus.test}
    monkeypatch.setattr("mgcl_core.experiments.predictor.load_clips", lambda *_, **__: clips)
    second_device.crossings.clear()
    ours, theirs = (
        predict_file(run.directory, "clips.pkl", out=tmp_path / f"{name}.csv", device=name)
        for name in (second_device.NAME, "cpu")
    )
    assert set(second_device.crossings) <= ALLOWED
    for column in ours.columns[2:-1]:
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-4, atol=1e-5)


def test_the_audit_reproduces_a_run_to_the_last_bit(study):
    second_device.crossings.clear()
    frame = audit_runs(study, study.trainings())
    assert frame["reproduced"].all() and set(second_device.crossings) <= ALLOWED


def test_data_that_stays_on_the_host_changes_nothing(study, make_study, tmp_path, monkeypatch):
    monkeypatch.setattr("mgcl_core.experiments.study.data_room", lambda device: 3000)  # bytes
    small = make_study(results=study.directory.parents[1])
    (run,) = small.trainings()
    split = small.split("train", run)
    assert {split.audio.device.type, split.features["micro_T"].device.type} == {"cpu"}
    assert split.bytes_on_device() < study.split("train", run).bytes_on_device()
    _, again = small.fit(run, tmp_path)
    recorded = run.history.drop(columns="seconds").to_dict("records")
    assert [{key: row[key] for key in recorded[0]} for row in again.history] == recorded


def test_places_of_valid_steps_are_the_same_with_and_without_their_number(device):
    mask = torch.arange(5) < torch.tensor([3, 5, 1, 0, 4])[:, None]
    mask[1, 2] = False
    values = torch.randn(5, 5, 2)
    cpu = ValidSteps(mask)
    for count in (None, int(mask.sum())):
        second_device.crossings.clear()
        there = ValidSteps(mask.to(device), count)
        assert second_device.crossings["shape", "valid_steps.ValidSteps.__init__"] == (count is None)
        packed = there.pack(values.to(device))
        assert torch.equal(there.unpack(packed).cpu(), values * mask[:, :, None])
        assert torch.equal(there.mean(packed).cpu(), cpu.mean(cpu.pack(values)))
        assert torch.equal(torch.stack([there.clips, there.times], 1).cpu(), mask.nonzero())


def test_both_devices_in_one_operation_are_an_error(device):
    """Otherwise the tests above would prove nothing."""
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=device) + torch.ones(3)
    with pytest.raises(RuntimeError):
        torch.ones(3, device=device).numpy()


def test_a_device_that_is_not_supported_is_refused(device, monkeypatch):
    monkeypatch.setattr(devices, "SUPPORTED", ("cpu", "cuda"))
    with pytest.raises(ConfigError, match="not supported"):
        devices.choose_device(second_device.NAME)


# One clip at a time against the padded batch


def outputs_and_gradients(model: nn.Module, batches: list[Batch]) -> tuple[dict, dict]:
    """Outputs of all clips, and the gradient of their sum with fixed weights, which no clip shares with another."""
    model.zero_grad()
    parts: dict[str, list] = {}
    for batch in batches:
        output = model(batch)
        found = {"prediction": output.prediction[None], "unimodal": output.unimodal, "macro": output.macro,
                 "micro": output.micro}  # fmt: skip
        total = 0.0
        for number, (name, values) in enumerate((name, values) for name, values in found.items() if values is not None):
            weights = torch.arange(values[:, 0].numel(), dtype=torch.float64, device=values.device).add(number).cos()
            total = total + (values.movedim(1, 0).flatten(1) * weights).sum()
            parts.setdefault(name, []).append(values.detach().cpu())
        total.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {name: torch.cat(values, 1) for name, values in parts.items()}, gradients


@pytest.mark.parametrize("where", ["cpu", second_device.NAME])
@pytest.mark.parametrize("changes", [{}, {"micro": "pooled"}, {"fusion": "concat", "layers": 2}])
def test_one_clip_at_a_time_gives_what_the_padded_batch_gives(where, changes, device, tiny_config, make_split):
    """The whole model with its encoders and its gradient, in float64; clips without audio, vision and words too."""
    clips = 20 if where == "cpu" else 8  # several groups of similar length, where there are groups
    split = make_split(clips, seed=5)
    split.audio_mask[3], split.vision_mask[4], split.text_bert[5, 1] = False, False, 0
    device = torch.device(where)
    config = tiny_config.override({**changes, "trained_encoders": ("T", "V", "A")})
    whole = DeviceSplit(split, torch.device("cpu"))
    batches = [[whole.batch()], [whole.batch([row]) for row in range(clips)]]
    systems = [build(config, seed=0)]
    systems += [UnimodalRegressor(EncoderName("micro", m), config) for m in "TVA" if config.micro == "sequence"]
    for system in systems:
        system.double().eval().to(device)
        results = [outputs_and_gradients(system, [in_float64(batch, device) for batch in part]) for part in batches]
        for together, alone in zip(*results, strict=True):
            assert together.keys() == alone.keys()
            for name, expected in together.items():
                assert expected.dtype == torch.float64
                torch.testing.assert_close(alone[name], expected, rtol=1e-9, atol=1e-10, msg=name)
