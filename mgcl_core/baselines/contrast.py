"""Which clips of the training split a clip is contrasted with, and how (ConFEDE, Yang et al. 2023; also SFTTR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RETRIEVED = 6  # clips beside each clip: the first two are the ones that feel alike
KINDS = 6  # features of a clip: similar T, V, A, then dissimilar T, V, A


def rank_candidates(embeddings: Tensor, labels: Tensor, share: float, count: int, rows: int = 512) -> Tensor:
    """For each clip the ``count`` nearest that feel alike, the farthest and the nearest that feel differently.

    Nearest means among the ``share`` of all clips that are most alike by cosine, farthest among as many that are
    least alike; clips feel alike if their labels are equal.

    Args:
        embeddings: (N, D).
        labels: (N,).
        share: of the clips, in (0, 1].
        count: candidates of each kind.
        rows: clips ranked at once.

    Returns:
        (N, 3, count) rows, best first, -1 where there are fewer.
    """
    unit, total = F.normalize(embeddings, dim=-1), len(labels)
    nearest = max(1, int(total * share))
    ranked = []
    for own in torch.arange(total, device=labels.device).split(rows):
        similarity = unit[own] @ unit.mT  # (rows, N)
        other = own[:, None] != torch.arange(total, device=labels.device)
        alike = (labels[own, None] - labels).abs() < 1e-6
        near = similarity >= similarity.topk(nearest).values[:, -1:]
        far = -similarity >= (-similarity).topk(nearest).values[:, -1:]
        ranked.append(
            torch.stack(
                [
                    _highest(similarity, alike & near & other, count),
                    _highest(-similarity, ~alike & far & other, count),
                    _highest(similarity, ~alike & near & other, count),
                ],
                1,
            )
        )
    return torch.cat(ranked)


def _highest(score: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Columns of the ``count`` highest allowed scores of each row, -1 where there are fewer."""
    values, columns = score.masked_fill(~allowed, -torch.inf).topk(min(count, score.shape[1]))
    return F.pad(columns.masked_fill(values == -torch.inf, -1), (0, count - columns.shape[1]), value=-1)


def draw(candidates: Tensor) -> Tensor:
    """Two candidates of each kind at random, without replacement: (B, 3, K) → (B, 6); -1 where there are fewer."""
    keys = torch.rand(candidates.shape, device=candidates.device).masked_fill(candidates < 0, -1.0)
    return candidates.gather(-1, keys.topk(2).indices).flatten(1)


def contrast_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Positive (20) and negative (33) pairs among a clip and its six neighbours, the anchor first.

    A feature is named by its place in (7 clips, 6 kinds): ``6 * clip + kind``. Within each clip the similar text
    is the anchor of the two other similar features and against the three dissimilar ones; across clips each similar
    feature of the clip itself is the anchor of those that feel alike and against those that do not.
    """
    positive = [(KINDS * 0 + m, KINDS * clip + m) for m in range(3) for clip in (1, 2)]
    positive += [(KINDS * clip, KINDS * clip + m) for clip in range(1 + RETRIEVED) for m in (1, 2)]
    negative = [(KINDS * 0 + m, KINDS * clip + m) for m in range(3) for clip in (3, 4, 5, 6)]
    negative += [(KINDS * clip, KINDS * clip + kind) for clip in range(1 + RETRIEVED) for kind in (3, 4, 5)]
    return positive, negative


def contrastive_loss(features: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Mean over clips and their positive pairs of −log(e^p / (e^p + Σ e^n)), n being all negatives of the anchor.

    Args:
        features: (B, 7, 6, h): each clip, then the six retrieved for it.
        valid: (B, 7), False where no clip could be retrieved; its pairs are left out.
        temperature: by which cosines are divided.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    unit = F.normalize(features, dim=-1).flatten(1, 2)  # (B, 42, h)
    with torch.autocast(unit.device.type, enabled=False):  # cosines stay in float32
        similarity = unit @ unit.mT / temperature  # (B, 42, 42)
    here = valid.repeat_interleave(KINDS, 1)  # (B, 42)
    positive, negative = (torch.tensor(pairs, device=features.device).unbind(1) for pairs in contrast_pairs())
    (anchor, partner), (against, rival) = positive, negative
    rivals = (anchor[:, None] == against) & (here[:, against] & here[:, rival])[:, None]  # (B, 20, 33)
    # A finite stand-in for -inf keeps the gradient of an anchor without rivals finite.
    rivalry = similarity[:, None, against, rival].masked_fill(~rivals, torch.finfo(unit.dtype).min).logsumexp(-1)
    terms = F.softplus(rivalry - similarity[:, anchor, partner])  # (B, 20)
    counts = here[:, anchor] & here[:, partner]
    return ((terms * counts).sum(1) / counts.sum(1)).mean()
