"""From a batch to macro and micro features (section 3.1): encoders, micro enhancement, projections, heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import Config
from .data.batches import Batch
from .data.corpus import GRANULARITIES, MODALITIES, EncoderName
from .data.text_model import load_text_model
from .data.valid_steps import ValidSteps, read_by_length
from .shortcuts import NormProjection
from .support.errors import ConfigError


def encoder_names(config: Config) -> tuple[EncoderName, ...]:
    """The encoders of a model: six macro_T … micro_A, or three shared_T … (decision 1)."""
    granularities = GRANULARITIES if config.encoders == "dual" else ("shared",)
    return tuple(EncoderName(granularity, modality) for granularity in granularities for modality in MODALITIES)


def frozen_encoders(config: Config) -> tuple[EncoderName, ...]:
    """Those of `encoder_names` that stage two does not train (decision 14)."""
    return tuple(name for name in encoder_names(config) if name.modality not in config.trained_encoders)


def build_encoder(modality: str, config: Config, *, pretrained: bool = True) -> TextEncoder | SequenceEncoder:
    """The encoder of modality "T", "V" or "A"; ``pretrained=False`` leaves the weights of a text model random."""
    if modality not in MODALITIES:
        raise ConfigError(f"unknown modality {modality!r}: known: {', '.join(MODALITIES)}")
    if modality == "T" and config.reads_words:
        return TextEncoder(config.text_model, pretrained=pretrained)
    return SequenceEncoder(modality, config)


def encode(
    encoder: TextEncoder | SequenceEncoder, name: EncoderName, batch: Batch, enhancement: MicroEnhancement | None
) -> dict[str, Tensor]:
    """The features of one encoder of modality m, by the keys of `Batch.features`.

    ``enhancement`` may be None for a macro encoder. A clip in which the modality is absent has zeros and no valid step
    (decision 19).

    Returns:
        Of its granularities, ``macro_m`` (B, H), and ``micro_m`` (B, L, H) with ``micro_m_mask`` (B, L). Pooled micro
        features are enhanced already, (B, 1, 2H), so that a frozen encoder leaves no sequence behind.
    """
    features = {}
    states, mask = encoder(batch)  # (B, L, H), (B, L)
    if "macro" in name.granularities:
        features[f"macro_{name.modality}"] = encoder.macro(states, mask)
    if "micro" in name.granularities:
        if enhancement.kind == "pooled":
            steps = ValidSteps(mask, _known_count(name.modality, batch))
            states, mask = enhancement(steps.pack(states), steps)[:, None], mask.any(1, keepdim=True)
        features[f"micro_{name.modality}"], features[f"micro_{name.modality}_mask"] = states, mask
    return features


def in_chunks(function: Callable[[Batch], tuple[Tensor, ...]], batch: Batch, size: int | None) -> tuple[Tensor, ...]:
    """``function(batch)``, tensors with a row for each clip, ``size`` clips at a time where gradients are recorded.

    The inner states of a chunk are not kept but computed again in the backward pass: the gradient of the whole batch,
    in the memory of a chunk. None: all clips at once.
    """
    if size is None or not torch.is_grad_enabled():
        return function(batch)
    # A tensor among the arguments tells torch the device whose random state the second pass must repeat.
    parts = [
        checkpoint(lambda _, part=part: function(part), part.index, use_reentrant=False) for part in batch.parts(size)
    ]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


class TextEncoder(nn.Module):
    """A BERT-family encoder of the token ids (decision 2).

    ``forward(batch)`` gives the final hidden states (B, L, H) and the mask (B, L) of the word pieces: special tokens
    and padding are False. The macro feature is the state of [CLS]. All states of a clip without any token are zero.
    """

    def __init__(self, name: str, *, pretrained: bool = True):
        super().__init__()
        loaded = load_text_model(name, pretrained=pretrained)
        self.bert = loaded.model
        self.register_buffer("special_ids", torch.tensor(loaded.special_ids), persistent=False)
        config = self.bert.config
        self.takes_ready_mask = config.model_type == "bert" and config._attn_implementation == "sdpa"
        self.out_features = config.hidden_size
        self.max_steps = loaded.max_steps
        self.vocabulary = config.vocab_size
        self.token_types = getattr(config, "type_vocab_size", 0) > 1

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ids, mask, types = batch.tokens.unbind(1)  # each (B, L)
        if ids.shape[1] > self.max_steps:
            raise ConfigError(f"text has {ids.shape[1]} tokens, the text encoder takes at most {self.max_steps}")
        # Looked up once for all groups: each look-up has a gradient as large as the table.
        words = self.bert.get_input_embeddings()(ids)  # (B, L, H)
        present = mask.any(1)  # (B,)
        attended = mask.clone()
        attended[:, 0] |= ~present  # attention to no token at all would be NaN
        # The library would ask an accelerator whether a mask (B, L) hides anything; a ready one it takes as it is.
        ready = mask.device.type != "cpu" and self.takes_ready_mask
        attention_mask = (attended > 0)[:, None, None] if ready else attended  # (B, 1, 1, L) or (B, L), of the keys

        def read(rows: Tensor | slice, length: int) -> Tensor:
            extra = {"token_type_ids": types[rows, :length]} if self.token_types else {}
            visible = attention_mask[rows, ..., :length]
            output = self.bert(inputs_embeds=words[rows, :length], attention_mask=visible, **extra)
            return F.pad(output.last_hidden_state, (0, 0, 0, ids.shape[1] - length))

        states = read_by_length(mask > 0, read)  # (B, L, H)
        return states * present[:, None, None], mask.bool() & ~torch.isin(ids, self.special_ids)

    def macro(self, states: Tensor, mask: Tensor) -> Tensor:
        """State of [CLS]: (B, L, H) → (B, H)."""
        return states[:, 0]

    def train_last_layers(self, count: int) -> None:
        """Let the last ``count`` layers learn and nothing else of the text model (decision 13).

        Raises:
            ConfigError: the text model has fewer.
        """
        depth = self.bert.config.num_hidden_layers
        lists = (part for part in self.bert.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)
        layers = next(lists, ())
        if count > len(layers):
            raise ConfigError(f"trained_text_layers={count}: the text model has {len(layers)} layers")
        self.bert.requires_grad_(False)
        for layer in layers[depth - count :]:
            layer.requires_grad_(True)

    def keep_layers(self, count: int) -> None:
        """Drop all but the first ``count`` layers.

        Raises:
            ConfigError: the text model has fewer, or no stack of layers where BERT has its own.
        """
        stack = getattr(self.bert, "encoder", None)
        layers = getattr(stack, "layer", ())
        if not 1 <= count <= len(layers):
            raise ConfigError(f"text_layers={count}: the text model has {len(layers)} layers of BERT's kind")
        stack.layer = layers[:count]


class SequenceEncoder(nn.Module):
    """Transformer encoder of audio, vision or text features with attention pooling (decision 3).

    ``forward(batch)`` gives hidden states (B, L, d), zero at padding, and the mask (B, L) of the valid steps. The macro
    feature is the attention-pooled state.
    """

    def __init__(self, modality: str, config: Config):
        super().__init__()
        self.name = {"T": "text", "A": "audio", "V": "vision"}[modality]
        features, steps = getattr(config, f"{self.name}_dim"), getattr(config, f"{self.name}_steps")
        self.inputs = nn.Linear(features, config.width)
        self.positions = nn.Parameter(torch.randn(steps, config.width) * 0.02)
        self.dropout = nn.Dropout(config.encoder_dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.query = nn.Parameter(torch.randn(config.width) * 0.02)
        self.out_features = config.width

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        values, mask = getattr(batch, self.name), getattr(batch, f"{self.name}_mask")
        if values.shape[1] > len(self.positions) or values.shape[2] != self.inputs.in_features:
            raise ConfigError(
                f"{self.name} has {values.shape[1]} steps of {values.shape[2]} values, the encoder takes "
                f"at most {len(self.positions)} steps of {self.inputs.in_features}"
            )
        steps = ValidSteps(mask, batch.count(f"{self.name}_mask"))
        states = self.inputs(steps.pack(values))  # (n, d), of the valid steps alone
        states = self.dropout(states + self.positions[steps.times])
        for layer in self.layers:
            states = layer(states, steps)
        return steps.unpack(states), mask

    def macro(self, states: Tensor, mask: Tensor) -> Tensor:
        """Attention pooling with one learned query: (B, L, d) → (B, d), zero where no step is valid."""
        scores = states @ self.query.to(states.dtype) / states.shape[-1] ** 0.5  # (B, L)
        # The smallest number instead of -inf: over no valid step the weights are finite, and all states are zero.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return (weights[:, None] @ states)[:, 0]


class TransformerLayer(nn.TransformerEncoderLayer):
    """torch's layer (weights, initialisation and result), computed for valid steps alone.

    ``forward(states (n, d), steps)`` gives (n, d).
    """

    def __init__(self, config: Config):
        super().__init__(
            config.width, config.heads, config.feedforward, config.encoder_dropout, activation="gelu", batch_first=True
        )

    def forward(self, states: Tensor, steps: ValidSteps) -> Tensor:
        attention = self.self_attn
        projected = F.linear(states, attention.in_proj_weight, attention.in_proj_bias)  # (n, 3·d)
        attended = self_attention(projected, steps, attention.num_heads, attention.dropout if self.training else 0.0)
        states = self.norm1(states + self.dropout1(attention.out_proj(attended)))
        return self.norm2(states + self.dropout2(self.linear2(self.dropout(F.gelu(self.linear1(states))))))


def self_attention(projected: Tensor, steps: ValidSteps, heads: int, dropout: float = 0.0) -> Tensor:
    """Multi-head self-attention among the valid steps of each clip.

    Args:
        projected: (n, 3·d), queries, keys and values of the packed steps.
        steps: where they lie.
        heads: h.
        dropout: rate of the dropout of the attention weights; 0 outside training.

    Returns:
        (n, d), the heads side by side, before the output projection.
    """
    parts = []
    for part, group in steps.groups(projected):
        query, key, value = group.unpack(part).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (G, h, L, d/h)
        mask = group.mask[:, None, None]  # (G, 1, 1, L), of the keys
        mask = mask | ~mask.any(-1, keepdim=True)  # of an absent clip, whose result is not read: anything but NaN
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        parts.append(group.pack(attended.transpose(1, 2).flatten(2)))
    return torch.cat(parts) if parts else projected[:, : projected.shape[1] // 3]  # (0, d) where no step is valid


class MicroEnhancement(nn.Module):
    """Temporal average pooling, differencing and concatenation (section 3.1, decision 4). No parameters.

    ``forward(packed (n, d), steps)``, the valid steps of a batch, gives for ``kind="sequence"`` (n, 3d): h_t, the mean
    of the valid steps in a window centred on t, and h_t − h_{t−1}; for ``kind="pooled"`` (B, 2d): the mean
    over t of h_t and of abs(h_t − h_{t−1}).
    """

    def __init__(self, kind: str, window: int):
        super().__init__()
        self.kind, self.window = kind, window
        self.factor = 3 if kind == "sequence" else 2  # output width in units of d

    def forward(self, packed: Tensor, steps: ValidSteps) -> Tensor:
        before = packed.roll(1, 0)  # h_{t−1}
        difference = (packed - before) * steps.within(-1, 1).to(packed.dtype)  # zero at a first valid step
        if self.kind == "pooled":
            return torch.cat([steps.mean(packed), steps.mean(difference.abs())], -1)
        total, count = packed, 1.0
        half = self.window // 2
        for shift in (*range(-half, 0), *range(1, half + 1)):
            near = steps.within(shift, half).to(packed.dtype)  # (n, 1)
            total = torch.addcmul(total, before if shift == -1 else packed.roll(-shift, 0), near)
            count = count + near
        return torch.cat([packed, total / count, difference], -1)


_MASKS = {"V": "vision_mask", "A": "audio_mask"}


def _known_count(modality: str, batch: Batch) -> int | None:
    """Steps of an encoder's states in ``batch``; None for text, whose word pieces the device alone knows."""
    return batch.count(_MASKS[modality]) if modality in _MASKS else None


def micro_steps(
    features: dict[str, Tensor], modality: str, enhancement: MicroEnhancement, batch: Batch
) -> tuple[Tensor, ValidSteps]:
    """Enhanced micro features of one modality of ``batch``, from those of `encode`.

    Returns:
        Those of the valid steps (n, 3H), (B, 2H) where pooled, and where they lie.
    """
    key = f"micro_{modality}_mask"
    if key in batch.features:
        count = batch.count(key)
    elif enhancement.kind == "pooled":  # one step of each clip that has the modality
        counts = batch.counts.get(_MASKS.get(modality))
        count = None if counts is None else int((counts > 0).sum())
    else:
        count = _known_count(modality, batch)
    steps = ValidSteps(features[key], count)
    states = steps.pack(features[f"micro_{modality}"])
    return states if enhancement.kind == "pooled" else enhancement(states, steps), steps


def macro_projection(in_features: int, config: Config) -> NormProjection:
    """LayerNorm, Linear, Tanh, Dropout (decision 5): (…, in) → (…, d)."""
    return NormProjection(
        nn.LayerNorm(in_features), nn.Linear(in_features, config.common_width), nn.Tanh(), nn.Dropout(config.dropout)
    )


def micro_projection(in_features: int, config: Config) -> NormProjection:
    """LayerNorm, Linear, ReLU, Linear, Tanh, Dropout (decision 5): (…, in) → (…, d), per step."""
    return NormProjection(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, config.micro_hidden),
        nn.ReLU(),
        nn.Linear(config.micro_hidden, config.common_width),
        nn.Tanh(),
        nn.Dropout(config.dropout),
    )


def in_float32(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """``function(values)`` in float32 (float64 for float64) also under autocast: for layers that end in a prediction.

    In bfloat16, with its three digits, many clips' predictions would be equal.
    """
    with torch.autocast(values.device.type, enabled=False):
        return function(at_least_float32(values))


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Readout(nn.Sequential):
    """Layers that end in a prediction: (…, in) → (…, out), `in_float32`."""

    def forward(self, values: Tensor) -> Tensor:
        return in_float32(super().forward, values)


def perceptron(in_features: int, *hidden: int) -> Readout:
    """Linear layers with ReLU between them, ending in one value (decision 11): (…, in) → (…, 1)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        in_features = width
    return Readout(*layers, nn.Linear(in_features, 1))
