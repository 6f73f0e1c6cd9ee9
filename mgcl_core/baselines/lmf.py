"""LMF: low-rank fusion with modality-specific factors (Liu et al. 2018, ACL).

The prediction is a linear function of the outer product of the three vectors, each with a one in front. Its weights
have rank r, so that the product itself is never formed: each modality is mapped to r numbers, these are multiplied
across modalities, and their weighted sum is the prediction.

Where this differs from the field's reference (mmsa 2.2.1), unless ``LMFSettings.reference_behaviour`` is set:

- padding is left out of the means of audio and vision and of the text's LSTM
- the published text dropout is applied, between the LSTM and its projection; there it is set to 0
- the weights and the bias of the sum over the rank are trained; the reference's optimiser leaves them out, so that they
  stay as they were drawn

Its post-fusion dropout does nothing there, nor has the paper one: there is no such setting here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..data.batches import Batch
from ..encoders import in_float32
from ..system import Output, Shapes, System, SystemEntry
from .layers import ModalityVectors, VectorSettings, l1_output, with_one


@dataclass(frozen=True)
class LMFSettings(VectorSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    batch_size: int = 64
    lr: float = 2e-3
    factor_lr: float = 5e-4  # of the three factors
    weight_decay: float = 5e-3

    text_hidden: int = 64
    text_out: int = 32
    audio_hidden: int = 16
    vision_hidden: int = 64
    rank: int = 4
    text_dropout: float = 0.2
    audio_dropout: float = 0.2
    vision_dropout: float = 0.2


_WIDE = {"text_hidden": 128, "text_out": 64, "vision_hidden": 128, "lr": 1e-3, "factor_lr": 1e-3}
#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, LMFSettings] = {
    "sims": LMFSettings(),
    "mosi": LMFSettings(**_WIDE, rank=3, text_dropout=0.3, audio_dropout=0.3, vision_dropout=0.3),
    "mosei": LMFSettings(**_WIDE, batch_size=32, weight_decay=1e-3),
}


class LMF(System):
    """Low-rank fusion of three vectors; the factors are (rank, 1 + width)."""

    def __init__(self, settings: LMFSettings, shapes: Shapes):
        super().__init__()
        self.settings, self.vectors = settings, ModalityVectors(settings, shapes)
        widths = {"text": settings.text_out, "audio": settings.audio_hidden, "vision": settings.vision_hidden}
        self.factors = nn.ParameterDict({name: torch.empty(settings.rank, 1 + width) for name, width in widths.items()})
        self.weights = nn.Linear(settings.rank, 1)  # of the sum over the rank
        for factor in self.factors.values():
            # The reference draws (rank, 1 + width, 1), whose fans torch takes to be 1 + width and rank.
            nn.init.xavier_normal_(factor[:, :, None])
        nn.init.xavier_normal_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        self.weights.requires_grad_(not settings.follows_reference)

    def learning_rates(self) -> dict[str, float]:
        return {"": self.settings.lr, "factors.": self.settings.factor_lr}

    def forward(self, batch: Batch) -> Output:
        vectors = zip(("text", "audio", "vision"), self.vectors(batch), strict=True)
        text, audio, vision = (with_one(vector) @ self.factors[name].T for name, vector in vectors)  # each (B, rank)
        return l1_output(in_float32(self.weights, text * audio * vision), batch)


ENTRY = SystemEntry(
    title="LMF",
    build=LMF,
    published=PUBLISHED,
    text="frozen",
    reference="Liu et al. 2018, Efficient Low-rank Multimodal Fusion with Modality-Specific Factors, ACL",
    reads_means=True,
)
