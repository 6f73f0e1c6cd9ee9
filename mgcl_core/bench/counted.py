"""What a step of training asks of a GPU, counted without one: operations, bytes, and the most memory held at a time.

The step is the package's own, in the precision of its settings, on tensors without numbers (`pretend`). Nothing here is
measured. Not counted: what a kernel takes for itself while it runs, fragments between tensors, and what CUDA holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..config import DATASETS, Config, preset
from ..data.batches import Batch, DeviceSplit
from ..data.corpus import EncoderName, Split
from ..data.synthetic.random_bert import ENGLISH_VOCABULARY, VOCABULARY, save_bert_config
from ..data.synthetic.shapes import SHAPES, ShapedCorpus
from ..encoders import encoder_names, frozen_encoders
from ..model import MGCL
from ..stage_one import UnimodalRegressor
from ..support.errors import ConfigError
from ..support.runtime import autocast
from ..system import Shapes, System
from ..trainer import Schedule, make_optimizer, train_step
from . import pretend
from .measure import Row
from .paper import how_often
from .stages import SEQUENCE_ENCODERS, TEXT_ENCODERS, random_features

GIB = 2**30
BLOCK = 512  # bytes to which CUDA's allocator rounds
TEXT_WIDTH = 768
#: Operations per second in bf16 and of float32 as TF32, without sparsity, and bytes per second, as their makers say.
CARDS = {"H100 SXM": (989e12, 494e12, 3.35e12), "RTX 4090": (165e12, 82.6e12, 1.008e12)}


class Meter(TorchDispatchMode):
    """Counts what is asked of a device while it is active.

    Args:
        words: What the device would answer where it is asked which tokens are words: their number.

    Attributes:
        operations: Those that compute or copy; views are none.
        flops: Of matrix products and attention, two a multiplication with its addition, by the type of number.
        moved: Bytes of what all operations read and write.
        seconds: By the name of a card, what they take where each reaches the card's rates.
        held: Bytes of the tensors that exist now.
        peak: The most bytes held at a time.
    """

    def __init__(self, words: int = 0):
        super().__init__()
        self.words, self.held, self._live = words, 0, set()
        self.clear()

    def clear(self) -> None:
        """Start to count again; what is held goes on to be held."""
        self.operations, self.moved, self.peak = 0, 0, self.held
        self.flops: Counter[torch.dtype] = Counter()
        self.seconds = dict.fromkeys(CARDS, 0.0)

    def hold(self, thing: Any) -> bool:
        """Count the memory of the tensors in ``thing``; returns whether any of it was not counted before."""
        found = [values.untyped_storage() for values in tree_leaves(thing) if isinstance(values, Tensor)]
        fresh = {storage._cdata: storage for storage in found if storage._cdata not in self._live}
        for key, storage in fresh.items():
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._live.add(key)
            self.held += size
            weakref.finalize(storage, self._release, key, size)
        self.peak = max(self.peak, self.held)
        return bool(fresh)

    def _release(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.held -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten.nonzero.default:
            result = args[0].new_empty((self.words, args[0].dim()), dtype=torch.long)
        else:
            result = function(*args, **kwargs)
        if not self.hold(result) and not function._schema.is_mutable:
            return result
        formula = flop_registry.get(function._overloadpacket)
        flops = 0 if formula is None else formula(*args, **kwargs, out_val=result)
        tensors = list({id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}.values())
        moved = sum(min(values.nbytes, values.untyped_storage().nbytes()) for values in tensors)  # expanded: once
        for card, (in_half, in_float, bandwidth) in CARDS.items():
            rate = in_half if tensors[0].dtype == torch.bfloat16 else in_float
            self.seconds[card] += max(flops / rate, moved / bandwidth)
        if flops:
            self.flops[tensors[0].dtype] += flops
        self.operations, self.moved = self.operations + 1, self.moved + moved
        return result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    """Attention as CUDA computes it where it has a mask: in one kernel that keeps no weights (B, h, L, L)."""
    if torch.is_autocast_enabled(pretend.NAME):
        query, key, value = (values.to(torch.bfloat16) for values in (query, key, value))
    if attn_mask is not None:
        bias = attn_mask.to(query.dtype)  # of a mask, a number for each key
        bias = F.pad(bias, (0, -bias.shape[-1] % 16))[..., : bias.shape[-1]]  # as CUDA's kernel wants its rows
        attn_mask = bias.expand(*query.shape[:-1], key.shape[-2])
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    return fused(query, key, value, attn_mask, True, dropout_p, is_causal)[0]


def count_steps(system: System, batch: Batch, schedule: Schedule) -> tuple[Meter, Meter]:
    """Count a step of training, and one of prediction.

    Args:
        system: On the device "meta"; it is moved to one without numbers.
        batch: On the CPU.
        schedule: Precision and optimiser.

    Raises:
        ConfigError: This torch lacks the hooks for a device in Python.
    """
    if not pretend.register():
        raise ConfigError(f"torch {torch.__version__} has no hooks for a device in Python, so nothing can be counted")
    masks = {"audio_mask": batch.audio_mask, "vision_mask": batch.vision_mask, "text_mask": batch.text_mask}
    masks |= {name: values for name, values in batch.features.items() if name.endswith("_mask")}
    counts = {name: mask.sum(1).numpy() for name, mask in masks.items()}
    words = int((counts["text_mask"] - 2).sum())  # without [CLS] and [SEP]
    mode, training, predicting = FakeTensorMode(), Meter(words), Meter(words)
    system, batch = pretend.fake(mode, system), pretend.fake(mode, dataclasses.replace(batch, counts=counts))
    with mode, mock.patch.object(F, "scaled_dot_product_attention", _attention):
        with training:
            training.hold([list(system.state_dict().values()), list(vars(batch).values())])
            optimizer = make_optimizer(system.train(), schedule)
            best = [values.clone() for values in system.state_dict().values()]  # the best weights so far
            train_step(system, batch, optimizer, schedule)  # the optimiser's averages are made
            training.clear()
            train_step(system, batch, optimizer, schedule)
        del best
        blind = dataclasses.replace(batch, labels=None, unimodal_labels=None)
        with predicting, torch.no_grad(), autocast(batch.index.device, schedule.precision):
            system.eval()(blind)
    return training, predicting


def count_stage(
    shape: ShapedCorpus, config: Config, name: EncoderName | None, folder: Path
) -> tuple[Schedule, Meter, Meter]:
    """Count a step of the stage-one encoder ``name``, or of MGCL for None; ``folder`` is a text model's."""
    size = config.mgcl_batch_size if name is None else config.sequence_batch_size
    if name is not None and name.modality == "T":
        size = config.text_batch_size
    config = config.override({"text_model": str(folder)})
    schedule = Schedule(1, size, precision=config.precision)
    batch = batch_of(shape, size, config if name is None else None)
    with torch.device("meta"):
        if name is None:
            frozen = frozen_encoders(config)
            shapes = Shapes(TEXT_WIDTH, 0, config.audio_dim, config.audio_steps, config.vision_dim,
                            config.vision_steps, bound=1.0, clips=0, text_model=config.text_model)  # fmt: skip
            held = [encoder for encoder in encoder_names(config) if encoder not in frozen]
            system = MGCL(config, shapes, encoders=held, pretrained=False)
        else:
            system = UnimodalRegressor(name, config, pretrained=False)
    return schedule, *count_steps(system, batch, schedule)


def batch_of(shape: ShapedCorpus, clips: int, config: Config | None = None) -> Batch:
    """Make a batch of ``shape``'s first clips on the CPU, with features of ``config``'s frozen encoders if given."""
    fields = shape.split_fields("train", clips)
    masks = {
        f"{name}_mask": torch.arange(fields[name].shape[1]).numpy()
        < torch.tensor(fields[f"{name}_lengths"])[:, None].numpy()
        for name in ("audio", "vision")
    }
    split = DeviceSplit(
        Split("train", tuple(fields["id"]), tuple(fields["raw_text"]), fields["text_bert"].astype(int), None,
              fields["audio"], masks["audio_mask"], fields["vision"], masks["vision_mask"],
              fields["regression_labels"], None),
        torch.device("cpu"),
    )  # fmt: skip
    if config is not None:
        split.features = random_features(split, config, TEXT_WIDTH)
    return split.batch()


def count_paper(datasets: tuple[str, ...] = tuple(DATASETS), *, layers: int = 12) -> Iterator[Row]:
    """Count a step of every stage at Table 2's settings, and sum all steps of the whole paper.

    Args:
        datasets: Those to count.
        layers: Of the text model.

    Yields:
        One row per stage and dataset, then one of the sum. Hours are those in which a card that reaches its rates in
        every operation would compute the epochs of `paper.how_often`: no less, and nothing is said of how much more.
    """
    hours, asked = dict.fromkeys(CARDS, 0.0), 0
    for dataset in datasets:
        shape, config = SHAPES[f"synthetic-{dataset}"], preset(dataset)
        with _text_model(shape, layers) as folder:
            for name in (*TEXT_ENCODERS, *SEQUENCE_ENCODERS, None):
                schedule, training, predicting = count_stage(shape, config, name, folder)
                epochs, runs = how_often(dataset, config, name)
                train, valid = (-(-clips // schedule.batch_size) * epochs * runs for clips in shape.sizes[:2])
                operations = training.operations * train + predicting.operations * valid
                of_cards = {
                    card: (training.seconds[card] * train + predicting.seconds[card] * valid) / 3600 for card in CARDS
                }
                hours, asked = {card: hours[card] + of_cards[card] for card in CARDS}, asked + operations
                times = {"epochs": epochs, "runs": runs, "all_operations": operations}
                yield _row(name, shape, schedule, training) | times | _least(of_cards)
    yield {"what": "the whole paper, one run after the other", "all_operations": asked} | _least(hours)


def count_memory(layers: int = 12) -> Iterator[Row]:
    """Count steps for cards with little memory: MOSEI's stage two at batch 64, and all its stages in chunks."""
    shape, config = SHAPES["synthetic-mosei"], preset("mosei").override({"mgcl_batch_size": 64})
    with _text_model(shape, layers) as folder:
        for chunk in (None, 16):
            for name in (*TEXT_ENCODERS, *SEQUENCE_ENCODERS, None) if chunk else (None,):
                changed = config.override({"encoder_chunk": chunk})
                schedule, training, _ = count_stage(shape, changed, name, folder)
                yield _row(name, shape, schedule, training) | {"encoder_chunk": chunk}


@contextlib.contextmanager
def _text_model(shape: ShapedCorpus, layers: int) -> Iterator[Path]:
    """A folder that describes the text model of ``shape``'s language."""
    with tempfile.TemporaryDirectory() as folder:
        save_bert_config(Path(folder), layers=layers, words=VOCABULARY if shape.chinese else ENGLISH_VOCABULARY)
        yield Path(folder)


def _row(name: EncoderName | None, shape: ShapedCorpus, schedule: Schedule, training: Meter) -> Row:
    return {
        "what": "stage two" if name is None else f"stage one, {name}",
        "corpus": next(corpus for corpus, known in SHAPES.items() if known is shape),
        "batch": schedule.batch_size,
        "operations": training.operations,
        "gflop": training.flops.total() / 1e9,
        "share_in_bf16": training.flops[torch.bfloat16] / training.flops.total(),
        "gbyte": training.moved / 1e9,
        "counted_peak_gib": training.peak / GIB,
    }


def _least(hours: dict[str, float]) -> Row:
    return {f"least_hours, {card}": value for card, value in hours.items()}
