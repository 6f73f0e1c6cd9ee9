"""What every trainable system is, returns, and needs to be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from .config import LATER
from .data.batches import Batch, DeviceSplit


@dataclass
class Output:
    """What ``forward`` returns, whichever the system; a field that a system lacks is None.

    Attributes:
        prediction: (B,) predicted sentiment, in the units of the labels.
        macro: (3, B, d) projected features in the order T, V, A.
        micro: (3, B, d), likewise.
        unimodal: (6, B) predictions from T_a, V_a, A_a, T_i, V_i, A_i.
        losses: The weighted terms whose sum is the objective; empty when the batch has no labels.
    """

    prediction: Tensor
    macro: Tensor | None = None
    micro: Tensor | None = None
    unimodal: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    """What a system must know of a corpus to be built: widths, longest sequences, label range, text model."""

    text_dim: int
    text_steps: int
    audio_dim: int
    audio_steps: int
    vision_dim: int
    vision_steps: int
    bound: float  # labels lie in [-bound, bound]
    clips: int  # of the training split
    text_model: str  # for systems that fine-tune it: "minilm", a hub id or a folder


@dataclass(frozen=True)
class PublishedTraining:
    """How mmsa 2.2.1 trains: Adam, its weight decay an L2 term on all parameters, at a constant learning rate.

    Attributes:
        weight_decay: Factor of the L2 term.
        micro_batch: Clips of a forward pass. A step takes the sum of the gradients of its batch's micro-batches, and
            there is no step for the last ones of an epoch where they fill no batch. None: the batch.
        clip_value: Limit of each number of the gradient, applied after every micro-batch; None: there is none.
    """

    weight_decay: float = 0.0
    micro_batch: int | None = None
    clip_value: float | None = None


@dataclass(frozen=True)
class LoopSettings:
    """What the training loop reads of a compared system's settings, which inherit from this and add their own.

    Attributes:
        epochs: Passes over the training split, at most.
        patience: Epochs without a better validation MAE after which training stops; None trains all epochs.
        batch_size: Clips in a step.
        lr: Learning rate of AdamW at its peak.
        weight_decay: Of AdamW, not on biases and norms (decision 15).
        warmup_epochs: Epochs of linear warm-up; the learning rate then decays linearly to 0.
        clip_norm: Largest norm of a step's gradient.
    """

    epochs: int = 50
    patience: int | None = 8
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-3
    warmup_epochs: float = 0.0
    clip_norm: float = 1.0

    @property
    def published(self) -> PublishedTraining | None:
        """How the published trainer trains, where it is followed; None: the one loop, as all systems (decision 15)."""
        return None


@dataclass(frozen=True)
class ReferenceSettings(LoopSettings):
    """Of a system whose first steps equal those of mmsa's own trainer (``tests/baselines/test_published_training.py``).

    Attributes:
        protocol: "ours" trains by the one loop. "published" follows mmsa 2.2.1 in the model and in training, on
            features as the file has them (``scaling="none"``); the epoch is still the best by validation MAE.
    """

    protocol: Annotated[Literal["ours", "published"], LATER] = "ours"

    @property
    def published(self) -> PublishedTraining | None:
        return PublishedTraining(self.weight_decay) if self.protocol == "published" else None


class System(nn.Module):
    """A model that the one training loop can train. Subclasses define ``forward(batch) -> Output``.

    A subclass keeps its settings as ``settings``, or defines `learning_rates`. The hooks do nothing unless a system
    needs them.
    """

    def forward(self, batch: Batch) -> Output:
        raise TypeError(f"{type(self).__name__} must define forward(batch) -> Output")

    def learning_rates(self) -> dict[str, float]:
        """Prefix of parameter names → learning rate; the longest matching prefix decides, "" matches all."""
        return {"": self.settings.lr}

    def target(self, batch: Batch) -> Tensor:
        """The labels (B,) that the prediction is compared with."""
        return batch.labels

    def pretraining(self) -> dict[str, System]:
        """Systems by name to be trained before this one; they share modules with it, so nothing is copied."""
        return {}

    def begin_fit(self, train: DeviceSplit) -> None:
        """Called once before training, and before a checkpoint is read where there is one."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of each epoch, counted from 1."""

    def after_step(self, batch: Batch, output: Output) -> None:
        """Called after each optimiser step."""


@dataclass(frozen=True)
class SystemEntry:
    """A system's entry in the registry: how to build it, with which settings, and how text enters it.

    Attributes:
        title: Its row in Tables 3 and 4.
        build: Function of its settings, one of ``published`` or a changed copy, and of the corpus's shapes.
        published: Settings by dataset, "sims", "mosi" and "mosei".
        text: "frozen" reads contextual embeddings from ``batch.text``, "finetuned" holds a text encoder of its own,
            "pretrained" reads features of stage one's text encoder from ``batch.features``.
        reference: The paper that proposed it.
        reads_means: Whether all that it reads of audio and vision is their mean over the valid steps, so that batches
            may carry that alone (`DeviceSplit.averaged`).
    """

    title: str
    build: Callable[[Any, Shapes], System]
    published: dict[str, Any]
    text: Literal["frozen", "finetuned", "pretrained"]
    reference: str
    reads_means: bool = False
