"""MISA, MAG-BERT, Self-MM, ConFEDE and SFTTR: hostile batches, padding, training and resuming by the one loop."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mgcl_core.baselines import confede, mag_bert, misa, self_mm, sfttr
from mgcl_core.data.batches import Batch, DeviceSplit
from mgcl_core.system import Output, Shapes, System
from mgcl_core.trainer import Schedule, fit, load_weights, predict

CLIPS, TEXT_DIM = 12, 5
SMALL_CONFEDE = {"width": 32, "heads": 2, "candidates": 3, "batch_size": 4, "refresh_epochs": 2, "lr": 1e-2}
SMALL = {
    "misa": misa.Settings(width=8, lr=1e-2, dropout=0.1),
    "mag_bert": mag_bert.Settings(lr=1e-2),
    "self_mm": self_mm.Settings(
        audio_hidden=5,
        vision_hidden=4,
        audio_out=3,
        vision_out=4,
        fusion_width=6,
        text_width=5,
        audio_width=4,
        vision_width=3,
        text_lr=1e-2,
        lr=1e-2,
    ),
    "confede": confede.Settings(**SMALL_CONFEDE),
    "sfttr": sfttr.Settings(**SMALL_CONFEDE, fusion_heads=2, fusion_feedforward=7),
}
BUILD = {
    "misa": misa.MISA,
    "mag_bert": mag_bert.MAGBERT,
    "self_mm": self_mm.SelfMM,
    "confede": confede.ConFEDE,
    "sfttr": sfttr.SFTTR,
}
SCHEDULE = Schedule(epochs=4, batch_size=4, warmup_epochs=0.0)
every_system = pytest.mark.parametrize("name", list(BUILD))


@pytest.fixture
def build(tiny_bert):
    def make(name: str, clips: int = CLIPS, **changes) -> System:
        torch.manual_seed(0)
        shapes = Shapes(TEXT_DIM, 10, 4, 9, 3, 7, bound=1.0, clips=clips, text_model=tiny_bert)
        return BUILD[name](dataclasses.replace(SMALL[name], **changes), shapes)

    return make


@pytest.fixture
def splits(make_split) -> tuple[DeviceSplit, DeviceSplit]:
    return prepared(make_split(CLIPS, seed=1)), prepared(make_split(7, seed=2))


def prepared(split) -> DeviceSplit:
    """On the CPU, with synthetic features of stage one."""
    device_split = DeviceSplit(split, torch.device("cpu"))
    words = torch.from_numpy(split.text_bert[:, 0]).float()
    device_split.features["macro_T"] = torch.stack([words[:, k] / 10 for k in range(1, TEXT_DIM + 1)], -1)
    return device_split


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
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    system.after_step(batch, output)
    system.eval()
    with torch.no_grad():
        unlabelled = system(dataclasses.replace(batch, labels=None, unimodal_labels=None))
    assert unlabelled.losses == {} and unlabelled.prediction.isfinite().all()
    system.train()
    return output


@every_system
class TestHostileBatches:
    @pytest.fixture
    def system(self, name, build, splits) -> System:
        system = build(name).train()
        system.begin_fit(splits[0])
        system.begin_epoch(1)
        return system

    def test_one_clip(self, system, splits):
        check(system, splits[0].batch([3]))

    def test_one_step_everywhere(self, system, splits):
        batch = splits[0].batch([0, 1, 2])
        batch.tokens = batch.tokens[:, :, :1]
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
        check(system, batch)

    def test_later_epochs(self, system, splits):
        for epoch in (1, 2, 3):
            system.begin_epoch(epoch)
            for batch in splits[0].batches(5, seed=epoch):
                check(system, batch)

    def test_bf16(self, system, splits):
        with torch.autocast("cpu", torch.bfloat16):
            output = system(splits[0].batch([0, 1, 2]))
        assert output.prediction.dtype == torch.float32
        assert all(term.dtype == torch.float32 for term in output.losses.values())


@every_system
def test_a_clip_is_read_alike_alone_and_among_longer_ones(name, build, splits):
    system = shaken(build(name))
    with torch.no_grad():
        together = system(splits[0].batch()).prediction
        alone = torch.cat([system(splits[0].batch([row])).prediction for row in range(CLIPS)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.std() > 1e-3


@pytest.mark.parametrize("name", ["misa", "mag_bert", "self_mm"])
def test_groups_of_like_length_give_what_one_group_gives(name, build, make_split, monkeypatch):
    clips = 40  # several groups of text, and of vision
    system, batch = shaken(build(name, clips)), prepared(make_split(clips, seed=4)).batch()
    grouped = system(batch).prediction
    with monkeypatch.context() as patch:
        for module in ("encoders", "baselines.misa", "baselines.mag_bert"):
            patch.setattr(
                f"mgcl_core.{module}.read_by_length",
                lambda mask, read, size=0: read(torch.arange(len(mask)), mask.shape[1]),
            )
        torch.testing.assert_close(grouped, system(batch).prediction, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(misa, "WIDE", 1)
    torch.testing.assert_close(grouped, system(batch).prediction, rtol=1e-4, atol=1e-5)


@every_system
def test_all_modalities_matter(name, build, splits):
    system, batch = shaken(build(name)), splits[0].batch()
    prediction = system(batch).prediction
    features = {key: value.roll(1, 0) for key, value in batch.features.items()}
    changes = [
        {"audio": batch.audio + batch.audio_mask[:, :, None]},
        {"vision": batch.vision + batch.vision_mask[:, :, None]},
        {"tokens": batch.tokens.roll(1, 0), "features": features},
    ]
    for change in changes:
        assert (system(dataclasses.replace(batch, **change)).prediction - prediction).abs().max() > 1e-3


@every_system
def test_training_lowers_the_loss(name, build, splits, tmp_path):
    system = build(name)
    result = fit(system, *splits, dataclasses.replace(SCHEDULE, epochs=16), seed=1, directory=tmp_path)
    # Of Self-MM the multimodal term: the labels of the other three move.
    losses = [row["train_M" if name == "self_mm" else "train_pred"] for row in result.history]
    assert min(losses[-3:]) < 0.95 * losses[0]
    again = build(name)
    load_weights(again, tmp_path / "weights.safetensors")
    assert (
        predict(again, splits[1], SCHEDULE)["prediction"] == predict(system, splits[1], SCHEDULE)["prediction"]
    ).all()


@pytest.mark.parametrize("name", ["self_mm", "confede"])
def test_a_stopped_run_ends_as_if_it_had_not_been(name, build, splits, tmp_path):
    """What a system gathers while it trains (labels, centres, memory, ranking) is part of the checkpoint."""
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


class TestMISALosses:
    @pytest.mark.parametrize("clips", [1, 5])
    def test_similarity_equals_naive_moments(self, clips):
        torch.manual_seed(0)
        parts = torch.rand(clips, 3, 4, dtype=torch.float64, requires_grad=True)
        total = 0.0
        for a, b in ((0, 1), (0, 2), (1, 2)):
            one, two = parts[:, a], parts[:, b]
            total = total + sum((one.mean(0) - two.mean(0)) ** 2).sqrt()
            for order in (2, 3, 4, 5):
                moments = [((x - x.mean(0)) ** order).mean(0) for x in (one, two)]
                squared = sum((moments[0] - moments[1]) ** 2)
                total = total + (squared.sqrt() if squared > 0 else 0.0)
        loss = misa.similarity_loss(parts, moments=5)
        assert abs(loss - total / 3) < 1e-12
        loss.backward()
        assert parts.grad.isfinite().all()

    def test_difference_equals_naive_products(self):
        torch.manual_seed(0)
        specific, invariant = torch.rand(2, 5, 3, 4, dtype=torch.float64)

        def unit(x):
            x = x - x.mean(0)
            return x / (x.norm(dim=1, keepdim=True) + 1e-6)

        pairs = [(specific[:, m], invariant[:, m]) for m in range(3)]
        pairs += [(specific[:, a], specific[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        expected = sum(
            sum(float(unit(x)[:, i] @ unit(y)[:, j]) ** 2 for i in range(4) for j in range(4)) / 16 for x, y in pairs
        )
        assert abs(misa.difference_loss(specific, invariant) - expected) < 1e-12


class TestSelfMMLabels:
    def test_equals_the_papers_mean_of_ratio_and_difference(self):
        y, nearness = torch.tensor([0.5, -1.0]), torch.tensor([[0.2, -0.4], [0.4, -0.1], [-0.3, 0.2], [5.0, 9.0]])
        moved = self_mm.moved_labels(y, nearness, bound=1.0)
        for task in range(3):
            for clip in range(2):
                m, s = float(nearness[0, clip]), float(nearness[task + 1, clip])
                expected = float(y[clip]) * (s / (m + 1e-8) + 1) / 2 + (s - m) / 2
                assert abs(float(moved[task, clip]) - max(-1.0, min(1.0, expected))) < 1e-6

    def test_one_sided_labels_stay_finite(self, build, splits):
        """Without any negative clip there is no negative centre; the labels stay within the range."""
        system = build("self_mm").train()
        train = splits[0]
        train.labels = train.labels.abs() + 0.1
        for epoch in (1, 2, 3):
            system.begin_epoch(epoch)
            for batch in train.batches(5, seed=epoch):
                system.after_step(batch, system(batch))
        assert system.labels.isfinite().all() and system.labels[1:].abs().max() <= 1.1
        assert not torch.equal(system.labels[1], system.labels[0])
