"""What a run needs of a GPU's memory: counted on a few clips, said before it starts and when it ran out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..config import Config
from ..data.batches import Batch, DeviceSplit
from ..data.corpus import Split
from ..support.devices import describe_device, device_memory
from ..support.errors import RunError
from ..support.runtime import autocast
from ..system import Shapes, System
from .runs import Run
from .stages import ComparedStage, EncoderStage
from .text_input import text_tokens

log = logging.getLogger(__name__)

COUNTED_CLIPS = 8  # that the states of a step are counted on
#: Of a GPU's memory, the part that the data of a study may take; what is larger stays in pinned host memory.
DATA_SHARE = 1 / 4
GIB = 2**30


class OutOfMemory(RunError):
    """The device has too little memory for a run."""


def data_room(device: torch.device) -> int | None:
    """Bytes that the data of a study may take of a GPU, None for another device."""
    memory = device_memory(device)
    return None if memory is None else int(memory * DATA_SHARE)


def few_clips(split: Split, config: Config) -> Batch:
    """Some clips of ``split`` on the CPU, from the shortest to the longest of its first ones."""
    split = split.first(8 * COUNTED_CLIPS)
    first = DeviceSplit(split, torch.device("cpu"), tokens=text_tokens(split, config))
    order = (first.audio_mask.sum(1) + first.vision_mask.sum(1)).argsort().numpy()
    return first.batch(order[:: max(1, len(order) // COUNTED_CLIPS)])


def bytes_of_states(system: System, batch: Batch, precision: str) -> int:
    """Bytes that a training step of ``system`` on ``batch``, both on a CPU, keeps for its backward pass.

    Counted without dropout: with it a CPU keeps all weights of attention, which a GPU's fused attention does not. The
    masks of the other dropouts, a byte a number, are left out.
    """
    given = (*system.parameters(), *vars(batch).values(), *batch.features.values())
    own = {values.untyped_storage().data_ptr() for values in given if isinstance(values, Tensor)}
    kept: dict[int, Tensor] = {}

    def keep(values: Tensor) -> Tensor:
        if values.untyped_storage().data_ptr() not in own:
            kept[values.untyped_storage().data_ptr()] = values  # held, so that no other takes its place
        return values

    system.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values), autocast(batch.index.device, precision):
        system(batch)
    return sum(values.untyped_storage().nbytes() for values in kept.values())


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that the training of a run takes beside its data and the device's own: counted, not measured.

    Attributes:
        weights: Weights, gradients, AdamW's two averages, and the best weights so far.
        clip: States that a step keeps of a clip.
        clips: Whose states are kept at a time.
    """

    weights: int
    clip: int
    clips: int

    @property
    def total(self) -> int:
        return self.weights + self.clip * self.clips

    def __str__(self) -> str:
        return (
            f"{self.weights / GIB:.2f} GiB of weights, gradients and AdamW, and {self.clip * self.clips / GIB:.2f} GiB "
            f"of states of {self.clips} clips"
        )


def need_of(run: Run, shapes: Shapes, batch: Batch) -> Need:
    """Count what ``run`` needs, on a few clips that lie on the CPU."""
    system = run.stage.build(shapes, torch.device("cpu"))
    held = sum(values.nbytes for values in system.state_dict().values())
    trained = sum(parameter.nbytes for parameter in system.parameters() if parameter.requires_grad)
    chunk = run.config.encoder_chunk if isinstance(run.stage, EncoderStage) else None
    if chunk is not None:
        system.chunk = None  # a chunk's states are kept while it is computed again
    states = bytes_of_states(system, batch, run.config.precision)
    size = run.stage.schedule.batch_size
    return Need(2 * held + 3 * trained, round(states / len(batch)), min(size, chunk or size))


def warn_of_crowding(
    runs: Sequence[Run], shapes: Callable[[Run], Shapes], train: Split, device: torch.device, workers: int
) -> None:
    """Log, before they start, that stage-one ``runs`` side by side would need more than the GPU has."""
    memory = device_memory(device)
    encoders = {run.stage.name: run for run in runs if isinstance(run.stage, EncoderStage)}
    if memory is None or not encoders:
        return
    batch = few_clips(train, runs[0].config)
    needs = {name: need_of(run, shapes(run), batch) for name, run in encoders.items()}
    largest = max(needs, key=lambda name: needs[name].total)
    at_once = min(workers, len(runs))
    data = min(data_room(device), train.audio.nbytes + train.vision.nbytes)
    total = at_once * (needs[largest].total + data)
    if total > memory:
        log.warning(
            "%d worker%s may need %.1f GiB, and %s has %.1f (counted): a run of %s takes %s, and its data %.2f GiB. %s",
            at_once, "s" * (at_once != 1), total / GIB, describe_device(device), memory / GIB, largest, needs[largest],
            data / GIB, _what_helps(encoders[largest], needs[largest], at_once),
        )  # fmt: skip


@contextlib.contextmanager
def explained(run: Run, need: Callable[[], Need], device: torch.device, workers: int = 1) -> Iterator[None]:
    """Within the block, running out of memory is an `OutOfMemory` that says what ``run`` needs and what helps.

    Raises:
        OutOfMemory: It ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        traceback.clear_frames(error.__traceback__)  # they hold the states that filled the device
    else:
        return
    counted = need()
    raise OutOfMemory(
        f"{run.name} ran out of memory on {describe_device(device)} ({reason}). Counted: {counted}. "
        f"{_what_helps(run, counted, workers)}"
    )


def _what_helps(run: Run, need: Need, workers: int) -> str:
    """The settings that make ``run`` smaller, those first that change no result but by rounding."""
    stage, ways = run.stage, []
    if workers > 1:
        ways.append("fewer workers")
    if isinstance(stage, ComparedStage):
        ways.append(f"a smaller batch_size of {stage.name} (system_overrides; now {stage.schedule.batch_size})")
    else:
        chunk = max(1, min(16, need.clips // 2))
        ways.append(f"encoder_chunk={chunk} (then {need.clip * chunk / GIB:.2f} GiB of states at a time)")
    if stage.frozen_parents and run.config.feature_cache == "fp32":
        ways.append("feature_cache=fp16 (half the memory of frozen features)")
    if isinstance(stage, EncoderStage):
        name = "text_batch_size" if stage.reads_text_model else "sequence_batch_size"
        ways.append(f"a smaller {name} (other results)")
    elif not isinstance(stage, ComparedStage):
        ways.append("a smaller mgcl_batch_size (other results)")
    return "What helps: " + "; ".join(ways)
