"""TFN: tensor fusion (Zadeh et al. 2017, EMNLP).

The outer product of the three vectors, each with a one in front, holds all products of one, two and three modalities;
three layers predict from it, the last one squashed into the range of the labels.

Where this differs from the field's reference (mmsa 2.2.1), unless ``TFNSettings.reference_behaviour`` is set:

- padding is left out of the means of audio and vision and of the text's LSTM
- the published text dropout is applied, between the LSTM and its projection; there it is set to 0
- predictions lie in the corpus's range of labels; there in [-3, 3], also on CH-SIMS, whose labels lie in [-1, 1]

In either case the outer product is not formed (`TensorFusion`), and its dropout drops the same entries for every clip
of a batch, each with the published probability, where the reference draws for each clip: to save memory and time. With
``protocol="published"`` it is formed, and dropped clip by clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..encoders import Readout
from ..system import Output, Shapes, System, SystemEntry
from .layers import ModalityVectors, VectorSettings, l1_output, with_one


@dataclass(frozen=True)
class TFNSettings(VectorSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    lr: float = 5e-4
    weight_decay: float = 0.0

    fusion_hidden: int = 32
    fusion_dropout: float = 0.4  # of the outer product


#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, TFNSettings] = {
    "sims": TFNSettings(),
    "mosi": TFNSettings(
        lr=1e-3,
        text_out=32,
        fusion_hidden=64,
        text_dropout=0.3,
        audio_dropout=0.3,
        vision_dropout=0.3,
        fusion_dropout=0.5,
    ),
    "mosei": TFNSettings(lr=5e-3, batch_size=128, text_out=128, audio_hidden=16, fusion_hidden=16),
}


class TensorFusion(nn.Module):
    """A linear layer on the outer product of audio (B, a), vision (B, v) and text (B, t): → (B, out).

    The weights (out, a·v·t) are contracted with text, then with audio and vision. A batch of the reference's size on
    CH-SIMS would make a product of 32 · 1,094,049 numbers, and as many again for its dropout and its gradient; it is
    made all the same where it is to be ``formed``.
    """

    def __init__(self, audio: int, vision: int, text: int, out_features: int, dropout: float, *, formed: bool = False):
        super().__init__()
        self.formed = formed
        self.linear, self.dropout = nn.Linear(audio * vision * text, out_features), nn.Dropout(dropout)

    def forward(self, audio: Tensor, vision: Tensor, text: Tensor) -> Tensor:
        pairs = (audio[:, :, None] * vision[:, None]).flatten(1)  # (B, a·v)
        if self.formed:
            return self.linear(self.dropout((pairs[:, :, None] * text[:, None]).flatten(1)))
        # To drop an entry of the product for the whole batch is to drop its column of the weights.
        weight = self.linear.weight
        if self.training and self.dropout.p > 0:
            weight = weight * self.dropout(torch.ones_like(weight[0]))
        planes = weight.view(-1, text.shape[1]) @ text.T  # (out·a·v, B)
        planes = planes.view(len(weight), -1, len(text))  # (out, a·v, B)
        return (planes * pairs.T).sum(1).T + self.linear.bias


class TFN(System):
    """Tensor fusion of three vectors."""

    def __init__(self, settings: TFNSettings, shapes: Shapes):
        super().__init__()
        self.settings, self.vectors = settings, ModalityVectors(settings, shapes)
        self.bound = 3.0 if settings.follows_reference else shapes.bound
        hidden = settings.fusion_hidden
        self.fusion = TensorFusion(
            1 + settings.audio_hidden,
            1 + settings.vision_hidden,
            1 + settings.text_out,
            hidden,
            settings.fusion_dropout,
            formed=settings.published is not None,
        )
        self.layers = Readout(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, batch: Batch) -> Output:
        text, audio, vision = (with_one(vector) for vector in self.vectors(batch))
        squashed = self.layers(self.fusion(audio, vision, text)).float().sigmoid()  # (B, 1)
        return l1_output(self.bound * (2 * squashed - 1), batch)


ENTRY = SystemEntry(
    title="TFN",
    build=TFN,
    published=PUBLISHED,
    text="frozen",
    reference="Zadeh et al. 2017, Tensor Fusion Network for Multimodal Sentiment Analysis, EMNLP",
    reads_means=True,
)
