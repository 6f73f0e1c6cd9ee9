"""Packing of valid steps, attention among them and fast dropout, against torch's own on padded batches."""

from __future__ import annotations

import platform

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mgcl_core import attention
from mgcl_core.attention import self_attention
from mgcl_core.config import Config
from mgcl_core.data.valid_steps import FAR, ValidSteps
from mgcl_core.dropout import Dropout, generator, kept
from mgcl_core.encoders import TransformerLayer
from mgcl_core.enhancement import MicroEnhancement
from mgcl_core.support.memory import keep_freed_memory

HEADS, WIDTH = 2, 6


def some_mask() -> torch.Tensor:
    mask = torch.arange(5) < torch.tensor([3, 5, 1, 0, 4])[:, None]
    mask[1, 2] = False  # a hole, as a special token within a text
    return mask


def all_kept(mask: torch.Tensor) -> ValidSteps:
    """As on CUDA, where padding is computed too."""
    steps = ValidSteps(mask)
    steps.rows, steps.times = None, torch.arange(mask.shape[1]).repeat(len(mask))
    return steps


def test_packing_keeps_the_valid_steps_in_order_and_unpacking_puts_them_back():
    mask, values = some_mask(), torch.randn(5, 5, 3)
    steps = ValidSteps(mask)
    assert torch.equal(steps.pack(values), values[mask])
    assert torch.equal(steps.unpack(values[mask]), values * mask[:, :, None])
    assert steps.times.tolist() == [0, 1, 2, 0, 1, 3, 4, 0, 0, 1, 2, 3]
    everything = all_kept(mask)
    assert torch.equal(everything.unpack(everything.pack(values)), values)
    assert torch.equal(everything.pack(values)[mask.flatten()], values[mask])


def test_packing_has_the_gradient_of_indexing():
    mask = some_mask()
    values = torch.randn(5, 5, 3, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(int(mask.sum()), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ValidSteps(mask).pack, values)
    assert torch.autograd.gradcheck(ValidSteps(mask).unpack, packed)


@pytest.mark.parametrize("packed", [True, False])
def test_how_far_steps_are_apart(packed):
    mask = some_mask()
    steps = ValidSteps(mask) if packed else all_kept(mask)
    places = [(clip, t) for clip in range(5) for t in range(5) if not packed or mask[clip, t]]
    for shift in range(-30, 31):
        expected = []
        for i, (clip, t) in enumerate(places):
            other, u = places[i + shift] if 0 <= i + shift < len(places) else (None, None)
            expected.append(u - t if other == clip and mask[clip, t] and mask[clip, u] else FAR)
        assert steps.apart(shift).tolist() == expected


@pytest.mark.parametrize("kind", ["sequence", "pooled"])
def test_enhancement_where_padding_is_kept_as_on_a_gpu(kind):
    mask = some_mask()
    mask[4, 0] = False  # as [CLS]
    values, layer = torch.randn(5, 5, 4, dtype=torch.float64), MicroEnhancement(kind, 3)
    expected, found = (layer(steps.pack(values), steps) for steps in (ValidSteps(mask), all_kept(mask)))
    if kind == "sequence":
        found = found[mask.flatten()]
    assert torch.allclose(found, expected, atol=1e-12)


def padded_attention(projected: torch.Tensor, mask: torch.Tensor, factors: torch.Tensor | None = None) -> torch.Tensor:
    """Attention of (B, L, 3d) written out, with dropout factors (B, h, L, L)."""
    query, key, value = projected.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1).nan_to_num()
    weights = weights if factors is None else weights * factors
    return (weights @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("at_once", [1, 60, 10_000])  # one clip at a time, some, all
@pytest.mark.parametrize("packed", [True, False])
def test_attention_equals_attention_written_out(monkeypatch, at_once, packed):
    monkeypatch.setattr(attention, "WEIGHTS_AT_ONCE", at_once)
    mask = some_mask()
    padded = torch.randn(5, 5, 3 * WIDTH, dtype=torch.float64)
    steps = ValidSteps(mask) if packed else all_kept(mask)
    found = []
    for attend in (
        lambda x: steps.unpack(self_attention(steps.pack(x), steps, HEADS)),
        lambda x: padded_attention(x, mask),
    ):
        leaf = padded.clone().requires_grad_()
        attended = attend(leaf)[mask]
        attended.sin().sum().backward()
        found.append((attended, leaf.grad))
    for ours, written_out in zip(*found, strict=True):
        assert torch.allclose(ours, written_out, atol=1e-12)


def test_attention_drops_the_same_weights_forward_and_backward(monkeypatch):
    """Clips of one length, so that the factors of the single group are known."""
    mask = torch.ones(3, 4, dtype=torch.bool)
    padded, steps = torch.randn(3, 4, 3 * WIDTH, dtype=torch.float64), ValidSteps(mask)
    monkeypatch.setattr(attention, "draw_seed", lambda: 7)
    factors = kept(torch.Size((3, HEADS, 4, 4)), 0.4, torch.float64, generator(7)).flip(0)  # groups start with the last
    assert 0 < (factors == 0).sum() < factors.numel()
    found = []
    for attend in (
        lambda x: steps.unpack(self_attention(steps.pack(x), steps, HEADS, 0.4)),
        lambda x: padded_attention(x, mask, factors),
    ):
        leaf = padded.clone().requires_grad_()
        attended = attend(leaf)
        attended.sin().sum().backward()
        found.append((attended, leaf.grad))
    for ours, written_out in zip(*found, strict=True):
        assert torch.allclose(ours, written_out, atol=1e-12)


def test_attention_with_dropout_passes_gradcheck(monkeypatch):
    monkeypatch.setattr(attention, "draw_seed", lambda: 7)
    steps = ValidSteps(some_mask())
    packed = torch.randn(len(steps.rows), 3 * WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: self_attention(x, steps, HEADS, 0.3), packed)


@pytest.mark.parametrize("packed", [True, False])
def test_the_layer_is_torchs_transformer_layer(packed):
    config = Config(width=8, heads=2, feedforward=12, encoder_dropout=0.5)
    torch.manual_seed(0)
    ours = TransformerLayer(config).eval()
    torch.manual_seed(0)
    torchs = nn.TransformerEncoderLayer(8, 2, 12, 0.5, activation="gelu", batch_first=True).eval()
    for name, weights in torchs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weights)  # initialised alike
    mask = some_mask()
    mask[3, 0] = True  # torch's has no clip without a valid step
    values, steps = torch.randn(5, 5, 8), ValidSteps(mask) if packed else all_kept(mask)
    found = steps.unpack(ours(steps.pack(values), steps))
    assert torch.allclose(found[mask], torchs(values, src_key_padding_mask=~mask)[mask], atol=1e-5)


def test_dropout_keeps_the_stated_share_and_the_mean():
    torch.manual_seed(0)
    layer = Dropout(0.1)
    values = torch.ones(400, 1000)
    dropped = layer(values)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9], rel=1e-4)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
    assert dropped.mean().item() == pytest.approx(1, abs=0.003)
    by_column = (dropped == 0).float().mean(0)  # every place of a 64-bit draw alike
    assert by_column.unflatten(0, (-1, 4)).mean(0).tolist() == pytest.approx([0.1] * 4, abs=0.003)
    assert torch.equal(layer.eval()(values), values)


def test_dropout_follows_torchs_seed_and_passes_gradients_where_it_kept():
    layer, values = Dropout(0.3), torch.randn(7, 11, requires_grad=True)
    torch.manual_seed(3)
    first, second = layer(values), layer(values)
    torch.manual_seed(3)
    assert torch.equal(layer(values), first) and not torch.equal(first, second)
    first.sum().backward()
    assert torch.allclose(values.grad, first.detach() / values.detach())
    assert layer(torch.zeros(0, 3)).shape == (0, 3)
    assert F.dropout(values, 1.0).eq(0).all() and Dropout(1.0)(values).eq(0).all()


def test_bfloat16_stays_bfloat16():
    assert Dropout(0.5)(torch.ones(9, dtype=torch.bfloat16)).dtype == torch.bfloat16
    steps = ValidSteps(some_mask())
    projected = torch.randn(len(steps.rows), 3 * WIDTH, dtype=torch.bfloat16)
    assert self_attention(projected, steps, HEADS, 0.1).dtype == torch.bfloat16


def test_glibc_is_told_to_keep_freed_memory():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
