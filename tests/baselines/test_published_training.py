"""``protocol="published"``: twenty steps equal those of mmsa 2.2.1's own trainer, in ``parity/reference``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from baselines import test_mmsa_parity as parity
from baselines.parity.reference import Reference
from torch import Tensor, nn

from mgcl_core.baselines import COMPARED_SYSTEMS, misa
from mgcl_core.config import Config
from mgcl_core.data.batches import Batch, DeviceSplit
from mgcl_core.experiments.registry import system_settings
from mgcl_core.experiments.stages import ComparedStage
from mgcl_core.support.errors import ConfigError
from mgcl_core.system import PublishedTraining, System
from mgcl_core.trainer import fit

FOLLOWED = ("lf_dnn", "mfn", "lmf", "tfn", "misa")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class InOrder(DeviceSplit):
    """Clips in the order of the reference, whatever the seed; ``given`` are its inputs."""

    def __init__(self, given: Batch):
        self.given, self.device, self.features = given, torch.device("cpu"), {}

    def __len__(self) -> int:
        return len(self.given)

    def batches(self, size: int, *, seed: int | None = None, buckets: int = 1, trimmed: bool = True) -> Iterator[Batch]:
        assert seed is None or not trimmed  # mmsa reads the file's whole rows
        yield from self.given.parts(size)


def build(name: str, reference: Reference, text_model: str) -> tuple[System, dict[str, Tensor]]:
    """Our system with mmsa's weights before its steps, and those after them under our names."""
    trained = reference.trained
    rates = {"lr": trained["learning_rate"], "batch_size": trained["batch_size"], "protocol": "published"}
    if name == "misa":
        args, size = reference.args, trained["batch_size"]
        rates |= {
            "batch_size": size * trained["update_epochs"],
            "micro_batch": size,
            "clip_value": trained["grad_clip"],
        }
        settings = misa.MISASettings(
            width=args["hidden_size"],
            dropout=0.0,
            difference_weight=args["diff_weight"],
            similarity_weight=args["sim_weight"],
            reconstruction_weight=args["recon_weight"],
            **rates,
        )
        names = parity.TestMISA.names()
        unused = ("sp_discriminator", "tlayer_norm", "text.bert.pooler")
    else:
        settings, names = parity.SMALL[name](reference.args)
        known = {field.name for field in dataclasses.fields(settings)}
        dropouts = {field: 0.0 for field in known if field.endswith("dropout")}
        more = {ours: trained[ours] for ours in ("weight_decay", "factor_lr") if ours in trained}
        settings, unused = dataclasses.replace(settings, **rates, **dropouts, **more), ("output_",)
    system = COMPARED_SYSTEMS[name].build(settings, reference.shapes("steps", text_model))
    for module in system.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    shapes = {key: value.shape for key, value in system.state_dict().items()}

    def ours(kind: str) -> dict[str, Tensor]:
        weights = reference.weights(names, kind)
        return {key: value.reshape(shapes[key]) for key, value in weights.items() if key in shapes}

    parity.load(system, ours("weight"), unused)
    return system, ours("trained")


@pytest.mark.parametrize("name", FOLLOWED)
def test_twenty_steps_equal_those_of_mmsas_own_trainer(name, tmp_path):
    """The same predictions before every step, and the same weights after the last; neither side has dropout."""
    reference = Reference.load(name)
    text_model = reference.save_text_model(tmp_path / "bert") if reference.bert else ""
    system, after = build(name, reference, text_model)
    expected = reference.tensors["steps.prediction"]  # (epochs, clips)
    split = InOrder(reference.batch("steps"))
    predicted: list[Tensor] = []
    system.register_forward_hook(
        lambda module, _inputs, output: predicted.append(output.prediction.detach()) if module.training else None
    )
    stage = ComparedStage(Config(scaling="none"), name, dataclasses.replace(system.settings, epochs=len(expected)))
    schedule, last = dataclasses.replace(stage.schedule, patience=None), {}

    def keep(_epoch: int, trained: System) -> None:  # `fit` leaves the weights of the best epoch
        last.update({key: value.clone() for key, value in trained.state_dict().items()})

    fit(system, split, split, schedule, seed=1, directory=tmp_path, after_epoch=keep)
    torch.testing.assert_close(torch.cat(predicted).view_as(expected), expected, **CLOSE)
    assert (expected[0] - expected[-1]).abs().max() > 0.1  # the steps did move the model
    assert len(after) > 10
    for key, value in after.items():
        torch.testing.assert_close(with_effect(key, last[key]), with_effect(key, value), **CLOSE)


def with_effect(key: str, weight: Tensor) -> Tensor:
    """A weight without the biases of attention's keys: softmax takes them out, so their gradient is rounding alone."""
    if key.endswith("attention.self.key.bias"):
        return weight[:0]
    return torch.cat(weight.chunk(3)[::2]) if key.endswith("in_proj_bias") else weight  # query, key and value


@pytest.mark.parametrize("name", [name for name in COMPARED_SYSTEMS if name not in FOLLOWED])
def test_no_other_system_is_said_to_be_trained_as_published(name):
    with pytest.raises(ConfigError, match=f"unknown setting of {name} 'protocol'"):
        system_settings(name, "sims", "paper", {"protocol": "published"})


def test_the_published_protocol_takes_features_as_they_are_in_the_file():
    settings = system_settings("misa", "mosi", "paper", {"protocol": "published"})
    for config, missing in (
        (Config(), "scaling='none'"),
        (Config(scaling="none", precision="bf16"), "precision='fp32'"),
    ):
        with pytest.raises(ConfigError, match=missing):
            ComparedStage(config, "misa", settings)
    schedule = ComparedStage(Config(scaling="none"), "misa", settings).schedule
    assert schedule.published == PublishedTraining(weight_decay=0.0, micro_batch=16, clip_value=0.8)
    assert schedule.batch_size == 32


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_run_by_the_one_loop_is_named_as_if_there_were_no_other(name):
    ours = ComparedStage(Config(scaling="none"), name, system_settings(name, "sims", "paper"))
    published = system_settings(name, "sims", "paper", {"protocol": "published"})
    assert "protocol" not in ours.settings["system"]
    assert ComparedStage(Config(scaling="none"), name, published).settings["system"]["protocol"] == "published"
