"""LF-DNN: late fusion by a deep network (Cambria et al. 2017; the baseline of Yu et al. 2020, ACL).

One vector of each modality, concatenated, and three layers on top.

Where this differs from the field's reference (mmsa 2.2.1), unless ``LFDNNSettings.reference_behaviour`` is set:

- padding is left out of the means of audio and vision and of the text's LSTM
- the published text dropout is applied, between the LSTM and its projection; there it is set to 0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..data.batches import Batch
from ..encoders import Readout
from ..system import Output, Shapes, System, SystemEntry
from .layers import ModalityVectors, VectorSettings, l1_output


@dataclass(frozen=True)
class LFDNNSettings(VectorSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    batch_size: int = 128
    lr: float = 5e-3
    weight_decay: float = 5e-3

    fusion_hidden: int = 32
    text_dropout: float = 0.3
    audio_dropout: float = 0.3
    vision_dropout: float = 0.3
    fusion_dropout: float = 0.5  # of the concatenation


_DROPOUT = {"text_dropout": 0.2, "audio_dropout": 0.2, "vision_dropout": 0.2, "fusion_dropout": 0.2}
#: config_regression.json of mmsa 2.2.1.
PUBLISHED: dict[str, LFDNNSettings] = {
    "sims": LFDNNSettings(),
    "mosi": LFDNNSettings(lr=1e-3, weight_decay=1e-2, audio_hidden=16, fusion_hidden=128, **_DROPOUT),
    "mosei": LFDNNSettings(lr=2e-3, weight_decay=1e-3, batch_size=64, text_out=128, fusion_hidden=128, **_DROPOUT),
}


class LFDNN(System):
    """Late fusion of three vectors."""

    def __init__(self, settings: LFDNNSettings, shapes: Shapes):
        super().__init__()
        self.settings, self.vectors = settings, ModalityVectors(settings, shapes)
        width = settings.text_out + settings.audio_hidden + settings.vision_hidden
        self.fusion = Readout(
            nn.Dropout(settings.fusion_dropout),
            nn.Linear(width, settings.fusion_hidden),
            nn.ReLU(),
            nn.Linear(settings.fusion_hidden, settings.fusion_hidden),
            nn.ReLU(),
            nn.Linear(settings.fusion_hidden, 1),
        )

    def forward(self, batch: Batch) -> Output:
        text, audio, vision = self.vectors(batch)
        return l1_output(self.fusion(torch.cat([audio, vision, text], 1)), batch)


ENTRY = SystemEntry(
    title="LF-DNN",
    build=LFDNN,
    published=PUBLISHED,
    text="frozen",
    reference="Cambria et al. 2017, Benchmarking Multimodal Sentiment Analysis, CICLing; as in Yu et al. "
    "2020, CH-SIMS, ACL",
    reads_means=True,
)
