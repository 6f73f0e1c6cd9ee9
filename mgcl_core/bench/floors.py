"""The floor under each timing: operations and bytes that the method needs, over valid steps alone.

Only matrix products are counted as operations (two for each multiplication with its addition): all else is small
beside them. Bytes are those of a product that reads its operands and writes its result once, of the parameters that
the optimiser moves, and of the inputs. A training step needs each product three times (the result, the gradient of the
input, the gradient of the weights), and twice where the input has none. ``passes`` is this number, 1 without training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import Config

FLOAT = 4  # bytes
#: AdamW reads parameter, gradient and two moments, and writes all but the gradient.
OPTIMISER = 7 * FLOAT


@dataclass(frozen=True)
class Work:
    """Operations (``flops``) and bytes."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times)


def linear(rows: float, inputs: int, outputs: int, passes: int = 1) -> Work:
    """Count a linear layer on ``rows`` vectors."""
    weights = inputs * outputs
    moved = FLOAT * (rows * (inputs + outputs) + weights) * passes + (OPTIMISER * weights if passes > 1 else 0)
    return Work(2.0 * rows * weights * passes, moved)


def perceptron(rows: float, *widths: int, passes: int = 1) -> Work:
    """Count linear layers one after the other."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return sum((linear(rows, inputs, outputs, passes) for inputs, outputs in pairs), Work())


def attention(lengths: np.ndarray, width: int, passes: int = 1) -> Work:
    """Count scores of, and sums over, the steps of each clip by themselves; weights are never written."""
    steps = float(lengths.sum())
    return Work(4.0 * float((lengths.astype(float) ** 2).sum()) * width * passes, FLOAT * 4 * steps * width * passes)


def transformer_layer(lengths: np.ndarray, width: int, inner: int, passes: int = 1) -> Work:
    """Count projections, self-attention and feed-forward of one layer."""
    rows = float(lengths.sum())
    return (
        linear(rows, width, 3 * width, passes)
        + attention(lengths, width, passes)
        + linear(rows, width, width, passes)
        + perceptron(rows, width, inner, width, passes=passes)
    )


def sequence_encoder(modality: str, lengths: np.ndarray, config: Config, *, train: bool) -> Work:
    """Count an audio ("A") or vision ("V") encoder (decision 3) on clips of ``lengths`` (B,)."""
    features = config.audio_dim if modality == "A" else config.vision_dim
    layer = transformer_layer(lengths, config.width, config.feedforward, 3 if train else 1)
    inputs = linear(float(lengths.sum()), features, config.width, 2 if train else 1)  # data has no gradient
    return inputs + layer * config.layers


def bert(
    tokens: np.ndarray, *, width: int, inner: int, layers: int, vocabulary: int, train: bool, first_only: bool = False
) -> Work:
    """Count a BERT-family encoder; its embeddings are read, and moved by the optimiser.

    Args:
        tokens: (B,) of each clip.
        width: Of a hidden state.
        inner: Of the feed-forward layer.
        layers: Number of layers.
        vocabulary: Rows of the word embeddings.
        train: With a backward pass.
        first_only: Only the state of [CLS] is asked for: the last layer needs keys and values of all tokens, and all
            else of one token a clip.
    """
    passes, steps, clips = 3 if train else 1, float(tokens.sum()), len(tokens)
    work = Work(0.0, FLOAT * steps * width + (OPTIMISER * vocabulary * width if train else 0))
    work += transformer_layer(tokens, width, inner, passes) * (layers - first_only)
    if first_only:
        work += linear(steps, width, 2 * width, passes) + linear(clips, width, width, passes) * 2
        work += Work(4.0 * steps * width * passes, FLOAT * 2 * steps * width * passes)
        work += perceptron(clips, width, inner, width, passes=passes)
    return work


def contrastive_loss(clips: int, width: int, *, train: bool = True) -> Work:
    """Count nine matrices of cosines: three of C1, three of C2 (each read both ways), three of C3."""
    work = Work(9 * 2.0 * clips * clips * width, FLOAT * (6 * clips * width + 12 * clips * clips))
    return work * (3 if train else 1)


def stage_two(lengths: dict[str, np.ndarray], config: Config, text_width: int, *, train: bool) -> Work:
    """Count a batch through MGCL with text frozen: its features are read, not computed (equations 1-22).

    Args:
        lengths: Valid steps (B,) of each clip, by modality.
        config: All settings.
        text_width: Of a hidden state of the text encoder.
        train: With a backward pass.
    """
    common, clips = config.common_width, len(lengths["T"])
    passes, first = (3, 2) if train else (1, 1)
    work = Work()
    for m, steps_of_clips in lengths.items():
        trained = m != "T" and m in config.trained_encoders
        if trained:
            work += sequence_encoder(m, steps_of_clips, config, train=train) * 2  # macro and micro
        width = text_width if m == "T" else config.width
        factor, steps = (3, float(steps_of_clips.sum())) if config.micro == "sequence" else (2, float(clips))
        into = passes if trained else first  # frozen features need no gradient
        work += linear(clips, width, common, into)
        work += linear(steps, factor * width, config.micro_hidden, into)
        work += linear(steps, config.micro_hidden, common, passes)
        if config.fusion == "cmgf":
            # A block has one query a clip, which can go through the weights of keys and values instead of each step:
            # every head then scores and sums plain steps. Two blocks read each modality.
            asked = 2 * 2.0 * 2 * steps * config.fusion_heads * common * passes
            work += Work(asked, FLOAT * steps * common * passes)
    if config.fusion == "cmgf":
        block = linear(clips, common, 4 * common, passes)
        block += perceptron(clips, common, config.fusion_feedforward, common, passes=passes)
        work += block * 3
    fused = (3 if config.fusion == "cmgf" else 6) * common
    work += perceptron(clips, fused, *config.predictor_hidden, 1, passes=passes)
    work += perceptron(clips, common, config.head_hidden, 1, passes=passes) * 6
    return work + contrastive_loss(clips, common, train=train)
