"""Types of number on a device without numbers: all eleven systems and both stages under bf16, in published widths.

Executed on fake tensors of a device in Python (`mgcl_core.bench.pretend`); nothing here was run on a GPU.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from helpers import second_device
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mgcl_core import SYSTEMS
from mgcl_core.bench import pretend
from mgcl_core.bench.counted import CARDS, Meter, batch_of, count_paper, count_steps
from mgcl_core.bench.stages import random_features
from mgcl_core.config import Config, preset
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.data.corpus import EncoderName
from mgcl_core.data.synthetic import SHAPES
from mgcl_core.encoders import encoder_names, frozen_encoders
from mgcl_core.model import MGCL
from mgcl_core.stage_one import UnimodalRegressor
from mgcl_core.system import Shapes, System
from mgcl_core.trainer import Schedule

# Registered after the first backward pass of a process, no device is known to torch's autograd.
pytestmark = pytest.mark.skipif(
    "MGCL_SECOND_DEVICE" not in os.environ, reason="runs in a process of its own: test_second_device_alone.py"
)


@pytest.fixture(scope="module", autouse=True)
def device():
    if not pretend.register():
        pytest.skip("this torch has no hooks for a device in Python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.LSTM, "forward", second_device.lstm)  # the fused one needs a kernel
        patch.setattr(nn.LSTMCell, "forward", second_device.lstm_cell)
        yield


@pytest.fixture(scope="module")
def config(tiny_bert) -> Config:
    """Table 2's for CH-SIMS, for a tiny text model and the shapes of ``make_split``."""
    shapes = {"audio_dim": 4, "audio_steps": 9, "vision_dim": 3, "vision_steps": 7}
    return preset("sims").override({"text_model": tiny_bert, **shapes})


@pytest.fixture
def make_system(config):
    """Function of a name: a system in its published widths, on the device "meta"."""
    shapes = Shapes(16, 10, 4, 9, 3, 7, bound=1.0, clips=6, text_model=config.text_model)

    def make(name: str) -> System:
        if name in SYSTEMS and name != "mgcl":
            return SYSTEMS[name].build(SYSTEMS[name].published["sims"], shapes).to("meta")
        with torch.device("meta"):
            if name != "mgcl":
                return UnimodalRegressor(EncoderName.parse(name), config, pretrained=False)
            held = set(encoder_names(config)) - set(frozen_encoders(config))
            return MGCL(config, shapes, encoders=sorted(held, key=str))

    return make


@pytest.fixture
def batch(make_split, config):
    """Six clips, with embeddings of tokens and features of the frozen text encoders."""
    split = make_split(6)
    text = np.ones((6, 10, 16), np.float32)
    device_split = DeviceSplit(dataclasses.replace(split, text=text), torch.device("cpu"))
    device_split.features = random_features(device_split, config, 16)
    return device_split.batch()


@pytest.mark.parametrize("name", [*map(str, encoder_names(Config())), *SYSTEMS])
def test_under_bf16_all_that_is_kept_is_float32_and_products_are_not(name, make_system, batch):
    """Weights, their gradients, predictions and losses, of a step as the training loop makes it."""
    system, outputs = make_system(name), []
    system.register_forward_hook(lambda _, __, output: outputs.append(output))
    training, predicting = count_steps(system, batch, Schedule(1, 6, precision="bf16"))
    assert [bool(output.losses) for output in outputs] == [True, True, False]  # two steps, and a prediction
    for output in outputs:
        kept = [output.prediction, output.macro, output.micro, output.unimodal, *output.losses.values()]
        for values in filter(lambda values: values is not None, kept):
            assert values.dtype == torch.float32 and values.device.type == pretend.NAME
    for key, parameter in system.named_parameters():
        assert parameter.dtype == torch.float32, key
        assert parameter.grad is None or parameter.grad.dtype == torch.float32, key
    assert any(parameter.grad is not None for parameter in system.parameters())
    for meter in (training, predicting):
        assert set(meter.flops) <= {torch.float32, torch.bfloat16}
        assert meter.flops[torch.float32] > 0  # heads and losses
        assert meter.flops[torch.bfloat16] > 0


def test_what_is_counted_is_what_it_is_by_hand():
    """Of y = relu(x W): two products forward, and of the gradient; bytes in blocks of 512."""
    mode, meter = FakeTensorMode(), Meter()
    x, weight = (pretend.fake(mode, torch.zeros(shape)) for shape in ((64, 128), (128, 256)))
    weight.requires_grad_()
    with mode, meter:
        meter.hold([x, weight])
        held = (64 * 128 + 128 * 256) * 4
        assert meter.held == held
        y = (x @ weight).relu()  # what the product gave is freed
        assert meter.operations == 2 and meter.held == held + 64 * 256 * 4
        assert meter.peak == held + 2 * 64 * 256 * 4
        assert meter.flops == {torch.float32: 2 * 64 * 128 * 256}
        assert meter.moved == 4 * (64 * 128 + 128 * 256 + 64 * 256 + 2 * 64 * 256)
        y.view(-1).detach()
        assert meter.operations == 2  # views are none
        y.sum().backward()
        assert meter.flops == {torch.float32: 2 * 2 * 64 * 128 * 256}  # the data has no gradient
        meter.clear()
        assert meter.peak == meter.held >= held and meter.operations == 0


def test_a_chunk_takes_less_memory_than_the_batch_and_more_operations():
    batch, systems = batch_of(SHAPES["synthetic-sims"], 32), []
    with torch.device("meta"):
        systems += [UnimodalRegressor(EncoderName.parse("macro_A"), preset("sims")) for _ in range(2)]
    systems[1].chunk = 8
    (once, _), (twice, _) = (count_steps(system, batch, Schedule(1, 32)) for system in systems)
    assert twice.operations > once.operations
    weights = sum(parameter.nbytes for parameter in systems[0].parameters())
    assert 5 * weights < twice.peak < 0.8 * once.peak  # weights, gradients, two averages, and the best so far


def test_the_whole_paper_is_the_sum_of_its_stages():
    *stages, whole = count_paper(("sims",), layers=1)
    assert [row["runs"] for row in stages] == [3] * 6 + [18]  # three seeds, and five ablations of stage two
    assert whole["all_operations"] == sum(row["all_operations"] for row in stages)
    for card, (in_half, _, bandwidth) in CARDS.items():
        column = f"least_hours, {card}"
        assert whole[column] == pytest.approx(sum(row[column] for row in stages))
        for row in stages:
            steps = row["epochs"] * row["runs"] * SHAPES["synthetic-sims"].sizes[0] / row["batch"]
            assert row[column] > steps * 1e9 * row["gflop"] / in_half / 3600
            assert row[column] > steps * 1e9 * row["gbyte"] / bandwidth / 3600
