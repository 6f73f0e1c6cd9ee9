"""LF-DNN: late fusion by a deep network (Cambria et al. 2017; the baseline of Yu et al. 2020, ACL).

One vector of each modality, concatenated, and three layers on top.

Where this differs from the field's reference (mmsa 2.2.1), unless ``Settings.reference_behaviour`` is set:

- padding is left out of the means of audio and vision and of the text's LSTM
- the published text dropout is applied, between the LSTM and its projection; there it is set to 0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..data.batches import Batch
from ..system import Output, Shapes, System
from .spec import SystemSpec
from .subnets import Vectors


@dataclass(frozen=True)
class Settings:
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    epochs: int = 50  # ours: the reference trains until its early stop
    patience: int | None = 8
    batch_size: int = 128
    lr: float = 5e-3
    weight_decay: float = 5e-3
    warmup_epochs: float = 0.0
    clip_norm: float = 1.0  # ours: the reference does not clip

    text_hidden: int = 128  # of the LSTM
    text_out: int = 256
    audio_hidden: int = 32
    vision_hidden: int = 128
    fusion_hidden: int = 32
    text_dropout: float = 0.3
    audio_dropout: float = 0.3
    vision_dropout: float = 0.3
    fusion_dropout: float = 0.5  # of the concatenation
    reference_behaviour: bool = False  # True: in evaluation mode the output of mmsa, on batches that are not trimmed


_DROPOUT = {"text_dropout": 0.2, "audio_dropout": 0.2, "vision_dropout": 0.2, "fusion_dropout": 0.2}
#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, Settings] = {
    "sims": Settings(),
    "mosi": Settings(lr=1e-3, weight_decay=1e-2, audio_hidden=16, fusion_hidden=128, **_DROPOUT),
    "mosei": Settings(lr=2e-3, weight_decay=1e-3, batch_size=64, text_out=128, fusion_hidden=128, **_DROPOUT),
}


class LFDNN(System):
    """Late fusion of three vectors."""

    def __init__(self, settings: Settings, shapes: Shapes):
        super().__init__()
        self.settings, self.vectors = settings, Vectors(settings, shapes)
        width = settings.text_out + settings.audio_hidden + settings.vision_hidden
        self.fusion = nn.Sequential(
            nn.Dropout(settings.fusion_dropout),
            nn.Linear(width, settings.fusion_hidden),
            nn.ReLU(),
            nn.Linear(settings.fusion_hidden, settings.fusion_hidden),
            nn.ReLU(),
            nn.Linear(settings.fusion_hidden, 1),
        )

    def learning_rates(self) -> dict[str, float]:
        return {"": self.settings.lr}

    def forward(self, batch: Batch) -> Output:
        text, audio, vision = self.vectors(batch)
        output = Output(self.fusion(torch.cat([audio, vision, text], 1)).squeeze(1).float())
        if batch.labels is not None:
            output.losses["pred"] = F.l1_loss(output.prediction, batch.labels)
        return output


SPEC = SystemSpec(
    title="LF-DNN",
    build=LFDNN,
    published=PUBLISHED,
    text="frozen",
    reference="Cambria et al. 2017, Benchmarking Multimodal Sentiment Analysis, CICLing; as in Yu et al. "
    "2020, CH-SIMS, ACL",
)
