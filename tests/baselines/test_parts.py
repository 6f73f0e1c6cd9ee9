"""Parts that several baselines share: alignment to the text, and recurrent layers over padded batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mgcl_core.baselines.align import align_steps, stride_steps
from mgcl_core.baselines.recurrent import BidirectionalLSTM, last_state, reverse
from mgcl_core.data.valid_steps import read_by_length


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
            places = [place for place in range(token, 12, 4)]
            expected = sum(padded[:, min(place, 9)] for place in places) / 3
            torch.testing.assert_close(reduced[:, token], expected)

    def test_fewer_steps_than_tokens_repeat_the_last(self):
        values = torch.randn(1, 2, 3)
        assert torch.equal(stride_steps(values, 2, 4)[0], values[0, [0, 1, 1, 1]])


class TestRecurrent:
    def test_reverse_and_last_state(self):
        values, mask = torch.arange(8.0).reshape(2, 4, 1), masks([3, 0], 4)
        assert reverse(values, mask)[..., 0].tolist() == [[2, 1, 0, 3], [4, 5, 6, 7]]
        assert last_state(values, mask)[:, 0].tolist() == [2, 4]

    def test_bidirectional_equals_packed_sequences(self):
        torch.manual_seed(0)
        values, counts = torch.randn(4, 7, 3), [7, 4, 1, 6]
        ours, packed = BidirectionalLSTM(3, 5), nn.LSTM(3, 5, batch_first=True, bidirectional=True)
        with torch.no_grad():
            for name, parameter in packed.named_parameters():
                side = ours.backward if name.endswith("_reverse") else ours.onward
                parameter.copy_(getattr(side, name.removesuffix("_reverse")))
        sequence = pack_padded_sequence(values, torch.tensor(counts), batch_first=True, enforce_sorted=False)
        expected, (final, _) = packed(sequence)
        expected = pad_packed_sequence(expected, batch_first=True)[0]
        mask = masks(counts, 7)
        states, last = ours(values, mask)
        torch.testing.assert_close(states * mask[:, :, None], expected)
        torch.testing.assert_close(last, final.transpose(0, 1))


def test_read_by_length_trims_groups_and_keeps_the_order():
    mask, seen = masks([3, 5, 1, 4, 0], 6), []

    def read(rows, steps):
        seen.append((rows.tolist(), steps))
        return rows * 10

    assert read_by_length(mask, read, size=2).tolist() == [0, 10, 20, 30, 40]
    assert seen[:2] == [([1, 3], 5), ([0, 2], 3)] and seen[2] == ([4], 1)
