"""Audio and vision on the steps of the text, for systems that expect all modalities aligned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def align_steps(values: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """Values averaged over the stretch of time that falls to each token, tokens being taken as equally long.

    The valid steps of a clip are spread evenly over its tokens; a step that falls to two tokens counts for each as far
    as it overlaps. With as many steps as tokens, as in aligned files, the values come back unchanged.

    Args:
        values: (B, L, D), valid steps first.
        mask: (B, L), True where valid.
        tokens: (B, T), True where there is a token.

    Returns:
        (B, T, D), zero beyond the tokens, and for clips without a valid step.
    """
    count, wanted = mask.sum(1)[:, None, None], tokens.sum(1)[:, None, None]  # n, t, each (B, 1, 1)
    step = torch.arange(values.shape[1], device=values.device)
    token = torch.arange(tokens.shape[1], device=values.device)[:, None]
    # In units of 1 / (n · t), step s spans [s · t, (s + 1) · t) and token j spans [j · n, (j + 1) · n): whole numbers.
    start = torch.maximum(step * wanted, token * count)
    end = torch.minimum((step + 1) * wanted, (token + 1) * count)
    weight = (end - start).clamp_min(0) * mask[:, None] * tokens[:, :, None]  # (B, T, L)
    return (weight / count.clamp_min(1)).to(values.dtype) @ values


def stride_steps(values: Tensor, steps: int, wanted: int) -> Tensor:
    """The reduction of mmsa 2.2.1: step j is the mean of the steps j, j + ``wanted``, j + 2 · ``wanted``, ...

    Args:
        values: (B, L, D), trimmed from ``steps``.
        steps: of the file, padding included; the last is repeated up to a multiple of ``wanted``.
        wanted: steps of the text.

    Returns:
        (B, ``wanted``, D).
    """
    values = F.pad(values, (0, 0, 0, steps - values.shape[1]))
    missing = -steps % wanted
    values = torch.cat([values, values[:, -1:].expand(-1, missing, -1)], 1)
    return values.unflatten(1, (-1, wanted)).mean(1)
