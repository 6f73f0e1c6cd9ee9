"""The first stage of section 4.2: each encoder is pretrained with a fresh head (decision 13)."""

from __future__ import annotations

from torch import Tensor, nn

from .config import Config
from .data.batches import Batch
from .data.corpus import MODALITIES, EncoderName
from .encoders import MicroEnhancement, build_encoder, encode, in_chunks, micro_steps, perceptron
from .losses import prediction_loss
from .system import Output, System


def learns_own_label(granularity: str, config: Config) -> bool:
    """Whether features of ``granularity`` ("macro", "micro") learn the label of their modality, not y (decision 13)."""
    return config.stage_one_target == "unimodal" or (config.stage_one_target == "split" and granularity == "micro")


class UnimodalRegressor(System):
    """Stage one: an encoder with a fresh head (decision 13).

    A macro encoder reads [CLS] or the attention-pooled state and learns y; a micro encoder reads the mean of the
    enhanced states and learns y_T, y_V or y_A; ``stage_one_target`` has other targets. A shared encoder does both at
    once; its prediction is the macro one. With ``trained_text_layers``, only these last layers of a text model learn.
    Of a clip that lacks its modality it learns nothing, and predicts 0 (decision 19).
    """

    def __init__(self, name: EncoderName, config: Config, *, pretrained: bool = True):
        super().__init__()
        self.name, self.chunk, self.config = name, config.encoder_chunk, config
        self.rate = config.text_lr if name.modality == "T" and config.reads_words else config.sequence_lr
        self.encoder = build_encoder(name.modality, config, pretrained=pretrained)
        if name.modality == "T" and config.reads_words and config.trained_text_layers is not None:
            self.encoder.train_last_layers(config.trained_text_layers)
        factors, self.enhancement = {"macro": 1}, None
        if "micro" in name.granularities:
            self.enhancement = MicroEnhancement(config.micro, config.window)
            factors["micro"] = self.enhancement.factor
        self.heads = nn.ModuleDict(
            {g: perceptron(self.encoder.out_features * factors[g], config.head_hidden) for g in name.granularities}
        )

    def learning_rates(self) -> dict[str, float]:
        return {"": self.rate}

    def forward(self, batch: Batch) -> Output:
        present = batch.present[MODALITIES.index(self.name.modality)]  # (B,)
        vectors = in_chunks(self._vectors, batch, self.chunk)
        predictions, losses = [], {}
        for granularity, vector in zip(self.name.granularities, vectors, strict=True):
            predictions.append(self.heads[granularity](vector).squeeze(-1) * present)  # (B,)
            if batch.labels is not None:
                losses[granularity] = prediction_loss(predictions[-1], self._label(granularity, batch), present)
        return Output(predictions[0], losses=losses)

    def _vectors(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the heads read: of a macro encoder (B, H), of a micro encoder (B, 3H), of a shared one both."""
        features = encode(self.encoder, self.name, batch, self.enhancement)
        vectors = [features[f"macro_{self.name.modality}"]] if "macro" in self.name.granularities else []
        if "micro" in self.name.granularities:
            states, steps = micro_steps(features, self.name.modality, self.enhancement, batch)
            vectors.append(steps.mean(states))
        return tuple(vectors)

    def target(self, batch: Batch) -> Tensor:
        return self._label(self.name.granularities[0], batch)

    def _label(self, granularity: str, batch: Batch) -> Tensor:
        if learns_own_label(granularity, self.config):
            return batch.unimodal_labels[MODALITIES.index(self.name.modality)]
        return batch.labels
