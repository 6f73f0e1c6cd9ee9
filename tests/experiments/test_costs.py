"""What a prediction costs: counts against the floors of the benchmark, and what changes them."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import nn

from mgcl_core.bench import floors
from mgcl_core.bench.stages import valid_steps
from mgcl_core.config import Config
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.experiments.costs import count_gflop, full_clips, measure
from mgcl_core.experiments.stages import MGCLStage, shapes_of
from mgcl_core.support.memory import peak_memory_of

CPU = torch.device("cpu")


def cost(config: Config, split: DeviceSplit) -> dict[str, float]:
    shapes = shapes_of(config, bound=1.0, clips=12, text_dim=16, text_steps=10)
    return measure(MGCLStage(config), shapes, split)


@pytest.fixture(scope="module")
def split(make_split):
    return DeviceSplit(make_split(4), CPU)


@pytest.fixture(scope="module")
def dual(tiny_config, split):
    return cost(tiny_config, split)


def counted_by_hand(config: Config, batch, *, text_encoders: int) -> float:
    """Operations of MGCL on a batch, forward: the floors of its parts."""
    lengths, tokens = valid_steps(batch), (batch.tokens[:, 1] > 0).sum(1).numpy()
    text = floors.bert(tokens, width=16, inner=32, layers=1, vocabulary=15, train=False) * text_encoders
    rest = floors.stage_two(lengths, config, 16, train=False).flops
    rest -= floors.contrastive_loss(len(batch), config.common_width, train=False).flops
    pooling = 2 * config.width * sum(int(lengths[m].sum()) for m in "AV")  # of states into the macro feature
    # Two blocks of MTM score and sum the places of [CLS] and [SEP] too, whose weight is 0.
    masked = len(batch) * 2 * 8 * config.fusion_heads * config.common_width
    return text.flops + rest + pooling + masked


def test_operations_are_those_that_the_parts_need(tiny_config, split, dual):
    by_hand = counted_by_hand(tiny_config, split.batch(), text_encoders=2) / len(split) / 1e9
    assert dual["gflop"] == pytest.approx(by_hand, rel=1e-9)


def test_fused_operations_are_counted_too():
    """torch counts nothing where the library has one operation for a whole layer."""
    steps, width = 7, 8
    lstm, layer = nn.LSTM(5, 6, batch_first=True), nn.TransformerEncoderLayer(width, 2, 16, batch_first=True).eval()
    assert count_gflop(lstm, [torch.randn(1, steps, 5)]) == pytest.approx(2 * 4 * 6 * (5 + 6) * steps / 1e9)
    expected = floors.transformer_layer(torch.tensor([steps]).numpy(), width, 16).flops / 1e9
    assert count_gflop(layer, [torch.randn(1, steps, width)]) == pytest.approx(expected)


def test_cheaper_forms_cost_what_they_should(tiny_config, split, dual):
    shared = cost(tiny_config.override({"encoders": "shared"}), split)
    frozen = cost(tiny_config.override({"trained_encoders": ()}), split)
    pooled = cost(tiny_config.override({"micro": "pooled"}), split)
    assert shared["text"] * 2 == dual["text"] and shared["gflop"] < dual["gflop"]
    assert pooled["gflop"] < dual["gflop"] and pooled["text"] == dual["text"]
    assert (frozen["gflop"], frozen["parameters"]) == (dual["gflop"], dual["parameters"])
    assert frozen["trained"] < dual["trained"] < dual["parameters"]
    assert all(value >= 0 for row in (dual, shared, frozen, pooled) for value in row.values())
    assert dual["latency"] <= dual["latency_p95"]


def test_clips_of_the_greatest_length_need_no_data(tiny_config, dual):
    clips = full_clips(tiny_config, 24, clips=2)
    assert clips.audio.shape == (2, 9, 4) and clips.vision.shape == (2, 7, 3) and clips.text_bert.shape == (2, 3, 24)
    assert cost(tiny_config, DeviceSplit(clips, CPU, labelled=False))["gflop"] > dual["gflop"]
    features = tiny_config.override({"text_source": "features", "text_dim": 5, "text_steps": 6})
    assert full_clips(features, 24).text.shape == (1, 6, 5)


def test_memory_is_what_the_block_took_at_most():
    gc.collect()
    before = torch.ones(100 << 18)  # freed before the block: its pages must not hide what is taken
    del before
    with peak_memory_of(CPU) as peak:
        torch.ones(40 << 18)  # 40 MiB, freed at once
    if math.isnan(peak()):
        pytest.skip("this system does not say")
    assert 35 * 2**20 < peak() < 60 * 2**20
