"""Self-attention over the valid steps of each clip, without keeping its weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.valid_steps import ValidSteps
from .dropout import draw_seed, generator, kept

#: Attention weights that exist at a time on the CPU; as many as stay in its cache.
WEIGHTS_AT_ONCE = 2**21


def self_attention(projected: Tensor, steps: ValidSteps, heads: int, dropout: float = 0.0) -> Tensor:
    """Multi-head self-attention among the valid steps of each clip.

    Args:
        projected: (n, 3·d), queries, keys and values of the packed steps.
        steps: the packing.
        heads: h.
        dropout: rate of the dropout of the attention weights; 0 outside training.

    Returns:
        (n, d), the heads side by side, before the output projection.
    """
    if steps.rows is not None:
        counts = steps.mask.sum(1).tolist()
        return _ValidAttention.apply(projected, counts, heads, dropout)
    query, key, value = steps.unpack(projected).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, L, d/h)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=steps.mask[:, None, None], dropout_p=dropout)
    return steps.pack(attended.transpose(1, 2).flatten(2))


class _ValidAttention(torch.autograd.Function):
    """Clips of like length together, as many at a time as `WEIGHTS_AT_ONCE` allows; the backward pass makes the
    weights anew. torch's fused kernel for the CPU has no dropout, and its other one keeps all weights of the batch."""

    @staticmethod
    def forward(ctx, projected: Tensor, counts: list[int], heads: int, dropout: float) -> Tensor:
        ctx.save_for_backward(projected)
        ctx.counts, ctx.heads, ctx.dropout = counts, heads, dropout
        ctx.seed = draw_seed() if dropout else 0
        source = generator(ctx.seed)
        attended = projected.new_empty(len(projected), projected.shape[1] // 3)
        for rows, valid in _groups(counts, heads):
            query, key, value = _gather(projected, rows, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (b, h, L, d/h)
            weights, factors = _weights(query, key, valid, dropout, source)
            if factors is not None:
                weights *= factors
            _scatter(attended, rows, valid, weights @ value)
        return attended

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (projected,), source = ctx.saved_tensors, generator(ctx.seed)
        result = torch.empty_like(projected)
        for rows, valid in _groups(ctx.counts, ctx.heads):
            query, key, value = _gather(projected, rows, (3, ctx.heads, -1)).permute(2, 0, 3, 1, 4)
            outer = _gather(gradient, rows, (ctx.heads, -1)).masked_fill(~valid[:, :, None, None], 0.0).transpose(1, 2)
            weights, factors = _weights(query, key, valid, ctx.dropout, source)  # (b, h, L, L)
            of_weights = outer @ value.mT
            if factors is None:
                of_value = weights.mT @ outer
            else:
                of_weights *= factors
                of_value = factors.mul_(weights).mT @ outer
            of_weights *= weights
            of_scores = of_weights.sub_(weights.mul_(of_weights.sum(-1, keepdim=True)))
            scale = query.shape[-1] ** -0.5
            parts = torch.stack([of_scores @ key * scale, of_scores.mT @ query * scale, of_value])  # (3, b, h, L, d/h)
            _scatter(result, rows, valid, parts.permute(1, 0, 2, 3, 4).flatten(1, 2))
        return result, None, None, None


def _groups(counts: list[int], heads: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of clips: the packed rows of their steps (b, L), and which of them are valid (b, L)."""
    starts = np.cumsum([0, *counts])
    order = [clip for clip in np.argsort(counts, kind="stable")[::-1] if counts[clip]]
    first = 0
    while first < len(order):
        longest = counts[order[first]]
        clips = order[first : first + max(1, WEIGHTS_AT_ONCE // (heads * longest * longest))]
        steps = np.arange(longest)
        valid = steps < np.array([counts[clip] for clip in clips])[:, None]
        rows = starts[clips][:, None] + np.where(valid, steps, 0)
        yield torch.from_numpy(rows), torch.from_numpy(valid)
        first += len(clips)


def _gather(packed: Tensor, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, D) → (b, L, *shape)."""
    return packed.index_select(0, rows.flatten()).view(*rows.shape, *shape)


def _scatter(packed: Tensor, rows: Tensor, valid: Tensor, values: Tensor) -> None:
    """Write the valid steps of (b, k, L, d/k) to their rows of (n, d)."""
    flat = values.transpose(1, 2).flatten(2)  # (b, L, d)
    if valid.all():
        packed.index_copy_(0, rows.flatten(), flat.flatten(0, 1))
    else:
        packed.index_copy_(0, rows[valid], flat[valid])


def _weights(
    query: Tensor, key: Tensor, valid: Tensor, dropout: float, source: np.random.BitGenerator
) -> tuple[Tensor, Tensor | None]:
    """Attention weights (b, h, L, L) before dropout, and its factors."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if not valid.all():
        scores.masked_fill_(~valid[:, None, None], float("-inf"))
    weights = scores.softmax(-1)
    return weights, kept(weights.shape, dropout, weights.dtype, source) if dropout else None
