"""MFN: memory fusion network (Zadeh et al. 2018, AAAI).

One LSTM for each modality, all on the same steps. At each step, attention over the cell states of this and of the last
step (the delta memory) finds what changed across modalities, and a gated memory keeps it.

Modalities need the same steps. Those of unaligned files are averaged over the stretch of time that falls to each token
(`align_steps`).

Where this differs from the field's reference (mmsa 2.2.1), unless ``MFNSettings.reference_behaviour`` is set:

- there, audio and vision of any file, aligned or not, are averaged over all their steps, padding included, and that one
  vector is repeated at every token
- predictions are read at the last token; there at the last step, after whatever follows the sentence
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..encoders import Readout
from ..system import Output, Shapes, System, SystemEntry
from .layers import FrozenTextSettings, align_steps, l1_output, last_state, text_embeddings, token_steps


@dataclass(frozen=True)
class MFNSettings(FrozenTextSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    weight_decay: float = 0.0

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


#: config_regression.json of mmsa 2.2.1; its window is always of two steps.
PUBLISHED: dict[str, MFNSettings] = {
    "sims": MFNSettings(),
    "mosi": MFNSettings(
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
    "mosei": MFNSettings(
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


def small_network(in_features: int, hidden: int, out_features: int, dropout: float) -> Readout:
    """Linear, ReLU, dropout, linear."""
    return Readout(nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out_features))


class MFN(System):
    """Three LSTMs, delta-memory attention, and the multi-view gated memory."""

    def __init__(self, settings: MFNSettings, shapes: Shapes):
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

    def forward(self, batch: Batch) -> Output:
        text, tokens = text_embeddings(batch)
        if self.settings.follows_reference:
            mask = torch.ones_like(tokens)
        else:
            text, mask = text * tokens[:, :, None], token_steps(batch)
        modalities = (text, self._on_tokens(batch, "audio", mask), self._on_tokens(batch, "vision", mask))
        with torch.autocast(text.device.type, enabled=False):  # as in `LSTM`
            states = self._states([values.float() for values in modalities])
        return l1_output(self.output(last_state(states, mask)), batch)

    def _states(self, modalities: list[Tensor]) -> Tensor:
        """Hidden states of the LSTMs and the memory, after each step of (B, L, D) each: (B, L, h + m)."""
        lstms = (self.text, self.audio, self.vision)
        text = modalities[0]
        states = [2 * (text.new_zeros(len(text), lstm.hidden_size),) for lstm in lstms]
        memory = text.new_zeros(len(text), self.settings.memory)
        cells = torch.cat([cell for _, cell in states], 1)  # (B, h)
        outputs = []
        for inputs in zip(*(values.unbind(1) for values in modalities), strict=True):
            states = [lstm(values, state) for lstm, values, state in zip(lstms, inputs, states, strict=True)]
            previous, cells = cells, torch.cat([cell for _, cell in states], 1)
            delta = torch.cat([previous, cells], 1)  # (B, 2·h)
            attended = self.attention(delta).softmax(1) * delta
            gate_inputs = torch.cat([attended, memory], 1)
            retain, update = self.retain(gate_inputs).sigmoid(), self.update(gate_inputs).sigmoid()
            memory = retain * memory + update * self.candidate(attended).tanh()
            outputs.append(torch.cat([*(hidden for hidden, _ in states), memory], 1))
        return torch.stack(outputs, 1)

    def _on_tokens(self, batch: Batch, modality: str, tokens: Tensor) -> Tensor:
        """Audio or vision with one step for each token: (B, L, D)."""
        values, mask = getattr(batch, modality), getattr(batch, f"{modality}_mask")
        if self.settings.follows_reference:
            mean = values.sum(1) / getattr(self.shapes, f"{modality}_steps")
            return mean[:, None].expand(-1, tokens.shape[1], -1)
        if self.aligned:  # a batch trims each modality by itself
            return F.pad(values, (0, 0, 0, tokens.shape[1] - values.shape[1]))
        return align_steps(values, mask, tokens)


ENTRY = SystemEntry(
    title="MFN",
    build=MFN,
    published=PUBLISHED,
    text="frozen",
    reference="Zadeh et al. 2018, Memory Fusion Network for Multi-view Sequential Learning, AAAI",
)
