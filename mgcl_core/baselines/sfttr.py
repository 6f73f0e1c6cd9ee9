"""SFTTR: sequential fusion of text-close and text-far representations (Sun and Tian 2025, COLING).

Each modality is split into a representation close to the text and one far from it, by ConFEDE's retrieval and
contrastive loss. A sequential cross-modal encoder then fuses them: far audio with far vision, the result with far
text, and the result with the sum of the three close ones.

The authors build on ConFEDE's repository (theirs is github.com/Mi7914/SFTTR), so this builds on `confede`, and what is
said there of retrieval, means and text holds here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..system import Shapes, SystemEntry
from . import confede


@dataclass(frozen=True)
class SFTTRSettings(confede.ConFEDESettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    similar_dropout: float = 0.3
    fusion_layers: int = 2
    fusion_heads: int = 8
    fusion_feedforward: int = 256
    fusion_dropout: float = 0.1


_CHANGES = {"unimodal_weight": 0.0, "learn_retrieved": False}
#: config.py, model/net and train of each dataset's folder in github.com/Mi7914/SFTTR. There, only CH-SIMS has unimodal
#: predictions and learns the retrieved clips; MOSEI's loader is ConFEDE's.
PUBLISHED: dict[str, SFTTRSettings] = {
    "sims": SFTTRSettings(),
    "mosi": SFTTRSettings(**confede.MOSI_CHANGES, **_CHANGES),
    "mosei": SFTTRSettings(**confede.MOSEI_CHANGES, **_CHANGES),
}


class CrossEncoder(nn.Module):
    """Transformer over a few vectors, each with its position and with the side it comes from.

    ``forward(first (…, m, h), second (…, n, h), present (…, m + n))`` gives (…, m + n, h), zero where not present.
    """

    def __init__(self, vectors: int, width: int, settings: SFTTRSettings):
        super().__init__()
        dropout = settings.fusion_dropout
        self.positions = nn.Parameter(torch.randn(vectors, width))
        self.sides = nn.Parameter(torch.randn(2, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            width,
            settings.fusion_heads,
            settings.fusion_feedforward,
            dropout,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        layer.dropout = nn.Identity()  # as in BERT, none between the two feed-forward layers
        self.transformer = nn.TransformerEncoder(layer, settings.fusion_layers, enable_nested_tensor=False)

    def forward(self, first: Tensor, second: Tensor, present: Tensor) -> Tensor:
        states = torch.cat([first + self.sides[0], second + self.sides[1]], -2) + self.positions
        shape = states.shape
        states = self.dropout(self.norm(states)).reshape(-1, *shape[-2:])
        padding = ~present & present.any(-1, keepdim=True)  # attention among no vectors would be NaN
        padding = padding.reshape(-1, shape[-2])
        return self.transformer(states, src_key_padding_mask=padding).reshape(shape) * present[..., None]


class SFTTR(confede.ConFEDE):
    """ConFEDE's decomposition and retrieval with the sequential cross-modal encoder."""

    def __init__(self, settings: SFTTRSettings, shapes: Shapes):
        super().__init__(settings, shapes)
        self.audio_vision = CrossEncoder(2, self.half, settings)
        self.with_text = CrossEncoder(3, self.half, settings)
        self.with_close = CrossEncoder(4, self.half, settings)

    def decoder_width(self) -> int:
        return self.half

    def predict(self, features: Tensor) -> Tensor:
        """Close T, V, A and far T, V, A (…, 6, h) → (…)."""
        close = features[..., :3, :].sum(-2, keepdim=True)  # (…, 1, h)
        text, vision, audio = features[..., 3:, :].split(1, -2)
        present = features.any(-1)  # (…, 6): an absent modality's features are zero (`decompose`)
        T, V, A = present[..., 3:].split(1, -1)  # (…, 1) each
        there = torch.cat([T, A, V, present[..., :3].any(-1, keepdim=True)], -1)  # (…, 4)
        far = self.audio_vision(audio, vision, there[..., 1:3])  # (…, 2, h)
        far = self.with_text(text, far, there[..., :3])  # (…, 3, h)
        fused = self.with_close(far, close, there)  # (…, 4, h)
        fused = fused.sum(-2) / there.sum(-1, keepdim=True).clamp_min(1)
        return self.decoder(fused).squeeze(-1).float()


ENTRY = SystemEntry(
    title="SFTTR",
    build=SFTTR,
    published=PUBLISHED,
    text="pretrained",
    reference="Sun and Tian 2025, Sequential Fusion of Text-close and Text-far Representations for "
    "Multimodal Sentiment Analysis, COLING",
)
