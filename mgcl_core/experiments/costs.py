"""What a prediction costs: parameters, operations, time and memory of a system with all that it passes through."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import Config
from ..data.batches import Batch, DeviceSplit
from ..data.corpus import Split
from ..data.loading import with_text
from ..data.scaling import Scaler
from ..encoders import MicroEnhancement, TextEncoder, build_encoder, encode
from ..support.memory import held_memory, peak_memory_of
from ..support.parallel import run_parallel
from ..support.runtime import autocast, matrix_precision
from ..system import Output, Shapes, System
from .runs import Run
from .stages import MGCLStage, Stage
from .study import Study

#: Clips of the validation split that are measured, evenly spread over it, and those whose operations are counted.
CLIPS, COUNTED = 64, 16
BATCH = 64


class Whole(nn.Module):
    """A system with what stands before it: frozen encoders of stage one, or the text model behind its embeddings.

    ``forward(batch)`` takes a batch without features and gives what the system gives. Weights are as at a start: what
    is measured does not depend on them.

    Args:
        stage: What the system is.
        shapes: Of the corpus.
        embeds: Whether text embeddings come from the text model; a corpus may have its own.
    """

    def __init__(self, stage: Stage, shapes: Shapes, *, embeds: bool):
        super().__init__()
        config = stage.config
        if isinstance(stage, MGCLStage):
            stage = dataclasses.replace(stage, whole=False)
        self.system: System = stage.build(shapes, torch.device("cpu"), pretrained=False).eval()
        self.names = stage.frozen_parents
        self.encoders = nn.ModuleList(build_encoder(n.modality, config, pretrained=False) for n in self.names).eval()
        self.enhancement = MicroEnhancement(config.micro, config.window)
        reads = embeds and stage.reads_text_embeddings
        self.text_model = TextEncoder(config.text_model, pretrained=False).eval() if reads else None

    def forward(self, batch: Batch) -> Output:
        features = {}
        with torch.autocast(batch.index.device.type, enabled=False):  # as `encode_frozen` does it
            for name, encoder in zip(self.names, self.encoders, strict=True):
                features |= encode(encoder, name, batch, self.enhancement)
            text = batch.text if self.text_model is None else self.text_model(batch)[0]
        unlabelled = dataclasses.replace(batch, labels=None, unimodal_labels=None)  # no loss is computed
        return self.system(dataclasses.replace(unlabelled, features=features, text=text))

    def text_parameters(self) -> int:
        """Parameters of everything that reads tokens."""
        texts = [module for module in self.modules() if isinstance(module, TextEncoder)]
        return sum(p.numel() for p in {p for module in texts for p in module.parameters()})


@dataclass(frozen=True)
class Setup:
    """What systems are measured on, for another process: clips, what scales them, and the device."""

    clips: Split
    scaler: Scaler | None
    tokens: np.ndarray
    embeds: bool
    device: torch.device

    def split(self) -> DeviceSplit:
        return DeviceSplit(self.clips, self.device, scaler=self.scaler, tokens=self.tokens, labelled=False)


def costs(study: Study, runs: Mapping[str, Run]) -> dict[str, dict[str, float]]:
    """Measure each of ``runs``, trained or not, on validation clips of ``study``, in a process of its own.

    Returns:
        By the names of ``runs``, what `measure` gives.
    """
    own = study.splits.own_text_dim  # of text embeddings that the file has
    clips = (study.corpus if own is None else with_text(study.corpus)).valid
    rows = _spread(len(clips), CLIPS)
    tokens = study.splits.tokens("valid")[rows]
    setup = Setup(clips.take(rows), study.splits.scaler, tokens, own is None, study.device)
    tasks = [(name, run.stage, study.splits.shapes(run)) for name, run in runs.items()]
    found = dict(run_parallel(functools.partial(_measurer, setup), tasks, 1))
    return {name: found[name] for name in runs}


def measure(
    stage: Stage, shapes: Shapes, split: DeviceSplit, *, embeds: bool = True, before: float | None = None
) -> dict[str, float]:
    """What a prediction by a system of ``stage`` costs on the clips of ``split``.

    Args:
        stage: What the system is.
        shapes: Of the corpus.
        split: The clips.
        embeds: As for `Whole`.
        before: Bytes that the peak is compared with (`peak_memory_of`): of a process that measures several systems,
            what it held before the first, since libraries keep buffers that the next one would take for nothing.

    Returns:
        - ``parameters`` that a prediction passes through, those of them that are ``trained`` in the last stage, and
          those of ``text``: of everything that reads tokens
        - ``gflop``: operations of a clip, forward, a multiplication and its addition being two; the mean over clips
          that pass one at a time, so without padding
        - ``latency`` and ``latency_p95``: median and 95th percentile of the seconds of one clip
        - ``clips_per_second`` in batches of `BATCH`
        - ``peak_bytes``: what the process or the GPU held at most beyond what it held before, weights included; NaN
          where the system does not say
        - ``disk_bytes``: of all weights, as an exported folder holds them
    """
    device, precision = split.device, stage.config.precision
    with peak_memory_of(device, before) as peak:
        whole = Whole(stage, shapes, embeds=embeds)
        counted = count_gflop(whole, (split.batch([row]).cpu() for row in _spread(len(split), COUNTED)))
        whole.to(device)
        with torch.inference_mode(), matrix_precision(device, precision), autocast(device, precision):
            singles = [_seconds(functools.partial(whole, split.batch([row])), device) for row in range(len(split))]
            batch = split.batch(np.resize(np.arange(len(split)), BATCH))
            together = _seconds(functools.partial(whole, batch), device, repeats=3)
    trained = sum(p.numel() for p in whole.system.parameters() if p.requires_grad)
    return {
        "parameters": sum(p.numel() for p in whole.parameters()),
        "trained": trained,
        "text": whole.text_parameters(),
        "gflop": counted,
        "latency": float(np.median(singles)),
        "latency_p95": float(np.quantile(singles, 0.95)),
        "clips_per_second": BATCH / together,
        "peak_bytes": peak(),
        "disk_bytes": sum(values.nbytes for values in whole.state_dict().values()),
    }


def full_clips(config: Config, steps: int, *, clips: int = 1, seed: int = 0) -> Split:
    """Random clips of the greatest length that the encoders take, with ``steps`` tokens: for a cost without data."""
    random = np.random.default_rng(seed)

    def values(name: str) -> np.ndarray:
        shape = (clips, getattr(config, f"{name}_steps"), getattr(config, f"{name}_dim"))
        return random.normal(size=shape).astype(np.float32)

    audio, vision = values("audio"), values("vision")
    text = None if config.reads_words else values("text")
    tokens = np.ones((clips, 3, steps if config.reads_words else config.text_steps), np.int64)
    tokens[:, 2] = 0  # the only type that every text model has
    masks = {f"{name}_mask": np.ones(array.shape[:2], bool) for name, array in (("audio", audio), ("vision", vision))}
    names = tuple(f"clip {number}" for number in range(1, clips + 1))
    return Split("test", names, ("",) * clips, tokens, text, audio, masks["audio_mask"], vision, masks["vision_mask"],
                 None, None, None if text is None else np.ones(text.shape[:2], bool))  # fmt: skip


def _spread(clips: int, count: int) -> np.ndarray:
    """At most ``count`` rows, evenly spread over all."""
    return np.unique(np.linspace(0, clips - 1, min(count, clips)).round().astype(int))


def _measurer(setup: Setup) -> Callable[[tuple[str, Stage, Shapes]], tuple[str, dict[str, float]]]:
    split, before = setup.split(), None

    def work(task: tuple[str, Stage, Shapes]) -> tuple[str, dict[str, float]]:
        nonlocal before
        name, stage, shapes = task
        if before is None:  # what is loaded and set up once must not count as the first system's
            whole = Whole(stage, shapes, embeds=setup.embeds)
            count_gflop(whole, [split.batch([0]).cpu()])
            whole.to(setup.device)(split.batch([0]))
            del whole
            before = held_memory(setup.device)
        return name, measure(stage, shapes, split, embeds=setup.embeds, before=before)

    return work


def count_gflop(module: nn.Module, inputs: Iterable[Any]) -> float:
    """Mean GFLOP of ``module``, on a CPU, over ``inputs``: a multiplication and its addition are two.

    Of the library's fused operations torch counts none, so attention, LSTMs and Transformer layers go their plain way.
    """
    inputs = list(inputs)
    with torch.no_grad(), _plain_operations(), FlopCounterMode(display=False) as counter:
        for each in inputs:
            module(each)
    return counter.get_total_flops() / len(inputs) / 1e9


@contextlib.contextmanager
def _plain_operations() -> Iterator[None]:
    """Attention, Transformer layers and LSTMs as products of matrices, where the library has one operation for each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.filterwarnings("ignore", message="TF32 acceleration")  # of a setting that `flags` puts back
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Median seconds of ``work``, after once that is not counted."""
    measured: Sequence[float] = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        measured.append(time.perf_counter() - started)
    return float(np.median(measured[1:]))
