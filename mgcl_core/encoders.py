"""From a batch to macro and micro features (section 3.1): encoders, projections, heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import self_attention
from .config import Config
from .data.batches import Batch
from .data.corpus import MODALITIES
from .data.text_model import load_text_model
from .data.valid_steps import ValidSteps, read_by_length
from .dropout import Dropout, with_fast_dropout
from .first_state import keep_first_state
from .support.errors import ConfigError


def fill_absent(states: Tensor, mask: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Give a clip without any valid step one step that holds the learned vector ``absent`` (d,) (decision 19).

    Everything downstream then sees at least one valid step, and no softmax runs over nothing.
    """
    first = absent_steps(mask)
    return torch.where(first[:, :, None], absent.to(states.dtype), states), mask | first


def absent_steps(mask: Tensor) -> Tensor:
    """True at the first step of clips without any valid one: (B, L) → (B, L)."""
    first = torch.zeros_like(mask)
    first[:, 0] = ~mask.any(1)
    return first


class TextEncoder(nn.Module):
    """A BERT-family encoder of the token ids (decision 2).

    ``forward(batch)`` gives the final hidden states (B, L, H) and the mask (B, L) of the word pieces:
    special tokens and padding are False. The macro feature is the state of [CLS]; with ``first_only`` no other is
    made, and the states are (B, 1, H) where the model is laid out like BERT.
    """

    def __init__(self, name: str, *, pretrained: bool = True, first_only: bool = False):
        super().__init__()
        loaded = load_text_model(name, pretrained=pretrained)
        self.bert, self.special_ids = with_fast_dropout(loaded.model), loaded.special_ids
        self.first_only = first_only and keep_first_state(self.bert)
        self.out_features = self.bert.config.hidden_size
        self.max_steps = loaded.max_steps
        self.vocabulary = self.bert.config.vocab_size
        self.token_types = getattr(self.bert.config, "type_vocab_size", 0) > 1
        self.absent = nn.Parameter(torch.randn(self.out_features) * 0.02)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ids, mask, types = batch.tokens.unbind(1)  # each (B, L)
        if ids.shape[1] > self.max_steps:
            raise ConfigError(f"text has {ids.shape[1]} tokens, the text encoder takes at most {self.max_steps}")
        states = self._states(ids, mask, types)  # (B, L, H)
        # Without any token to attend to, [CLS] would depend on the padding of the other clips.
        states = torch.where(mask.any(1)[:, None, None], states, self.absent.to(states.dtype))
        words = mask.bool() & ~torch.isin(ids, torch.tensor(self.special_ids, device=ids.device))
        return states, words

    def _states(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """Hidden states; on the CPU in groups of texts of like length, so that few tokens of padding are computed."""

        words = self.bert.get_input_embeddings()(ids)  # once, since each gradient of the table is as large as it

        def read(rows: Tensor, steps: int) -> Tensor:
            extra = {"token_type_ids": types[rows, :steps]} if self.token_types else {}
            states = self.bert(inputs_embeds=words[rows, :steps], attention_mask=mask[rows, :steps], **extra)
            padding = 0 if self.first_only else ids.shape[1] - steps
            return F.pad(states.last_hidden_state, (0, 0, 0, padding))

        return read_by_length(mask > 0, read)

    def macro(self, states: Tensor, mask: Tensor) -> Tensor:
        """State of [CLS]: (B, L, H) → (B, H)."""
        return states[:, 0]

    def micro(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States and mask of the word pieces, never empty."""
        return fill_absent(states, mask, self.absent)


class TransformerLayer(nn.TransformerEncoderLayer):
    """torch's layer (weights, initialisation and result), computed for valid steps alone.

    ``forward(states (n, d), steps)`` gives (n, d).
    """

    def __init__(self, config: Config):
        super().__init__(
            config.width, config.heads, config.feedforward, config.encoder_dropout, activation="gelu", batch_first=True
        )
        self.dropout, self.dropout1, self.dropout2 = (Dropout(config.encoder_dropout) for _ in range(3))

    def forward(self, states: Tensor, steps: ValidSteps) -> Tensor:
        attention = self.self_attn
        projected = F.linear(states, attention.in_proj_weight, attention.in_proj_bias)  # (n, 3·d)
        attended = self_attention(projected, steps, attention.num_heads, attention.dropout if self.training else 0.0)
        states = self.norm1(states + self.dropout1(attention.out_proj(attended)))
        return self.norm2(states + self.dropout2(self.linear2(self.dropout(F.gelu(self.linear1(states))))))


class SequenceEncoder(nn.Module):
    """Transformer encoder of audio or vision with attention pooling (decision 3).

    ``forward(batch)`` gives hidden states (B, L, d) and the mask (B, L) of the valid steps, never
    empty. The macro feature is the attention-pooled state.
    """

    def __init__(self, modality: str, config: Config):
        super().__init__()
        self.name = {"A": "audio", "V": "vision"}[modality]
        features, steps = getattr(config, f"{self.name}_dim"), getattr(config, f"{self.name}_steps")
        self.inputs = nn.Linear(features, config.width)
        self.positions = nn.Parameter(torch.randn(steps, config.width) * 0.02)
        self.absent = nn.Parameter(torch.randn(config.width) * 0.02)
        self.dropout = Dropout(config.encoder_dropout)
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
        absent = absent_steps(mask)
        steps = ValidSteps(mask | absent)
        states = self.inputs(steps.pack(values))  # (n, d), of the valid steps alone
        states = torch.where(steps.pack(absent)[:, None], self.absent.to(states.dtype), states)
        states = self.dropout(states + self.positions[steps.times])
        for layer in self.layers:
            states = layer(states, steps)
        return steps.unpack(states), steps.mask

    def macro(self, states: Tensor, mask: Tensor) -> Tensor:
        """Attention pooling with one learned query: (B, L, d) → (B, d)."""
        scores = states @ self.query.to(states.dtype) / states.shape[-1] ** 0.5  # (B, L)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return (weights[:, None] @ states)[:, 0]

    def micro(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of the valid steps, with their mask."""
        return states, mask


def build_encoder(
    modality: str, config: Config, *, pretrained: bool = True, macro_only: bool = False
) -> TextEncoder | SequenceEncoder:
    """The encoder of modality "T", "V" or "A".

    ``pretrained=False`` leaves the text weights random; ``macro_only`` says that no micro feature will be asked for.
    """
    if modality not in MODALITIES:
        raise ConfigError(f"unknown modality {modality!r}: known: {', '.join(MODALITIES)}")
    if modality == "T":
        return TextEncoder(config.text_model, pretrained=pretrained, first_only=macro_only)
    return SequenceEncoder(modality, config)


class Projection(nn.Sequential):
    """LayerNorm, Linear, and layers that follow: (…, in) → (…, d).

    The norm's weight and bias are folded into those of the linear layer, which gives the same. For features of frozen
    encoders the backward pass then has no product to make but the gradient of one weight, and each step is scaled once.
    """

    def forward(self, states: Tensor) -> Tensor:
        norm, linear, *rest = self
        weight = linear.weight * norm.weight  # (d, in)
        bias = linear.bias + (linear.weight * norm.bias).sum(1)
        states = F.linear(F.layer_norm(states, norm.normalized_shape, eps=norm.eps), weight, bias)
        for layer in rest:
            states = layer(states)
        return states


def macro_projection(in_features: int, config: Config) -> Projection:
    """LayerNorm, Linear, Tanh, Dropout (decision 5): (…, in) → (…, d)."""
    return Projection(
        nn.LayerNorm(in_features), nn.Linear(in_features, config.common_width), nn.Tanh(), Dropout(config.dropout)
    )


def micro_projection(in_features: int, config: Config) -> Projection:
    """LayerNorm, Linear, ReLU, Linear, Tanh, Dropout (decision 5): (…, in) → (…, d), per step."""
    return Projection(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, config.micro_hidden),
        nn.ReLU(),
        nn.Linear(config.micro_hidden, config.common_width),
        nn.Tanh(),
        Dropout(config.dropout),
    )


def perceptron(in_features: int, *hidden: int) -> nn.Sequential:
    """Linear layers with ReLU between them, ending in one value (decision 11): (…, in) → (…, 1)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, 1))
