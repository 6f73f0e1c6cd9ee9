"""The fusion module against attention written out, its masks, and who asks whom."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mgcl_core import reference as naive
from mgcl_core.data.valid_steps import masked_mean
from mgcl_core.fusion import CMGF, MTM, Concatenation


def inputs(width: int = 6, batch: int = 3) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    macro = torch.randn(3, batch, width, generator=generator, dtype=torch.float64)
    micro = [torch.randn(batch, steps, width, generator=generator, dtype=torch.float64) for steps in (4, 5, 1)]
    lengths = [torch.tensor([4, 1, 2]), torch.tensor([2, 5, 1]), torch.tensor([1, 1, 1])]
    masks = [torch.arange(states.shape[1]) < length[:, None] for states, length in zip(micro, lengths, strict=True)]
    masks[0][0, 0] = False  # as [CLS] is
    return macro, micro, masks


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_mtm_equals_attention_written_out(heads):
    torch.manual_seed(0)
    block = MTM(6, heads, 10, dropout=0.5).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter))
    weights = {name: values.tolist() for name, values in block.state_dict().items()}
    macro, micro, masks = inputs()
    found = block(macro[0], micro[1:], masks[1:])
    assert found.shape == (3, 6)
    for clip in range(3):
        expected = naive.fuse(
            macro[0, clip].tolist(),
            [states[clip].tolist() for states in micro[1:]],
            [mask[clip].tolist() for mask in masks[1:]],
            weights["modality"],
            heads,
            weights,
        )
        assert found[clip].tolist() == pytest.approx(expected, abs=1e-10)


def test_the_weights_are_those_that_mtm_attends_with():
    block = MTM(6, 2, 10, dropout=0.5).double().eval()
    macro, micro, masks = inputs()
    masks[1][2] = masks[2][2] = False  # the last clip has neither source
    shares = block.weights(macro[0], micro[1:], masks[1:])
    assert [share.shape for share in shares] == [(3, 2, 5), (3, 2, 1)]
    joined = torch.cat(shares, -1)  # (B, heads, L1+L2)
    assert torch.allclose(joined.sum(-1), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)[:, None].expand(3, 2))
    assert (joined[:, :, :5].amax(1)[~masks[1]] == 0).all()
    steps = torch.cat([source + own for source, own in zip(micro[1:], block.modality, strict=True)], 1)
    values = nn.functional.linear(steps, block.attention.in_proj_weight[12:], block.attention.in_proj_bias[12:])
    mixed = torch.einsum("bhl,blhe->bhe", joined, values.unflatten(2, (2, 3))).flatten(1)
    hidden = block.attention_norm(macro[0] + block.attention.out_proj(mixed))
    expected = block.feedforward_norm(hidden + block.feedforward(hidden))
    found = block(macro[0], micro[1:], masks[1:])
    assert torch.allclose(found[:2], expected[:2], atol=1e-12)


def test_mtm_does_not_see_what_is_masked():
    block = MTM(6, 2, 10, dropout=0.0).double()
    macro, micro, masks = inputs()
    changed = [states + 100 * (~mask)[:, :, None] for states, mask in zip(micro, masks, strict=True)]
    assert torch.allclose(block(macro[0], micro[1:], masks[1:]), block(macro[0], changed[1:], masks[1:]), atol=1e-12)
    visible = [states + mask[:, :, None] for states, mask in zip(micro, masks, strict=True)]
    assert not torch.allclose(block(macro[0], micro[1:], masks[1:]), block(macro[0], visible[1:], masks[1:]))


def test_mtm_tells_its_sources_apart():
    block = MTM(6, 2, 10, dropout=0.0).double()
    macro, micro, masks = inputs()
    as_is, swapped = block(macro[0], micro[:2], masks[:2]), block(macro[0], micro[1::-1], masks[1::-1])
    assert not torch.allclose(as_is, swapped)
    as_is.sin().sum().backward()  # the plain sum of a normalised layer is constant
    assert block.modality.grad[0].abs().sum() > 0 and block.modality.grad[1].abs().sum() > 0
    with torch.no_grad():
        block.modality[1] = block.modality[0]  # with one embedding for both, order is lost
    assert torch.allclose(block(macro[0], micro[:2], masks[:2]), block(macro[0], micro[1::-1], masks[1::-1]))


class _Recorder(nn.Module):
    """Stands in for an MTM block and keeps what it was asked."""

    def forward(self, macro, sources, masks):
        self.seen = (macro, sources, masks)
        return macro


def test_each_macro_feature_asks_the_micro_features_of_the_two_others():
    fusion = CMGF(6, 2, 10, 0.0)
    fusion.blocks = nn.ModuleList(_Recorder() for _ in range(3))
    macro, micro, masks = inputs()
    joined = fusion(macro, micro, masks)
    text, vision, audio = range(3)
    for block, (asks, first, second) in zip(
        fusion.blocks, [(text, vision, audio), (vision, text, audio), (audio, text, vision)], strict=True
    ):  # eqs 13-15
        query, sources, source_masks = block.seen
        assert query is macro[asks] or torch.equal(query, macro[asks])
        assert sources[0] is micro[first] and sources[1] is micro[second]
        assert source_masks[0] is masks[first] and source_masks[1] is masks[second]
    assert torch.equal(joined, torch.cat(list(macro), -1))  # eq. 16


def test_a_modality_does_not_reach_its_own_block():
    fusion = CMGF(6, 2, 10, 0.0).double()
    macro, micro, masks = inputs()
    before = fusion(macro, micro, masks)
    assert before.shape == (3, fusion.out_features) == (3, 18)
    for own in range(3):
        changed = [states + (place == own) for place, states in enumerate(micro)]
        difference = (fusion(macro, changed, masks) - before).abs().view(3, 3, 6).amax((0, 2))
        assert [bool(value > 1e-9) for value in difference] == [place != own for place in range(3)]


def test_concatenation_puts_the_six_features_side_by_side():
    macro, micro, masks = inputs()
    fusion = Concatenation(6)
    joined = fusion(macro, micro, masks)
    assert joined.shape == (3, fusion.out_features) == (3, 36)
    assert not list(fusion.parameters())
    assert torch.equal(joined[:, :18], torch.cat(list(macro), -1))
    assert torch.equal(joined[:, 18:], torch.cat([masked_mean(s, m) for s, m in zip(micro, masks, strict=True)], -1))


def test_a_gate_starts_as_equation_16_and_weighs_each_feature_by_what_is_present():
    torch.manual_seed(0)
    plain = CMGF(6, 2, 10, 0.0).double().eval()
    gated = CMGF(6, 2, 10, 0.0, gate=True).double().eval()
    gated.load_state_dict(
        plain.state_dict() | {name: gated.state_dict()[name] for name in ("gate.weight", "gate.bias")}
    )
    macro, micro, masks = inputs()
    F = plain(macro, micro, masks)
    torch.testing.assert_close(gated(macro, micro, masks), F)
    with torch.no_grad():
        gated.gate.weight[1, -2] = 3.0  # vision is trusted where it is present
    masks[1][2] = False
    F = plain(macro, micro, masks)
    scale = (gated(macro, micro, masks) / F).unflatten(1, (3, 6))
    expected = torch.ones(3, 3, 1, dtype=torch.float64)
    expected[:2, 1] = 2 * torch.tensor(3.0).sigmoid().double()
    torch.testing.assert_close(scale, expected.expand(3, 3, 6), rtol=1e-6, atol=1e-6)
    gated(macro, micro, masks).sum().backward()
    assert gated.gate.weight.grad.isfinite().all() and gated.gate.weight.grad.any()
