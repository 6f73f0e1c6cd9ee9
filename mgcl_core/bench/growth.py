"""How the time of a stage-two epoch grows with clips, with steps and with the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..data import Corpus, Split
from .measure import Rates
from .stages import stage_two


def growth(
    corpus: Corpus,
    config: Config,
    rate: Rates,
    device: torch.device,
    *,
    clips: tuple[int, ...] = (32, 64, 128),
    shares: tuple[float, ...] = (0.25, 0.5, 1.0),
    batches: tuple[int, ...] = (8, 16, 32),
    repeats: int = 3,
) -> Iterator[dict[str, Any]]:
    """One of the three at a time, with as many clips and as large a batch as the least of ``clips`` otherwise;
    ``shares`` are of the longest sequence."""
    config = config.override({"mgcl_batch_size": min(clips)})
    for count in clips:
        yield _cut(corpus, config, rate, device, repeats, f"stage two, {count} clips", count)
    for share in shares:
        shorter = dataclasses.replace(
            corpus, **{name: _shorter(getattr(corpus, name), share) for name in ("train", "valid")}
        )
        yield _cut(shorter, config, rate, device, repeats, f"stage two, {share:g} of the steps", min(clips))
    for size in batches:
        changed = config.override({"mgcl_batch_size": size})
        yield _cut(corpus, changed, rate, device, repeats, f"stage two, batches of {size}", min(clips))


def _cut(
    corpus: Corpus, config: Config, rate: Rates, device: torch.device, repeats: int, what: str, clips: int
) -> dict[str, Any]:
    clips = min(clips, len(corpus.train))
    cut = dataclasses.replace(corpus, train=corpus.train.first(clips), valid=corpus.valid.first(max(1, clips // 3)))
    return stage_two(cut, config, rate, device, what, batches=-(-clips // config.mgcl_batch_size), repeats=repeats)


def _shorter(split: Split, share: float) -> Split:
    """The split with audio and vision cut to a share of their steps."""
    cut = {}
    for name in ("audio", "vision"):
        values, mask = getattr(split, name), getattr(split, f"{name}_mask")
        steps = max(1, round(share * values.shape[1]))
        # Every length shrinks alike, so that lengths stay as unequal as they were.
        valid = np.arange(steps) < np.ceil(mask.sum(1) * share)[:, None]
        cut |= {name: values[:, :steps], f"{name}_mask": valid}
    return dataclasses.replace(split, **cut)
