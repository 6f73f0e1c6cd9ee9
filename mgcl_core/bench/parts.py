"""The parts of the benchmark, each in a process of its own, and their table and JSON under ``results/bench/``."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import DATASETS, Config, preset
from ..data import load_corpus
from ..experiments.runs import schedule_of
from ..experiments.study import Study
from ..support.devices import choose_device, choose_precision
from ..support.errors import ConfigError, RunError, nearest
from ..support.files import atomic, write_json
from ..support.parallel import side_by_side
from ..trainer import predict
from .compared import compared
from .growth import growth
from .loss import loss_alone
from .many import many
from .measure import MATRIX, Rates, machine, rates, row
from .paper import paper
from .stages import SEQUENCE_ENCODERS, stage_one, stage_one_text, stage_two
from .startup import imports, startup

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """``corpus`` has the shapes to measure at; ``mmsa_python`` is the interpreter of mmsa's environment, where there is
    one; ``results`` holds the demo runs that the part `cache` compares."""

    device: str
    corpus: str
    results: Path
    mmsa_python: Path | None
    repeats: int

    @property
    def config(self) -> Config:
        """Table 2's settings, with the precision that the device gets by default."""
        dataset = self.corpus.removeprefix("synthetic-")
        return preset(dataset).override({"precision": choose_precision("auto", choose_device(self.device))})

    def rates(self) -> Rates:
        """What the device reaches now, in that precision."""
        return rates(choose_device(self.device), self.config.precision)


def _machine(options: Options) -> Iterator[dict[str, Any]]:
    for place in range(options.repeats):
        found = options.rates()
        yield row(
            f"product of {MATRIX}² matrices, {place + 1}",
            [2 * MATRIX**3 / found.flops],
            gflop_per_s=found.flops / 1e9,
            gbyte_per_s=found.bytes / 1e9,
        )


def _stage_one(options: Options, full_length: bool) -> Iterator[dict[str, Any]]:
    yield from stage_one(
        load_corpus(options.corpus),
        options.config,
        options.rates(),
        choose_device(options.device),
        repeats=options.repeats,
        full_length=full_length,
        names=SEQUENCE_ENCODERS[::2] if full_length else SEQUENCE_ENCODERS,
    )


def _stage_one_text(options: Options) -> Iterator[dict[str, Any]]:
    yield from stage_one_text(
        load_corpus(options.corpus),
        options.config,
        options.rates(),
        choose_device(options.device),
        repeats=options.repeats,
    )


def _stage_two(
    options: Options, what: str, changes: dict[str, Any], batches: int, full_length: bool = False
) -> Iterator[dict[str, Any]]:
    device = choose_device(options.device)
    yield stage_two(
        load_corpus(options.corpus),
        options.config.override(changes),
        options.rates(),
        device,
        what,
        batches=batches,
        repeats=options.repeats,
        full_length=full_length,
    )


def _loss(options: Options) -> Iterator[dict[str, Any]]:
    device = choose_device(options.device)
    yield from loss_alone(options.rates(), device)


def _startup(options: Options) -> Iterator[dict[str, Any]]:
    yield from startup(options.corpus, choose_device("cpu"), repeats=options.repeats)
    yield from imports(options.repeats)


def _growth(options: Options) -> Iterator[dict[str, Any]]:
    device = choose_device(options.device)
    yield from growth(load_corpus(options.corpus), options.config, options.rates(), device, repeats=options.repeats)


def _many(options: Options) -> Iterator[dict[str, Any]]:
    yield from many(options.corpus, options.config, choose_device(options.device))


def _paper(options: Options) -> Iterator[dict[str, Any]]:
    datasets = {name: dataclasses.replace(options, corpus=f"synthetic-{name}").config for name in DATASETS}
    yield from paper(datasets, options.rates(), choose_device(options.device), repeats=options.repeats)


def _cache(options: Options) -> Iterator[dict[str, Any]]:
    """MGCL of the demo corpus on features kept in float32 and in half precision, one seed: the same weights reading
    both, and a training on each, whose rounding grows over the epochs."""
    found = {}
    for kept in ("fp32", "fp16"):
        study = Study(
            "demo",
            "demo",
            seeds=[1111],
            overrides={"feature_cache": kept},
            device=options.device,
            results=options.results,
        )
        run = study.train()[0]
        found[kept] = run.predictions()
        if kept == "fp32":
            system, split = study.build(run, trained=True), study.split("test", run)
            whole = predict(system, split, schedule_of(run))["prediction"]
            split.features = {
                name: values.half().float() if values.is_floating_point() else values
                for name, values in split.features.items()
            }
            drift = np.abs(predict(system, split, schedule_of(run))["prediction"] - whole)
            yield {
                "what": "features in half precision, read by weights trained on float32: drift of test predictions",
                "corpus": "demo (synthetic)",
                "mean_drift": float(drift.mean()),
                "highest_drift": float(drift.max()),
            }
    drift = (found["fp16"]["prediction"] - found["fp32"]["prediction"]).abs()
    mae = {kept: float((frame["prediction"] - frame["label"]).abs().mean()) for kept, frame in found.items()}
    yield {
        "what": "features in half precision, trained on: drift of test predictions",
        "corpus": "demo (synthetic)",
        "mean_drift": float(drift.mean()),
        "highest_drift": float(drift.max()),
        "mae_fp32": mae["fp32"],
        "mae_fp16": mae["fp16"],
    }


def _compared(options: Options) -> Iterator[dict[str, Any]]:
    if options.mmsa_python is None:
        raise ConfigError("the part 'compared' needs --mmsa, the interpreter of an environment with mmsa 2.2.1")
    for found in compared(options.mmsa_python, repeats=options.repeats).to_dict("records"):
        yield {"what": f"{found['system']}, epoch", "corpus": "synthetic-sims", **found}


PARTS: dict[str, Callable[[Options], Iterator[dict[str, Any]]]] = {
    "machine": _machine,
    "loss": _loss,
    "startup": _startup,
    "stage-one": functools.partial(_stage_one, full_length=False),
    "stage-one-full-length": functools.partial(_stage_one, full_length=True),
    "stage-one-text": _stage_one_text,
    "stage-two": functools.partial(
        _stage_two, what="stage two, epoch, audio and vision encoders trained", changes={}, batches=2
    ),
    "stage-two-full-length": functools.partial(
        _stage_two,
        what="stage two, epoch, audio and vision encoders trained, all their steps valid",
        changes={},
        batches=1,
        full_length=True,
    ),
    "stage-two-chunked": functools.partial(
        _stage_two,
        what="stage two, epoch, encoders trained in chunks of 16 clips",
        changes={"encoder_chunk": 16},
        batches=2,
    ),
    "stage-two-buckets": functools.partial(
        _stage_two, what="stage two, epoch, batches of like length", changes={"length_buckets": 4}, batches=4
    ),
    "stage-two-frozen": functools.partial(
        _stage_two, what="stage two, epoch, all encoders frozen", changes={"trained_encoders": ()}, batches=3
    ),
    "stage-two-frozen-pooled": functools.partial(
        _stage_two,
        what="stage two, epoch, all encoders frozen, micro=pooled",
        changes={"trained_encoders": (), "micro": "pooled"},
        batches=10_000,
    ),
    "paper": _paper,
    "growth": _growth,
    "many": _many,
    "cache": _cache,
    "compared": _compared,
}


#: Parts that measure the CPU, whatever the device is.
ON_CPU = ("startup", "compared")


def bench(options: Options, parts: Sequence[str] = ()) -> pd.DataFrame:
    """Run ``parts`` (all when empty; `compared` only with an environment for it) and write what they give.

    Each part has a process of its own, so that its peak memory is its own. ``results/bench/`` keeps a JSON a part, with
    the machine's name, and one table of all parts measured so far.

    Raises:
        ConfigError: an unknown part.
        RunError: some parts failed; the others were measured and are kept.
    """
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"unknown part {part!r}: {nearest(part, PARTS)}")
    folder, failed = options.results / "bench", []
    for part in parts or [name for name in PARTS if name != "compared" or options.mmsa_python]:
        log.info("%s …", part)
        started = time.monotonic()
        try:
            (rows,) = side_by_side(functools.partial(_worker, options), [part], 1)
        except Exception as error:  # whatever a part dies of, the others are still worth having
            log.error("%s failed: %s: %s", part, type(error).__name__, error)
            failed.append(part)
            continue
        device = choose_device("cpu" if part in ON_CPU else options.device)
        write_json(folder / f"{part}.json", {"machine": machine(device), "rows": rows})
        log.info("%s took %.0f s", part, time.monotonic() - started)
    frame = table(folder)
    if failed:
        raise RunError(f"these parts failed, and the log says of what: {', '.join(failed)}")
    return frame


def table(folder: Path) -> pd.DataFrame:
    """The rows of all parts in ``folder``, also written to ``bench.csv``."""
    frames = [pd.DataFrame(columns=["part", "device"])]
    for part in PARTS:
        path = folder / f"{part}.json"
        if path.exists():
            frame = pd.read_json(path, typ="series")
            frames.append(pd.DataFrame(frame["rows"]).assign(part=part, device=frame["machine"]["device"]))
    together = pd.concat(frames, ignore_index=True)
    together.insert(0, "part", together.pop("part"))
    with atomic(folder / "bench.csv") as temporary:
        together.to_csv(temporary, index=False)
    return together


def _worker(options: Options) -> Callable[[str], list[dict[str, Any]]]:
    return functools.partial(_run, options)


def _run(options: Options, part: str) -> list[dict[str, Any]]:
    return list(PARTS[part](options))
