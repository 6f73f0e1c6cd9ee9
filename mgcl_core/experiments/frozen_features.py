"""The data of a study on its device: scaled splits, and the features of frozen encoders, computed once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config, preset
from ..data import Corpus
from ..data.batches import DeviceSplit, Scaler
from ..data.text_model import check_token_ids, check_vocabulary, corpus_tokens, text_config
from ..encoders import TextEncoder
from ..model import encode_frozen, frozen_encoders
from ..support.errors import RunError
from ..support.files import atomic, read_json, write_json
from ..system import Shapes, System
from ..trainer import SELECTION
from .registry import system_spec
from .runs import Run, build_system, shapes_of


class Withheld:
    """Stands where a test split would: it knows the number of clips, and refuses everything else."""

    def __init__(self, clips: int):
        self._clips = clips

    def __len__(self) -> int:
        return self._clips

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying and pickling ask for
            raise AttributeError(name)
        raise RunError(f"test data is withheld here ({name!r} was asked for)")


class StudyData:
    """Splits of ``corpus`` on ``device`` under the settings ``config``; features are kept below ``directory``."""

    def __init__(self, corpus: Corpus, config: Config, device: torch.device, directory: Path):
        self.corpus, self.config, self.device, self.directory = corpus, config, device, directory
        self._splits: dict[str, DeviceSplit] = {}
        self._scaler: Scaler | None = None
        self._checked = False

    @property
    def scaler(self) -> Scaler | None:
        """Scaling of audio and vision, fitted on the training split; None where it is switched off."""
        if self._scaler is None and self.config.normalize:
            self._scaler = Scaler.fit(self.corpus.train)
        return self._scaler

    def check_vocabulary(self) -> None:
        """Make sure, once, that the file's token ids belong to the text model, where the file's are read.

        The setting of this name switches the comparison of sentences off; ids beyond the model's table never pass.
        """
        if not self._checked and self.config.tokens == "file":
            splits = [split for split in self.corpus.splits if not isinstance(split, Withheld)]
            check_token_ids(self.config.text_model, splits, self.corpus.path)
            if self.config.check_vocabulary:
                check_vocabulary(self.config.text_model, self.corpus.train, self.corpus.path)
        self._checked = True

    def shapes(self, run: Run) -> Shapes:
        """What the system of ``run`` must know of the corpus to be built."""
        train = self.corpus.train
        own = run.settings is not None and system_spec(run.stage).text == "frozen" and train.text is not None
        width = train.text.shape[2] if own else text_config(self.config.text_model).hidden_size
        return shapes_of(
            run, bound=self.corpus.bound, clips=len(train), text_dim=width, text_steps=train.text_bert.shape[2]
        )

    def split(self, name: str, run: Run) -> DeviceSplit:
        """Split ``name`` on the device, with what ``run`` reads of frozen encoders.

        Raises:
            RunError: the test split is asked for before the epoch of ``run`` is chosen.
        """
        if name == "test" and not (run.directory / SELECTION).exists():
            raise RunError(f"{run.name}: test data is read only after the epoch is chosen ({SELECTION} is missing)")
        if name not in self._splits:
            split = getattr(self.corpus, name)
            tokens = corpus_tokens(split, self.config.text_model, self.config.tokens)
            # Without the file's embeddings, which most runs do not read; `_text` adds them for those that do.
            self._splits[name] = DeviceSplit(
                dataclasses.replace(split, text=None),
                self.device,
                scaler=self.scaler,
                tokens=tokens,
                labelled=name != "test",
            )
        split = self._splits[name]
        split.features, split.text = {}, None
        if run.stage == "mgcl":
            frozen = frozen_encoders(run.config)
            for parent in run.parents:
                if parent.stage in frozen:
                    split.features.update(self._encoded(run, parent, name, split))
        elif run.settings is not None:
            for parent in run.parents:
                split.features.update(self._encoded(run, parent, name, split))
            if system_spec(run.stage).text == "frozen":
                split.text = self._text(run, name, split)
        return split

    def keep_features(self, run: Run, system: System, name: str) -> None:
        """Keep the features that the trained stage-one ``system`` of ``run`` gives of split ``name``.

        Only those of an encoder that stage two does not train; made while it is loaded, and beside the other encoders.
        """
        if run.stage in frozen_encoders(run.config):
            self._encoded(run, run, name, self.split(name, run), system)

    def _encoded(
        self, run: Run, parent: Run, name: str, split: DeviceSplit, system: System | None = None
    ) -> dict[str, Tensor]:
        """Features of a stage-one encoder, computed once per (weights, data) and memory-mapped afterwards.

        ``system`` is the trained one of ``parent`` where it is loaded already.
        """

        def compute() -> dict[str, Tensor]:
            trained = system or build_system(parent, shapes=self.shapes(parent), device=self.device, trained=True)
            return encode_frozen(trained.encoder, parent.stage, split, parent.config)

        return self._kept(parent.directory, f"features-{name}", compute, half=run.config.feature_cache == "fp16")

    def _text(self, run: Run, name: str, split: DeviceSplit) -> Tensor:
        """Contextual embeddings (N, L, D): the file's own, or those of the text model as it comes, not fine-tuned."""
        own = getattr(self.corpus, name).text
        if own is not None:
            return torch.from_numpy(np.array(own)).to(self.device)
        config = self.config
        identity = json.dumps([config.text_model, config.tokens, self.corpus.sha256])
        folder = self.directory / "features" / f"text-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"

        def compute() -> dict[str, Tensor]:
            encoder = TextEncoder(config.text_model).to(self.device)
            torch.nn.init.zeros_(encoder.absent)  # of a clip without words: not random, since nothing learns it
            return encode_frozen(encoder, "micro_T", split, config.override({"micro": "sequence"}))

        return self._kept(folder, name, compute, half=run.config.feature_cache == "fp16")["micro_T"]

    def _kept(
        self, folder: Path, name: str, compute: Callable[[], dict[str, Tensor]], *, half: bool = False
    ) -> dict[str, Tensor]:
        """What ``compute`` gives, kept as arrays in ``folder`` and read from there when asked again.

        ``half`` keeps numbers in half precision, for half the memory; batches give float32 again.
        """
        name = f"{name}-fp16" if half else name
        marker = folder / f"{name}.json"
        if not marker.exists():
            computed = compute()
            for key, values in computed.items():
                with atomic(folder / f"{name}-{key}.npy") as temporary, temporary.open("wb") as file:
                    np.save(file, (values.half() if half and values.is_floating_point() else values).numpy())
            write_json(marker, {"keys": list(computed)})  # last: what it lists is whole
        arrays = {key: np.load(folder / f"{name}-{key}.npy", mmap_mode="c") for key in read_json(marker)["keys"]}
        return {key: torch.from_numpy(values).to(self.device) for key, values in arrays.items()}


def config_for(corpus: Corpus, profile: str) -> Config:
    """Preset of a corpus under ``profile``, with the shapes of its features."""
    train = corpus.train
    return preset(role(corpus), profile).override(
        {
            "audio_dim": train.audio.shape[2],
            "audio_steps": train.audio.shape[1],
            "vision_dim": train.vision.shape[2],
            "vision_steps": train.vision.shape[1],
        }
    )


def role(corpus: Corpus) -> str:
    """The dataset of the paper that ``corpus`` stands beside: "sims", "mosi" or "mosei"."""
    if "mosei" in corpus.name.lower():
        return "mosei"
    return corpus.scheme
