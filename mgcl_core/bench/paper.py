"""What the whole paper takes on this machine, from an epoch of every stage on corpora of the three datasets' shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..config import VARIANTS
from ..experiments.study import SEEDS
from .measure import Row, Setup
from .stages import time_mgcl, time_sequence_encoders, time_text_encoders


def time_whole_paper(setups: Iterable[tuple[str, Setup]], *, layers: int = 12) -> Iterator[Row]:
    """Time an epoch of each stage and dataset, and sum all epochs of all runs.

    Counted are all epochs without an early stop, three seeds: six encoders a seed, MGCL on all datasets, and its
    ablations on CH-SIMS, taken to cost what MGCL costs. The compared systems are not counted, nor is what is done once
    a run (reading, predicting, features of frozen text).

    Args:
        setups: Name of a dataset and what to measure it with; made when it is its turn, for memory.
        layers: Of the random bert-base.

    Yields:
        A row a stage and dataset, then one of the sum, in hours.
    """
    hours = floor_hours = 0.0
    for dataset, setup in setups:
        config, seeds = setup.config, len(SEEDS)
        stages = [(line, config.text_epochs, seeds) for line in time_text_encoders(setup, layers=layers)]
        stages += [(line, config.sequence_epochs, seeds) for line in time_sequence_encoders(setup)]
        stages += [
            (time_mgcl(setup, clips=64), config.mgcl_epochs, seeds * (len(VARIANTS) if dataset == "sims" else 1))
        ]
        for line, epochs, runs in stages:
            times = epochs * runs / 3600
            line |= {"epochs": epochs, "runs": runs}
            line |= {"hours": line["seconds"] * times, "floor_hours": line["floor"] * times}
            hours, floor_hours = hours + line["hours"], floor_hours + line["floor_hours"]
            yield line
    what = "the whole paper, one run after the other"
    yield {"what": what, "hours": hours, "floor_hours": floor_hours, "ratio": hours / floor_hours}
