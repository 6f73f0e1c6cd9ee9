"""The benchmark's floors against counts by hand, and its parts on a tiny corpus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgcl_core.bench import floors
from mgcl_core.bench.floors import Lengths, Work
from mgcl_core.bench.loss import loss_alone
from mgcl_core.bench.measure import Rates, _processor, machine, row
from mgcl_core.bench.stages import stage_one, stage_two

CPU, RATE = torch.device("cpu"), Rates(1e9, 1e9)


def test_a_linear_layer_costs_two_operations_a_weight_and_row_and_pass():
    assert floors.linear(5, 3, 4).flops == 2 * 5 * 3 * 4
    assert floors.linear(5, 3, 4, 3).flops == 3 * floors.linear(5, 3, 4).flops
    assert floors.linear(5, 3, 4, 3).bytes > 3 * floors.linear(5, 3, 4).bytes  # and the optimiser's


def test_attention_counts_each_clip_by_itself():
    lengths = np.array([2, 5])
    assert floors.attention(lengths, 8).flops == 2 * 2 * (2 * 2 + 5 * 5) * 8  # scores and sums


def test_padding_is_no_work(tiny_config):
    short, long = (Lengths(*(np.array([2, steps]) for _ in range(3))) for steps in (3, 9))
    assert (floors.stage_two(short, tiny_config, 16, train=True).flops
            < floors.stage_two(long, tiny_config, 16, train=True).flops)
    frozen = tiny_config.override({"trained_encoders": ()})
    assert (floors.stage_two(long, frozen, 16, train=True).flops
            < floors.stage_two(long, tiny_config, 16, train=True).flops)


def test_a_line_has_the_median_and_its_ratio_to_the_floor():
    line = row("x", [1.0, 3.0, 2.0], Work(flops=5e8, bytes=1e8), RATE, times=2.0)
    assert (line["seconds"], line["low"], line["high"], line["floor"], line["ratio"]) == (4.0, 2.0, 6.0, 1.0, 4.0)


@pytest.mark.parametrize("changes", [{}, {"trained_encoders": ()}, {"trained_encoders": (), "micro": "pooled"},
                                     {"encoder_chunk": 2}, {"length_buckets": 2}])
def test_stage_two_is_timed(tiny_corpus, tiny_config, changes):
    config = tiny_config.override({"mgcl_batch_size": 4, **changes})
    line = stage_two(tiny_corpus, config, RATE, CPU, "stage two", text_width=16, batches=2, repeats=1)
    assert line["seconds"] > 0 and line["floor"] > 0 and line["measured_clips"] == 8


def test_stage_one_is_timed(tiny_corpus, tiny_config):
    lines = list(stage_one(tiny_corpus, tiny_config, RATE, CPU, batches=1, repeats=1, full_length=True))
    assert [line["what"].split(", ")[1] for line in lines] == ["macro_A", "micro_A", "macro_V", "micro_V"]
    assert all(line["seconds"] > 0 and line["ratio"] > 0 for line in lines)


def test_the_loss_is_timed_beside_the_loops():
    lines = list(loss_alone(RATE, CPU, width=4, sizes=(4, 8), looped=(4,), repeats=1))
    assert [line["batch"] for line in lines] == [4, 4, 8]


def test_the_machine_is_named():
    assert machine(CPU)["device"] == _processor()
