"""MFN: memory fusion network (Zadeh et al. 2018, AAAI).

One LSTM for each modality, all on the same steps. At each step, attention over the cell states of this and of the last
step (the delta memory) finds what changed across modalities, and a gated memory keeps it.

Modalities need the same steps. Those of unaligned files are averaged over the stretch of time that falls to each token
(`align_steps`).

Where this differs from the field's reference (mmsa 2.2.1), unless ``Settings.reference_behaviour`` is set:

- there, audio and vision of any file, aligned or not, are averaged over all their steps, padding included, and that one
  vector is repeated at every token
- predictions are read at the last token; there at the last step, after whatever follows the sentence

In either case the three LSTMs run first and the attention for all steps at once, since neither looks at the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..system import Output, Shapes, System
from .align import align_steps
from .recurrent import last_state
from .spec import SystemSpec
from .subnets import lstm_states, mean_step, text_embeddings


@dataclass(frozen=True)
class Settings:
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    epochs: int = 50  # ours: the reference trains until its early stop
    patience: int | None = 8
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup_epochs: float = 0.0
    clip_norm: float = 1.0  # ours: the reference does not clip

    text_hidden: int = 64  # of the LSTMs
    audio_hidden: int = 16
    vision_hidden: int = 64
    memory: int = 64
    # Hidden widths and dropouts of the small networks, in the reference's names NN1, NN2, gamma1, gamma2 and out.
    attention_hidden: int = 128
    attention_dropout: float = 0.2
    candidate_hidden: int = 128
    candidate_dropout: float = 0.0
    retain_hidden: int = 64
    retain_dropout: float = 0.2
    update_hidden: int = 64
    update_dropout: float = 0.7
    output_hidden: int = 64
    output_dropout: float = 0.7
    reference_behaviour: bool = False  # True: in evaluation mode the output of mmsa, on batches that are not trimmed


#: config_regression.json of mmsa 2.2.1; its window is always of two steps.
PUBLISHED: dict[str, Settings] = {
    "sims": Settings(),
    "mosi": replace(
        Settings(),
        batch_size=128,
        lr=2e-3,
        text_hidden=256,
        audio_hidden=32,
        vision_hidden=256,
        memory=400,
        attention_hidden=32,
        candidate_hidden=64,
        retain_hidden=256,
        retain_dropout=0.7,
        update_hidden=32,
        update_dropout=0.5,
        output_hidden=128,
        output_dropout=0.0,
    ),
    "mosei": replace(
        Settings(),
        batch_size=64,
        lr=5e-4,
        weight_decay=1e-4,
        text_hidden=128,
        audio_hidden=32,
        vision_hidden=128,
        memory=128,
        candidate_dropout=0.5,
        retain_hidden=256,
        retain_dropout=0.7,
        update_hidden=256,
        update_dropout=0.0,
        output_hidden=128,
        output_dropout=0.5,
    ),
}


def small_network(in_features: int, hidden: int, out_features: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout, linear."""
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out_features)
    )


class MFN(System):
    """Three LSTMs, delta-memory attention, and the multi-view gated memory."""

    def __init__(self, settings: Settings, shapes: Shapes):
        super().__init__()
        self.settings, self.shapes = settings, shapes
        self.aligned = shapes.text_steps == shapes.audio_steps == shapes.vision_steps
        self.text = nn.LSTMCell(shapes.text_dim, settings.text_hidden)
        self.audio = nn.LSTMCell(shapes.audio_dim, settings.audio_hidden)
        self.vision = nn.LSTMCell(shapes.vision_dim, settings.vision_hidden)
        width = settings.text_hidden + settings.audio_hidden + settings.vision_hidden
        window, memory = 2 * width, settings.memory
        self.attention = small_network(window, settings.attention_hidden, window, settings.attention_dropout)
        self.candidate = small_network(window, settings.candidate_hidden, memory, settings.candidate_dropout)
        self.retain = small_network(window + memory, settings.retain_hidden, memory, settings.retain_dropout)
        self.update = small_network(window + memory, settings.update_hidden, memory, settings.update_dropout)
        self.output = small_network(width + memory, settings.output_hidden, 1, settings.output_dropout)

    def learning_rates(self) -> dict[str, float]:
        return {"": self.settings.lr}

    def forward(self, batch: Batch) -> Output:
        text, mask = text_embeddings(batch)
        if self.settings.reference_behaviour:
            mask = torch.ones_like(mask)
        states = [
            lstm_states(text, mask, self.text),
            lstm_states(self._on_tokens(batch, "audio", mask), mask, self.audio),
            lstm_states(self._on_tokens(batch, "vision", mask), mask, self.vision),
        ]
        hidden = torch.cat([hidden for hidden, _ in states], 2)  # (B, L, h)
        cells = torch.cat([cells for _, cells in states], 2)
        delta = torch.cat([F.pad(cells[:, :-1], (0, 0, 1, 0)), cells], 2)  # of the last and of this step, (B, L, 2·h)
        attended = self.attention(delta).softmax(2) * delta
        final = torch.cat([hidden, self._remember(attended)], 2)
        output = Output(self.output(last_state(final, mask)).squeeze(1).float())
        if batch.labels is not None:
            output.losses["pred"] = F.l1_loss(output.prediction, batch.labels)
        return output

    def _remember(self, attended: Tensor) -> Tensor:
        """The memory after each step: (B, L, 2·h) → (B, L, m)."""
        candidates = self.candidate(attended).tanh()
        memory = candidates.new_zeros(len(attended), self.settings.memory)
        # The first layer of a gate is split: what it takes from `attended` is known for all steps beforehand.
        width, gates = attended.shape[2], (self.retain, self.update)
        known = [F.linear(attended, gate[0].weight[:, :width], gate[0].bias).unbind(1) for gate in gates]
        weights = [gate[0].weight[:, width:].T for gate in gates]
        memories = []
        for step, candidate in enumerate(candidates.unbind(1)):
            retain, update = (
                gate[1:](known[place][step] + memory @ weights[place]).sigmoid() for place, gate in enumerate(gates)
            )
            memory = retain * memory + update * candidate
            memories.append(memory)
        return torch.stack(memories, 1)

    def _on_tokens(self, batch: Batch, modality: str, tokens: Tensor) -> Tensor:
        """Audio or vision with one step for each token: (B, L, D)."""
        values, mask = getattr(batch, modality), getattr(batch, f"{modality}_mask")
        if self.settings.reference_behaviour:
            mean = mean_step(values, mask, getattr(self.shapes, f"{modality}_steps"))
            return mean[:, None].expand(-1, tokens.shape[1], -1)
        if self.aligned:  # a batch trims each modality by itself
            return F.pad(values, (0, 0, 0, tokens.shape[1] - values.shape[1]))
        return align_steps(values, mask, tokens)


SPEC = SystemSpec(
    title="MFN",
    build=MFN,
    published=PUBLISHED,
    text="frozen",
    reference="Zadeh et al. 2018, Memory Fusion Network for Multi-view Sequential Learning, AAAI",
)
