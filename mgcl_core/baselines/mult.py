"""MulT: multimodal transformer for unaligned sequences (Tsai et al. 2019, ACL).

Each modality is brought to a common width by a convolution over time. Six crossmodal transformers let each modality
attend to each of the two others; the two results of a modality, side by side, pass through a transformer of their own,
and the three last steps predict.

Where this differs from the field's reference (mmsa 2.2.1), unless ``MulTSettings.reference_behaviour`` is set:

- padding is neither attended to nor read: there is no mask there, and the last step is that of the padding
- sinusoidal positions are added, as in the paper (section 3.2); there they are switched off
- how far ahead a query may look, the difference of the two lengths (`visible`), is that of the clip, not of the batch,
  so that no prediction depends on the other clips of its batch

In either case dropout of the attention takes whole keys of a head, each with the published probability, where the
reference drops each pair of query and key by itself: the weights are then never formed, which saves memory and time.
The convolution is applied whatever the width; the reference leaves it out where a modality already has the common one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.corpus import MODALITIES
from ..data.valid_steps import lengths
from ..encoders import in_float32
from ..system import LoopSettings, Output, Shapes, System, SystemEntry
from .layers import l1_output, last_state, text_embeddings

UNIMODAL_LAYERS = 3  # at least, of the transformer that follows the crossmodal ones


@dataclass(frozen=True)
class MulTSettings(LoopSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    batch_size: int = 128  # 16, of which the reference accumulates 8 (update_epochs)
    lr: float = 2e-3
    weight_decay: float = 1e-3  # published, though the reference's optimiser does without

    width: int = 50
    heads: int = 10
    layers: int = 2
    text_kernel: int = 5  # of the convolutions
    audio_kernel: int = 1
    vision_kernel: int = 1
    # Dropout of the attention by what is attended to; transformers of one modality have that of the text.
    text_attention_dropout: float = 0.2
    audio_attention_dropout: float = 0.1
    vision_attention_dropout: float = 0.0
    text_dropout: float = 0.3  # of the text's embeddings
    embedding_dropout: float = 0.1
    feedforward_dropout: float = 0.0
    residual_dropout: float = 0.2
    output_dropout: float = 0.1
    positions: bool = True  # False: no positions, as in the reference
    reference_behaviour: bool = False  # True: in evaluation mode, without positions, the output of mmsa on batches
    # that are not trimmed


#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, MulTSettings] = {
    "sims": MulTSettings(),
    "mosi": MulTSettings(
        weight_decay=5e-3,
        layers=4,
        audio_kernel=5,
        vision_kernel=5,
        text_attention_dropout=0.3,
        audio_attention_dropout=0.2,
        text_dropout=0.5,
        embedding_dropout=0.2,
        residual_dropout=0.0,
        output_dropout=0.5,
    ),
    "mosei": MulTSettings(
        batch_size=32,
        lr=5e-4,
        width=30,
        heads=6,
        layers=4,
        vision_kernel=3,
        text_attention_dropout=0.4,
        audio_attention_dropout=0.0,
        embedding_dropout=0.0,
        residual_dropout=0.0,
        output_dropout=0.5,
    ),
}


def visible(queries: Tensor, keys: Tensor, query_steps: int, key_steps: int) -> Tensor:
    """Which key each query may attend to: none further ahead of it than the two lengths differ.

    Args:
        queries: (B,) lengths of the queries in steps, at least 1.
        keys: (B,) of the keys, likewise.
        query_steps: Lq, of the padded batch.
        key_steps: Lk.

    Returns:
        (B, 1, Lq, Lk), True where visible; of every query at least the first key.
    """
    query = torch.arange(query_steps, device=queries.device)[:, None]
    key = torch.arange(key_steps, device=queries.device)
    reach = (keys - queries).abs()[:, None, None]
    return ((key <= query + reach) & (key < keys[:, None, None]))[:, None]


def sinusoids(steps: int, width: int, device: torch.device) -> Tensor:
    """Positions 1, 2, ... (steps, width): sines in the first half, cosines in the second."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(1, steps + 1, device=device)[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


class Layer(nn.Module):
    """Multi-head attention and a feed-forward network, each behind a normalisation and beside a residual."""

    def __init__(self, width: int, attention_dropout: float, settings: MulTSettings):
        super().__init__()
        self.heads = settings.heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.key_dropout = nn.Dropout(attention_dropout)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(settings.feedforward_dropout),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(settings.residual_dropout)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, values: Tensor, source: Tensor | None, mask: Tensor | None, present: Tensor | None) -> Tensor:
        """Values (B, Lq, d) attend to ``source`` (B, Lk, d) under ``mask``, or without one to their own past.

        Where ``present`` (B,) is False there is no source, and nothing comes from it (decision 19).
        """
        normed = self.attention_norm(values)
        query = self._split(self.query(normed))  # (B, heads, Lq, d / heads)
        key, value = (
            self._split(part)
            for part in self.key_value(normed if source is None else self.attention_norm(source)).chunk(2, -1)
        )
        if self.training and self.key_dropout.p > 0:
            value = value * self.key_dropout(torch.ones_like(value[..., :1]))  # no weight on a dropped key
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        attended = attended.transpose(1, 2).flatten(2)  # (B, Lq, d)
        if present is not None:
            attended = attended * present[:, None, None]
        values = values + self.dropout(self.output(attended))
        return values + self.dropout(self.feedforward(self.feedforward_norm(values)))

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Transformer(nn.Module):
    """Layers in which a sequence attends to another one, or to itself, and a normalisation."""

    def __init__(self, width: int, layers: int, attention_dropout: float, settings: MulTSettings):
        super().__init__()
        self.positions, self.scale = settings.positions, math.sqrt(width)
        self.dropout = nn.Dropout(settings.embedding_dropout)
        self.layers = nn.ModuleList(Layer(width, attention_dropout, settings) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, values: Tensor, source: Tensor | None = None, mask: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """(B, Lq, d), with (B, Lk, d), (B, 1, Lq, Lk), (B,) where it attends to another sequence → (B, Lq, d)."""
        values, source = self._embed(values), None if source is None else self._embed(source)
        for layer in self.layers:
            values = layer(values, source, mask, present)
        return self.norm(values)

    def _embed(self, values: Tensor) -> Tensor:
        values = self.scale * values
        if self.positions:
            values = values + sinusoids(values.shape[1], values.shape[2], values.device)
        return self.dropout(values)


class MulT(System):
    """Six crossmodal transformers (``crossmodal["TA"]``: T attends to A), one more a modality, and a residual block."""

    def __init__(self, settings: MulTSettings, shapes: Shapes):
        super().__init__()
        self.settings = settings
        width, layers = settings.width, max(settings.layers, UNIMODAL_LAYERS)
        features = {"T": shapes.text_dim, "V": shapes.vision_dim, "A": shapes.audio_dim}
        self.kernels = {"T": settings.text_kernel, "V": settings.vision_kernel, "A": settings.audio_kernel}
        dropouts = {
            "T": settings.text_attention_dropout,
            "V": settings.vision_attention_dropout,
            "A": settings.audio_attention_dropout,
        }
        self.text_dropout = nn.Dropout(settings.text_dropout)
        self.convolutions = nn.ModuleDict(
            {m: nn.Conv1d(features[m], width, self.kernels[m], bias=False) for m in MODALITIES}
        )
        self.crossmodal = nn.ModuleDict(
            {
                m + other: Transformer(width, settings.layers, dropouts[other], settings)
                for m in MODALITIES
                for other in _others(m)
            }
        )
        self.unimodal = nn.ModuleDict(
            {m: Transformer(2 * width, layers, settings.text_attention_dropout, settings) for m in MODALITIES}
        )
        self.residual = nn.Sequential(
            nn.Linear(6 * width, 6 * width),
            nn.ReLU(),
            nn.Dropout(settings.output_dropout),
            nn.Linear(6 * width, 6 * width),
        )
        self.head = nn.Linear(6 * width, 1)

    def forward(self, batch: Batch) -> Output:
        text, tokens = text_embeddings(batch)
        inputs = {
            "T": (self.text_dropout(text), tokens),
            "V": (batch.vision, batch.vision_mask),
            "A": (batch.audio, batch.audio_mask),
        }
        steps = {m: self._convolve(m, *inputs[m]) for m in MODALITIES}  # each (B, L, d), (B, L)
        present = dict(zip(MODALITIES, batch.present, strict=True))  # (B,) each
        if self.settings.reference_behaviour:
            present = dict.fromkeys(MODALITIES)
        last = []
        for m in MODALITIES:
            values, mask = steps[m]
            crossed = [
                self.crossmodal[m + other](
                    values, steps[other][0], self._visible(mask, steps[other][1]), present[other]
                )
                for other in _others(m)
            ]
            # To look only back is to see no padding: it comes after the last valid step, which is the one to be read.
            states = self.unimodal[m](torch.cat(crossed, 2))  # (B, L, 2·d)
            last.append(last_state(states, mask))
        final = torch.cat([last[MODALITIES.index(m)] for m in "TAV"], 1)
        return l1_output(in_float32(self.head, final + self.residual(final)), batch)

    def _convolve(self, modality: str, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D) → (B, L', d) and the mask of the steps that see no padding, of every clip at least the first."""
        kernel = self.kernels[modality]
        if self.settings.reference_behaviour:
            mask = torch.ones_like(mask)
        else:
            values = values * mask[:, :, None]
        values = F.pad(values, (0, 0, 0, max(kernel - values.shape[1], 0)))  # a kernel's worth of steps at least
        states = self.convolutions[modality](values.transpose(1, 2)).transpose(1, 2)
        valid = (lengths(mask) - kernel + 1).clamp_min(1)  # (B,)
        return states, torch.arange(states.shape[1], device=mask.device) < valid[:, None]

    def _visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        return visible(lengths(queries), lengths(keys), queries.shape[1], keys.shape[1])


def _others(modality: str) -> list[str]:
    """The two other modalities, in the order in which the reference concatenates: T, A, V."""
    return [other for other in "TAV" if other != modality]


ENTRY = SystemEntry(
    title="MulT",
    build=MulT,
    published=PUBLISHED,
    text="frozen",
    reference="Tsai et al. 2019, Multimodal Transformer for Unaligned Multimodal Language Sequences, ACL",
)
