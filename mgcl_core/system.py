"""What every trainable system is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from .data.batches import Batch, DeviceSplit


@dataclass
class Output:
    """What ``forward`` returns, whichever the system; a field that a system lacks is None.

    - ``prediction`` (B,): predicted sentiment, in the units of the labels
    - ``macro``, ``micro`` (3, B, d): projected features in the order T, V, A
    - ``unimodal`` (6, B): predictions from T_a, V_a, A_a, T_i, V_i, A_i
    - ``losses``: the weighted terms whose sum is the objective; empty when the batch has no labels
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


class System(nn.Module):
    """A model that the one training loop can train. Subclasses define ``forward(batch) -> Output``.

    ``learning_rates`` gives every trained parameter its rate; the hooks do nothing unless a system
    needs them.
    """

    def forward(self, batch: Batch) -> Output:
        raise TypeError(f"{type(self).__name__} must define forward(batch) -> Output")

    def learning_rates(self) -> dict[str, float]:
        """Prefix of parameter names → learning rate; the longest matching prefix decides, "" matches all."""
        raise TypeError(f"{type(self).__name__} must define learning_rates()")

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
