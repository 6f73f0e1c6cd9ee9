"""The collaborative contrastive loss (section 3.2) and the joint objective (section 3.4)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .support.errors import ConfigError, nearest

COMPONENTS = ("C1", "C2", "C3")
#: Labels are multiples of 0.2 on CH-SIMS, so E = δ is common and must not hang on float noise (decision 7).
TOLERANCE = 1e-6


def intensity_pairs(labels: Tensor, delta: float = 0.4) -> tuple[Tensor, Tensor]:
    """Positive pairs (eqs 1, 3) and the weight of every pair (eq. 2).

    Args:
        labels: (B,) sentiment in [-1, 1].
        delta: the largest difference of a positive pair.

    Returns:
        ``positive`` (B, B) bool, True on the diagonal, and ``weight`` (B, B).
    """
    difference = (labels[:, None] - labels[None, :]).abs()  # E, (B, B)
    positive = difference <= delta + TOLERANCE
    weight = 1.5 * torch.tanh(torch.where(positive, difference - delta, difference)).abs()
    return positive, weight


def collaborative_contrastive_loss(
    macro: Tensor,
    micro: Tensor,
    labels: Tensor,
    *,
    delta: float = 0.4,
    temperature: float = 0.5,
    components: Collection[str] = COMPONENTS,
    weighted: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """L_con of equation 12 over the pairs of equations 4-11, as one batch of tensor algebra.

    A sample without any negative, or without any positive (possible with C1 alone), contributes 0
    with a finite gradient; a feature of norm 0 has the cosine 0 with anything, and no gradient.
    It is computed in float32 (float64 for float64 features) whatever autocast or half-precision
    features are about: rounded labels would change the pairs.

    Args:
        macro: (3, B, d) macro features in the order T, V, A, not yet normalised.
        micro: (3, B, d) micro features, likewise.
        labels: (B,) sentiment in [-1, 1].
        delta: threshold of equation 1.
        temperature: τ of equation 12.
        components: which of C1 (eqs 4, 5), C2 (eqs 6, 7) and C3 (eqs 8, 9) take part.
        weighted: whether pairs carry the weights of equation 2; otherwise W = 1.
        reduction: "mean" divides the sum over the batch by its size (decision 9), "sum" does not.

    Returns:
        A scalar.

    Raises:
        ConfigError: no component, an unknown one, or an unknown reduction.
        ValueError: shapes that do not belong together.
    """
    if not components:
        raise ConfigError(f"components is empty: choose from {', '.join(COMPONENTS)}")
    unknown = [name for name in components if name not in COMPONENTS]
    if unknown:
        raise ConfigError(f"unknown component {unknown[0]!r}: {nearest(unknown[0], COMPONENTS)}")
    if reduction not in ("mean", "sum"):
        raise ConfigError(f"unknown reduction {reduction!r}: {nearest(reduction, ('mean', 'sum'))}")
    if macro.dim() != 3 or len(macro) != 3 or micro.shape != macro.shape or labels.shape != macro.shape[1:2]:
        raise ValueError(
            f"expected macro and micro (3, B, d) and labels (B,), found {tuple(macro.shape)}, "
            f"{tuple(micro.shape)} and {tuple(labels.shape)}"
        )

    dtype = torch.promote_types(torch.promote_types(macro.dtype, micro.dtype), torch.float32)
    positive, weight = intensity_pairs(labels.to(dtype), delta)
    # (6, B, d): T_a, V_a, A_a, T_i, V_i, A_i; micro features take part in C3 alone
    features = _normalize((torch.cat([macro, micro]) if "C3" in components else macro).to(dtype))
    own = torch.eye(macro.shape[1], dtype=torch.bool, device=macro.device)
    distinct, alike = ~own, positive & ~own  # i ≠ j, and the positive ones among them

    # For each matrix of pairs (B, B), anchors by rows: the two features, and the masks of positives and of all pairs.
    matrices: list[tuple[int, int, Tensor, Tensor]] = []
    if "C1" in components:  # (m_a^i, m_a^j), i ≠ j
        matrices += [(m, m, alike, distinct) for m in range(3)]
    if "C2" in components:  # (m_a^i, n_a^j) for the six ordered pairs of modalities; the own ones, i = j, count once
        everything = torch.ones_like(own)
        matrices += [
            (m, n, *((positive, everything) if m < n else (alike, distinct)))
            for m in range(3)
            for n in range(3)
            if m != n
        ]
    if "C3" in components:  # (m_a^i, m_i^k): the own micro feature is the one positive
        matrices += [(m, m + 3, own, own | ~positive) for m in range(3)]
    anchors, others, positives, pairs = zip(*matrices, strict=True)

    logits = _similarities(features, anchors, others)  # (K, B, B)
    logits = logits * ((weight if weighted else 1.0) / temperature)
    terms = _Contrast.apply(logits, torch.stack(positives), torch.stack(pairs))  # (B,)
    return terms.mean() if reduction == "mean" else terms.sum()


class _Contrast(torch.autograd.Function):
    """-log of the positives' share of Σ exp(logit) over the pairs of each sample: (K, B, B), anchors by rows → (B,).

    Positives are among the pairs. A sample without any positive, or without any negative, gives 0.
    The gradient is the softmax over all pairs less the softmax over the positive ones.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, positives: Tensor, pairs: Tensor) -> Tensor:
        # By hand, once: autograd would keep and pass a dozen matrices for the same.
        terms, gradient = 0.0, None
        for mask, sign in ((pairs, 1), (positives, -1)):
            masked = logits.masked_fill(~mask, float("-inf"))
            peak = masked.amax((0, 2), keepdim=True).clamp_min(torch.finfo(logits.dtype).min)  # finite in an empty row
            exponentials = (masked - peak).exp_()
            total = exponentials.sum((0, 2), keepdim=True)
            share = exponentials.div_(total.clamp_min(torch.finfo(logits.dtype).tiny))
            terms = terms + sign * (peak + total.log()).flatten()
            gradient = share if gradient is None else gradient.sub_(share)
        of_positives, of_pairs = positives.sum((0, 2)), pairs.sum((0, 2))
        counts = (of_positives > 0) & (of_pairs > of_positives)
        ctx.save_for_backward(gradient.mul_(counts[:, None]))
        return torch.where(counts, terms, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (of_logits,) = ctx.saved_tensors
        return of_logits * gradient[:, None], None, None


def unimodal_loss(predictions: Tensor, labels: Tensor, unimodal_labels: Tensor) -> Tensor:
    """L_uni (eqs 19-21): squared errors summed over the six heads, averaged over the batch (decision 10).

    Args:
        predictions: (6, B) in the order T_a, V_a, A_a, T_i, V_i, A_i.
        labels: (B,) y, the target of the three macro heads.
        unimodal_labels: (3, B) y_T, y_V, y_A, the targets of the three micro heads.
    """
    targets = torch.cat([labels.expand(3, -1), unimodal_labels])  # u, (6, B)
    return (predictions - targets).square().sum(0).mean()


def prediction_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """L_pred (eq. 18): mean squared error of (B,) predictions."""
    return (predictions - labels).square().mean()


def _similarities(features: Tensor, anchors: Sequence[int], others: Sequence[int]) -> Tensor:
    """Dot products of (6, B, d) with itself: (K, B, B), in the features' precision also under autocast."""
    with torch.autocast(features.device.type, enabled=False):
        # One and the same product for both orders of a pair of features.
        products = sorted({tuple(sorted(pair)) for pair in zip(anchors, others, strict=True)})
        parts = features.unbind()
        left, right = (torch.stack([parts[place] for place in places]) for places in zip(*products, strict=True))
        similarity = dict(zip(products, (left @ right.mT).unbind(), strict=True))
    return torch.stack(
        [similarity[m, n] if m <= n else similarity[n, m].mT for m, n in zip(anchors, others, strict=True)]
    )


def _normalize(features: Tensor) -> Tensor:
    """Unit vectors along the last dimension; a zero vector stays zero, with a zero gradient."""
    # Scaled by the largest entry, the square neither under- nor overflows, however small the features.
    largest = features.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    features = features / torch.where(zero, 1.0, largest)
    squared = features.square().sum(-1, keepdim=True)
    return features * torch.where(zero, 0.0, torch.where(zero, 1.0, squared).rsqrt())
