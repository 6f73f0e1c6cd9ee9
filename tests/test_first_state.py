"""Leaving out the end of the last layer changes no state of [CLS], and no gradient of it."""

import torch
from transformers import BertModel, DistilBertConfig, DistilBertModel

from mgcl_core.first_state import keep_first_state


def test_the_first_state_and_its_gradients_are_those_of_the_whole_model(tiny_bert):
    whole, short = (BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).eval() for _ in range(2))
    assert keep_first_state(short)
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
    mask = (ids > 0).long()
    expected = whole(input_ids=ids, attention_mask=mask).last_hidden_state[:, :1]
    states = short(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states, expected)
    for result in (expected, states):
        result.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in short.named_parameters()}
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    assert gradients["encoder.layer.0.attention.self.key.weight"].abs().max() > 0


def test_a_model_laid_out_otherwise_stays_as_it_is():
    model = DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=8)).eval()
    assert not keep_first_state(model)
    assert model(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.shape == (1, 3, 8)
