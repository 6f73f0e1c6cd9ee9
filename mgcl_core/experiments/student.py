"""A student: a cheaper MGCL, which learns from a finished one (Hinton et al. 2015; hints: Romero et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Config
from ..data.batches import Batch
from ..encoders import TextEncoder
from ..model import MGCL
from ..support.errors import ConfigError
from ..system import Output, Shapes

#: What batches of the training split carry of a teacher: predictions (B,), and the six features (B, 6, d).
PREDICTION, FEATURES = "teacher_prediction", "teacher_features"


@dataclass(frozen=True)
class StudentSettings:
    """Settings of a student beside those of MGCL.

    Attributes:
        teacher: Name of the run that it learns from; None for the same student without a teacher.
        text_layers: Layers that are kept of the text model, from the first.
        epochs: Passes over the training split.
        prediction_weight: Of the squared distance to the teacher's prediction.
        feature_weight: Of the squared distance to the teacher's six features.

    Raises:
        ConfigError: A value lies outside what it may be.
    """

    teacher: str | None
    text_layers: int
    epochs: int
    prediction_weight: float
    feature_weight: float

    def __post_init__(self) -> None:
        for name, least in (("text_layers", 1), ("epochs", 1), ("prediction_weight", 0), ("feature_weight", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be at least {least}")


class Student(MGCL):
    """MGCL with the first layers of the text model, and with two more terms in its objective.

    It holds all its encoders, and starts from the text model as it comes.

    Args:
        config: All settings of MGCL; those of a student's encoders are `distillation.CHEAPER`.
        shapes: Of the corpus.
        settings: Of the student.
        pretrained: Load the text model's own weights.
    """

    def __init__(self, config: Config, shapes: Shapes, settings: StudentSettings, *, pretrained: bool = True):
        super().__init__(config, shapes, pretrained=pretrained)
        self.own = settings
        for encoder in self.encoders.values():
            if isinstance(encoder, TextEncoder):
                encoder.keep_layers(settings.text_layers)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The terms of equation 22, and the squared distances to the teacher: of predictions, and of features.

        Features are in [-1, 1] (tanh); their distance is averaged over clips, the six of them, and their width. An
        absent modality is zero in both and adds nothing.
        """
        losses = super().losses(output, batch)
        own = self.own
        if own.teacher and own.prediction_weight > 0:
            distance = (output.prediction - batch.features[PREDICTION]).square()
            losses["teacher_pred"] = own.prediction_weight * distance.mean()
        if own.teacher and own.feature_weight > 0:
            six = torch.cat([output.macro, output.micro]).transpose(0, 1)  # (B, 6, d)
            losses["teacher_features"] = own.feature_weight * (six - batch.features[FEATURES]).square().mean()
        return losses
