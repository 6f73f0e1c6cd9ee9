"""What several of the compared systems share: the steps of a clip aligned to its text, LSTMs, vectors of modalities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..data.batches import Batch
from ..data.valid_steps import lengths, masked_mean
from ..support.errors import RunError
from ..system import Output, ReferenceSettings, Shapes


def text_embeddings(batch: Batch) -> tuple[Tensor, Tensor]:
    """Contextual embeddings of the tokens, for systems on frozen text.

    Returns:
        (B, L, D), and their padding mask (B, L).

    Raises:
        RunError: The batch carries none.
    """
    if batch.text is None:
        raise RunError(
            "this system reads contextual embeddings, and batch.text holds none: the file has no `text`; "
            "fill it with the states of a text encoder"
        )
    return batch.text, batch.tokens[:, 1] > 0


def token_steps(batch: Batch) -> Tensor:
    """Steps of systems that read all modalities token by token: (B, L), True where there is a token.

    A clip without words (decision 19) has one step, so that its audio and vision are read all the same.
    """
    mask = batch.tokens[:, 1] > 0
    return torch.cat([mask[:, :1] | ~mask.any(1, keepdim=True), mask[:, 1:]], 1)


def align_steps(values: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """Values averaged over the stretch of time that falls to each token, tokens being taken as equally long.

    The valid steps of a clip are spread evenly over its tokens; a step that falls to two tokens counts for each as far
    as it overlaps. With as many steps as tokens, as in aligned files, the values come back unchanged.

    Args:
        values: (B, L, D), valid steps first.
        mask: (B, L), True where valid.
        tokens: (B, T), True where there is a token.

    Returns:
        (B, T, D), zero beyond the tokens, and for clips without a valid step.
    """
    count, wanted = mask.sum(1)[:, None, None], tokens.sum(1)[:, None, None]  # n, t, each (B, 1, 1)
    step = torch.arange(values.shape[1], device=values.device)
    token = torch.arange(tokens.shape[1], device=values.device)[:, None]
    # In units of 1 / (n · t), step s spans [s · t, (s + 1) · t) and token j spans [j · n, (j + 1) · n): whole numbers.
    start = torch.maximum(step * wanted, token * count)
    end = torch.minimum((step + 1) * wanted, (token + 1) * count)
    weight = (end - start).clamp_min(0) * mask[:, None] * tokens[:, :, None]  # (B, T, L)
    return (weight / count.clamp_min(1)).to(values.dtype) @ values


def last_state(states: Tensor, mask: Tensor) -> Tensor:
    """State at the last valid step: (B, L, H), (B, L) → (B, H); that of the first step where none is valid."""
    return states[torch.arange(len(states), device=states.device), lengths(mask) - 1]


def l1_output(prediction: Tensor, batch: Batch) -> Output:
    """Output of a system whose only loss is the mean absolute error of its ``prediction`` (B, 1)."""
    output = Output(prediction.squeeze(1).float())
    if batch.labels is not None:
        output.losses["pred"] = F.l1_loss(output.prediction, batch.labels)
    return output


class LSTM(nn.LSTM):
    """One layer over (B, L, D), in float32 also under autocast: most CPUs have no LSTM in bf16."""

    def __init__(self, in_features: int, hidden: int):
        super().__init__(in_features, hidden, batch_first=True)

    def forward(self, values: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with torch.autocast(values.device.type, enabled=False):
            return super().forward(values.float())

    def last(self, values: Tensor, mask: Tensor) -> Tensor:
        """State at the last valid step, at the first where none is valid: (B, L, D), (B, L) → (B, H)."""
        if values.device.type != "cpu":  # to pack, the host would have to ask for the lengths
            return last_state(self(values)[0], mask)
        counts = lengths(mask)
        order = counts.argsort(descending=True, stable=True)
        valid = torch.arange(int(counts.max()))[:, None] < counts[order]  # (L, B)
        time, place = valid.nonzero(as_tuple=True)  # step by step, as torch packs
        with torch.autocast("cpu", enabled=False):
            steps = PackedSequence(values[order[place], time].float(), valid.sum(1))
            return super().forward(steps)[1][0][0][order.argsort()]


class LSTMVector(nn.Module):
    """LSTM, then a projection of its state at the last valid step: (B, L, D), (B, L) → (B, out).

    The state of a clip without any valid step is zero.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int, dropout: float):
        super().__init__()
        self.lstm = LSTM(in_features, hidden)
        self.dropout, self.projection = nn.Dropout(dropout), nn.Linear(hidden, out_features)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        # A clip without any valid step is zeros: the first step, whose state it is given, is its padding.
        state = self.lstm.last(values, mask) * mask.any(1, keepdim=True)  # (B, hidden)
        return self.projection(self.dropout(state))


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that gives a batch of one clip the running statistics: it has no variance of its own."""

    def forward(self, values: Tensor) -> Tensor:
        if self.training and len(values) == 1:
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(values)


class MeanVector(nn.Module):
    """Three ReLU layers on the normalised mean of the valid steps: (B, L, D), (B, L) → (B, hidden).

    With ``file_steps``, the mean is over a whole row of the file, padding included, even where the batch was trimmed.
    """

    def __init__(self, in_features: int, hidden: int, dropout: float, file_steps: int | None = None):
        super().__init__()
        self.file_steps = file_steps
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
        mean = values.sum(1) / self.file_steps if self.file_steps else masked_mean(values, mask)
        return self.layers(self.dropout(self.norm(mean)))


@dataclass(frozen=True)
class FrozenTextSettings(ReferenceSettings):
    """Of a system on frozen text that mmsa holds.

    ``reference_behaviour``: in evaluation mode the output of mmsa, on batches that are not trimmed.
    """

    reference_behaviour: bool = False

    @property
    def follows_reference(self) -> bool:
        """Whether the model is mmsa's, alone or with its training."""
        return self.reference_behaviour or self.protocol == "published"


@dataclass(frozen=True)
class VectorSettings(FrozenTextSettings):
    """Settings of a system that begins with `ModalityVectors`."""

    text_hidden: int = 128  # of the LSTM
    text_out: int = 256
    audio_hidden: int = 32
    vision_hidden: int = 128
    text_dropout: float = 0.4
    audio_dropout: float = 0.4
    vision_dropout: float = 0.4


class ModalityVectors(nn.Module):
    """One vector of each modality: a batch → text (B, text_out), audio (B, audio_hidden), vision (B, vision_hidden).

    That of an absent modality is zero (decision 19). With ``settings.follows_reference`` as in mmsa 2.2.1, where the
    means and the LSTM run over padding too, and where dropout of the text, whatever its rate, does nothing.
    """

    def __init__(self, settings: VectorSettings, shapes: Shapes):
        super().__init__()
        self.padding = settings.follows_reference
        audio_steps, vision_steps = (shapes.audio_steps, shapes.vision_steps) if self.padding else (None, None)
        text_dropout = 0.0 if self.padding else settings.text_dropout
        self.text = LSTMVector(shapes.text_dim, settings.text_hidden, settings.text_out, text_dropout)
        self.audio = MeanVector(shapes.audio_dim, settings.audio_hidden, settings.audio_dropout, audio_steps)
        self.vision = MeanVector(shapes.vision_dim, settings.vision_hidden, settings.vision_dropout, vision_steps)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        text, mask = text_embeddings(batch)
        vectors = (
            self.text(text, torch.ones_like(mask) if self.padding else mask),
            self.audio(batch.audio, batch.audio_mask),
            self.vision(batch.vision, batch.vision_mask),
        )
        if self.padding:
            return vectors
        T, V, A = batch.present[:, :, None]  # (B, 1) each
        return tuple(vector * here for vector, here in zip(vectors, (T, A, V), strict=True))


def with_one(vector: Tensor) -> Tensor:
    """(B, d) → (B, 1 + d), a one in front, so that products of such vectors hold those of fewer modalities too."""
    return torch.cat([torch.ones_like(vector[:, :1]), vector], 1)
