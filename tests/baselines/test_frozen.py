"""LF-DNN, MFN, LMF, TFN and MulT: their parts, awkward batches and a short training, all on synthetic inputs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mgcl_core.baselines import SYSTEMS, mult, tfn
from mgcl_core.baselines.subnets import BatchNorm, lstm_states, mean_step
from mgcl_core.data.batches import Batch, DeviceSplit
from mgcl_core.support.errors import RunError
from mgcl_core.system import Shapes, System
from mgcl_core.trainer import Schedule, fit

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FROZEN = ("lf_dnn", "mfn", "lmf", "tfn", "mult")


def small_shapes(**changes) -> Shapes:
    shapes = Shapes(
        text_dim=5,
        text_steps=10,
        audio_dim=4,
        audio_steps=9,
        vision_dim=3,
        vision_steps=7,
        bound=1.0,
        clips=6,
        text_model="",
    )
    return dataclasses.replace(shapes, **changes)


def small_system(name: str, shapes: Shapes | None = None, **changes) -> System:
    torch.manual_seed(0)
    widths = {
        "text_hidden": 6,
        "audio_hidden": 4,
        "vision_hidden": 5,
        "text_out": 6,
        "fusion_hidden": 12,
        "memory": 4,
        "rank": 3,
        "width": 6,
        "heads": 2,
    }
    settings = SYSTEMS[name].published["sims"]
    known = {field.name for field in dataclasses.fields(settings)}
    settings = dataclasses.replace(settings, **{key: value for key, value in widths.items() if key in known}, **changes)
    return SYSTEMS[name].build(settings, shapes or small_shapes())


def with_text(split, seed: int = 3):
    """The synthetic split with synthetic embeddings, also where there is no token; the first value tells the label."""
    text = np.random.default_rng(seed).normal(size=(len(split), 10, 5)).astype(np.float32)
    text[:, :, 0] += 3 * split.labels[:, None]
    return dataclasses.replace(split, text=text)


@pytest.mark.parametrize("name", FROZEN)
def test_a_clip_is_predicted_alike_alone_and_in_any_batch(name, make_split):
    split = DeviceSplit(with_text(make_split(8, seed=4)), torch.device("cpu"))
    system = small_system(name).eval()
    together = system(split.batch()).prediction
    alone = torch.cat([system(split.batch(np.array([row]))).prediction for row in range(8)])
    torch.testing.assert_close(alone, together, **CLOSE)


@pytest.mark.parametrize("name", FROZEN)
def test_training_lowers_the_loss(name, make_split, tmp_path):
    train = DeviceSplit(with_text(make_split(24, seed=5)), torch.device("cpu"))
    valid = DeviceSplit(with_text(make_split(8, seed=6), seed=7), torch.device("cpu"))
    system = small_system(name, lr=1e-2)
    for part in system.modules():  # a dropout of a half leaves little of so small a system
        if isinstance(part, nn.Dropout):
            part.p *= 0.2
    history = fit(system, train, valid, Schedule(epochs=10, batch_size=8), seed=1, directory=tmp_path).history
    assert history[-1]["train_loss"] < 0.85 * history[0]["train_loss"]
    assert history[0]["train_loss"] == pytest.approx(history[0]["train_pred"])


def synthetic_batch(clips: int, text: int, audio: int, vision: int) -> Batch:
    torch.manual_seed(2)
    tokens = torch.ones(clips, 3, text, dtype=torch.long)
    labels = torch.linspace(-1, 1, clips)
    return Batch(
        index=torch.arange(clips),
        tokens=tokens,
        text=torch.randn(clips, text, 5),
        audio=torch.randn(clips, audio, 4),
        audio_mask=torch.ones(clips, audio, dtype=torch.bool),
        vision=torch.randn(clips, vision, 3),
        vision_mask=torch.ones(clips, vision, dtype=torch.bool),
        labels=labels,
        unimodal_labels=labels.expand(3, -1),
    )


def absent(batch: Batch, *modalities: str) -> Batch:
    """The batch whose first clip lacks the modalities."""
    changes = {}
    for name in modalities:
        changes[name], changes[f"{name}_mask"] = getattr(batch, name).clone(), getattr(batch, f"{name}_mask").clone()
        changes[name][0], changes[f"{name}_mask"][0] = 0.0, False
    return dataclasses.replace(batch, **changes)


AWKWARD = {
    "one step each": synthetic_batch(3, 1, 1, 1),
    "one clip": synthetic_batch(1, 6, 9, 7),
    "one clip of one step": synthetic_batch(1, 1, 1, 1),
    "no audio": absent(synthetic_batch(3, 6, 9, 7), "audio"),
    "neither audio nor vision": absent(synthetic_batch(3, 6, 1, 1), "audio", "vision"),
}


@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("behaviour", [False, True])
@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_batches_have_finite_losses_and_gradients(name, behaviour, kind):
    system = small_system(name, reference_behaviour=behaviour).train()
    output = system(AWKWARD[kind])
    assert output.prediction.shape == (len(AWKWARD[kind]),)
    sum(output.losses.values()).backward()
    gradients = [parameter.grad for parameter in system.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", FROZEN)
def test_bf16_stays_close_to_float32(name):
    system, batch = small_system(name).eval(), synthetic_batch(4, 6, 9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        output = system(batch)
    assert output.prediction.dtype == torch.float32
    torch.testing.assert_close(output.prediction, system(batch).prediction, rtol=0.05, atol=0.02)
    output.losses["pred"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in system.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", FROZEN)
def test_every_weight_learns_and_has_a_rate(name):
    system = small_system(name, output_dropout=0.0) if name == "mfn" else small_system(name)
    system(synthetic_batch(6, 6, 9, 7)).losses["pred"].backward()
    rates = system.learning_rates()
    for key, parameter in system.named_parameters():
        assert parameter.grad is not None and any(key.startswith(prefix) for prefix in rates), key


@pytest.mark.parametrize("name", FROZEN)
def test_without_labels_there_is_no_loss_and_without_embeddings_an_error(name):
    system, batch = small_system(name).eval(), synthetic_batch(2, 6, 9, 7)
    assert system(dataclasses.replace(batch, labels=None, unimodal_labels=None)).losses == {}
    with pytest.raises(RunError, match=r"batch\.text"):
        system(dataclasses.replace(batch, text=None))


class TestVectors:
    def test_the_mean_is_over_valid_steps_or_over_all_of_the_file(self):
        values = torch.tensor([[[2.0], [4.0], [0.0]], [[5.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]]])
        mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
        torch.testing.assert_close(mean_step(values, mask), torch.tensor([[3.0], [5.0], [0.0]]))
        torch.testing.assert_close(mean_step(values, mask, 6), torch.tensor([[1.0], [5 / 6], [0.0]]))

    def test_a_batch_of_one_clip_is_normalised_by_the_running_statistics(self):
        norm, clip = BatchNorm(3), torch.tensor([[1.0, -2.0, 3.0]])
        norm.running_mean.fill_(1.0)
        norm.running_var.fill_(4.0)
        torch.testing.assert_close(norm(clip), (clip - 1.0) / math.sqrt(4.0 + norm.eps))
        assert norm.num_batches_tracked == 0
        norm(torch.randn(4, 3))
        assert norm.num_batches_tracked == 1

    def test_lstm_states_are_those_of_torch(self):
        torch.manual_seed(0)
        lstm, values = nn.LSTM(4, 3, batch_first=True), torch.randn(3, 6, 4)
        mask = torch.arange(6) < torch.tensor([6, 2, 1])[:, None]
        hidden, cells = lstm_states(values, mask, lstm)
        expected, (_, last_cell) = lstm(values)
        torch.testing.assert_close(hidden[mask], expected[mask], **CLOSE)
        torch.testing.assert_close(cells[0, -1], last_cell[0, 0], **CLOSE)
        cell = nn.LSTMCell(4, 3)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
        torch.testing.assert_close(lstm_states(values, mask, cell)[0], hidden, **CLOSE)


class TestTFN:
    def fusion(self, dropout: float) -> tuple[tfn.TensorFusion, list[Tensor]]:
        torch.manual_seed(1)
        return tfn.TensorFusion(2, 3, 4, 5, dropout), [torch.randn(6, width) for width in (2, 3, 4)]

    def test_fusion_is_a_linear_layer_on_the_outer_product(self):
        fusion, (audio, vision, text) = self.fusion(0.0)
        expected = torch.zeros(6, 5)
        weight = fusion.linear.weight.view(5, 2, 3, 4)
        for clip in range(6):
            for out in range(5):
                expected[clip, out] = fusion.linear.bias[out] + sum(
                    weight[out, a, v, t] * audio[clip, a] * vision[clip, v] * text[clip, t]
                    for a in range(2)
                    for v in range(3)
                    for t in range(4)
                )
        torch.testing.assert_close(fusion(audio, vision, text), expected, **CLOSE)

    def test_dropout_drops_whole_entries_of_the_product(self):
        fusion, vectors = self.fusion(0.5)
        product = torch.einsum("na,nv,nt->navt", *vectors).flatten(1)  # (B, 24)
        torch.manual_seed(5)
        dropped = fusion(*vectors)
        torch.manual_seed(5)
        kept = nn.functional.dropout(torch.ones(24), 0.5)
        assert set(kept.tolist()) == {0.0, 2.0}
        torch.testing.assert_close(dropped, (product * kept) @ fusion.linear.weight.T + fusion.linear.bias, **CLOSE)
        torch.testing.assert_close(fusion.eval()(*vectors), fusion.linear(product), **CLOSE)

    @pytest.mark.parametrize("bound", [1.0, 3.0])
    def test_predictions_lie_in_the_range_of_the_labels(self, bound):
        system = small_system("tfn", small_shapes(bound=bound)).eval()
        with torch.no_grad():
            system.layers[-1].bias.fill_(50.0)
        predicted = system(synthetic_batch(3, 6, 9, 7)).prediction
        torch.testing.assert_close(predicted, torch.full((3,), bound))


class TestLMF:
    def test_fusion_is_linear_in_the_outer_product(self):
        system = small_system("lmf").eval()
        batch = synthetic_batch(4, 6, 9, 7)
        text, audio, vision = (torch.cat([torch.ones(4, 1), vector], 1) for vector in system.vectors(batch))
        factors, weights = system.factors, system.weights.weight[0]
        tensor = torch.einsum("r,rt,ra,rv->tav", weights, factors["text"], factors["audio"], factors["vision"])
        expected = torch.einsum("nt,na,nv,tav->n", text, audio, vision, tensor) + system.weights.bias
        torch.testing.assert_close(system(batch).prediction, expected, **CLOSE)

    def test_the_reference_does_not_train_the_sum_over_the_rank(self):
        assert all(parameter.requires_grad for parameter in small_system("lmf").weights.parameters())
        fixed = small_system("lmf", reference_behaviour=True)
        assert not any(parameter.requires_grad for parameter in fixed.weights.parameters())


class TestMFN:
    def test_aligned_steps_are_taken_as_they_are(self):
        aligned = small_shapes(audio_steps=10, vision_steps=10)
        batch = synthetic_batch(2, 6, 4, 3)  # trimmed: the last tokens have neither sound nor face
        system = small_system("mfn", aligned)
        steps = system._on_tokens(batch, "audio", batch.tokens[:, 1] > 0)
        torch.testing.assert_close(steps, torch.cat([batch.audio, torch.zeros(2, 2, 4)], 1), rtol=0, atol=0)

    def test_other_steps_are_averaged_onto_the_tokens(self):
        batch = synthetic_batch(2, 3, 6, 6)
        steps = small_system("mfn")._on_tokens(batch, "audio", batch.tokens[:, 1] > 0)
        torch.testing.assert_close(steps, batch.audio.view(2, 3, 2, 4).mean(2), **CLOSE)

    def test_an_aligned_file_trains(self):
        system = small_system("mfn", small_shapes(audio_steps=10, vision_steps=10)).train()
        system(synthetic_batch(3, 10, 10, 10)).losses["pred"].backward()
        assert all(parameter.grad.isfinite().all() for parameter in system.parameters())


class TestMulT:
    def test_visible_keys_against_loops(self):
        queries, keys = torch.tensor([4, 1, 5, 2]), torch.tensor([6, 6, 1, 2])
        seen = mult.visible(queries, keys, 5, 6)
        assert seen.shape == (4, 1, 5, 6)
        for clip in range(4):
            for query in range(5):
                for key in range(6):
                    ahead = abs(int(keys[clip]) - int(queries[clip]))
                    expected = key < int(keys[clip]) and key - query <= ahead
                    assert bool(seen[clip, 0, query, key]) == expected
        assert seen[..., 0].all()

    def test_positions_are_distinct_sinusoids(self):
        table = mult.sinusoids(4, 5, torch.device("cpu"))
        assert table.shape == (4, 5)
        torch.testing.assert_close(table[:, 0], torch.arange(1.0, 5.0).sin())
        torch.testing.assert_close(table[:, 1], (torch.arange(1.0, 5.0) * 1e-4).sin())
        torch.testing.assert_close(table[:, 2], torch.arange(1.0, 5.0).cos())
        assert (table[:, 4] == 0).all()
        assert mult.sinusoids(3, 2, torch.device("cpu")).isfinite().all()

    def test_positions_matter_where_they_are_on(self):
        batch = synthetic_batch(3, 6, 9, 7)
        with_positions, without = small_system("mult").eval(), small_system("mult", positions=False).eval()
        assert (with_positions(batch).prediction - without(batch).prediction).abs().max() > 1e-4

    def test_attention_dropout_takes_whole_keys(self):
        settings = mult.Settings(width=4, heads=2, residual_dropout=0.0, feedforward_dropout=0.0)
        torch.manual_seed(0)
        layer = mult.Layer(4, 0.999999, settings)  # all keys dropped: only the feed-forward part is left
        values = torch.randn(2, 3, 4)
        expected = values + layer.output.bias
        expected = expected + layer.feedforward(layer.feedforward_norm(expected))
        torch.testing.assert_close(layer(values, None, None), expected, **CLOSE)
        assert (layer.eval()(values, None, None) - expected).abs().max() > 1e-3
