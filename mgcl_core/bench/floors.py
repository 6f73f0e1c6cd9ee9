"""The floor under each timing: operations and bytes that the method needs, over valid steps alone.

Only matrix products are counted as operations (two for each multiplication with its addition): all else is small
beside them. Bytes are those of a product that reads its operands and writes its result once, of the parameters that
the optimiser moves, and of the inputs. A training step needs each product three times (the result, the gradient of the
input, the gradient of the weights), and twice where the input has none.
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
    """``flops`` and ``bytes``."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Lengths:
    """Valid steps (B,) of each clip of one batch."""

    text: np.ndarray
    vision: np.ndarray
    audio: np.ndarray

    def __len__(self) -> int:
        return len(self.text)

    def of(self, modality: str) -> np.ndarray:
        return {"T": self.text, "V": self.vision, "A": self.audio}[modality]


def linear(rows: float, inputs: int, outputs: int, passes: int = 1) -> Work:
    """A linear layer on ``rows`` vectors; ``passes`` is 1 without a gradient, 2 without one of the input, else 3."""
    weights = inputs * outputs
    moved = FLOAT * (rows * (inputs + outputs) + weights) * passes + (OPTIMISER * weights if passes > 1 else 0)
    return Work(2.0 * rows * weights * passes, moved)


def attention(lengths: np.ndarray, width: int, passes: int = 1) -> Work:
    """Scores of, and sums over, the steps of each clip by themselves; weights are never written."""
    steps = float(lengths.sum())
    return Work(4.0 * float((lengths.astype(float) ** 2).sum()) * width * passes, FLOAT * 4 * steps * width * passes)


def transformer_layer(lengths: np.ndarray, width: int, inner: int, passes: int = 1) -> Work:
    """Projections, self-attention and feed-forward of one layer."""
    rows = float(lengths.sum())
    return (
        linear(rows, width, 3 * width, passes)
        + attention(lengths, width, passes)
        + linear(rows, width, width, passes)
        + linear(rows, width, inner, passes)
        + linear(rows, inner, width, passes)
    )


def sequence_encoder(modality: str, lengths: np.ndarray, config: Config, *, train: bool) -> Work:
    """Audio or vision (decision 3)."""
    features = config.audio_dim if modality == "A" else config.vision_dim
    work = linear(float(lengths.sum()), features, config.width, 2 if train else 1)  # data has no gradient
    for _ in range(config.layers):
        work += transformer_layer(lengths, config.width, config.feedforward, 3 if train else 1)
    return work


def bert(
    tokens: np.ndarray, *, width: int, inner: int, layers: int, vocabulary: int, train: bool, first_only: bool = False
) -> Work:
    """A BERT-family encoder; its embeddings are read, and moved by the optimiser.

    With ``first_only`` only the state of [CLS] is asked for: the last layer needs keys and values of all tokens, and
    all else of one token a clip.
    """
    passes = 3 if train else 1
    work = Work(0.0, FLOAT * float(tokens.sum()) * width + (OPTIMISER * vocabulary * width if train else 0))
    for _ in range(layers - first_only):
        work += transformer_layer(tokens, width, inner, passes)
    if first_only:
        steps, clips = float(tokens.sum()), len(tokens)
        work += linear(steps, width, 2 * width, passes) + linear(clips, width, width, passes) * 2
        work += Work(4.0 * steps * width * passes, FLOAT * 2 * steps * width * passes)
        work += linear(clips, width, inner, passes) + linear(clips, inner, width, passes)
    return work


def perceptron(rows: float, *widths: int, passes: int = 1) -> Work:
    """Linear layers one after the other."""
    total = Work()
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        total += linear(rows, inputs, outputs, passes)
    return total


def contrastive_loss(clips: int, width: int, *, train: bool) -> Work:
    """Nine matrices of cosines: three of C1, three of C2 (each read both ways), three of C3."""
    products = 9 * 2.0 * clips * clips * width
    return Work(products * (3 if train else 1), FLOAT * (6 * clips * width + 12 * clips * clips) * (3 if train else 1))


def stage_two(lengths: Lengths, config: Config, text_width: int, *, train: bool) -> Work:
    """A batch through MGCL with text frozen: its features are read, not computed (equations 1-22)."""
    common, clips = config.common_width, len(lengths)
    passes, first = (3, 2) if train else (1, 1)
    work = Work()
    for m in "TVA":
        rows, width = lengths.of(m), text_width if m == "T" else config.width
        trained = m != "T" and m in config.trained_encoders
        if trained:
            work += sequence_encoder(m, rows, config, train=train) * 2  # macro and micro
        factor, steps = (3, float(rows.sum())) if config.micro == "sequence" else (2, float(clips))
        into = passes if trained else first  # frozen features need no gradient
        work += linear(clips, width, common, into)
        work += linear(steps, factor * width, config.micro_hidden, into)
        work += linear(steps, config.micro_hidden, common, passes)
        if config.fusion == "cmgf":  # one query a clip and block, asked of each step by every head; two blocks read it
            asked = 2 * 2.0 * 2 * steps * config.fusion_heads * common * passes
            work += Work(asked, FLOAT * steps * common * passes)
    if config.fusion == "cmgf":
        block = (
            linear(clips, common, 4 * common, passes)
            + linear(clips, common, config.fusion_feedforward, passes)
            + linear(clips, config.fusion_feedforward, common, passes)
        )
        work += block * 3
    fused = (3 if config.fusion == "cmgf" else 6) * common
    work += perceptron(clips, fused, *config.predictor_hidden, 1, passes=passes)
    work += perceptron(clips, common, config.head_hidden, 1, passes=passes) * 6
    return work + contrastive_loss(clips, common, train=train)
