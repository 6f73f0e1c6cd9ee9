"""What the whole paper takes on this machine, from an epoch of every stage on corpora of the three datasets' shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ..config import VARIANTS, Config
from ..data import Corpus, load_corpus
from ..experiments.study import SEEDS
from .measure import Rates
from .stages import stage_one, stage_one_text, stage_two

#: A batch of MOSEI's shape beside the one that Table 2 names for it (8), for its memory.
LARGE_BATCH = 64


def paper(
    datasets: Mapping[str, Config],
    rate: Rates,
    device: torch.device,
    *,
    repeats: int = 3,
    load: Callable[[str], Corpus] = load_corpus,
    layers: int = 12,
) -> Iterator[dict[str, Any]]:
    """The floor and the time of an epoch of each stage and dataset, and of all epochs of all runs; the last row sums.

    Counted are all epochs without an early stop, three seeds: six encoders a seed, MGCL on all datasets,
    and its ablations on CH-SIMS, taken to cost what MGCL costs. The compared systems are not counted, nor is what
    is done once a run (reading, predicting, features of frozen text).

    Args:
        datasets: the settings of each dataset.
        rate: of the device, in their precision.
        device: where to measure.
        repeats: timed epochs of each.
        load: gives the corpus ``synthetic-NAME`` of a dataset.
        layers: of the random bert-base.
    """
    hours = floor = 0.0
    for name, config in datasets.items():
        corpus = load(f"synthetic-{name}")
        for line, epochs, runs in _stages(name, corpus, config, rate, device, repeats, layers):
            times = epochs * runs / 3600
            line |= {
                "epochs": epochs,
                "runs": runs,
                "hours": line["seconds"] * times,
                "floor_hours": line["floor"] * times,
            }
            hours, floor = hours + line["hours"], floor + line["floor_hours"]
            yield line
        if name == "mosei":
            large = config.override({"mgcl_batch_size": LARGE_BATCH})
            yield stage_two(
                corpus, large, rate, device, f"stage two, epoch, batch {LARGE_BATCH}", batches=1, repeats=repeats
            )
    yield {
        "what": "the whole paper, one run after the other",
        "hours": hours,
        "floor_hours": floor,
        "ratio": hours / floor,
    }


def _stages(
    name: str, corpus: Corpus, config: Config, rate: Rates, device: torch.device, repeats: int, layers: int
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """An epoch of each stage of the dataset ``name``, with the epochs of a run and the runs."""
    seeds = len(SEEDS)
    for line in stage_one_text(corpus, config, rate, device, repeats=repeats, layers=layers):
        yield line, config.text_epochs, seeds
    for line in stage_one(corpus, config, rate, device, repeats=repeats):
        yield line, config.sequence_epochs, seeds
    line = stage_two(
        corpus,
        config,
        rate,
        device,
        "stage two, epoch",
        repeats=repeats,
        batches=-(-LARGE_BATCH // config.mgcl_batch_size),
    )
    yield line, config.mgcl_epochs, seeds * (len(VARIANTS) if name == "sims" else 1)
