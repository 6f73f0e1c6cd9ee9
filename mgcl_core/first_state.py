"""Text encoders of which only the state of [CLS] is read: the end of the last layer is left out elsewhere."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def keep_first_state(text_model: nn.Module) -> bool:
    """Let a BERT-family model end in states (B, 1, H), those of [CLS], which are what they were.

    The last layer attends to all tokens as ever; what follows the attention, three quarters of a layer's work, runs on
    the first token alone.

    Returns:
        Whether that could be arranged; a model that is laid out unlike BERT stays as it is and ends in (B, L, H).
    """
    try:
        after_attention = text_model.encoder.layer[-1].attention.output
    except AttributeError:
        return False
    after_attention.register_forward_pre_hook(_first)
    return True


def _first(_module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return tuple(states[:, :1] for states in inputs)  # what was attended to, and the residual
