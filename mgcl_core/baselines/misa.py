"""MISA: modality-invariant and -specific representations (Hazarika et al. 2020, ACM Multimedia).

Each modality of a clip is encoded twice, by an encoder of its own (specific) and by one that all three share
(invariant). A similarity loss draws the invariant parts together, a difference loss keeps all other parts apart, and a
reconstruction loss keeps what the clip said. A Transformer over the six parts feeds the prediction.

Where this differs from the field's reference (mmsa 2.2.1):

- audio and vision are read over their own valid steps (`MISASettings.text_lengths`)
- the adversarial variant of the similarity loss is left out: the published one is the central moment discrepancy
- text is read by this package's `TextEncoder`; its mean over tokens includes [CLS] and [SEP], as there
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.corpus import MODALITIES
from ..data.valid_steps import lengths, masked_mean, read_by_length
from ..encoders import Readout, TextEncoder
from ..losses import prediction_loss
from ..system import Output, PublishedTraining, ReferenceSettings, Shapes, System, SystemEntry
from .layers import LSTM, last_state

#: Clips of a group on a CPU: enough for the products of wide LSTMs, few enough to be of similar length.
UTTERANCES = 32


@dataclass(frozen=True)
class MISASettings(ReferenceSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    epochs: int = 40
    batch_size: int = 128  # two micro-batches, whose gradients the reference accumulates (update_epochs)
    micro_batch: int = 64  # clips that the losses of a whole batch are computed on, at most
    lr: float = 1e-4  # of the text encoder too
    weight_decay: float = 5e-5  # published, though the reference's optimiser does without

    width: int = 128  # h
    dropout: float = 0.0
    difference_weight: float = 0.3
    similarity_weight: float = 1.0
    reconstruction_weight: float = 0.8
    moments: int = 5  # of the central moment discrepancy
    # The reference reads as many first steps of audio and vision as the text has tokens, also where the file is not
    # aligned: of CH-SIMS's 400 steps of audio at most 39.
    text_lengths: bool = False
    clip_value: float = 1.0  # of each number of the gradient, by the published protocol alone

    @property
    def published(self) -> PublishedTraining | None:
        return PublishedTraining(0.0, self.micro_batch, self.clip_value) if self.protocol == "published" else None


#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, MISASettings] = {
    "sims": MISASettings(),
    "mosi": MISASettings(
        batch_size=32,
        micro_batch=16,
        weight_decay=0.0,
        dropout=0.2,
        difference_weight=0.1,
        similarity_weight=0.3,
        reconstruction_weight=1.0,
        clip_value=0.8,
    ),
    "mosei": MISASettings(dropout=0.5, similarity_weight=0.8, reconstruction_weight=1.0, clip_value=0.8),
}


class BidirectionalLSTM(nn.Module):
    """One layer in both directions: (B, L, D), (B, L) → states (B, L, 2·H) and final states (B, 2, H).

    The states at valid steps are those that packed sequences would give.
    """

    def __init__(self, in_features: int, hidden: int):
        super().__init__()
        self.forward_lstm = LSTM(in_features, hidden)
        self.backward_lstm = LSTM(in_features, hidden)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(mask.shape[1], device=mask.device)
        reversed_steps = lengths(mask)[:, None] - 1 - steps
        order = torch.where(reversed_steps < 0, steps, reversed_steps)[:, :, None]  # (B, L, 1), padding where it was
        forward, _ = self.forward_lstm(values)
        backward, _ = self.backward_lstm(values.gather(1, order.expand_as(values)))
        final = torch.stack([last_state(forward, mask), last_state(backward, mask)], 1)
        return torch.cat([forward, backward.gather(1, order.expand_as(backward))], -1), final


class Utterance(nn.Module):
    """Two bidirectional LSTMs with a layer normalisation between: (B, L, D), (B, L) → final states (B, 4·D)."""

    def __init__(self, features: int):
        super().__init__()
        self.first = BidirectionalLSTM(features, features)
        self.norm = nn.LayerNorm(2 * features)
        self.second = BidirectionalLSTM(2 * features, features)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        states, first = self.first(values, mask)
        _, second = self.second(self.norm(states), mask)
        return torch.cat([first, second], -1).flatten(1)  # forward states of both layers, then backward ones


class MISA(System):
    """Three utterance vectors, six parts, prediction."""

    def __init__(self, settings: MISASettings, shapes: Shapes):
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
        self.predictor = Readout(
            nn.Linear(6 * width, 3 * width), nn.Dropout(settings.dropout), nn.ReLU(), nn.Linear(3 * width, 1)
        )

    def forward(self, batch: Batch) -> Output:
        utterances = self._utterances(batch)  # (B, 3, h)
        specific = torch.stack([self.specific[m](utterances[:, k]) for k, m in enumerate(MODALITIES)], 1)  # (B, 3, h)
        invariant = self.invariant(utterances)  # (B, 3, h)
        present = batch.present.T  # (B, 3)
        padding = ~present.repeat(1, 2)  # (B, 6): parts of an absent modality are neither keys nor read (decision 19)
        padding = padding & ~padding.all(1, keepdim=True)  # attention among no parts would be NaN
        fused = self.transformer(torch.cat([specific, invariant], 1), src_key_padding_mask=padding)  # (B, 6, h)
        fused = fused * present.repeat(1, 2)[:, :, None]
        output = Output(self.predictor(fused.flatten(1)).squeeze(-1).float())
        if batch.labels is not None:
            output.losses = self._losses(output.prediction, batch.labels, utterances, specific, invariant, present)
        return output

    def _utterances(self, batch: Batch) -> Tensor:
        tokens = batch.tokens[:, 1] > 0
        states, _ = self.text(batch)  # (B, L, H)
        masks = {"vision": batch.vision_mask, "audio": batch.audio_mask}
        if self.settings.text_lengths or self.settings.published:
            count = tokens.sum(1, keepdim=True)
            masks = {name: torch.arange(mask.shape[1], device=mask.device) < count for name, mask in masks.items()}
        vectors = {
            "T": masked_mean(states, tokens),
            "V": self._encode(self.vision, batch.vision, masks["vision"]),
            "A": self._encode(self.audio, batch.audio, masks["audio"]),
        }
        utterances = torch.stack([self.projections[m](vectors[m]) for m in MODALITIES], 1)
        return utterances * batch.present.T[:, :, None]

    @staticmethod
    def _encode(encoder: Utterance, values: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D), (B, L) → (B, 4·D), in groups of clips of similar length."""
        return read_by_length(mask, lambda rows, steps: encoder(values[rows, :steps], mask[rows, :steps]), UTTERANCES)

    def _losses(
        self,
        prediction: Tensor,
        labels: Tensor,
        utterances: Tensor,
        specific: Tensor,
        invariant: Tensor,
        present: Tensor,
    ) -> dict[str, Tensor]:
        """The four weighted terms.

        Similarity and difference are of a batch as a whole, and the difference grows with the number of its clips. So
        both are means over the published micro-batches.
        """
        settings, size = self.settings, self.settings.micro_batch
        parts = [values.float().split(size) for values in (specific, invariant)]
        parts = list(zip(*parts, present.split(size), strict=True))  # of (b, 3, h), (b, 3, h), (b, 3)
        difference = torch.stack([difference_loss(*part) for part in parts]).mean()
        similarity = torch.stack([similarity_loss(common, settings.moments, here) for _, common, here in parts]).mean()
        reconstructed = torch.stack(
            [self.reconstruction[m](specific[:, k] + invariant[:, k]) for k, m in enumerate(MODALITIES)], 1
        )
        errors = (reconstructed.float() - utterances.float()).square().mean(-1) * present  # (B, 3)
        return {
            "pred": prediction_loss(prediction, labels),
            "diff": settings.difference_weight * difference,
            "sim": settings.similarity_weight * similarity,
            "recon": settings.reconstruction_weight * errors.sum() / present.sum().clamp_min(1),
        }


def similarity_loss(invariant: Tensor, moments: int, present: Tensor) -> Tensor:
    """Central moment discrepancy (CMD) of the invariant parts, averaged over the three pairs of modalities.

    Args:
        invariant: (B, 3, h).
        moments: The highest order K.
        present: (B, 3), False where a clip lacks the modality: it takes no part in the means.

    Returns:
        A scalar: the distance of the means over the batch, plus that of the central moments of order 2 to K.
    """
    means = _mean_of_present(invariant, present)  # (3, h)
    centred = invariant - means
    orders = [means, *(_mean_of_present(centred.pow(order), present) for order in range(2, moments + 1))]
    orders, known = torch.stack(orders), present.any(0)  # (moments, 3, h), (3,)
    first, second = _pick(orders, 1, (0, 0, 1)), _pick(orders, 1, (1, 2, 2))
    distances = torch.linalg.vector_norm(first - second, dim=-1).sum(0)  # (3,)
    return (distances * _pick(known, 0, (0, 0, 1)) * _pick(known, 0, (1, 2, 2))).mean()


def _mean_of_present(parts: Tensor, present: Tensor) -> Tensor:
    """(B, k, h), (B, k) → (k, h), the mean over the clips that have the part."""
    return (parts * present[:, :, None]).sum(0) / present.sum(0).clamp_min(1)[:, None]


def difference_loss(specific: Tensor, invariant: Tensor, present: Tensor) -> Tensor:
    """Soft orthogonality: mean square of the correlations of the parts' dimensions, summed over six pairs of parts.

    The pairs are each modality's specific and invariant part, and the specific parts of each two modalities. The mean
    over the batch is subtracted, and each clip scaled to unit length; no gradient runs through the length.

    Args:
        specific: (B, 3, h).
        invariant: (B, 3, h).
        present: (B, 3), False where a clip lacks the modality: it takes no part.

    Returns:
        A scalar.
    """
    parts, present = torch.cat([specific, invariant], 1), present.repeat(1, 2)  # (B, 6, h), (B, 6)
    parts = (parts - _mean_of_present(parts, present)) * present[:, :, None]
    parts = parts.transpose(0, 1)  # (6, B, h)
    parts = parts / (parts.norm(dim=-1, keepdim=True).detach() + 1e-6)
    first, second = _pick(parts, 0, (0, 1, 2, 0, 0, 1)), _pick(parts, 0, (3, 4, 5, 1, 2, 2))
    with torch.autocast(parts.device.type, enabled=False):
        products = first.mT @ second  # (6, h, h)
    return products.square().mean((1, 2)).sum()


def _pick(values: Tensor, axis: int, places: tuple[int, ...]) -> Tensor:
    """``values`` at ``places`` of an axis. Indexing with a list would send it to the device in each step."""
    return torch.stack([values.select(axis, place) for place in places], axis)


ENTRY = SystemEntry(
    title="MISA",
    build=MISA,
    published=PUBLISHED,
    text="finetuned",
    reference="Hazarika et al. 2020, MISA: Modality-Invariant and -Specific Representations for "
    "Multimodal Sentiment Analysis, ACM Multimedia",
)
