"""Two of torch's layers with less work for the same result: same parameters, same signature, torch's own path besides.

They stay under the rule of docs/speed.md, which says what each gains. Gradients are autograd's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SingleQueryAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` (batch first), for one query over keys that are also the values.

    With a single query, q·(W_k s) = (W_kᵀ q)·s and Σ w (W_v s) = W_v (Σ w s): no step s is projected, neither to a key
    nor to a value. The bias of the keys moves all scores of a clip by the same, which softmax does not see.
    Everything else takes torch's own path.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's: query (B, 1, d), key and value (B, L, d), mask (B, L), True where padding → (B, 1, d), None."""
        if query.shape[1] != 1 or key is not value or key_padding_mask is None or options != {"need_weights": False}:
            return super().forward(query, key, value, key_padding_mask, **options)
        heads, width = self.num_heads, self.head_dim
        W_q, W_k, W_v = (weight.view(heads, width, -1) for weight in self.in_proj_weight.chunk(3))  # (h, d/h, d)
        b_q, _, b_v = (bias.view(heads, width) for bias in self.in_proj_bias.chunk(3))
        projected = torch.einsum("bd,hed->bhe", query[:, 0], W_q) + b_q  # (B, h, d/h)
        projected = torch.einsum("bhe,hed->bhd", projected, W_k) / width**0.5  # (B, h, d)
        scores = (projected @ key.mT).masked_fill(key_padding_mask[:, None], float("-inf"))  # (B, h, L)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        mixed = weights.to(key.dtype) @ key  # (B, h, d)
        attended = torch.einsum("bhd,hed->bhe", mixed, W_v) + weights.sum(-1, keepdim=True) * b_v  # (B, h, d/h)
        return self.out_proj(attended.flatten(1))[:, None], None


class NormProjection(nn.Sequential):
    """A LayerNorm, a Linear, and layers that follow, with the norm's weight and bias folded into those of the Linear.

    Where the input needs no gradient, as features of frozen encoders do not, the backward pass has one large product
    less: the gradient of the Linear's input, which only the norm's own weight and bias would need.
    """

    def forward(self, states: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if states.requires_grad:
            return super().forward(states)
        norm, linear, *rest = self
        weight = linear.weight * norm.weight  # (out, in)
        bias = linear.bias + linear.weight @ norm.bias
        states = F.linear(F.layer_norm(states, norm.normalized_shape, eps=norm.eps), weight, bias)
        for layer in rest:
            states = layer(states)
        return states
