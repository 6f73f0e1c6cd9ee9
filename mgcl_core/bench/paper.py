"""What the whole paper takes on this machine, from an epoch of every stage on corpora of the three datasets' shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ..config import DATASETS, VARIANTS, Config, preset
from ..corpus import Corpus, load_corpus
from ..experiments import SEEDS
from ..runs import default_precision
from .measure import rates
from .stages import stage_one, stage_one_text, stage_two

#: A batch of MOSEI's shape beside the one that Table 2 names for it (8), for its memory.
LARGE_BATCH = 64


def paper(device: torch.device, *, repeats: int = 3, datasets: Mapping[str, Config] | None = None,
          load: Callable[[str], Corpus] = load_corpus, layers: int = 12) -> Iterator[dict[str, Any]]:
    """The floor and the time of an epoch of each stage and dataset, and of all epochs of all runs; the last row sums.

    Counted are the epochs of Table 2 without an early stop, three seeds: six encoders a seed, MGCL on all datasets,
    and its ablations on CH-SIMS, taken to cost what MGCL costs. The compared systems are not counted, nor is what
    is done once a run (reading, predicting, features of frozen text).

    Args:
        device: where to measure, in the precision that it gets by default.
        repeats: timed epochs of each.
        datasets: the settings of each dataset; Table 2's when None.
        load: gives the corpus ``synthetic-NAME`` of a dataset.
        layers: of the random bert-base.
    """
    precision = {"precision": default_precision(device)}
    chosen = datasets or {name: preset(name) for name in DATASETS}
    rate, total = rates(device, precision["precision"]), []
    for name, config in chosen.items():
        corpus, config = load(f"synthetic-{name}"), config.override(precision)
        variants = len(VARIANTS) if name == "sims" else 1
        for line in stage_one_text(corpus, config, rate, device, repeats=repeats, layers=layers):
            total.append(_all(line, config.text_epochs, len(SEEDS)))
            yield total[-1]
        for line in stage_one(corpus, config, rate, device, repeats=repeats):
            total.append(_all(line, config.sequence_epochs, len(SEEDS)))
            yield total[-1]
        line = stage_two(corpus, config, rate, device, "stage two, epoch", repeats=repeats,
                         batches=-(-LARGE_BATCH // config.mgcl_batch_size))
        total.append(_all(line, config.mgcl_epochs, len(SEEDS) * variants))
        yield total[-1]
        if name == "mosei":
            large = config.override({"mgcl_batch_size": LARGE_BATCH})
            yield stage_two(corpus, large, rate, device, f"stage two, epoch, batch {LARGE_BATCH}", batches=1,
                            repeats=repeats)
    hours, floor = (sum(line[column] for line in total) for column in ("hours", "floor_hours"))
    yield {"what": "the whole paper, one run after the other", "hours": hours, "floor_hours": floor,
           "ratio": hours / floor}


def _all(line: dict[str, Any], epochs: int, runs: int) -> dict[str, Any]:
    """A line about an epoch, with the hours of all epochs of all runs."""
    times = epochs * runs / 3600
    return {**line, "epochs": epochs, "runs": runs, "hours": line["seconds"] * times,
            "floor_hours": line["floor"] * times}
