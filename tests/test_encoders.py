"""Encoders and micro enhancement against loops, and their masks, lengths and absent modalities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mgcl_core import reference as naive
from mgcl_core.config import Config
from mgcl_core.data.batches import Batch, DeviceSplit
from mgcl_core.data.valid_steps import ValidSteps, masked_mean
from mgcl_core.encoders import (
    MicroEnhancement,
    SequenceEncoder,
    TextEncoder,
    TransformerLayer,
    build_encoder,
    encoder_names,
    frozen_encoders,
    macro_projection,
    micro_projection,
    perceptron,
    self_attention,
)
from mgcl_core.support.errors import ConfigError

CPU = torch.device("cpu")
MASKS = {
    "all": [1, 1, 1, 1, 1, 1],
    "special tokens at both ends": [0, 1, 1, 1, 0, 0],
    "gaps": [0, 1, 1, 0, 1, 0],
    "alternating": [1, 0, 1, 0, 1, 0],
    "first step": [1, 0, 0, 0, 0, 0],
    "last step": [0, 0, 0, 0, 0, 1],
    "none": [0, 0, 0, 0, 0, 0],
}


def stack_masks() -> torch.Tensor:
    return torch.tensor(list(MASKS.values()), dtype=torch.bool)


def random_states(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def enhance(kind: str, window: int, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, L, d) → (B, L, 3d), or (B, 2d) for the pooled kind."""
    steps = ValidSteps(mask)
    found = MicroEnhancement(kind, window)(steps.pack(states), steps)
    return steps.unpack(found) if kind == "sequence" else found


@pytest.mark.parametrize("window", [1, 3, 5, 15])
def test_enhanced_sequences_equal_the_naive_loop(window):
    mask = stack_masks()
    states = random_states(len(mask), 6, 4)
    enhanced = enhance("sequence", window, states, mask)
    assert enhanced.shape == (len(mask), 6, 12)
    for clip in range(len(mask)):
        rows = naive.enhancement(states[clip].tolist(), mask[clip].tolist(), window)
        for step, row in enumerate(rows):
            expected = [0.0] * 12 if row is None else row
            assert enhanced[clip, step].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("window", [1, 5])
def test_the_gradient_of_the_enhancement(window):
    steps = ValidSteps(stack_masks())
    packed = random_states(len(steps.times), 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: MicroEnhancement("sequence", window)(x, steps), packed)


@pytest.mark.parametrize("window", [1, 3])
def test_pooled_enhancement_equals_the_naive_loop(window):
    mask = stack_masks()
    states = random_states(len(mask), 6, 4)
    enhanced = enhance("pooled", window, states, mask)
    assert enhanced.shape == (len(mask), 8)
    for clip in range(len(mask)):
        expected = naive.pooled_enhancement(states[clip].tolist(), mask[clip].tolist())
        assert enhanced[clip].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["sequence", "pooled"])
def test_enhancing_a_sequence_of_one_step(kind):
    states = random_states(2, 1, 3)
    enhanced = enhance(kind, 3, states, torch.ones(2, 1, dtype=torch.bool)).flatten(0, -2)
    own = states[:, 0]
    expected = [own, own, own * 0] if kind == "sequence" else [own, own * 0]
    assert torch.equal(enhanced, torch.cat(expected, -1))


@pytest.mark.parametrize("window", [1, 3, 15])
def test_enhancing_one_clip_alone(window):
    """Its first and last steps are no neighbours."""
    states, mask = random_states(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    expected = naive.enhancement(states[0].tolist(), mask[0].tolist(), window)
    torch.testing.assert_close(
        enhance("sequence", window, states, mask)[0], torch.tensor(expected, dtype=torch.float64)
    )


def test_enhancement_ignores_what_is_not_valid():
    mask = stack_masks()
    states = random_states(len(mask), 6, 4)
    changed = states + 100 * (~mask)[:, :, None]
    for kind in ("sequence", "pooled"):
        assert torch.equal(enhance(kind, 3, states, mask), enhance(kind, 3, changed, mask))
        assert not list(MicroEnhancement(kind, 3).parameters())


def test_masked_mean():
    mask = stack_masks()
    states = random_states(len(mask), 6, 4)
    found = masked_mean(states, mask)
    for clip in range(len(mask)):
        expected = states[clip][mask[clip]].mean(0) if mask[clip].any() else torch.zeros(4, dtype=torch.float64)
        assert torch.allclose(found[clip], expected, atol=1e-12)


def test_attention_pooling_equals_the_naive_loop(tiny_config):
    encoder = SequenceEncoder("A", tiny_config).double()
    mask = stack_masks()[:-1]
    states = random_states(len(mask), 6, 8)
    with torch.no_grad():
        encoder.query.mul_(50)  # far from uniform weights
        pooled = encoder.macro(states, mask)
    for clip in range(len(mask)):
        expected = naive.attention_pooling(states[clip].tolist(), mask[clip].tolist(), encoder.query.tolist())
        assert pooled[clip].tolist() == pytest.approx(expected, abs=1e-10)


def test_projections_and_heads_are_those_of_decisions_5_and_11(tiny_config):
    kinds = [type(layer) for layer in macro_projection(7, tiny_config)]
    assert kinds == [nn.LayerNorm, nn.Linear, nn.Tanh, nn.Dropout]
    kinds = [type(layer) for layer in micro_projection(7, tiny_config)]
    assert kinds == [nn.LayerNorm, nn.Linear, nn.ReLU, nn.Linear, nn.Tanh, nn.Dropout]
    assert micro_projection(7, tiny_config)[1].out_features == tiny_config.micro_hidden
    for project in (macro_projection, micro_projection):
        out = project(7, tiny_config)(torch.randn(2, 5, 7))
        assert out.shape == (2, 5, tiny_config.common_width)
    head = perceptron(7, 5, 3)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert head(torch.randn(2, 7)).shape == (2, 1)


@pytest.fixture(scope="module")
def encoders(tiny_config):
    torch.manual_seed(0)
    return {modality: build_encoder(modality, tiny_config).eval() for modality in "TVA"}


def encode(encoder, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    states, mask = encoder(batch)
    return encoder.macro(states, mask), states * mask[:, :, None], mask


@pytest.mark.parametrize("modality", "TVA")
@pytest.mark.parametrize("gradient", [False, True])  # without a gradient, torch takes another path
def test_a_clip_alone_equals_the_clip_among_longer_ones(encoders, make_split, modality, gradient):
    split = DeviceSplit(make_split(8), CPU)
    with torch.set_grad_enabled(gradient):
        macro, micro, mask = encode(encoders[modality], split.batch())
        for row in range(8):
            alone = encode(encoders[modality], split.batch(np.array([row])))
            steps = alone[1].shape[1]
            assert torch.allclose(alone[0][0], macro[row], atol=1e-5)
            assert torch.equal(alone[2][0], mask[row, :steps]) and not mask[row, steps:].any()
            assert torch.allclose(alone[1][0][alone[2][0]], micro[row][mask[row]], atol=1e-5)


@pytest.mark.parametrize("modality", "TVA")
def test_trimming_does_not_matter(encoders, make_split, modality):
    split = make_split(4, seed=3)
    trimmed = DeviceSplit(split, CPU).batch(np.array([0, 1]))
    whole = dataclasses.replace(
        trimmed,
        tokens=torch.from_numpy(split.text_bert[:2]),
        audio=torch.from_numpy(split.audio[:2]),
        audio_mask=torch.from_numpy(split.audio_mask[:2]),
        vision=torch.from_numpy(split.vision[:2]),
        vision_mask=torch.from_numpy(split.vision_mask[:2]),
    )
    with torch.no_grad():
        short, long = encode(encoders[modality], trimmed), encode(encoders[modality], whole)
    assert torch.allclose(short[0], long[0], atol=1e-5)
    assert torch.allclose(short[1][short[2]], long[1][long[2]], atol=1e-5)


@pytest.mark.parametrize("modality", "VA")
def test_padding_values_do_not_matter(encoders, make_split, modality):
    name = encoders[modality].name
    batch = DeviceSplit(make_split(5), CPU).batch()
    noisy = getattr(batch, name) + 100 * (~getattr(batch, f"{name}_mask"))[:, :, None]
    with torch.no_grad():
        before, after = (
            encode(encoders[modality], batch),
            encode(encoders[modality], dataclasses.replace(batch, **{name: noisy})),
        )
    assert torch.allclose(before[0], after[0], atol=1e-6)
    assert torch.allclose(before[1][before[2]], after[1][after[2]], atol=1e-6)


def without(split, modality: str, row: int):
    """The split with clip ``row`` deprived of one modality."""
    if modality == "T":
        text_bert = split.text_bert.copy()
        text_bert[row] = 0
        return dataclasses.replace(split, text_bert=text_bert)
    name = {"A": "audio", "V": "vision"}[modality]
    mask = getattr(split, f"{name}_mask").copy()
    mask[row] = False
    return dataclasses.replace(split, **{f"{name}_mask": mask})


@pytest.mark.parametrize("modality", "TVA")
def test_an_absent_modality_yields_zeros_and_no_gradient(tiny_config, make_split, modality):
    torch.manual_seed(0)
    encoder = build_encoder(modality, tiny_config).eval()
    split = make_split(4)
    macro, micro, mask = encode(encoder, DeviceSplit(split, CPU).batch())
    absent = encode(encoder, DeviceSplit(without(split, modality, 2), CPU).batch())
    assert not absent[0][2].any() and not absent[1][2].any() and not absent[2][2].any()
    others = [0, 1, 3]
    assert torch.allclose(absent[0][others], macro[others], atol=1e-5)
    (absent[0][2].sum() + absent[1][2].sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())  # and none of them is NaN
    # Alone, there is no valid step in the whole batch.
    alone = encode(encoder, DeviceSplit(without(split, modality, 2), CPU).batch(np.array([2])))
    assert not any(part.any() for part in alone)


def test_a_text_without_word_pieces_keeps_its_cls_and_has_an_absent_micro_feature(encoders, make_split):
    split = make_split(2)
    text_bert = split.text_bert.copy()
    text_bert[0] = 0
    text_bert[0, 0, :2], text_bert[0, 1, :2] = (2, 3), 1  # [CLS] [SEP]
    encoder = encoders["T"]
    macro, micro, mask = encode(encoder, DeviceSplit(dataclasses.replace(split, text_bert=text_bert), CPU).batch())
    assert macro[0].any() and not mask[0].any()


@pytest.mark.parametrize("modality", "TVA")
def test_every_trained_parameter_of_an_encoder_receives_a_gradient(tiny_config, make_split, modality):
    encoder = build_encoder(modality, tiny_config)
    batch = DeviceSplit(without(make_split(6), modality, 0), CPU).batch()
    macro, micro, _ = encode(encoder, batch)
    (macro.square().sum() + micro.square().sum()).backward()
    unused = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert unused == []


def test_text_states_are_those_of_the_model_and_specials_are_masked(encoders, make_split):
    encoder, split = encoders["T"], make_split(5)
    batch = DeviceSplit(split, CPU).batch()
    ids, mask, types = batch.tokens.unbind(1)
    with torch.no_grad():
        expected = encoder.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        states, words = encoder(batch)
    assert torch.equal(states, expected)
    assert torch.equal(encoder.macro(states, words), expected[:, 0])
    for row in range(5):
        assert words[row].tolist() == [
            bool(m) and int(i) not in (0, 2, 3) for i, m in zip(ids[row], mask[row], strict=True)
        ]
    assert encoder.out_features == 16 and encoder.vocabulary == 15 and encoder.max_steps == 24


def test_unknown_words_are_word_pieces(encoders, make_split):
    split = make_split(1)
    text_bert = split.text_bert.copy()
    text_bert[0, 0, 1] = 1  # [UNK]
    _, words = encoders["T"](DeviceSplit(dataclasses.replace(split, text_bert=text_bert), CPU).batch())
    assert words[0, 1]


@pytest.mark.parametrize("modality", "VA")
def test_a_sequence_of_length_one(encoders, make_split, modality):
    split = make_split(1)
    masks = {f"{name}_mask": np.arange(getattr(split, name).shape[1])[None] < 1 for name in ("audio", "vision")}
    batch = DeviceSplit(dataclasses.replace(split, **masks), CPU).batch()
    with torch.no_grad():
        macro, micro, mask = encode(encoders[modality], batch)
    assert micro.shape == (1, 1, 8) and mask.all()
    assert torch.allclose(macro, micro[:, 0])  # one step has all the attention


def test_layers_follow_the_configuration(tiny_config):
    encoder = SequenceEncoder("V", tiny_config.override({"layers": 3}))
    assert len(encoder.layers) == 3
    layer = encoder.layers[0]
    assert (layer.self_attn.num_heads, layer.linear1.out_features) == (2, 12)
    assert layer.activation is torch.nn.functional.gelu
    assert {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)} == {0.1}
    assert encoder.inputs.in_features == 3 and encoder.positions.shape == (7, 8)


def test_errors(tiny_config, tiny_bert, make_split):
    batch = DeviceSplit(make_split(2), CPU).batch()
    with pytest.raises(ConfigError, match="unknown modality 'X'"):
        build_encoder("X", tiny_config)
    with pytest.raises(ConfigError, match="audio has .* values, the encoder takes at most 9 steps of 5"):
        SequenceEncoder("A", tiny_config.override({"audio_dim": 5}))(batch)
    long = dataclasses.replace(batch, vision=torch.zeros(2, 8, 3), vision_mask=torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ConfigError, match="vision has 8 steps of 3 values, the encoder takes at most 7"):
        SequenceEncoder("V", tiny_config)(long)
    with pytest.raises(ConfigError, match="text has 30 tokens, the text encoder takes at most 24"):
        TextEncoder(tiny_bert)(dataclasses.replace(batch, tokens=torch.ones(2, 3, 30, dtype=torch.long)))


def test_texts_are_read_in_groups_of_similar_length(tiny_config, make_split):
    encoder, seen = build_encoder("T", tiny_config).eval(), []
    encoder.bert.register_forward_hook(
        lambda _, __, kept, ___: seen.append(tuple(kept["attention_mask"].shape)), with_kwargs=True
    )
    batch = DeviceSplit(make_split(20), CPU).batch()
    with torch.no_grad():
        states, words = encoder(batch)
    lengths = sorted((batch.tokens[:, 1].sum(1)).tolist(), reverse=True)
    assert seen == [(16, lengths[0]), (4, lengths[16])] and lengths[16] < lengths[0]
    assert states.shape[:2] == words.shape == batch.tokens[:, 1].shape


# Names


def test_encoder_names_follow_the_configuration(tiny_config):
    dual = ["macro_T", "macro_V", "macro_A", "micro_T", "micro_V", "micro_A"]
    assert [str(name) for name in encoder_names(tiny_config)] == dual
    assert [str(name) for name in frozen_encoders(tiny_config)] == ["macro_T", "micro_T"]
    shared = tiny_config.override({"encoders": "shared", "trained_encoders": ()})
    assert [str(name) for name in encoder_names(shared)] == ["shared_T", "shared_V", "shared_A"]
    assert frozen_encoders(shared) == encoder_names(shared)


# Attention among valid steps

HEADS, WIDTH = 2, 6


def padded_attention(projected: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention of (B, L, 3d) written out."""
    query, key, value = projected.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1).nan_to_num()
    return (weights @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("clips", [1, 7, 30])  # of one group, and of several
def test_attention_equals_attention_written_out(clips):
    mask = stack_masks().repeat(5, 1)[:clips]
    padded = random_states(clips, 6, 3 * WIDTH)
    steps = ValidSteps(mask)
    results = []
    for attend in (
        lambda x: steps.unpack(self_attention(steps.pack(x), steps, HEADS)),
        lambda x: padded_attention(x, mask),
    ):
        leaf = padded.clone().requires_grad_()
        attended = attend(leaf)[mask]
        attended.sin().sum().backward()
        results.append((attended, leaf.grad))
    for ours, written_out in zip(*results, strict=True):
        assert torch.allclose(ours, written_out, atol=1e-12)


def test_attention_drops_weights_at_the_stated_rate():
    """With equal scores and values of one, what a head gives is its share of kept weights, over 1 - rate."""
    torch.manual_seed(0)
    mask = torch.ones(20, 50, dtype=torch.bool)
    steps = ValidSteps(mask)
    projected = F.pad(torch.ones(1000, WIDTH), (2 * WIDTH, 0))
    kept = self_attention(projected, steps, HEADS, 0.4)
    assert kept.mean().item() == pytest.approx(1, abs=0.01) and kept.std() > 0.05
    assert torch.equal(self_attention(projected, steps, HEADS), torch.ones(1000, WIDTH))


def test_the_layer_is_torchs_transformer_layer():
    config = Config(width=8, heads=2, feedforward=12, encoder_dropout=0.5)
    torch.manual_seed(0)
    ours = TransformerLayer(config).eval()
    torch.manual_seed(0)
    torchs = nn.TransformerEncoderLayer(8, 2, 12, 0.5, activation="gelu", batch_first=True).eval()
    for name, weights in torchs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weights)  # the same initialisation
    mask = stack_masks()[:-1]  # torch's has no clip without a valid step
    values, steps = torch.randn(len(mask), 6, 8), ValidSteps(mask)
    result = steps.unpack(ours(steps.pack(values), steps))
    assert torch.allclose(result[mask], torchs(values, src_key_padding_mask=~mask)[mask], atol=1e-5)


def test_bfloat16_stays_bfloat16():
    steps = ValidSteps(stack_masks())
    projected = torch.randn(len(steps.times), 3 * WIDTH, dtype=torch.bfloat16)
    assert self_attention(projected, steps, HEADS, 0.1).dtype == torch.bfloat16
