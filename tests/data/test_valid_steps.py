"""Packing of valid steps, their neighbours, and groups of clips of similar length."""

from __future__ import annotations

import pytest
import torch

from mgcl_core.data.valid_steps import ATTENTION_GROUP_SIZE, ValidSteps, lengths, read_by_length


def some_mask() -> torch.Tensor:
    mask = torch.arange(5) < torch.tensor([3, 5, 1, 0, 4])[:, None]
    mask[1, 2] = False  # a hole, as a special token within a text
    return mask


def test_packing_keeps_the_valid_steps_and_unpacking_puts_them_back():
    mask, values = some_mask(), torch.randn(5, 5, 3)
    steps = ValidSteps(mask)
    packed = steps.pack(values)
    assert steps.clips.tolist() == [1] * 4 + [4] * 4 + [0] * 3 + [2]  # most valid steps first
    assert steps.times.tolist() == [0, 1, 3, 4, 0, 1, 2, 3, 0, 1, 2, 0]
    assert torch.equal(packed, values[steps.clips, steps.times])
    assert torch.equal(steps.unpack(packed), values * mask[:, :, None])
    assert torch.equal(steps.mean(packed)[0], packed[8:11].mean(0)) and (steps.mean(packed)[3] == 0).all()


def test_packing_has_the_gradient_of_indexing():
    mask = some_mask()
    values = torch.randn(5, 5, 3, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(int(mask.sum()), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ValidSteps(mask).pack, values)
    assert torch.autograd.gradcheck(ValidSteps(mask).unpack, packed)


@pytest.mark.parametrize("mask", [some_mask(), torch.ones(1, 2, dtype=torch.bool)], ids=["some", "one clip"])
@pytest.mark.parametrize("reach", [1, 2, 9])
def test_which_steps_are_near(mask, reach):
    steps = ValidSteps(mask)
    places = list(zip(steps.clips.tolist(), steps.times.tolist(), strict=True))
    for shift in (-15, -2, -1, 1, 2, 3):
        expected = []
        for i, (clip, time) in enumerate(places):
            other, there = places[i + shift] if 0 <= i + shift < len(places) else (None, 0)
            expected.append([other == clip and abs(there - time) <= reach])
        assert steps.within(shift, reach).tolist() == expected


def test_groups_are_the_packed_steps_in_order():
    counts = torch.randint(0, 9, (3 * ATTENTION_GROUP_SIZE,), generator=torch.Generator().manual_seed(0))
    steps = ValidSteps(torch.arange(8) < counts[:, None])
    packed = torch.arange(int(counts.sum()))
    groups = list(steps.groups(packed))
    assert len(groups) == 3
    assert torch.equal(torch.cat([part for part, _ in groups]), packed)
    for part, group in groups:
        assert len(part) == len(group.times) and group.mask.shape[1] == group.mask.sum(1).max()
    widths = [group.mask.shape[1] for _, group in groups]
    assert widths == sorted(widths, reverse=True) and widths[-1] < widths[0]


def test_clips_without_a_valid_step_are_in_no_group():
    steps = ValidSteps(torch.zeros(2, 3, dtype=torch.bool))
    assert list(steps.groups(torch.zeros(0, 4))) == []
    assert steps.pack(torch.ones(2, 3, 4)).shape == (0, 4)


def test_lengths_end_at_the_last_valid_step():
    assert lengths(some_mask()).tolist() == [3, 5, 1, 1, 4]


def test_reading_by_length_trims_groups_and_keeps_the_order():
    mask, seen = some_mask(), []

    def read(rows, length):
        seen.append((rows.tolist(), length))
        return rows * 10

    assert read_by_length(mask, read, size=2).tolist() == [0, 10, 20, 30, 40]
    assert seen == [([1, 4], 5), ([0, 2], 3), ([3], 1)]
