"""Layers that the systems share, and the parts of single systems, against naive loops and torch's own layers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mgcl_core.baselines import lmf, mfn, misa, mult, self_mm, tfn
from mgcl_core.baselines.layers import BatchNorm, LSTMVector, align_steps, last_state
from mgcl_core.baselines.mag_bert import stride_steps
from mgcl_core.data.batches import Batch
from mgcl_core.system import Shapes

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WIDTHS = {"text_hidden": 6, "audio_hidden": 4, "vision_hidden": 5}


def shapes(audio_steps: int = 9, vision_steps: int = 7, bound: float = 1.0) -> Shapes:
    return Shapes(5, 10, 4, audio_steps, 3, vision_steps, bound=bound, clips=6, text_model="")


def full_batch(clips: int, text: int, audio: int, vision: int) -> Batch:
    """Synthetic clips without padding."""
    torch.manual_seed(2)
    labels = torch.linspace(-1, 1, clips)
    return Batch(
        index=torch.arange(clips),
        tokens=torch.ones(clips, 3, text, dtype=torch.long),
        text=torch.randn(clips, text, 5),
        audio=torch.randn(clips, audio, 4),
        audio_mask=torch.ones(clips, audio, dtype=torch.bool),
        vision=torch.randn(clips, vision, 3),
        vision_mask=torch.ones(clips, vision, dtype=torch.bool),
        labels=labels,
        unimodal_labels=labels.expand(3, -1),
    )


def masks(counts: list[int], steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(counts)[:, None]


class TestAlignSteps:
    @pytest.mark.parametrize(("steps", "tokens"), [(12, 4), (4, 12), (7, 5), (5, 7), (1, 6), (6, 1)])
    def test_equals_naive_overlap(self, steps, tokens):
        """Each step is cut into as many slices as there are tokens; a token is the mean of its slices."""
        torch.manual_seed(0)
        values = torch.randn(1, steps + 3, 2)
        aligned = align_steps(values, masks([steps], steps + 3), masks([tokens], tokens + 2))
        slices = values[0, :steps].repeat_interleave(tokens, 0)  # (steps * tokens, 2)
        expected = slices.reshape(tokens, steps, 2).mean(1)
        torch.testing.assert_close(aligned[0, :tokens], expected)
        assert (aligned[0, tokens:] == 0).all()

    def test_aligned_files_come_back_unchanged(self):
        values, mask = torch.randn(3, 6, 2), masks([6, 2, 4], 6)
        assert torch.equal(align_steps(values, mask, mask), values * mask[:, :, None])

    def test_nothing_to_align(self):
        values = torch.randn(2, 3, 2)
        assert (align_steps(values, masks([0, 3], 3), masks([4, 0], 4)) == 0).all()


class TestStrideSteps:
    def test_equals_naive_stride(self):
        values = torch.randn(2, 8, 3)  # trimmed from 10; the last step of the file is padding
        padded = torch.cat([values, torch.zeros(2, 2, 3)], 1)
        reduced = stride_steps(values, steps=10, wanted=4)
        for token in range(4):
            expected = sum(padded[:, min(step, 9)] for step in range(token, 12, 4)) / 3
            torch.testing.assert_close(reduced[:, token], expected)

    def test_fewer_steps_than_tokens_repeat_the_last(self):
        values = torch.randn(1, 2, 3)
        assert torch.equal(stride_steps(values, 2, 4)[0], values[0, [0, 1, 1, 1]])


class TestLSTM:
    def test_vector_is_that_of_the_last_valid_step(self):
        values, mask = torch.randn(3, 4, 2), masks([3, 0, 4], 4)
        vector = LSTMVector(2, 5, 6, 0.0)
        states, _ = vector.lstm(values)
        expected = vector.projection(torch.stack([states[0, 2], torch.zeros(5), states[2, 3]]))
        torch.testing.assert_close(vector(values, mask), expected)
        assert torch.equal(last_state(states, mask)[2], states[2, 3])

    def test_bidirectional_equals_packed_sequences(self):
        torch.manual_seed(0)
        values, counts = torch.randn(4, 7, 3), [7, 4, 1, 6]
        ours, packed = misa.BidirectionalLSTM(3, 5), nn.LSTM(3, 5, batch_first=True, bidirectional=True)
        with torch.no_grad():
            for name, parameter in packed.named_parameters():
                side = ours.backward_lstm if name.endswith("_reverse") else ours.forward_lstm
                parameter.copy_(getattr(side, name.removesuffix("_reverse")))
        sequence = pack_padded_sequence(values, torch.tensor(counts), batch_first=True, enforce_sorted=False)
        expected, (final, _) = packed(sequence)
        expected = pad_packed_sequence(expected, batch_first=True)[0]
        mask = masks(counts, 7)
        states, last = ours(values, mask)
        torch.testing.assert_close(states * mask[:, :, None], expected)
        torch.testing.assert_close(last, final.transpose(0, 1))


def test_a_batch_of_one_clip_is_normalised_by_the_running_statistics():
    norm, clip = BatchNorm(3), torch.tensor([[1.0, -2.0, 3.0]])
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    torch.testing.assert_close(norm(clip), (clip - 1.0) / math.sqrt(4.0 + norm.eps))
    assert norm.num_batches_tracked == 0
    norm(torch.randn(4, 3))
    assert norm.num_batches_tracked == 1


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
        system = tfn.TFN(tfn.TFNSettings(**WIDTHS, text_out=6, fusion_hidden=12), shapes(bound=bound)).eval()
        with torch.no_grad():
            system.layers[-1].bias.fill_(50.0)
        predicted = system(full_batch(3, 6, 9, 7)).prediction
        torch.testing.assert_close(predicted, torch.full((3,), bound))


class TestLMF:
    SETTINGS = lmf.LMFSettings(**WIDTHS, text_out=6, rank=3)

    def test_fusion_is_linear_in_the_outer_product(self):
        system = lmf.LMF(self.SETTINGS, shapes()).eval()
        batch = full_batch(4, 6, 9, 7)
        text, audio, vision = (torch.cat([torch.ones(4, 1), vector], 1) for vector in system.vectors(batch))
        factors, weights = system.factors, system.weights.weight[0]
        tensor = torch.einsum("r,rt,ra,rv->tav", weights, factors["text"], factors["audio"], factors["vision"])
        expected = torch.einsum("nt,na,nv,tav->n", text, audio, vision, tensor) + system.weights.bias
        torch.testing.assert_close(system(batch).prediction, expected, **CLOSE)

    def test_the_reference_does_not_train_the_sum_over_the_rank(self):
        assert all(parameter.requires_grad for parameter in lmf.LMF(self.SETTINGS, shapes()).weights.parameters())
        fixed = lmf.LMF(dataclasses.replace(self.SETTINGS, reference_behaviour=True), shapes())
        assert not any(parameter.requires_grad for parameter in fixed.weights.parameters())


class TestMFN:
    SETTINGS = mfn.MFNSettings(**WIDTHS, memory=4)

    def predict(self, audio_steps: int, vision_steps: int, batch: Batch) -> Tensor:
        torch.manual_seed(0)
        return mfn.MFN(self.SETTINGS, shapes(audio_steps, vision_steps)).eval()(batch).prediction

    def test_aligned_steps_are_taken_as_they_are(self):
        batch = full_batch(2, 6, 4, 3)  # trimmed: the last tokens have neither sound nor face
        audio, vision = nn.functional.pad(batch.audio, (0, 0, 0, 2)), nn.functional.pad(batch.vision, (0, 0, 0, 3))
        padded = dataclasses.replace(batch, audio=audio, vision=vision)
        torch.testing.assert_close(self.predict(10, 10, batch), self.predict(10, 10, padded), rtol=0, atol=0)

    def test_other_steps_are_averaged_onto_the_tokens(self):
        batch = full_batch(2, 3, 6, 6)
        audio, vision = batch.audio.view(2, 3, 2, 4).mean(2), batch.vision.view(2, 3, 2, 3).mean(2)
        averaged = dataclasses.replace(batch, audio=audio, vision=vision)
        torch.testing.assert_close(self.predict(9, 7, batch), self.predict(10, 10, averaged), **CLOSE)


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
        batch = full_batch(3, 6, 9, 7)
        predictions = []
        for positions in (True, False):
            torch.manual_seed(0)
            system = mult.MulT(mult.MulTSettings(width=6, heads=2, positions=positions), shapes()).eval()
            predictions.append(system(batch).prediction)
        assert (predictions[0] - predictions[1]).abs().max() > 1e-4

    def test_attention_dropout_takes_whole_keys(self):
        settings = mult.MulTSettings(width=4, heads=2, residual_dropout=0.0, feedforward_dropout=0.0)
        torch.manual_seed(0)
        layer = mult.Layer(4, 0.999999, settings)  # all keys dropped: only the feed-forward part is left
        values = torch.randn(2, 3, 4)
        expected = values + layer.output.bias
        expected = expected + layer.feedforward(layer.feedforward_norm(expected))
        torch.testing.assert_close(layer(values, None, None, None), expected, **CLOSE)
        assert (layer.eval()(values, None, None, None) - expected).abs().max() > 1e-3


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
        loss = misa.similarity_loss(parts, 5, torch.ones(clips, 3, dtype=torch.bool))
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
        assert abs(misa.difference_loss(specific, invariant, torch.ones(5, 3, dtype=torch.bool)) - expected) < 1e-12


def test_labels_of_self_mm_are_the_papers_mean_of_ratio_and_difference():
    y, nearness = torch.tensor([0.5, -1.0]), torch.tensor([[0.2, -0.4], [0.4, -0.1], [-0.3, 0.2], [5.0, 9.0]])
    moved = self_mm.moved_labels(y, nearness, bound=1.0)
    for task in range(3):
        for clip in range(2):
            m, s = float(nearness[0, clip]), float(nearness[task + 1, clip])
            expected = float(y[clip]) * (s / (m + 1e-8) + 1) / 2 + (s - m) / 2
            assert abs(float(moved[task, clip]) - max(-1.0, min(1.0, expected))) < 1e-6
