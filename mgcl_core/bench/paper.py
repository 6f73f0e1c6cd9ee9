"""What the whole paper takes on this machine, from an epoch of every stage on corpora of the three datasets' shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..config import VARIANTS, Config
from ..data.corpus import EncoderName
from ..experiments.study import SEEDS
from .measure import Row, Setup
from .stages import SEQUENCE_ENCODERS, TEXT_ENCODERS, time_mgcl, time_sequence_encoders, time_text_encoders


def how_often(dataset: str, config: Config, name: EncoderName | None) -> tuple[int, int]:
    """Epochs and runs of a stage in the whole paper: of an encoder's stage one, or for None of stage two."""
    if name is None:
        return config.mgcl_epochs, len(SEEDS) * (len(VARIANTS) if dataset == "sims" else 1)
    return (config.text_epochs if name.modality == "T" else config.sequence_epochs), len(SEEDS)


def time_whole_paper(setups: Iterable[tuple[str, Setup]], *, layers: int = 12) -> Iterator[Row]:
    """Time an epoch of each stage and dataset, and sum all epochs of all runs.

    Counted are all epochs without an early stop, three seeds: six encoders per seed, MGCL on all datasets, and its
    ablations on CH-SIMS, taken to cost what MGCL costs. The compared systems are not counted, nor is what is done once
    a run (reading, predicting, features of frozen text).

    Args:
        setups: Name of a dataset and what to measure it with; made when it is its turn, for memory.
        layers: Of the random bert-base.

    Yields:
        One row per stage and dataset, then one of the sum, in hours.
    """
    hours = floor_hours = 0.0
    for dataset, setup in setups:
        stages = list(zip(TEXT_ENCODERS, time_text_encoders(setup, layers=layers), strict=True))
        stages += zip(SEQUENCE_ENCODERS, time_sequence_encoders(setup), strict=True)
        stages += [(None, time_mgcl(setup, clips=64))]
        for name, line in stages:
            epochs, runs = how_often(dataset, setup.config, name)
            times = epochs * runs / 3600
            line |= {"epochs": epochs, "runs": runs}
            line |= {"hours": line["seconds"] * times, "floor_hours": line["floor"] * times}
            hours, floor_hours = hours + line["hours"], floor_hours + line["floor_hours"]
            yield line
    what = "the whole paper, one run after the other"
    yield {"what": what, "hours": hours, "floor_hours": floor_hours, "ratio": hours / floor_hours}
