"""Which clips of the training split a clip is contrasted with (ConFEDE, Yang et al. 2023; also in SFTTR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
        ranked.append(torch.stack([_highest(similarity, alike & near & other, count),
                                   _highest(-similarity, ~alike & far & other, count),
                                   _highest(similarity, ~alike & near & other, count)], 1))
    return torch.cat(ranked)


def _highest(score: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Columns of the ``count`` highest allowed scores of each row, -1 where there are fewer."""
    values, columns = score.masked_fill(~allowed, -torch.inf).topk(min(count, score.shape[1]))
    return F.pad(columns.masked_fill(values == -torch.inf, -1), (0, count - columns.shape[1]), value=-1)


def draw(candidates: Tensor) -> Tensor:
    """Two candidates of each kind at random, without replacement: (B, 3, K) → (B, 6); -1 where there are fewer."""
    keys = torch.rand(candidates.shape, device=candidates.device).masked_fill(candidates < 0, -1.0)
    return candidates.gather(-1, keys.topk(2).indices).flatten(1)
