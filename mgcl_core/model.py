"""MGCL (section 3) and the regressors that pretrain its encoders (section 4.2)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import Config
from .data.batches import Batch, DeviceSplit
from .data.corpus import BOUNDS, MODALITIES
from .data.valid_steps import ValidSteps, masked_mean
from .encoders import build_encoder, macro_projection, micro_projection, perceptron
from .enhancement import MicroEnhancement
from .fusion import CMGF, Concatenation
from .losses import collaborative_contrastive_loss, prediction_loss, unimodal_loss
from .support.errors import RunError
from .support.precision import matrix_precision
from .system import Output, System

GRANULARITIES = ("macro", "micro")


def encoder_names(config: Config) -> tuple[str, ...]:
    """The encoders of a model: six "macro_T" … "micro_A", or three "shared_T" … (decision 1)."""
    kinds = GRANULARITIES if config.encoders == "dual" else ("shared",)
    return tuple(f"{kind}_{modality}" for kind in kinds for modality in MODALITIES)


def frozen_encoders(config: Config) -> tuple[str, ...]:
    """Those of `encoder_names` that stage two does not train (decision 14)."""
    return tuple(name for name in encoder_names(config) if name[-1] not in config.trained_encoders)


class MGCL(System):
    """Six features, contrast, fusion, prediction (equations 1-22).

    Args:
        config: all settings.
        bound: half-width of the label range, by which labels are divided inside L_con (decision 17).
        encoders: names of the encoders to hold; all when None. For one that is left out, batches
            must carry its features (`encode_frozen`).
        pretrained: load the text model's own weights where a text encoder is held.
    """

    def __init__(
        self,
        config: Config,
        *,
        bound: float = BOUNDS["sims"],
        encoders: Collection[str] | None = None,
        pretrained: bool = True,
        text_width: int | None = None,
    ):
        super().__init__()
        self.config, self.bound = config, bound
        held = encoder_names(config) if encoders is None else encoders
        self.encoders = nn.ModuleDict(
            {
                name: build_encoder(name[-1], config, pretrained=pretrained, macro_only=name.startswith("macro"))
                for name in held
            }
        )
        self.enhancement = MicroEnhancement(config.micro, config.window)
        widths = {"V": config.width, "A": config.width, "T": text_width or self._text_width()}
        self.macro_projections = nn.ModuleDict({m: macro_projection(widths[m], config) for m in MODALITIES})
        self.micro_projections = nn.ModuleDict(
            {m: micro_projection(widths[m] * self.enhancement.factor, config) for m in MODALITIES}
        )
        if config.fusion == "cmgf":
            self.fusion = CMGF(config.common_width, config.fusion_heads, config.fusion_feedforward, config.dropout)
        else:
            self.fusion = Concatenation(config.common_width)
        self.predictor = perceptron(self.fusion.out_features, *config.predictor_hidden)
        self.heads = nn.ModuleList(perceptron(config.common_width, config.head_hidden) for _ in range(6))
        for name in frozen_encoders(config):
            if name in self.encoders:
                self.encoders[name].requires_grad_(False)
        self.train(self.training)

    def _text_width(self) -> int:
        for name, encoder in self.encoders.items():
            if name.endswith("_T"):
                return encoder.out_features
        raise RunError("text_width is needed where the model holds no text encoder")

    def train(self, mode: bool = True) -> MGCL:
        """Frozen encoders stay in evaluation mode: no dropout, no statistics (decision 14)."""
        super().train(mode)
        for name in frozen_encoders(self.config):
            if name in self.encoders:
                self.encoders[name].eval()
        return self

    def learning_rates(self) -> dict[str, float]:
        """Text encoders, where they are trained at all, keep their own small rate."""
        rates = {"": self.config.mgcl_lr}
        rates.update({f"encoders.{name}.": self.config.text_lr for name in self.encoders if name.endswith("_T")})
        return rates

    def forward(self, batch: Batch) -> Output:
        macro, micro, masks = zip(*(self.modality(m, batch) for m in MODALITIES), strict=True)
        prediction = self.predictor(self.fusion(macro, micro, masks)).squeeze(-1).float()  # eqs 13-17, (B,)
        macro = torch.stack(macro).float()  # (3, B, d)
        micro = torch.stack([masked_mean(s, k) for s, k in zip(micro, masks, strict=True)]).float()  # (3, B, d)
        unimodal = torch.stack(
            [head(vector).squeeze(-1) for head, vector in zip(self.heads, [*macro, *micro], strict=True)]
        ).float()  # eq. 19, (6, B)
        output = Output(prediction, macro, micro, unimodal)
        if batch.labels is not None:
            output.losses = self.losses(output, batch)
        return output

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of equation 22; a term of weight 0 is not computed."""
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
                reduction=config.reduction,
            )
        if config.beta > 0:
            losses["uni"] = config.beta * unimodal_loss(output.unimodal, batch.labels, batch.unimodal_labels)
        return losses

    def modality(self, m: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Projected features of modality ``m``: macro (B, d), micro (B, L, d) and its mask (B, L).

        With ``encoder_chunk`` set, clips pass a trained encoder in chunks whose inner states are not kept but computed
        again in the backward pass: the gradient of the whole batch, in the memory of a chunk.
        """
        chunk = self.config.encoder_chunk
        if chunk is None or not torch.is_grad_enabled() or m not in self.config.trained_encoders:
            return self._modality(m, batch)
        # A tensor among the arguments tells torch the device whose random state the second pass must repeat.
        parts = [
            checkpoint(lambda _, part=part: self._modality(m, part), part.index, use_reentrant=False)
            for part in batch.parts(chunk)
        ]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _modality(self, m: str, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encode(m, batch)
        steps = ValidSteps(features[f"micro_{m}_mask"])
        states = steps.pack(features[f"micro_{m}"])  # (n, H); (B, 2H) where pooled, and so enhanced, already
        if self.config.micro == "sequence":
            states = self.enhancement(states, steps)  # (n, 3H)
        micro = steps.unpack(self.micro_projections[m](states))  # (B, L, d)
        return self.macro_projections[m](features[f"macro_{m}"]), micro, steps.mask

    def encode(self, modality: str, batch: Batch) -> dict[str, Tensor]:
        """Features of one modality m: ``macro_m`` (B, H), ``micro_m`` (B, L, H) and ``micro_m_mask`` (B, L).

        Those that the batch carries are taken from it. Pooled micro features come out enhanced
        already, (B, 1, 2H), so that a frozen encoder leaves no sequence behind.

        Raises:
            RunError: an encoder is not held and the batch does not carry its features.
        """
        features = dict(batch.features)
        frozen = modality not in self.config.trained_encoders
        for name in encoder_names(self.config):
            kind = name[:-2]
            wanted = [g for g in GRANULARITIES if kind in (g, "shared") and f"{g}_{modality}" not in features]
            if not name.endswith(modality) or not wanted:
                continue
            if name not in self.encoders:
                raise RunError(f"the batch carries no features of {name!r}, and the model does not hold that encoder")
            with torch.no_grad() if frozen else contextlib.nullcontext():
                features.update(encode_one(self.encoders[name], modality, wanted, batch, self.enhancement))
        return features


def encode_one(
    encoder: nn.Module,
    modality: str,
    granularities: Collection[str],
    batch: Batch,
    enhancement: MicroEnhancement | None,
) -> dict[str, Tensor]:
    """The features of one encoder, named and shaped as `MGCL.encode` gives them.

    ``enhancement`` may be None where no micro features are asked for.
    """
    features = {}
    states, mask = encoder(batch)  # (B, L, H), (B, L)
    if "macro" in granularities:
        features[f"macro_{modality}"] = encoder.macro(states, mask)
    if "micro" in granularities:
        states, mask = encoder.micro(states, mask)
        if enhancement.kind == "pooled":
            steps = ValidSteps(mask)
            states, mask = enhancement(steps.pack(states), steps)[:, None], torch.ones_like(mask[:, :1])
        features[f"micro_{modality}"], features[f"micro_{modality}_mask"] = states, mask
    return features


@torch.no_grad()
def encode_frozen(
    encoder: nn.Module, name: str, split: DeviceSplit, config: Config, batch_size: int = 64
) -> dict[str, Tensor]:
    """Features of the frozen encoder ``name`` for every clip of ``split``, computed once.

    Returns:
        ``macro_m`` (N, H), and ``micro_m`` (N, L, H) with ``micro_m_mask`` (N, L), on the CPU.
    """
    kind, modality = name.split("_")
    granularities = GRANULARITIES if kind == "shared" else (kind,)
    enhancement = MicroEnhancement(config.micro, config.window)
    encoder.eval()
    parts: dict[str, list[Tensor]] = {}
    with matrix_precision(split.device, config.precision):
        for batch in split.batches(batch_size):
            for key, values in encode_one(encoder, modality, granularities, batch, enhancement).items():
                parts.setdefault(key, []).append(values.cpu())
    return {key: _stack(values) for key, values in parts.items()}


def _stack(parts: list[Tensor]) -> Tensor:
    """Concatenate along the clips; steps that a trimmed batch left out are zero (or False)."""
    if parts[0].dim() == 2 and parts[0].dtype != torch.bool:
        return torch.cat(parts)
    steps = max(part.shape[1] for part in parts)
    whole = parts[0].new_zeros((sum(map(len, parts)), steps, *parts[0].shape[2:]))
    start = 0
    for part in parts:
        whole[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return whole


class UnimodalRegressor(System):
    """Stage one: an encoder with a fresh head (decision 13).

    A macro encoder reads [CLS] or the attention-pooled state and learns y; a micro encoder reads the
    mean of the enhanced states and learns y_T, y_V or y_A. A shared encoder does both at once; its
    prediction is the macro one.
    """

    def __init__(self, name: str, config: Config, *, pretrained: bool = True):
        super().__init__()
        kind, self.modality = name.split("_")
        self.granularities = GRANULARITIES if kind == "shared" else (kind,)
        self.rate = config.text_lr if self.modality == "T" else config.sequence_lr
        self.encoder = build_encoder(self.modality, config, pretrained=pretrained, macro_only=kind == "macro")
        factors, self.enhancement = {"macro": 1}, None
        if "micro" in self.granularities:
            self.enhancement = MicroEnhancement(config.micro, config.window)
            factors["micro"] = self.enhancement.factor
        self.heads = nn.ModuleDict(
            {g: perceptron(self.encoder.out_features * factors[g], config.head_hidden) for g in self.granularities}
        )

    def learning_rates(self) -> dict[str, float]:
        return {"": self.rate}

    def forward(self, batch: Batch) -> Output:
        features = encode_one(self.encoder, self.modality, self.granularities, batch, self.enhancement)
        predictions, losses = [], {}
        for granularity in self.granularities:
            vector = features[f"{granularity}_{self.modality}"]
            if granularity == "micro":
                steps = ValidSteps(features[f"micro_{self.modality}_mask"])
                vector = steps.pack(vector)
                if self.enhancement.kind == "sequence":
                    vector = self.enhancement(vector, steps)
                vector = steps.mean(vector)
            predictions.append(self.heads[granularity](vector).squeeze(-1).float())
            if batch.labels is not None:
                losses[granularity] = prediction_loss(predictions[-1], self._label(granularity, batch))
        return Output(predictions[0], losses=losses)

    def target(self, batch: Batch) -> Tensor:
        return self._label(self.granularities[0], batch)

    def _label(self, granularity: str, batch: Batch) -> Tensor:
        if granularity == "macro":
            return batch.labels
        return batch.unimodal_labels[MODALITIES.index(self.modality)]
