"""The layers with less work give what torch's own give: values, gradients, and the same parameters by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mgcl_core.shortcuts import NormProjection, SingleQueryAttention


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_same_training_step(ours: nn.Module, theirs: nn.Module, *inputs, **options) -> None:
    theirs.load_state_dict(ours.state_dict())
    outputs = []
    for module in (ours, theirs):
        module.zero_grad()
        output = module(*inputs, **options)
        output = output[0] if isinstance(output, tuple) else output
        outputs.append(output)
        output.square().sum().backward()
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_of_one_query_equals_torchs(heads):
    torch.manual_seed(0)
    ours, theirs = (kind(8, heads, batch_first=True).double() for kind in (SingleQueryAttention, nn.MultiheadAttention))
    nn.init.normal_(ours.in_proj_bias)  # torch starts with zeros
    query, steps = torch.randn(3, 1, 8, dtype=torch.float64), torch.randn(3, 7, 8, dtype=torch.float64)
    padding = torch.arange(7) >= torch.tensor([7, 1, 4])[:, None]
    assert_same_training_step(ours, theirs, query, steps, steps, key_padding_mask=padding, need_weights=False)


def test_attention_of_more_queries_or_other_values_is_torchs():
    torch.manual_seed(0)
    ours, theirs = (kind(8, 2, batch_first=True).double() for kind in (SingleQueryAttention, nn.MultiheadAttention))
    steps = torch.randn(3, 7, 8, dtype=torch.float64)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    assert_same_training_step(ours, theirs, steps, steps, steps, key_padding_mask=padding, need_weights=False)
    assert_same_training_step(ours, theirs, steps[:, :1], steps, steps + 1, key_padding_mask=padding)


@pytest.mark.parametrize("trained_input", [True, False])
def test_a_folded_norm_equals_the_layers_one_by_one(trained_input):
    torch.manual_seed(0)
    ours = NormProjection(nn.LayerNorm(6), nn.Linear(6, 4), nn.Tanh()).double()
    theirs = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4), nn.Tanh()).double()
    nn.init.normal_(ours[0].weight)
    nn.init.normal_(ours[0].bias)
    states = torch.randn(5, 6, dtype=torch.float64, requires_grad=trained_input)
    assert_same_training_step(ours, theirs, states)
