"""Which encoders stage two trains, cached features of the frozen ones, and the regressors of stage one."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from helpers.models import build, gradients

from mgcl_core import reference as naive
from mgcl_core.config import Config
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.data.corpus import EncoderName
from mgcl_core.encoders import encoder_names, frozen_encoders
from mgcl_core.experiments.frozen_features import encode_frozen
from mgcl_core.experiments.stages import EncoderStage, MGCLStage
from mgcl_core.stage_one import UnimodalRegressor
from mgcl_core.support.errors import RunError

CPU = torch.device("cpu")


# Which encoders train


def test_frozen_text_encoders_stay_in_evaluation_mode(tiny_config, split):
    model = build(tiny_config)
    assert frozen_encoders(tiny_config) == (EncoderName("macro", "T"), EncoderName("micro", "T"))
    model.train()
    for name, encoder in model.encoders.items():
        frozen = EncoderName.parse(name).modality == "T"
        assert all(module.training != frozen for module in encoder.modules())
        assert all(parameter.requires_grad != frozen for parameter in encoder.parameters())
    assert model.predictor.training
    sum(model(split.batch()).losses.values()).backward()
    held = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(("encoders.macro_T", "encoders.micro_T")) for name in held)
    assert any(name.startswith("encoders.macro_V") for name in held)
    model.eval()
    assert not any(module.training for module in model.modules())


def test_which_encoders_train_is_one_setting(tiny_config, split):
    for trained in ((), ("T",), ("T", "V", "A")):
        model = build(tiny_config.override({"trained_encoders": trained}))
        sum(model(split.batch()).losses.values()).backward()
        names = [EncoderName.parse(name.split(".")[1]) for name in gradients(model) if name.startswith("encoders.")]
        assert {name.modality for name in names} == set(trained)
        assert model.encoders["macro_T"].training == ("T" in trained)


def test_text_encoders_keep_their_own_learning_rate(tiny_config):
    config = tiny_config.override({"trained_encoders": ("T", "V", "A"), "text_lr": 3e-5, "mgcl_lr": 2e-4})
    rates = build(config).learning_rates()
    assert rates == {"": 2e-4, "encoders.macro_T.": 3e-5, "encoders.micro_T.": 3e-5}


def test_dual_encoders_are_separate_and_shared_ones_are_not(tiny_config, split):
    batch = split.batch()
    for encoders, name in (("dual", "macro_V"), ("shared", "shared_V")):
        model = build(tiny_config.override({"encoders": encoders})).eval()
        before = model(batch)
        with torch.no_grad():
            for parameter in model.encoders[name].parameters():
                parameter.add_(torch.randn_like(parameter))
        after = model(batch)
        assert not torch.allclose(after.macro[1], before.macro[1])
        assert torch.equal(after.micro[1], before.micro[1]) == (encoders == "dual")
        assert torch.equal(after.macro[[0, 2]], before.macro[[0, 2]])


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("trained", [("V", "A"), ()])
@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_features_of_frozen_encoders_replace_them(tiny_config, make_split, encoders, micro, trained, mode):
    config = tiny_config.override({"encoders": encoders, "micro": micro, "trained_encoders": trained})
    data = make_split(12)
    whole = build(config)
    held = [name for name in encoder_names(config) if name not in frozen_encoders(config)]
    light = build(config, encoders=held)
    light.load_state_dict({name: values for name, values in whole.state_dict().items() if name in light.state_dict()})
    with_features, without = DeviceSplit(data, CPU), DeviceSplit(data, CPU)
    for name in frozen_encoders(config):
        features = encode_frozen(whole.encoders[str(name)], name, with_features, config, batch_size=5)
        assert all(len(values) == 12 and not values.requires_grad for values in features.values())
        with_features.features.update(features)
    if micro == "pooled":
        assert with_features.features["micro_T"].shape == (12, 1, 32)
    assert sum(p.numel() for p in light.parameters()) < sum(p.numel() for p in whole.parameters())
    outputs = []
    for model, source in ((whole, without), (light, with_features)):
        model.train(mode == "train")
        torch.manual_seed(3)  # the dropout of what is trained
        outputs.append([model(batch) for batch in source.batches(5, seed=1)])
    for expected, output in zip(*outputs, strict=True):
        assert torch.allclose(output.prediction, expected.prediction, atol=1e-5)
        assert torch.allclose(output.unimodal, expected.unimodal, atol=1e-5)
        for name in expected.losses:
            assert output.losses[name].item() == pytest.approx(expected.losses[name].item(), abs=1e-5)


def test_encoding_leaves_padding_at_zero_and_false(tiny_config, split):
    encoder = build(tiny_config).encoders["micro_V"]
    features = encode_frozen(encoder, EncoderName("micro", "V"), split, tiny_config, batch_size=2)
    states, mask = features["micro_V"], features["micro_V_mask"]
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == split.vision_mask.sum(1).tolist()
    for start in range(0, 12, 2):  # beyond the longest clip of its batch, nothing was computed
        longest = int(mask[start : start + 2].sum(1).max())
        assert (states[start : start + 2, longest:] == 0).all()


def test_missing_encoders_are_named(tiny_config, split):
    model = build(tiny_config, encoders=[EncoderName("micro", "T"), EncoderName("macro", "V")])
    with pytest.raises(RunError, match="no features of 'macro_T'"):
        model(split.batch())


# Stage one


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("name", encoder_names(Config()), ids=str)
def test_each_encoder_learns_its_own_label(tiny_config, split, name, micro):
    torch.manual_seed(0)
    model = UnimodalRegressor(name, tiny_config.override({"micro": micro})).eval()
    batch = split.batch()
    output = model(batch)
    kind, modality = name
    label = batch.labels if kind == "macro" else batch.unimodal_labels["TVA".index(modality)]
    assert output.prediction.shape == (12,)
    assert torch.equal(model.target(batch), label)
    assert list(output.losses) == [kind]
    assert output.losses[kind].item() == pytest.approx(
        naive.squared_error(output.prediction.tolist(), label.tolist()), rel=1e-5
    )
    assert model(dataclasses.replace(batch, labels=None, unimodal_labels=None)).losses == {}
    assert model.learning_rates() == {"": 1e-5 if modality == "T" else 1e-4}


@pytest.mark.parametrize("modality", "TVA")
def test_a_shared_encoder_learns_both_labels(tiny_config, split, modality):
    torch.manual_seed(0)
    model = UnimodalRegressor(EncoderName("shared", modality), tiny_config.override({"encoders": "shared"})).eval()
    batch = split.batch()
    output = model(batch)
    assert list(output.losses) == ["macro", "micro"]
    assert torch.equal(model.target(batch), batch.labels)
    assert output.losses["macro"].item() == pytest.approx(
        naive.squared_error(output.prediction.tolist(), batch.labels.tolist()), rel=1e-5
    )
    sum(output.losses.values()).backward()
    assert {"heads.macro.0.weight", "heads.micro.0.weight"} <= gradients(model)


def test_a_micro_regressor_reads_the_mean_of_the_enhanced_states(tiny_config, split):
    torch.manual_seed(0)
    model = UnimodalRegressor(EncoderName("micro", "A"), tiny_config).eval()
    batch = split.batch()
    with torch.no_grad():
        states, mask = model.encoder(batch)
        prediction = model(batch).prediction
    for row in range(3):
        rows = [r for r in naive.enhancement(states[row].tolist(), mask[row].tolist(), 3) if r is not None]
        vector = torch.tensor(np.mean(rows, 0), dtype=torch.float32)
        assert prediction[row].item() == pytest.approx(model.heads["micro"](vector).item(), abs=1e-5)


@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_encoders_carry_over_from_stage_one(tiny_config, encoders):
    config = tiny_config.override({"encoders": encoders})
    model = build(config)
    for name in encoder_names(config):
        model.encoders[str(name)].load_state_dict(UnimodalRegressor(name, config).encoder.state_dict())


class _Reads:
    """A configuration that remembers which of its settings were read."""

    def __init__(self, config: Config):
        self._config, self.names = config, set()

    def __getattr__(self, name):
        self.names.add(name)
        return getattr(self._config, name)


@pytest.mark.parametrize("text_source", ["words", "features"])
@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_a_stage_reads_only_settings_that_name_its_run(tiny_config, split, encoders, micro, text_source):
    # Settings that came later are part of a name where they are not at their defaults.
    later = {"pair_weights": "clgsi", "unimodal_reduction": "mean", "frozen_dropout": True, "selection": "loss"}
    later |= {"stage_one_target": "multimodal", "trained_text_layers": 1, "gate": True}
    config = tiny_config.override({"encoders": encoders, "micro": micro, "text_source": text_source, **later})
    if text_source == "features":
        config = config.override({"text_dim": 5, "text_steps": 10})
        split = copy.copy(split)
        split.text = torch.randn(len(split), 10, 5)
    stage_one = set()  # part of a stage-two run through the encoders it starts from
    for name in encoder_names(config):
        # Whether it reads words shows in whose settings a run of text is named by.
        reads, known = _Reads(config), {*EncoderStage(config, name).settings, "reads_words"}
        UnimodalRegressor(name, reads)(split.batch())
        assert reads.names <= known, name
        stage_one |= known | {"encoders"}
    reads = _Reads(config)
    sum(build(reads)(split.batch()).losses.values())
    assert reads.names <= set(MGCLStage(config).settings) | stage_one | {"text_model"}  # which `Shapes` names
    assert {"alpha", "beta", "components", "weighted", "reduction", "fusion"} <= reads.names


@pytest.mark.parametrize("name", ["macro_T", "micro_T", "macro_A", "micro_V", "shared_A", "shared_T"])
def test_stage_one_in_chunks_has_the_gradient_of_the_whole_batch(tiny_config, split, name):
    config = tiny_config.override({"encoder_dropout": 0.0, "encoders": "shared" if "shared" in name else "dual"})
    batch, results = split.batch(), []
    for chunk in (None, 5):
        torch.manual_seed(0)
        system = UnimodalRegressor(EncoderName.parse(name), config.override({"encoder_chunk": chunk})).eval()
        seen = []
        system.encoder.register_forward_hook(lambda _, __, outputs, seen=seen: seen.append(len(outputs[0])))
        losses = system(batch).losses
        sum(losses.values()).backward()
        assert seen[:3] == ([12] if chunk is None else [5, 5, 2])  # and once more for the gradient
        results.append({**losses, **{key: values.grad for key, values in system.named_parameters()}})
    for key, expected in results[0].items():
        torch.testing.assert_close(results[1][key], expected, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("encoders", ["dual", "shared"])
@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("chunk", [1, 5, 99])
def test_chunks_give_the_gradient_of_the_whole_batch(tiny_config, split, encoders, micro, chunk):
    config = tiny_config.override({"encoders": encoders, "micro": micro, "dropout": 0.0, "encoder_dropout": 0.0})
    whole, chunked = (build(config.override({"encoder_chunk": size})).train() for size in (None, chunk))
    batch, results = split.batch(), []
    for model in (whole, chunked):
        losses = model(batch).losses
        sum(losses.values()).backward()
        results.append((torch.stack(list(losses.values())), {name: p.grad for name, p in model.named_parameters()}))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    for name, gradient in results[0][1].items():
        assert (gradient is None) == (results[1][1][name] is None)
        if gradient is not None:
            assert torch.allclose(gradient, results[1][1][name], atol=1e-5), name


def test_chunks_repeat_the_dropout_of_their_device(tiny_config, split, monkeypatch):
    """torch repeats the random state of the devices of those tensors that it is handed."""
    devices = []

    def watched(function, *arguments, **named):
        devices.append([argument.device for argument in arguments if isinstance(argument, torch.Tensor)])
        return function(*arguments)

    monkeypatch.setattr("mgcl_core.encoders.checkpoint", watched)
    build(tiny_config.override({"encoder_chunk": 5})).train()(split.batch())
    assert devices and all(seen == [split.device] for seen in devices)


def test_chunks_compute_the_same_twice_with_dropout(tiny_config, split):
    """By a finite step along the gradient: dropout of the second pass that is not the first's would give another."""
    model = build(tiny_config.override({"encoder_chunk": 5, "dropout": 0.3, "encoder_dropout": 0.3})).train()
    batch, bias = split.batch(), model.encoders["macro_A"].inputs.bias
    start = bias.detach().clone()

    def loss(step: float, direction: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            bias.copy_(start + step * direction)
        torch.manual_seed(0)
        return sum(model(batch).losses.values())

    loss(0.0, torch.zeros_like(start)).backward()
    slope = bias.grad.norm().item()
    direction = bias.grad / slope
    risen = (loss(0.001, direction) - loss(-0.001, direction)).item() / 0.002
    assert risen == pytest.approx(slope, rel=0.02) and slope > 1e-2


def test_a_chunk_is_all_that_an_encoder_sees_at_a_time(tiny_config, split):
    model, seen = build(tiny_config.override({"encoder_chunk": 5})).train(), []
    model.encoders["macro_A"].register_forward_hook(lambda _, __, outputs: seen.append(len(outputs[1])))
    output = model(split.batch())
    assert seen == [5, 5, 2] and output.macro.shape[1] == 12
    sum(output.losses.values()).backward()
    assert sorted(seen) == [2, 2, 5, 5, 5, 5]  # once more for the gradient
    with torch.no_grad():
        model(split.batch())
    assert seen[-1] == 12
