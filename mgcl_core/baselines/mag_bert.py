"""MAG-BERT: a multimodal adaptation gate inside BERT (Rahman et al. 2020, ACL).

Between BERT's embeddings and its first layer, each word piece is shifted by what is heard and seen while it is said,
at most as far as its own length (times β).

Where this differs from the field's reference (mmsa 2.2.1):

- audio and vision of unaligned files are averaged over the valid steps that fall to each token (`align_steps`); there,
  padding is averaged in, over steps that lie a text's length apart (`MAGBERTSettings.strided`)
- the pooler starts fresh: this package's `TextEncoder` has none
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.valid_steps import read_by_length
from ..encoders import Readout, TextEncoder
from ..system import LoopSettings, Output, Shapes, System, SystemEntry
from .layers import align_steps, l1_output


@dataclass(frozen=True)
class MAGBERTSettings(LoopSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    epochs: int = 40
    lr: float = 5e-5
    weight_decay: float = 0.0

    beta: float = 1.0  # the longest shift, in lengths of the embedding
    dropout: float = 0.1  # of the gate
    head_dropout: float = 0.1  # BERT's own
    strided: bool = False  # True: the reference's reduction of audio and vision to the text's steps


#: config_regression.json of mmsa 2.2.1 (bert_mag).
PUBLISHED: dict[str, MAGBERTSettings] = {
    "sims": MAGBERTSettings(),
    "mosi": MAGBERTSettings(lr=2e-5, dropout=0.3),
    "mosei": MAGBERTSettings(lr=1e-5, dropout=0.2),
}


class AdaptationGate(nn.Module):
    """MAG: text embeddings (B, L, H) shifted by vision (B, L, Dv) and audio (B, L, Da) of the same steps.

    ``present`` (2, B, 1, 1) is False where a clip lacks vision, audio: nothing is shifted by it (decision 19).
    """

    def __init__(self, text_dim: int, vision_dim: int, audio_dim: int, settings: MAGBERTSettings):
        super().__init__()
        self.vision_gate = nn.Linear(vision_dim + text_dim, text_dim)
        self.audio_gate = nn.Linear(audio_dim + text_dim, text_dim)
        self.vision_shift = nn.Linear(vision_dim, text_dim)
        self.audio_shift = nn.Linear(audio_dim, text_dim)
        self.norm = nn.LayerNorm(text_dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.beta = settings.beta

    def forward(self, text: Tensor, vision: Tensor, audio: Tensor, present: Tensor) -> Tensor:
        vision_gate = self.vision_gate(torch.cat([vision, text], -1)).relu()
        audio_gate = self.audio_gate(torch.cat([audio, text], -1)).relu()
        shifts = vision_gate * self.vision_shift(vision), audio_gate * self.audio_shift(audio)
        shift = shifts[0] * present[0] + shifts[1] * present[1]  # (B, L, H)
        length = shift.norm(dim=-1, keepdim=True)
        length = torch.where(length == 0, 1.0, length)
        scale = (text.norm(dim=-1, keepdim=True) / (length + 1e-6) * self.beta).clamp_max(1.0)
        return self.dropout(self.norm(text + scale * shift))


class MAGBERT(System):
    """A text encoder with the gate behind its embeddings, read at [CLS]."""

    def __init__(self, settings: MAGBERTSettings, shapes: Shapes):
        super().__init__()
        self.settings, self.steps = settings, (shapes.text_steps, shapes.audio_steps, shapes.vision_steps)
        self.text = TextEncoder(shapes.text_model)
        width = self.text.out_features
        self.gate = AdaptationGate(width, shapes.vision_dim, shapes.audio_dim, settings)
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.head = Readout(nn.Dropout(settings.head_dropout), nn.Linear(width, 1))

    def forward(self, batch: Batch) -> Output:
        audio, vision = self._align(batch)
        present = batch.present[1:, :, None, None]  # (2, B, 1, 1), of vision and audio

        def read(rows: Tensor, length: int) -> Tensor:
            group = dataclasses.replace(batch, tokens=batch.tokens[rows, :, :length])
            return self._read(group, audio[rows, :length], vision[rows, :length], present[:, rows])

        # The text encoder reads in groups too, but these are already small enough, and sorted as it would sort them.
        states = read_by_length(batch.tokens[:, 1] > 0, read)  # (B, H)
        return l1_output(self.head(self.pooler(states)), batch)

    def _read(self, batch: Batch, audio: Tensor, vision: Tensor, present: Tensor) -> Tensor:
        """States of [CLS] (B, H), the embeddings shifted by audio (B, L, Da) and vision (B, L, Dv) where present."""

        # A hook, because the text model's own forward knows best how to go on from its embeddings.
        def shift(_module: nn.Module, _inputs: tuple, embeddings: Tensor) -> Tensor:
            return self.gate(embeddings, vision, audio, present)

        hook = self.text.bert.embeddings.register_forward_hook(shift)
        try:
            return self.text.macro(*self.text(batch))
        finally:
            hook.remove()

    def _align(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Audio and vision with one step for each token: (B, L, Da), (B, L, Dv)."""
        if self.settings.strided:
            text_steps, audio_steps, vision_steps = self.steps
            shown = batch.tokens.shape[2]
            return (
                stride_steps(batch.audio, audio_steps, text_steps)[:, :shown],
                stride_steps(batch.vision, vision_steps, text_steps)[:, :shown],
            )
        tokens = batch.tokens[:, 1] > 0
        return (
            align_steps(batch.audio, batch.audio_mask, tokens),
            align_steps(batch.vision, batch.vision_mask, tokens),
        )


def stride_steps(values: Tensor, steps: int, wanted: int) -> Tensor:
    """Reduce steps as mmsa 2.2.1 does: step j is the mean of the steps j, j + ``wanted``, j + 2 · ``wanted``, ...

    Args:
        values: (B, L, D), trimmed from ``steps``.
        steps: Of a row of the file, padding included; the last is repeated up to a multiple of ``wanted``.
        wanted: Steps of the text.

    Returns:
        (B, ``wanted``, D).
    """
    values = F.pad(values, (0, 0, 0, steps - values.shape[1]))
    missing = -steps % wanted
    values = torch.cat([values, values[:, -1:].expand(-1, missing, -1)], 1)
    return values.unflatten(1, (-1, wanted)).mean(1)


ENTRY = SystemEntry(
    title="MAG-BERT",
    build=MAGBERT,
    published=PUBLISHED,
    text="finetuned",
    reference="Rahman et al. 2020, Integrating Multimodal Information in Large Pretrained Transformers, ACL",
)
