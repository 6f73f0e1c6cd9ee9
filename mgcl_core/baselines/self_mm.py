"""Self-MM: unimodal tasks whose labels supervise themselves (Yu et al. 2021, AAAI).

Beside the multimodal prediction, text, audio and vision each predict a label of their own. These labels start as y and
move, from the second epoch on, with where a clip lies between the centres of the positive and of the negative clips in
the features of each task, averaged over the epochs so that later ones count for less and less.

Where this differs from the field's reference (mmsa 2.2.1):

- its unimodal weight decays differ by module; the trainer has one, that of the text encoder
- text is read by this package's `TextEncoder`, which is the same [CLS] state
- a task without any positive (or negative) clip has its centre at 0, where the reference's is NaN
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..encoders import TextEncoder, in_float32
from ..system import LoopSettings, Output, Shapes, System, SystemEntry
from .layers import LSTMVector

TASKS = ("M", "T", "A", "V")


@dataclass(frozen=True)
class SelfMMSettings(LoopSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    epochs: int = 40
    batch_size: int = 128  # 32, of which the reference accumulates 4 (update_epochs)
    text_lr: float = 5e-5  # of the text encoder; `lr` is that of all other modules
    audio_lr: float = 5e-3
    vision_lr: float = 5e-3

    audio_hidden: int = 16
    vision_hidden: int = 64
    audio_out: int = 16
    vision_out: int = 32
    audio_lstm_dropout: float = 0.0
    vision_lstm_dropout: float = 0.0
    fusion_width: int = 128  # of the features of each task
    text_width: int = 64
    audio_width: int = 16
    vision_width: int = 32
    fusion_dropout: float = 0.0
    text_dropout: float = 0.1
    audio_dropout: float = 0.1
    vision_dropout: float = 0.0

    exclude_zero: bool = True  # clips whose label is 0 are not positive


_MOSI = {"vision_hidden": 32, "text_width": 32}
#: config_regression.json of mmsa 2.2.1. Its label range H is the corpus's own.
PUBLISHED: dict[str, SelfMMSettings] = {
    "sims": SelfMMSettings(),
    "mosi": SelfMMSettings(**_MOSI, batch_size=64),
    "mosei": SelfMMSettings(**_MOSI, vision_lr=1e-4, fusion_dropout=0.1, text_dropout=0.0, audio_dropout=0.0),
}


@dataclass
class SelfMMOutput(Output):
    """With the features (B, width) of each task, from which the next unimodal labels follow."""

    features: dict[str, Tensor] = field(default_factory=dict)


class Task(nn.Module):
    """Features of one task and its prediction from them: (B, D) → (B, width), (B,)."""

    def __init__(self, in_features: int, width: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.features = nn.Linear(in_features, width)
        self.hidden = nn.Linear(width, width)
        self.prediction = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(self.dropout(inputs)).relu()
        return features, in_float32(lambda values: self.prediction(self.hidden(values).relu()), features).squeeze(-1)


class SelfMM(System):
    """Four tasks, and the labels that three of them make for themselves.

    ``labels`` (4, N) holds the labels of the training clips for the tasks M, T, A, V: NaN for a clip that was not seen
    yet, whose labels are y.
    """

    def __init__(self, settings: SelfMMSettings, shapes: Shapes):
        super().__init__()
        self.settings, self.bound, self.epoch = settings, shapes.bound, 1
        self.text = TextEncoder(shapes.text_model)
        self.audio = LSTMVector(
            shapes.audio_dim, settings.audio_hidden, settings.audio_out, settings.audio_lstm_dropout
        )
        self.vision = LSTMVector(
            shapes.vision_dim, settings.vision_hidden, settings.vision_out, settings.vision_lstm_dropout
        )
        text, audio, vision = self.text.out_features, settings.audio_out, settings.vision_out
        self.tasks = nn.ModuleDict(
            {
                "M": Task(text + audio + vision, settings.fusion_width, settings.fusion_dropout),
                "T": Task(text, settings.text_width, settings.text_dropout),
                "A": Task(audio, settings.audio_width, settings.audio_dropout),
                "V": Task(vision, settings.vision_width, settings.vision_dropout),
            }
        )
        # Kept with the weights, so that a run that was stopped continues with the labels it had.
        self.register_buffer("labels", torch.full((4, shapes.clips), torch.nan))
        for name, task in self.tasks.items():
            width = task.features.out_features
            self.register_buffer(f"features_{name}", torch.zeros(shapes.clips, width))
            self.register_buffer(f"centres_{name}", torch.zeros(2, width))  # of the positive, the negative clips

    def learning_rates(self) -> dict[str, float]:
        return {
            "": self.settings.lr,
            "text.": self.settings.text_lr,
            "audio.": self.settings.audio_lr,
            "vision.": self.settings.vision_lr,
        }

    def forward(self, batch: Batch) -> SelfMMOutput:
        text = self.text.macro(*self.text(batch))  # states of [CLS], (B, H)
        audio = self.audio(batch.audio, batch.audio_mask)
        vision = self.vision(batch.vision, batch.vision_mask)
        # An absent modality gives zeros, and its task neither a loss nor labels (decision 19).
        _, V, A = batch.present[:, :, None]  # (B, 1) each; text is zero where it is absent
        vision, audio = vision * V, audio * A
        inputs = {"M": torch.cat([text, audio, vision], -1), "T": text, "A": audio, "V": vision}
        features, predictions = zip(*(self.tasks[name](inputs[name]) for name in TASKS), strict=True)
        output = SelfMMOutput(predictions[0], features=dict(zip(TASKS, features, strict=True)))
        if batch.labels is not None:
            targets = self._targets(batch)  # (4, B)
            # A unimodal task counts as far as its label differs from y: not at all in the first epoch.
            weights = torch.cat([torch.ones_like(targets[:1]), (targets[1:] - targets[:1]).abs().tanh()])
            weights = weights * self._taught(batch)
            terms = (weights * (torch.stack(predictions) - targets).abs()).mean(1)  # (4,)
            output.losses = dict(zip(TASKS, terms, strict=True))
        return output

    def _targets(self, batch: Batch) -> Tensor:
        known = self.labels[:, batch.index]  # (4, B)
        return torch.where(known.isnan(), batch.labels, known)

    def _taught(self, batch: Batch) -> Tensor:
        """(4, B): the clips that have what each task reads, all of them for M."""
        T, V, A = batch.present
        return torch.stack([torch.ones_like(T), T, A, V])

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @torch.no_grad()
    def after_step(self, batch: Batch, output: SelfMMOutput) -> None:
        """Move the unimodal labels of the batch's clips, then the centres that the next ones will be moved by."""
        targets = self._targets(batch)
        if self.epoch > 1:
            nearness = torch.stack([self._nearness(name, output.features[name]) for name in TASKS])  # Δ, (4, B)
            moved = moved_labels(targets[0], nearness, self.bound)
            share = 2 / (self.epoch + 1)
            targets[1:] = (1 - share) * targets[1:] + share * moved
        # NaN counts to neither side, so that no centre moves with a clip that lacks the modality.
        self.labels[:, batch.index] = targets.masked_fill(~self._taught(batch), torch.nan)
        for name, labels in zip(TASKS, self.labels, strict=True):
            features = getattr(self, f"features_{name}")  # (N, width)
            features[batch.index] = output.features[name].float()
            positive = labels > 0 if self.settings.exclude_zero else labels >= 0
            sides = torch.stack([positive, labels < 0]).to(features.dtype)  # (2, N)
            getattr(self, f"centres_{name}").copy_(sides @ features / sides.sum(1, keepdim=True).clamp_min(1.0))

    def _nearness(self, name: str, features: Tensor) -> Tensor:
        """How much nearer to the positive centre than to the negative one, relative to the former: (B,)."""
        centres = getattr(self, f"centres_{name}")
        to_positive, to_negative = ((features.float() - centre).norm(dim=-1) for centre in centres)
        return (to_negative - to_positive) / (to_positive + 1e-8)


def moved_labels(labels: Tensor, nearness: Tensor, bound: float) -> Tensor:
    """Unimodal labels: the mean of y scaled by the ratio of nearnesses and y shifted by their difference (section 3.3).

    Args:
        labels: (B,) y.
        nearness: (4, B) of the tasks M, T, A, V.
        bound: To which the labels are clipped.

    Returns:
        (3, B), of the tasks T, A, V.
    """
    ratio = nearness[1:] / (nearness[0] + 1e-8)
    return (0.5 * ratio * labels + 0.5 * (labels + nearness[1:] - nearness[0])).clamp(-bound, bound)


ENTRY = SystemEntry(
    title="Self-MM",
    build=SelfMM,
    published=PUBLISHED,
    text="finetuned",
    reference="Yu et al. 2021, Learning Modality-Specific Representations with Self-Supervised "
    "Multi-Task Learning for Multimodal Sentiment Analysis, AAAI",
)
