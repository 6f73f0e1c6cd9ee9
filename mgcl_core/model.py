"""MGCL (section 3): six features, contrast, fusion, prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .config import Config
from .data.batches import Batch
from .data.corpus import MODALITIES, EncoderName
from .data.valid_steps import masked_mean
from .encoders import (
    MicroEnhancement,
    at_least_float32,
    build_encoder,
    encode,
    encoder_names,
    frozen_encoders,
    in_chunks,
    macro_projection,
    micro_projection,
    micro_steps,
    perceptron,
)
from .fusion import CMGF, Concatenation
from .losses import collaborative_contrastive_loss, prediction_loss, unimodal_loss
from .support.errors import RunError
from .system import Output, Shapes, System


@dataclass(frozen=True)
class Explanation:
    """What the predictions of B clips rest on.

    Attributes:
        output: ``prediction`` (B,), ``unimodal`` (6, B), and the six features, as of ``forward``.
        attention: Weights (B, heads, L) of MTM (equations 13-15) by the macro feature that asks and the modality whose
            micro steps it looks at: ``attention["T", "V"]``. Empty for the variant w/o fusion, which has none.
        masks: (B, L) by modality, True at valid steps.
    """

    output: Output
    attention: dict[tuple[str, str], Tensor]
    masks: dict[str, Tensor]

    def on_steps(self, modality: str) -> Tensor:
        """Share of all attention that each step of ``modality`` has: (B, L), the mean over heads and three queries.

        Over the steps of all modalities the shares add up to 1, or to less where a query finds no step.
        """
        if not self.attention:
            raise RunError("this variant has no attention to show: it concatenates the features (w/o fusion)")
        return sum(weights.mean(1) for (_, source), weights in self.attention.items() if source == modality) / 3

    def on_modalities(self) -> Tensor:
        """The same, summed over the steps: (3, B) in the order T, V, A."""
        return torch.stack([self.on_steps(modality).sum(1) for modality in MODALITIES])


class MGCL(System):
    """Six features, contrast, fusion, prediction (equations 1-22).

    Args:
        config: all settings.
        shapes: of the corpus: width of the text features, and the bound by which labels are divided inside L_con
            (decision 17).
        encoders: the encoders to hold; all when None. For one that is left out, batches must carry its features.
        pretrained: load the text model's own weights where a text encoder is held.
    """

    def __init__(
        self,
        config: Config,
        shapes: Shapes,
        *,
        encoders: Collection[EncoderName] | None = None,
        pretrained: bool = True,
    ):
        super().__init__()
        self.config, self.bound = config, shapes.bound
        held = encoder_names(config) if encoders is None else encoders
        self.encoders = nn.ModuleDict(
            {str(name): build_encoder(name.modality, config, pretrained=pretrained) for name in held}
        )
        self.enhancement = MicroEnhancement(config.micro, config.window)
        widths = {"T": shapes.text_dim, "V": config.width, "A": config.width}
        self.macro_projections = nn.ModuleDict({m: macro_projection(widths[m], config) for m in MODALITIES})
        self.micro_projections = nn.ModuleDict(
            {m: micro_projection(widths[m] * self.enhancement.factor, config) for m in MODALITIES}
        )
        if config.fusion == "cmgf":
            sizes = config.common_width, config.fusion_heads, config.fusion_feedforward
            self.fusion = CMGF(*sizes, config.dropout, gate=config.gate)
        else:
            self.fusion = Concatenation(config.common_width)
        self.predictor = perceptron(self.fusion.out_features, *config.predictor_hidden)
        self.heads = nn.ModuleList(perceptron(config.common_width, config.head_hidden) for _ in range(6))
        self._frozen = [self.encoders[str(name)] for name in frozen_encoders(config) if str(name) in self.encoders]
        for encoder in self._frozen:
            encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> MGCL:
        """Frozen encoders stay in evaluation mode, without dropout, unless ``frozen_dropout`` says so (decision 14)."""
        super().train(mode)
        if not self.config.frozen_dropout:
            for encoder in self._frozen:
                encoder.eval()
        return self

    def learning_rates(self) -> dict[str, float]:
        """Text models, where they are trained at all, keep their own small rate."""
        known = encoder_names(self.config) if self.config.reads_words else ()
        text = [name for name in known if name.modality == "T" and str(name) in self.encoders]
        return {"": self.config.mgcl_lr, **{f"encoders.{name}.": self.config.text_lr for name in text}}

    def forward(self, batch: Batch) -> Output:
        macro, micro, masks = self._six_features(batch)
        F = self.fusion(macro, micro, masks)  # eqs 13-16
        prediction = self.predictor(F).squeeze(-1)  # eq. 17, (B,)
        macro = at_least_float32(torch.stack(macro))  # T_a, V_a, A_a, (3, B, d)
        micro = [masked_mean(states, mask) for states, mask in zip(micro, masks, strict=True)]
        micro = at_least_float32(torch.stack(micro))  # T_i, V_i, A_i
        unimodal = torch.stack(
            [head(vector).squeeze(-1) for head, vector in zip(self.heads, [*macro, *micro], strict=True)]
        )  # eq. 19, (6, B)
        output = Output(prediction, macro, micro, unimodal * batch.present.repeat(2, 1))
        if batch.labels is not None:
            output.losses = self.losses(output, batch)
        return output

    @torch.no_grad()
    def explain(self, batch: Batch) -> Explanation:
        """Predictions of a batch with what they rest on, without dropout and without sight of the labels."""
        training = self.training
        self.eval()
        try:
            output = self(replace(batch, labels=None, unimodal_labels=None))
            macro, micro, masks = self._six_features(batch)
            attention = self.fusion.weights(macro, micro, masks) if isinstance(self.fusion, CMGF) else {}
        finally:
            self.train(training)
        return Explanation(output, attention, dict(zip(MODALITIES, masks, strict=True)))

    def _six_features(self, batch: Batch) -> tuple[list[Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Macro features (B, d), micro sequences (B, L, d) and their masks (B, L), each of T, V, A."""
        macro, micro, masks = zip(*(self.features(m, batch) for m in MODALITIES), strict=True)
        # An absent modality gives zeros, not what projections make of them (decision 19); its micro mask is empty.
        return [vector * here[:, None] for vector, here in zip(macro, batch.present, strict=True)], micro, masks

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms whose sum is L_all (eq. 22); a term of weight 0 is not computed."""
        config = self.config
        losses = {"pred": prediction_loss(output.prediction, batch.labels)}
        if config.alpha > 0:
            losses["con"] = config.alpha * collaborative_contrastive_loss(
                output.macro,
                output.micro,
                batch.labels / self.bound,
                delta=config.delta,
                temperature=config.temperature,
                components=config.components,
                weighted=config.weighted,
                weights=config.pair_weights,
                reduction=config.reduction,
                present=batch.present,
            )
        if config.beta > 0:
            losses["uni"] = config.beta * unimodal_loss(
                output.unimodal, batch.labels, batch.unimodal_labels, batch.present, config.unimodal_reduction
            )
        return losses

    def features(self, modality: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Projected features of one modality: macro (B, d), micro (B, L, d) and its mask (B, L).

        With ``encoder_chunk`` set, clips pass a trained encoder in chunks (`mgcl_core.encoders.in_chunks`).
        """
        chunk = self.config.encoder_chunk if modality in self.config.trained_encoders else None
        return in_chunks(lambda part: self._project(modality, part), batch, chunk)

    def _project(self, modality: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encode(modality, batch)
        states, steps = micro_steps(features, modality, self.enhancement, batch)  # (n, 3H)
        micro = steps.unpack(self.micro_projections[modality](states))  # (B, L, d)
        return self.macro_projections[modality](features[f"macro_{modality}"]), micro, steps.mask

    def encode(self, modality: str, batch: Batch) -> dict[str, Tensor]:
        """Features of one modality as `mgcl_core.encoders.encode` gives them; those that the batch carries, from it.

        Raises:
            RunError: an encoder is not held and the batch does not carry its features.
        """
        features = dict(batch.features)
        trained = modality in self.config.trained_encoders
        for name in encoder_names(self.config):
            keys = [str(EncoderName(granularity, modality)) for granularity in name.granularities]
            if name.modality != modality or all(key in features for key in keys):
                continue
            if str(name) not in self.encoders:
                raise RunError(
                    f"the batch carries no features of {str(name)!r}, and the model does not hold that encoder"
                )
            with contextlib.nullcontext() if trained else torch.no_grad():
                features = encode(self.encoders[str(name)], name, batch, self.enhancement) | features
        return features
