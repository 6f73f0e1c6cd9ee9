"""Reading the reference files that make_reference.py wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from mgcl_core.data.batches import Batch
from mgcl_core.system import Shapes

FOLDER = Path(__file__).parent / "reference"


def published(system: str) -> dict[str, dict[str, Any]]:
    """mmsa's own settings of ``system`` by dataset, with the number of weights where it reads frozen text."""
    return json.loads((FOLDER / "published.json").read_text(encoding="utf-8"))[system]


@dataclass(frozen=True)
class Reference:
    """One reference file: ``args`` are mmsa's, ``tensors`` are named as make_reference.py says.

    ``trained`` are the settings of its 20 steps by mmsa's own trainer, None where there are none.
    """

    args: dict[str, Any]
    bert: dict[str, Any] | None
    tensors: dict[str, Tensor]
    trained: dict[str, Any] | None = None

    @classmethod
    def load(cls, system: str) -> Reference:
        with safe_open(FOLDER / f"{system}.safetensors", "pt") as file:
            metadata = json.loads(file.metadata()["json"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return cls(metadata["args"], metadata["bert"], tensors, metadata.get("trained"))

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name begins with ``prefix.``, without it."""
        return {
            name.removeprefix(f"{prefix}."): value
            for name, value in self.tensors.items()
            if name.startswith(f"{prefix}.")
        }

    def weights(self, renamed: dict[str, str] | None = None, kind: str = "weight") -> dict[str, Tensor]:
        """mmsa's weights under our names: each pair of ``renamed`` replaces a beginning, the first that fits.

        ``kind``: "weight", or "trained" for those after 20 steps of mmsa's own trainer.
        """
        result = {}
        for name, value in self.group(kind).items():
            for old, new in (renamed or {}).items():
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    break
            result[name] = value
        return result

    def batch(self, case: str, rows: Tensor | None = None) -> Batch:
        """The inputs of ``case`` as a batch of ours, of all clips or of ``rows``."""
        values = self.group(f"input.{case}")
        index = torch.arange(len(values["labels"])) if rows is None else rows
        values = {name: value[index] for name, value in values.items()}
        masks = {
            name: torch.arange(values[name].shape[1]) < values[f"{name}_lengths"][:, None]
            for name in ("audio", "vision")
        }
        return Batch(
            index=index,
            tokens=values["tokens"],
            text=values.get("text"),
            audio=values["audio"],
            audio_mask=masks["audio"],
            vision=values["vision"],
            vision_mask=masks["vision"],
            labels=values["labels"],
            unimodal_labels=values["labels"].expand(3, -1),
        )

    def shapes(self, case: str, text_model: str = "") -> Shapes:
        """What a system must know to be built for ``case``; labels lie in [-3, 3]."""
        (text, audio, vision), values = self.args["feature_dims"], self.group(f"input.{case}")
        return Shapes(
            text,
            values["tokens"].shape[2],
            audio,
            values["audio"].shape[1],
            vision,
            values["vision"].shape[1],
            bound=3.0,
            clips=len(values["labels"]),
            text_model=text_model,
        )

    def save_text_model(self, folder: Path) -> str:
        """The architecture and vocabulary of the reference's BERT, weights random, as a folder `TextEncoder` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join(self.bert["vocabulary"]) + "\n", encoding="utf-8")
        BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        BertModel(BertConfig(**self.bert["config"])).save_pretrained(folder)
        return str(folder)
