"""MISA: modality-invariant and -specific representations (Hazarika et al. 2020, ACM Multimedia).

Each modality of a clip is encoded twice, by an encoder of its own (specific) and by one that all three share
(invariant). A similarity loss draws the invariant parts together, a difference loss keeps all other parts apart, and a
reconstruction loss keeps what the clip said. A Transformer over the six parts feeds the prediction.

Where this differs from the field's reference (mmsa 2.2.1):

- audio and vision are read over their own valid steps (`Settings.text_lengths`)
- the adversarial variant of the similarity loss is left out: the published one is the central moment discrepancy
- text is read by this package's `TextEncoder`; its mean over tokens includes [CLS] and [SEP], as there
- recurrent layers run over the padded batch, which gives the same states as packed sequences, faster
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.corpus import MODALITIES
from ..data.valid_steps import masked_mean, read_by_length
from ..encoders import TextEncoder
from ..losses import prediction_loss
from ..system import Output, Shapes, System
from .recurrent import BidirectionalLSTM
from .spec import SystemSpec


@dataclass(frozen=True)
class Settings:
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    epochs: int = 40  # ours: the reference trains until its early stop
    patience: int | None = 8
    batch_size: int = 128  # 64, of which the reference accumulates 2 (update_epochs)
    lr: float = 1e-4  # of the text encoder too
    weight_decay: float = 5e-5
    warmup_epochs: float = 0.0
    clip_norm: float = 1.0  # ours: the reference clips each value of the gradient, at 0.8 or 1

    width: int = 128  # h
    dropout: float = 0.0
    difference_weight: float = 0.3
    similarity_weight: float = 1.0
    reconstruction_weight: float = 0.8
    moments: int = 5  # of the central moment discrepancy
    # The reference reads as many first steps of audio and vision as the text has tokens, also where the file is not
    # aligned: of CH-SIMS's 400 steps of audio at most 39.
    text_lengths: bool = False


#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, Settings] = {
    "sims": Settings(),
    "mosi": Settings(
        batch_size=32,
        weight_decay=0.0,
        dropout=0.2,
        difference_weight=0.1,
        similarity_weight=0.3,
        reconstruction_weight=1.0,
    ),
    "mosei": dataclasses.replace(Settings(), dropout=0.5, similarity_weight=0.8, reconstruction_weight=1.0),
}


#: From this width on, grouping clips by length saves an LSTM more than its additional steps cost.
WIDE = 256


class Utterance(nn.Module):
    """Two bidirectional LSTMs with a layer normalisation between: (B, L, D), (B, L) → final states (B, 4·D)."""

    def __init__(self, features: int):
        super().__init__()
        self.first = BidirectionalLSTM(features, features)
        self.norm = nn.LayerNorm(2 * features)
        self.second = BidirectionalLSTM(2 * features, features)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        if values.shape[2] < WIDE:
            return self._read(values, mask)
        return read_by_length(mask, lambda rows, steps: self._read(values[rows, :steps], mask[rows, :steps]), size=32)

    def _read(self, values: Tensor, mask: Tensor) -> Tensor:
        states, first = self.first(values, mask)
        _, second = self.second(self.norm(states), mask)
        return torch.cat([first, second], -1).flatten(1)  # the onward states of both layers, then the backward ones


class MISA(System):
    """Three utterance vectors, six parts, prediction."""

    def __init__(self, settings: Settings, shapes: Shapes):
        super().__init__()
        self.settings, width = settings, settings.width
        self.text = TextEncoder(shapes.text_model)
        self.vision, self.audio = Utterance(shapes.vision_dim), Utterance(shapes.audio_dim)
        widths = {"T": self.text.out_features, "V": 4 * shapes.vision_dim, "A": 4 * shapes.audio_dim}
        self.projections = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(widths[m], width), nn.ReLU(), nn.LayerNorm(width)) for m in MODALITIES}
        )
        self.specific = nn.ModuleDict({m: nn.Sequential(nn.Linear(width, width), nn.Sigmoid()) for m in MODALITIES})
        self.invariant = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())
        self.reconstruction = nn.ModuleDict({m: nn.Linear(width, width) for m in MODALITIES})
        layer = nn.TransformerEncoderLayer(width, nhead=2, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.predictor = nn.Sequential(
            nn.Linear(6 * width, 3 * width), nn.Dropout(settings.dropout), nn.ReLU(), nn.Linear(3 * width, 1)
        )

    def learning_rates(self) -> dict[str, float]:
        return {"": self.settings.lr}

    def forward(self, batch: Batch) -> Output:
        whole = self._utterances(batch)  # (B, 3, h)
        specific = torch.stack([self.specific[m](whole[:, k]) for k, m in enumerate(MODALITIES)], 1)  # (B, 3, h)
        invariant = self.invariant(whole)  # (B, 3, h)
        fused = self.transformer(torch.cat([specific, invariant], 1))  # (B, 6, h)
        output = Output(self.predictor(fused.flatten(1)).squeeze(-1).float())
        if batch.labels is not None:
            output.losses = self._losses(output.prediction, batch.labels, whole, specific, invariant)
        return output

    def _utterances(self, batch: Batch) -> Tensor:
        tokens = batch.tokens[:, 1] > 0
        states, _ = self.text(batch)  # (B, L, H)
        masks = {"vision": batch.vision_mask, "audio": batch.audio_mask}
        if self.settings.text_lengths:
            count = tokens.sum(1, keepdim=True)
            masks = {name: torch.arange(mask.shape[1], device=mask.device) < count for name, mask in masks.items()}
        vectors = {
            "T": masked_mean(states, tokens),
            "V": self.vision(batch.vision, masks["vision"]),
            "A": self.audio(batch.audio, masks["audio"]),
        }
        return torch.stack([self.projections[m](vectors[m]) for m in MODALITIES], 1)

    def _losses(
        self, prediction: Tensor, labels: Tensor, whole: Tensor, specific: Tensor, invariant: Tensor
    ) -> dict[str, Tensor]:
        settings = self.settings
        again = torch.stack(
            [self.reconstruction[m](specific[:, k] + invariant[:, k]) for k, m in enumerate(MODALITIES)], 1
        )
        return {
            "pred": prediction_loss(prediction, labels),
            "diff": settings.difference_weight * difference_loss(specific.float(), invariant.float()),
            "sim": settings.similarity_weight * similarity_loss(invariant.float(), settings.moments),
            "recon": settings.reconstruction_weight * (again.float() - whole.float()).square().mean(),
        }


def similarity_loss(invariant: Tensor, moments: int) -> Tensor:
    """Central moment discrepancy of (B, 3, h), averaged over the three pairs of modalities.

    The distance of the means, and of the central moments from the second on, over the batch.
    """
    means = invariant.mean(0)  # (3, h)
    centred = invariant - means
    orders = torch.stack([means, *(centred.pow(order).mean(0) for order in range(2, moments + 1))])  # (moments, 3, h)
    first, second = [0, 0, 1], [1, 2, 2]
    return torch.linalg.vector_norm(orders[:, first] - orders[:, second], dim=-1).sum(0).mean()


def difference_loss(specific: Tensor, invariant: Tensor) -> Tensor:
    """Soft orthogonality: mean square of the correlations of the parts' dimensions, summed over six pairs of parts.

    The pairs are each modality's specific and invariant part, and the specific parts of each two modalities. Clips have
    their mean over the batch taken off and are scaled to unit length, through which no gradient runs.

    Args:
        specific: (B, 3, h).
        invariant: (B, 3, h).
    """
    parts = torch.cat([specific, invariant], 1).transpose(0, 1)  # (6, B, h)
    parts = parts - parts.mean(1, keepdim=True)
    parts = parts / (parts.norm(dim=-1, keepdim=True).detach() + 1e-6)
    first, second = [0, 1, 2, 0, 0, 1], [3, 4, 5, 1, 2, 2]
    with torch.autocast(parts.device.type, enabled=False):
        products = parts[first].mT @ parts[second]  # (6, h, h)
    return products.square().mean((1, 2)).sum()


SPEC = SystemSpec(
    title="MISA",
    build=MISA,
    published=PUBLISHED,
    text="finetuned",
    reference="Hazarika et al. 2020, MISA: Modality-Invariant and -Specific Representations for "
    "Multimodal Sentiment Analysis, ACM Multimedia",
)
