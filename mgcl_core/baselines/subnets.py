"""The small networks that the systems on frozen text share: an LSTM, and one vector from each modality."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..support.errors import RunError
from ..system import Shapes
from .recurrent import last_state


def text_embeddings(batch: Batch) -> tuple[Tensor, Tensor]:
    """Contextual embeddings (B, L, D) and their mask (B, L).

    Raises:
        RunError: the batch carries none.
    """
    if batch.text is None:
        raise RunError(
            "this system reads contextual embeddings, and batch.text holds none: the file has no `text`; "
            "fill it with the states of a text encoder"
        )
    return batch.text, batch.tokens[:, 1] > 0


def mean_step(values: Tensor, mask: Tensor, steps: int | None = None) -> Tensor:
    """Mean of the valid steps, (B, L, D) → (B, D), zero where there is none.

    With ``steps``, the sum of all steps divided by that number: the mean over a whole row of the file, padding
    included, even where the batch was trimmed.
    """
    if steps is not None:
        return values.sum(1) / steps
    weight = mask.to(values.dtype)[:, None]  # (B, 1, L)
    return (weight @ values)[:, 0] / weight.sum(2).clamp_min(1.0)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that gives a batch of one clip the running statistics: it has no variance of its own."""

    def forward(self, values: Tensor) -> Tensor:
        if self.training and len(values) == 1:
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(values)


class SequenceNet(nn.Module):
    """Audio or vision: three ReLU layers on the normalised mean step, (B, L, D), (B, L) → (B, hidden).

    ``steps`` as in `mean_step`.
    """

    def __init__(self, in_features: int, hidden: int, dropout: float, steps: int | None = None):
        super().__init__()
        self.steps, self.out_features = steps, hidden
        self.norm, self.dropout = BatchNorm(in_features), nn.Dropout(dropout)
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.layers(self.dropout(self.norm(mean_step(values, mask, self.steps))))


def lstm_states(values: Tensor, mask: Tensor, lstm: nn.LSTM | nn.LSTMCell) -> tuple[Tensor, Tensor]:
    """Hidden and cell states of all steps, (B, L, D) → (B, L, H) each, by the weights of ``lstm``, of one layer.

    States beyond a clip's last valid step mean nothing. What torch's own LSTM spends on the CPU is mostly the
    projection of wide inputs, padding included; here only valid steps are projected. Float32 also under autocast.
    """
    inner, outer, *biases = lstm.parameters()  # weight_ih, weight_hh, bias_ih, bias_hh
    with torch.autocast(values.device.type, enabled=False):
        gates = values.new_zeros(*mask.shape, len(inner), dtype=inner.dtype)
        gates = gates.index_put((mask,), F.linear(values[mask].to(inner.dtype), inner, sum(biases)))  # (B, L, 4·H)
        hidden = cell = gates.new_zeros(len(values), lstm.hidden_size)
        hiddens, cells = [], []
        for step in gates.unbind(1):
            ingate, forget, candidate, outgate = torch.addmm(step, hidden, outer.T).chunk(4, 1)
            cell = forget.sigmoid() * cell + ingate.sigmoid() * candidate.tanh()
            hidden = outgate.sigmoid() * cell.tanh()
            hiddens.append(hidden)
            cells.append(cell)
        return torch.stack(hiddens, 1), torch.stack(cells, 1)


class TextNet(nn.Module):
    """Text: LSTM, then a projection of its state at the last token, (B, L, D), (B, L) → (B, out).

    ``padding=True`` reads the state at the last step instead, after whatever follows the sentence.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int, dropout: float, *, padding: bool = False):
        super().__init__()
        self.padding, self.out_features = padding, out_features
        self.lstm = nn.LSTM(in_features, hidden, batch_first=True)
        self.dropout, self.projection = nn.Dropout(dropout), nn.Linear(hidden, out_features)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        if self.padding:
            mask = torch.ones_like(mask)
        # cuDNN has a kernel for all steps at once; on a CPU it pays to leave padding out.
        states, _ = self.lstm(values) if values.is_cuda else lstm_states(values, mask, self.lstm)  # (B, L, hidden)
        return self.projection(self.dropout(last_state(states, mask)))


class Vectors(nn.Module):
    """One vector of each modality: a batch → text (B, dt), audio (B, da), vision (B, dv).

    ``settings`` has ``<modality>_hidden`` and ``<modality>_dropout`` for each modality, ``text_out``, and
    ``reference_behaviour``: as mmsa 2.2.1, where the mean and the LSTM run over padding too, and where dropout of the
    text, whatever its rate, does nothing.
    """

    def __init__(self, settings: Any, shapes: Shapes):
        super().__init__()
        padding = settings.reference_behaviour
        self.text = TextNet(
            shapes.text_dim,
            settings.text_hidden,
            settings.text_out,
            0.0 if padding else settings.text_dropout,
            padding=padding,
        )
        self.audio = SequenceNet(
            shapes.audio_dim, settings.audio_hidden, settings.audio_dropout, shapes.audio_steps if padding else None
        )
        self.vision = SequenceNet(
            shapes.vision_dim, settings.vision_hidden, settings.vision_dropout, shapes.vision_steps if padding else None
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.text(*text_embeddings(batch)),
            self.audio(batch.audio, batch.audio_mask),
            self.vision(batch.vision, batch.vision_mask),
        )


def with_one(vector: Tensor) -> Tensor:
    """(B, d) → (B, 1 + d), a one in front, so that products of such vectors hold those of fewer modalities too."""
    return torch.cat([torch.ones_like(vector[:, :1]), vector], 1)
