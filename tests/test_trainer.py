"""The one loop: the chosen epoch, resuming, schedules, and what stops a run."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mgcl_core import trainer
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.losses import prediction_loss
from mgcl_core.support.errors import RunError
from mgcl_core.support.runtime import deterministic
from mgcl_core.system import Output, System
from mgcl_core.trainer import (
    CHECKPOINT,
    HISTORY,
    SELECTION,
    WEIGHTS,
    NonFiniteLoss,
    Schedule,
    correlation,
    fit,
    load_weights,
    make_optimizer,
    predict,
    rate_factor,
    save_weights,
)

SCHEDULE = Schedule(epochs=4, batch_size=5)


class Linear(System):
    """A regression on the mean audio step, with dropout so that random states matter."""

    def __init__(self, rate: float = 0.05):
        super().__init__()
        self.rate, self.dropout, self.linear = rate, nn.Dropout(0.3), nn.Linear(4, 1)
        self.seen_labels = []

    def learning_rates(self):
        return {"": self.rate}

    def forward(self, batch):
        self.seen_labels.append(batch.labels is not None)
        prediction = self.linear(self.dropout(batch.audio.mean(1))).squeeze(-1)
        losses = {} if batch.labels is None else {"pred": prediction_loss(prediction, batch.labels)}
        return Output(prediction, losses=losses)


@pytest.fixture
def splits(make_split):
    cpu = torch.device("cpu")
    return DeviceSplit(make_split(23, seed=1), cpu), DeviceSplit(make_split(11, seed=2), cpu)


def build(rate: float = 0.05) -> Linear:
    torch.manual_seed(0)
    return Linear(rate)


def plain(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def test_same_seed_gives_equal_metrics_and_another_seed_does_not(splits, tmp_path):
    first = fit(build(), *splits, SCHEDULE, seed=1, directory=tmp_path / "a")
    again = fit(build(), *splits, SCHEDULE, seed=1, directory=tmp_path / "b")
    other = fit(build(), *splits, SCHEDULE, seed=2, directory=tmp_path / "c")
    assert plain(first.history) == plain(again.history)
    assert plain(first.history) != plain(other.history)


def test_the_chosen_epoch_has_the_lowest_validation_mae_and_its_weights_remain(splits, tmp_path):
    system = build(0.3)
    result = fit(system, *splits, dataclasses.replace(SCHEDULE, epochs=8), seed=3, directory=tmp_path)
    maes = [row["valid_mae"] for row in result.history]
    assert result.chosen_epoch == int(np.argmin(maes)) + 1
    predicted = predict(system, splits[1], SCHEDULE)["prediction"]
    assert np.abs(predicted - splits[1].labels.numpy()).mean() == pytest.approx(min(maes), abs=1e-7)
    assert json.loads((tmp_path / SELECTION).read_text())["epoch"] == result.chosen_epoch
    fresh = build()
    load_weights(fresh, tmp_path / WEIGHTS)
    np.testing.assert_array_equal(predict(fresh, splits[1], SCHEDULE)["prediction"], predicted)


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after each epoch, however short."""
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 2, 9], ids=["each epoch", "every other epoch", "never"])
def test_a_stopped_run_ends_like_one_that_never_was(splits, tmp_path, monkeypatch, stop_after, every):
    """It repeats the epochs since its checkpoint to the last bit, from the start where there is none."""
    whole = fit(build(), *splits, SCHEDULE, seed=5, directory=tmp_path / "whole")

    def after_epoch(epoch, _system):
        monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0 if epoch % every == 0 else math.inf)

    class Stop(Exception):
        pass

    class Stopping(Linear):
        def begin_epoch(self, epoch):
            if epoch == stop_after + 1:
                raise Stop

    torch.manual_seed(0)
    with pytest.raises(Stop):
        fit(Stopping(), *splits, SCHEDULE, seed=5, directory=tmp_path / "stopped", after_epoch=after_epoch)
    assert (tmp_path / "stopped" / CHECKPOINT).exists() == (every <= stop_after)
    torch.manual_seed(99 if every <= stop_after else 0)  # with a checkpoint, the new process's start does not matter
    resumed = fit(Linear(), *splits, SCHEDULE, seed=5, directory=tmp_path / "stopped", after_epoch=after_epoch)
    assert plain(resumed.history) == plain(whole.history)
    assert (tmp_path / "stopped" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_short_trainings_write_no_checkpoint_and_their_weights_once(splits, tmp_path, monkeypatch):
    written, save = [], trainer.save_weights
    monkeypatch.setattr(trainer, "save_weights", lambda *given: (written.append(given[1].name), save(*given)))
    monkeypatch.setattr(trainer.torch, "save", lambda *_: pytest.fail("a checkpoint"))
    result = fit(build(0.3), *splits, dataclasses.replace(SCHEDULE, epochs=8), seed=3, directory=tmp_path)
    assert written == [WEIGHTS] and len(result.history) == 8


def test_patience_stops_early(splits, tmp_path):
    schedule = dataclasses.replace(SCHEDULE, epochs=40, patience=2)
    result = fit(build(1.0), *splits, schedule, seed=1, directory=tmp_path)
    assert len(result.history) == result.chosen_epoch + 2 < 40


def test_predict_never_shows_labels(splits):
    system = build()
    predict(system, splits[1], SCHEDULE)
    assert system.seen_labels == [False] * 3


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_loss_that_is_not_finite_is_named_and_the_last_checkpoint_kept(splits, tmp_path, often, epoch):
    class Breaking(Linear):
        def begin_epoch(self, number):
            self.breaks = number == epoch

        def forward(self, batch):
            output = super().forward(batch)
            if output.losses and self.breaks:
                output.losses["extra"] = output.prediction.sum() * float("inf")
            elif output.losses:
                output.losses["extra"] = output.prediction.sum() * 0
            return output

    kept = f"the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else "there is no checkpoint yet"
    with pytest.raises(NonFiniteLoss, match=rf"run x: extra is -?(inf|nan) in batch 1 of epoch {epoch}; {kept}"):
        fit(Breaking(), *splits, SCHEDULE, seed=1, directory=tmp_path, label="run x")
    assert (tmp_path / CHECKPOINT).exists() == (epoch > 1)
    if epoch > 1:
        state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
        assert len(state["history"]) == epoch - 1
        assert all(torch.isfinite(values).all() for values in state["system"].values())


def test_weight_decay_spares_biases_and_norms(splits):
    class Norm(Linear):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(4)

    groups = make_optimizer(Norm(), Schedule(1, 1, weight_decay=0.5)).param_groups
    decays = {tuple(p.shape): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {(1, 4): 0.5, (1,): 0.0, (4,): 0.0}


def test_the_longest_prefix_gives_the_learning_rate():
    class Two(Linear):
        def learning_rates(self):
            return {"": 1.0, "linear.": 0.5, "linear.bias": 0.25}

    groups = make_optimizer(Two(), Schedule(1, 1)).param_groups
    assert {tuple(p.shape): group["lr"] for group in groups for p in group["params"]} == {(1, 4): 0.5, (1,): 0.25}


def test_rates_warm_up_for_one_epoch_and_then_falls_linearly():
    schedule = Schedule(epochs=3, batch_size=1)
    rates = [rate_factor(step, 4, schedule) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == [pytest.approx((12 - step) / 8) for step in range(4, 12)]


def test_training_follows_the_schedule_of_rates_also_when_it_is_resumed(splits, tmp_path, often, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *a, **k: (rates.append(self.param_groups[0]["lr"]), step(self, *a, **k))[1],
    )

    def stop(epoch, _system):
        if epoch == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):  # the checkpoint is that of epoch 2
        fit(build(0.5), *splits, SCHEDULE, seed=1, directory=tmp_path, after_epoch=stop)
    del rates[10:]
    fit(build(0.5), *splits, SCHEDULE, seed=1, directory=tmp_path)
    assert rates == [pytest.approx(0.5 * rate_factor(count, 5, SCHEDULE)) for count in range(20)]


def test_one_step_is_enough():
    assert rate_factor(0, 1, Schedule(epochs=1, batch_size=1)) == 1.0


def test_correlation_of_a_constant_is_nan():
    assert np.isnan(correlation(np.ones(4), np.arange(4.0)))
    assert correlation(np.arange(4.0), np.arange(4.0) * 2) == pytest.approx(1)


def test_history_is_json_even_with_nan(splits, tmp_path):
    class Constant(Linear):
        def forward(self, batch):
            output = super().forward(batch)
            if batch.labels is None:
                output.prediction = torch.zeros_like(output.prediction)
            return output

    result = fit(Constant(), *splits, SCHEDULE, seed=1, directory=tmp_path)
    assert np.isnan(result.history[0]["valid_corr"])
    rows = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert rows[0]["valid_corr"] is None


def test_weights_of_another_architecture_or_damaged_are_refused(tmp_path):
    save_weights(build().state_dict(), tmp_path / "a.safetensors")

    class Wider(Linear):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 1)

    with pytest.raises(RunError, match=r"a\.safetensors.*Wider"):
        load_weights(Wider(), tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:20])
    with pytest.raises(RunError, match=r"a\.safetensors"):
        load_weights(build(), tmp_path / "a.safetensors")
    with pytest.raises(RunError, match="missing"):
        load_weights(build(), tmp_path / "missing.safetensors")


def determinism() -> tuple:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("before", [(False, False, True, False), (True, True, False, True), (True, False, True, True)])
def test_training_is_deterministic_without_filling_memory_and_puts_all_settings_back(splits, tmp_path, before):
    usual, during = determinism(), []
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark = before[2:]
        fit(build(), *splits, SCHEDULE, seed=1, directory=tmp_path, after_epoch=lambda *_: during.append(determinism()))
        assert set(during) == {(True, True, False, False)} and determinism() == before
    finally:
        torch.use_deterministic_algorithms(usual[0], warn_only=usual[1])
        torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark = usual[2:]


def test_off_the_cpu_an_operation_without_a_deterministic_kernel_raises():
    with deterministic(torch.device("cuda")):  # told to warn only, fused attention keeps its other backward pass
        assert determinism()[:2] == (True, False)


def test_cublas_gets_a_workspace_of_fixed_size_at_import_unless_the_caller_chose_one():
    code = "import os, mgcl_core; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    for given, expected in ((None, ":4096:8"), (":16:8", ":16:8")):
        environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
        environment |= {} if given is None else {"CUBLAS_WORKSPACE_CONFIG": given}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_weights_that_are_not_finite_are_refused(tmp_path):
    system = build()
    with torch.no_grad():
        system.linear.bias.fill_(float("nan"))
    save_weights(system.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(RunError, match="linear.bias holds numbers that are not finite"):
        load_weights(build(), tmp_path / WEIGHTS)
