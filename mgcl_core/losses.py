"""The collaborative contrastive loss (section 3.2) and the terms of the joint objective (section 3.4).

Equation 19 is `mgcl_core.model.MGCL.forward`, equation 22 `mgcl_core.model.MGCL.losses`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from .support.errors import ConfigError, nearest

COMPONENTS = ("C1", "C2", "C3")
PAIR_WEIGHTS = ("printed", "clgsi", "mean")
#: Labels are multiples of 0.2 on CH-SIMS, so E = δ is common and must not hang on float noise (decision 7).
TOLERANCE = 1e-6


def intensity_pairs(labels: Tensor, delta: float = 0.4, weights: str = "printed") -> tuple[Tensor, Tensor]:
    """Positive pairs (eqs 1, 3) and the weight of every pair (eq. 2).

    Args:
        labels: (B,) sentiment in [-1, 1].
        delta: the largest difference of a positive pair.
        weights: "printed" is equation 2, where a positive pair with E = δ weighs nothing. "clgsi" weighs positive pairs
            by 1.5·tanh(2δ − E), as the authors of CLGSI do (models/contrastive_loss.py of
            github.com/AZYoung233/CLGSI), from whom the paper takes its strategy. "mean" is a control: equation 2,
            averaged over the batch's positive pairs, and over its negative ones (decision 8).

    Returns:
        ``positive`` (B, B) bool, True on the diagonal, and ``weight`` (B, B).

    Raises:
        ConfigError: unknown ``weights``.
    """
    if weights not in PAIR_WEIGHTS:
        raise ConfigError(f"unknown weights {weights!r}: {nearest(weights, PAIR_WEIGHTS)}")
    E = (labels[:, None] - labels[None, :]).abs()  # eq. 3
    positive = delta + TOLERANCE >= E  # eq. 1; all other pairs are negative
    if weights == "clgsi":
        return positive, 1.5 * torch.where(positive, 2 * delta - E, E).tanh()
    W = 1.5 * torch.where(positive, E - delta, E).tanh().abs()  # eq. 2
    if weights == "mean":
        means = [W[side].sum() / side.sum().clamp_min(1) for side in (positive, ~positive)]
        W = torch.where(positive, *means)
    return positive, W


def collaborative_contrastive_loss(
    macro: Tensor,
    micro: Tensor,
    labels: Tensor,
    *,
    delta: float = 0.4,
    temperature: float = 0.5,
    components: Collection[str] = COMPONENTS,
    weighted: bool = True,
    weights: str = "printed",
    reduction: str = "mean",
    present: Tensor | None = None,
) -> Tensor:
    """L_con of equation 12 over the pairs of equations 4-11.

    A sample without any negative, or without any positive (possible with C1 alone), contributes 0 with a finite
    gradient; a feature of norm 0 has the cosine 0 with anything, and no gradient. Computed in float32 (float64 for
    float64 features) also under autocast and for half-precision features: rounded labels would change the pairs.

    Args:
        macro: (3, B, d) macro features in the order T, V, A, not yet normalised.
        micro: (3, B, d) micro features, likewise.
        labels: (B,) sentiment in [-1, 1].
        delta: threshold of equation 1.
        temperature: τ of equation 12.
        components: which of C1 (eqs 4, 5), C2 (eqs 6, 7) and C3 (eqs 8, 9) take part.
        weighted: whether pairs carry the weights of equation 2; otherwise W = 1.
        weights: how equation 2 is read, see `intensity_pairs`.
        reduction: "mean" divides the sum over the batch by its size (decision 9), "sum" does not.
        present: (3, B), False where a sample lacks T, V, A: no pair has such a feature (decision 19). None: all have.

    Returns:
        A scalar.

    Raises:
        ConfigError: no component, an unknown one, or unknown weights or reduction.
        ValueError: shapes that do not belong together.
    """
    _check(macro, micro, labels, components, reduction)
    dtype = torch.promote_types(torch.promote_types(macro.dtype, micro.dtype), torch.float32)
    features = _unit_vectors(torch.cat([macro, micro]).to(dtype))  # (6, B, d)
    T_a, V_a, A_a, T_i, V_i, A_i = range(6)
    positive, W = intensity_pairs(labels.to(dtype), delta, weights)  # eqs 1-3, (B, B): row i is the anchor's sample
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)  # (i, i)
    similar, distant = positive & ~itself, ~positive  # positive pairs of two samples, and negative pairs

    pairs = []  # features of anchor and other, which (i, j) are in P_i, which are in N_i (B, B)
    if "C1" in components:  # same modality, same granularity: P_i of eq. 4, N_i of eq. 5
        pairs += [(m, m, similar, distant) for m in (T_a, V_a, A_a)]
    if "C2" in components:  # cross modality, same granularity: P_i of eq. 6, once with the (i, i), N_i of eq. 7
        pairs += [(m, n, positive, distant) for m, n in ((T_a, A_a), (T_a, V_a), (V_a, A_a))]
        pairs += [(m, n, similar, distant) for m, n in ((A_a, T_a), (V_a, T_a), (A_a, V_a))]
    if "C3" in components:  # same modality, cross granularity: P_i of eq. 8, N_i of eq. 9
        pairs += [(m, n, itself, distant) for m, n in ((T_a, T_i), (V_a, V_i), (A_a, A_i))]
    anchors, others, P, N = zip(*pairs, strict=True)
    P, N = torch.stack(P), torch.stack(N)  # eqs 10, 11: all K unions, (K, B, B)
    if present is not None:
        here = present.repeat(2, 1)  # (6, B)
        both = torch.stack([here[m][:, None] & here[n] for m, n in zip(anchors, others, strict=True)])
        P, N = P & both, N & both

    with torch.autocast(macro.device.type, enabled=False):
        anchors, others = (torch.stack([features[m] for m in side]) for side in (anchors, others))
        similarity = anchors @ others.mT  # sim(a, p), (K, B, B)
    scores = similarity * (W if weighted else 1.0) / temperature
    terms = _log_sum_exp(scores, P | N) - _log_sum_exp(scores, P)  # eq. 12, (B,)
    has_both = P.any(2).any(0) & N.any(2).any(0)
    terms = terms.where(has_both, 0.0)
    return terms.mean() if reduction == "mean" else terms.sum()


def prediction_loss(predictions: Tensor, labels: Tensor, counted: Tensor | None = None) -> Tensor:
    """L_pred (eq. 18): mean squared error of (B,) predictions, of those ``counted`` (B,) where that is given."""
    errors = (labels - predictions).square()
    if counted is None:
        return errors.mean()  # eq. 18
    return (errors * counted).sum() / counted.sum().clamp_min(1)


def unimodal_loss(
    predictions: Tensor, labels: Tensor, unimodal_labels: Tensor, present: Tensor | None = None, reduction: str = "sum"
) -> Tensor:
    """L_uni (eqs 20, 21): squared errors summed over the six heads, averaged over the batch (decision 10).

    Args:
        predictions: (6, B) in the order T_a, V_a, A_a, T_i, V_i, A_i.
        labels: (B,) y, the target of the three macro heads.
        unimodal_labels: (3, B) y_T, y_V, y_A, the targets of the three micro heads.
        present: (3, B), False where a sample lacks T, V, A: no term comes from it (decision 19). None: all are there.
        reduction: "sum", equation 21; or "mean", a sixth of it, as in ConFEDE (model/net/constrastive/TVA_fusion.py of
            github.com/XpastaX/ConFEDE), whose β = .01 the default is.
    """
    u = torch.cat([labels.expand(3, -1), unimodal_labels])  # eq. 20, (6, B)
    errors = (u - predictions).square()
    if present is not None:
        errors = errors * present.repeat(2, 1)
    return errors.sum(0).mean() if reduction == "sum" else errors.mean()  # eq. 21


def _log_sum_exp(scores: Tensor, mask: Tensor) -> Tensor:
    """Log of the sum of exp(score) over the pairs of each sample that ``mask`` holds: (K, B, B) → (B,)."""
    # The smallest number instead of -inf: a sample without any pair keeps a finite value and gradient.
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).logsumexp((0, 2))


def _unit_vectors(features: Tensor) -> Tensor:
    """Unit vectors along the last dimension; a zero vector stays zero, with a zero gradient."""
    largest = features.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    features = features / largest.masked_fill(zero, 1.0)  # squares neither under- nor overflow, however small
    return F.normalize(features.masked_fill(zero, 1.0), dim=-1).masked_fill(zero, 0.0)


def _check(macro: Tensor, micro: Tensor, labels: Tensor, components: Collection[str], reduction: str) -> None:
    if not components:
        raise ConfigError(f"components is empty: choose from {', '.join(COMPONENTS)}")
    for name in components:
        if name not in COMPONENTS:
            raise ConfigError(f"unknown component {name!r}: {nearest(name, COMPONENTS)}")
    if reduction not in ("mean", "sum"):
        raise ConfigError(f"unknown reduction {reduction!r}: {nearest(reduction, ('mean', 'sum'))}")
    if macro.dim() != 3 or len(macro) != 3 or micro.shape != macro.shape or labels.shape != macro.shape[1:2]:
        shapes = f"{tuple(macro.shape)}, {tuple(micro.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected macro and micro (3, B, d) and labels (B,), got {shapes}")
