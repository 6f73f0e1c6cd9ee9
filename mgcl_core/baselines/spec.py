"""What a study must know of a system that the paper compares with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..system import Shapes, System


@dataclass(frozen=True)
class SystemSpec:
    """How to build a system, with which settings, and how text enters it.

    - ``title``: its row in Tables 3 and 4
    - ``build``: from one of ``published`` (or a changed copy, `dataclasses.replace`) and the corpus's shapes
    - ``published``: settings by dataset, "sims", "mosi" and "mosei"
    - ``text``: "frozen" reads contextual embeddings from ``batch.text``, "finetuned" holds a text encoder of its own,
      "pretrained" reads features of stage one's text encoder from ``batch.features``
    - ``reference``: the paper that proposed it
    """

    title: str
    build: Callable[[Any, Shapes], System]
    published: dict[str, Any]
    text: Literal["frozen", "finetuned", "pretrained"]
    reference: str
