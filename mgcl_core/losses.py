"""The collaborative contrastive loss (section 3.2) and the joint objective (section 3.4)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from .errors import ConfigError, nearest

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
        raise ValueError(f"expected macro and micro (3, B, d) and labels (B,), found {tuple(macro.shape)}, "
                         f"{tuple(micro.shape)} and {tuple(labels.shape)}")

    dtype = torch.promote_types(torch.promote_types(macro.dtype, micro.dtype), torch.float32)
    positive, weight = intensity_pairs(labels.to(dtype), delta)
    if not weighted:
        weight = torch.ones_like(weight)
    macro, micro = _normalize(macro.to(dtype)), _normalize(micro.to(dtype))
    own = torch.eye(macro.shape[1], dtype=torch.bool, device=macro.device)

    logits, positives, pairs = [], [], []  # each (B, pairs of a sample)

    def add(similarity: Tensor, is_positive: Tensor, is_pair: Tensor) -> None:
        # (K, B, B), anchors first, with masks that broadcast to it → (B, K·B)
        scaled = similarity * weight / temperature
        logits.append(scaled.transpose(0, 1).flatten(1))
        positives.append((is_positive & is_pair).expand_as(scaled).transpose(0, 1).flatten(1))
        pairs.append(is_pair.expand_as(scaled).transpose(0, 1).flatten(1))

    if "C1" in components:  # (m_a^i, m_a^j), i ≠ j
        add(_similarity(macro, macro), positive, ~own)
    if "C2" in components:  # (m_a^i, n_a^j) for the six ordered pairs of modalities; the own ones, i = j, count once
        text, vision, audio = macro
        similarity = _similarity(torch.stack([text, text, vision]), torch.stack([vision, audio, audio]))
        add(similarity, positive, torch.ones_like(own))
        add(similarity.mT, positive, ~own)
    if "C3" in components:  # (m_a^i, m_i^k): the own micro feature is the one positive
        add(_similarity(macro, micro), own, own | ~positive)

    logits, positives, pairs = torch.cat(logits, 1), torch.cat(positives, 1), torch.cat(pairs, 1)
    # A finite stand-in for -inf keeps the gradient of an empty row finite.
    floor = torch.finfo(logits.dtype).min
    numerator = logits.masked_fill(~positives, floor).logsumexp(1)  # (B,)
    denominator = logits.masked_fill(~pairs, floor).logsumexp(1)
    counts = positives.any(1) & (pairs & ~positives).any(1)
    terms = torch.where(counts, denominator - numerator, 0.0)
    return terms.mean() if reduction == "mean" else terms.sum()


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


def _similarity(anchors: Tensor, others: Tensor) -> Tensor:
    """Dot products (K, B, d), (K, B, d) → (K, B, B), in the precision of their inputs also under autocast."""
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors @ others.mT


def _normalize(features: Tensor) -> Tensor:
    """Unit vectors along the last dimension; a zero vector stays zero, with a zero gradient."""
    # Scaled by the largest entry, the square neither under- nor overflows, however small the features.
    largest = features.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    features = features / torch.where(zero, 1.0, largest)
    squared = features.square().sum(-1, keepdim=True)
    return torch.where(zero, 0.0, features * torch.where(zero, 1.0, squared).rsqrt())
