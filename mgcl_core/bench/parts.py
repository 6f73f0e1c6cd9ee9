"""The parts of the benchmark, each in a process of its own; their table and JSON lie under ``results/bench/``."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..config import DATASETS, PROFILES, Config, preset
from ..data import load_corpus
from ..support.devices import choose_device
from ..support.errors import ConfigError, RunError, nearest
from ..support.files import atomic, read_json, write_json
from ..support.parallel import run_parallel
from .compared import compare_with_mmsa
from .counted import count_memory, count_paper
from .drift import half_precision_drift
from .loss import time_contrastive_loss
from .measure import Rates, Row, Setup, describe_machine, measure_rates, rate_rows
from .paper import time_whole_paper
from .stages import time_mgcl, time_sequence_encoders, time_text_encoders

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked of the benchmark.

    Attributes:
        device: As for `choose_device`.
        corpus: "synthetic-sims", "-mosi" or "-mosei": the shapes to measure at.
        results: Where ``bench/`` is, and the demo's runs that the part `cache` compares.
        mmsa_python: The interpreter of an environment with mmsa 2.2.1, or None.
        repeats: Timed runs of each measurement.
    """

    device: str
    corpus: str
    results: Path
    mmsa_python: Path | None
    repeats: int

    @property
    def torch_device(self) -> torch.device:
        return choose_device(self.device)

    @property
    def config(self) -> Config:
        """Table 2's settings, on a CPU in float32."""
        precision = "fp32" if self.torch_device.type == "cpu" else PROFILES["paper"]["precision"]
        return preset(self.corpus.removeprefix("synthetic-")).override({"precision": precision})

    def rates(self) -> Rates:
        """Measure what the device reaches now, in that precision."""
        return measure_rates(self.torch_device, self.config.precision)

    def setup(self, **changes: Any) -> Setup:
        """Load the corpus and measure the device; ``changes`` are of settings."""
        corpus, config = load_corpus(self.corpus), self.config.override(changes)
        return Setup(corpus, config, self.rates(), self.torch_device, self.repeats)


def _stage_two(what: str, clips: int, **changes: Any) -> Callable[[Options], list[Row]]:
    return lambda options: [time_mgcl(options.setup(**changes), f"stage two, epoch, {what}", clips=clips)]


def _paper(options: Options) -> Iterable[Row]:
    setups = ((name, dataclasses.replace(options, corpus=f"synthetic-{name}").setup()) for name in DATASETS)
    return time_whole_paper(setups)


def _compared(options: Options) -> Iterable[Row]:
    if options.mmsa_python is None:
        raise ConfigError("the part 'compared' needs --mmsa, the interpreter of an environment with mmsa 2.2.1")
    return compare_with_mmsa(options.mmsa_python, repeats=options.repeats)


#: Name of a part → its rows. CH-SIMS has 1,368 training clips.
PARTS: dict[str, Callable[[Options], Iterable[Row]]] = {
    "machine": lambda options: rate_rows(options.torch_device, options.config.precision, options.repeats),
    "loss": lambda options: time_contrastive_loss(options.rates(), options.torch_device),
    "stage-one": lambda options: time_sequence_encoders(options.setup()),
    "stage-one-text": lambda options: time_text_encoders(options.setup()),
    "stage-two": _stage_two("audio and vision encoders trained", 128),
    "stage-two-chunked": _stage_two("encoders trained in chunks of 16 clips", 128, encoder_chunk=16),
    "stage-two-buckets": _stage_two("batches of similar length", 256, length_buckets=4),
    "stage-two-frozen": _stage_two("all encoders frozen", 192, trained_encoders=()),
    "stage-two-frozen-pooled": _stage_two(
        "all encoders frozen, micro=pooled", 100_000, trained_encoders=(), micro="pooled"
    ),
    "paper": _paper,
    "counted": lambda _: (*count_paper(), *count_memory()),
    "cache": lambda options: half_precision_drift(options.results, device=options.device),
    "compared": _compared,
}


def run_parts(options: Options, names: Sequence[str] = ()) -> pd.DataFrame:
    """Run parts of the benchmark, each in a process of its own, so that its peak memory is its own.

    ``results/bench/`` keeps one JSON per part, with the machine's name, and one table of all parts measured so far.

    Args:
        options: What is asked of them.
        names: Of `PARTS`; all when empty (`compared` only with an environment for it).

    Returns:
        The table.

    Raises:
        ConfigError: An unknown part.
        RunError: Some parts failed; the others were measured and are kept.
    """
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"unknown part {name!r}: {nearest(name, PARTS)}")
    folder, failed = options.results / "bench", []
    for name in names or [part for part in PARTS if part != "compared" or options.mmsa_python]:
        log.info("%s …", name)
        started = time.monotonic()
        try:
            (rows,) = run_parallel(functools.partial(_worker, options), [name], 1)
        except Exception as error:  # whatever a part dies of, the others are still worth having
            log.error("%s failed: %s: %s", name, type(error).__name__, error)
            failed.append(name)
            continue
        device = choose_device("cpu") if name == "compared" else options.torch_device
        write_json(folder / f"{name}.json", {"machine": describe_machine(device), "rows": rows})
        log.info("%s took %.0f s", name, time.monotonic() - started)
    table = collect_table(folder)
    if failed:
        raise RunError(f"these parts failed, and the log says of what: {', '.join(failed)}")
    return table


def collect_table(folder: Path) -> pd.DataFrame:
    """Put the rows of all parts in ``folder`` into one table, and write it to ``bench.csv``."""
    measured = {name: read_json(folder / f"{name}.json") for name in PARTS if (folder / f"{name}.json").exists()}
    rows = [
        {"part": name, **values, "device": part["machine"]["device"]}
        for name, part in measured.items()
        for values in part["rows"]
    ]
    table = pd.DataFrame(rows, columns=None if rows else ["part", "device"])
    with atomic(folder / "bench.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def _worker(options: Options) -> Callable[[str], list[Row]]:
    return lambda name: list(PARTS[name](options))
