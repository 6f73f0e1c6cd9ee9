"""The splits of a study on its device: scaled, with the features that a run reads; test only when it may be read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data import Corpus
from ..data.batches import DeviceSplit, place
from ..data.corpus import EncoderName
from ..data.loading import with_text
from ..data.scaling import Scaler
from ..data.text_model import text_model_sha256
from ..encoders import TextEncoder
from ..support.errors import RunError
from ..support.integrity import digest_of, sha256_of
from ..system import Shapes, System
from ..trainer import SELECTION, WEIGHTS, predict
from .frozen_features import encode_frozen, kept_on_disk
from .runs import Run, load_run
from .stages import EncoderStage, shapes_of
from .student import FEATURES, PREDICTION
from .text_input import check_text_input, encoded_width, text_tokens


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


class StudySplits:
    """Splits of ``corpus`` on ``device`` under the settings ``config``; features are kept below ``directory``.

    All of their data take at most ``room`` bytes of the device, where that is not None; the rest stays on the host.
    """

    def __init__(
        self, corpus: Corpus, config: Config, device: torch.device, directory: Path, *, room: int | None = None
    ):
        self.corpus, self.config, self.device, self.directory, self.room = corpus, config, device, directory, room
        self._splits: dict[str, DeviceSplit] = {}
        self._token_ids: dict[str, np.ndarray] = {}
        self._scaler: Scaler | None = None
        self._checked = False

    @property
    def scaler(self) -> Scaler | None:
        """Scaling of audio and vision, fitted on the training split; None where it is switched off."""
        if self._scaler is None and self.config.scaling != "none":
            self._scaler = Scaler.fit(self.corpus.train, self.config.scaling)
        return self._scaler

    @property
    def own_text_dim(self) -> int | None:
        """Width of the file's own text features, where compared systems read them; None otherwise."""
        if not self.config.reads_words:
            return self.config.text_dim
        text = self.corpus.train.text
        if self.corpus.train.text_bert is None:  # their steps are not those of the tokens
            return None
        return self.corpus.text_dim if text is None else text.shape[2]

    def tokens(self, name: str) -> np.ndarray:
        """Token ids of a split (N, 3, L), tokenised once."""
        if name not in self._token_ids:
            self._token_ids[name] = text_tokens(getattr(self.corpus, name), self.config)
        return self._token_ids[name]

    def check_vocabulary(self) -> None:
        """Make sure, once, that the text model can read the corpus.

        The setting of this name switches the comparison of sentences and the count of unknown tokens off; ids beyond
        the model's table never pass.
        """
        if not self._checked:
            splits = [split for split in self.corpus.splits if not isinstance(split, Withheld)]
            check_text_input(splits, self.config, self.corpus.path)
        self._checked = True

    def shapes(self, run: Run) -> Shapes:
        """What the system of ``run`` must know of the corpus to be built."""
        clips, own = len(self.corpus.train), self.own_text_dim
        width = own if own and run.stage.reads_text_embeddings else encoded_width(self.config)
        steps = self.tokens("train").shape[2]
        return shapes_of(run.config, bound=self.corpus.bound, clips=clips, text_dim=width, text_steps=steps)

    def split(self, name: str, run: Run, *, whole: bool = False) -> DeviceSplit:
        """Split ``name`` on the device, with what ``run`` reads of frozen encoders.

        Audio and vision are their means for a system that reads nothing else, unless ``whole`` asks for every step.

        Raises:
            RunError: the test split is asked for before the epoch of ``run`` is chosen.
        """
        if name == "test" and not (run.directory / SELECTION).exists():
            raise RunError(f"{run.name}: test data is read only after the epoch is chosen ({SELECTION} is missing)")
        if name not in self._splits:
            split, tokens = getattr(self.corpus, name), self.tokens(name)
            # Most runs on words do not read the file's features; `_text_embeddings` adds them for those that do.
            self._splits[name] = DeviceSplit(
                dataclasses.replace(split, text=None) if self.config.reads_words else split,
                self.device,
                scaler=self.scaler,
                tokens=tokens,
                labelled=name != "test",
                room=self._room_left(),
            )
        split = self._splits[name]
        split.features = self._of_teacher(run.stage.teacher) if name == "train" and run.stage.teacher else {}
        if self.config.reads_words:
            split.text = None
        for parent in run.frozen_parents:
            # The smallest first: what a system looks up by itself, macro features, lies on the device.
            for key, values in sorted(
                self._features(run, parent, name, split).items(), key=lambda item: item[1].nbytes
            ):
                split.features[key] = place(values, self.device, self._room_left())
        if run.stage.reads_text_embeddings and self.config.reads_words:
            split.text = place(self._text_embeddings(run, name, split), self.device, self._room_left())
        return split.averaged() if run.stage.reads_means and not whole else split

    def _room_left(self) -> int | None:
        return (
            None if self.room is None else self.room - sum(split.bytes_on_device() for split in self._splits.values())
        )

    def keep_features(self, run: Run, system: System, name: str) -> None:
        """Keep the features that the trained stage-one ``system`` of ``run`` gives of split ``name``.

        Only those of an encoder that stage two does not train; made while it is loaded, and beside the other encoders.
        """
        if isinstance(run.stage, EncoderStage) and run.stage.is_frozen_later:
            self._features(run, run, name, self.split(name, run), system)

    def _features(
        self, run: Run, parent: Run, name: str, split: DeviceSplit, system: System | None = None
    ) -> dict[str, Tensor]:
        """Features of a stage-one encoder, computed once per (weights, data).

        ``system`` is the trained one of ``parent`` where it is loaded already.
        """

        def compute() -> dict[str, Tensor]:
            trained = system or parent.build(self.shapes(parent), self.device, trained=True)
            return encode_frozen(trained.encoder, parent.stage.encoder, split, parent.config)

        # Of an encoder that was just trained, the record is about to be written: its weights are.
        origin = sha256_of(parent.directory / WEIGHTS) if not parent.trained else parent.weights_sha256
        half = run.config.feature_cache == "fp16"
        return kept_on_disk(parent.directory, f"features-{name}", compute, clips=len(split), origin=origin, half=half)

    def _of_teacher(self, name: str) -> dict[str, Tensor]:
        """What a student learns from the finished run ``name``: its outputs for every training clip."""
        teacher = load_run(self.directory / "runs" / name)
        system = teacher.build(self.shapes(teacher), self.device, trained=True)
        outputs = predict(system, self.split("train", teacher), teacher.stage.schedule)
        six = np.concatenate([outputs["macro"], outputs["micro"]]).swapaxes(0, 1)  # (N, 6, d)
        targets = {PREDICTION: outputs["prediction"], FEATURES: np.ascontiguousarray(six)}
        return {key: place(torch.from_numpy(values), self.device, self._room_left()) for key, values in targets.items()}

    def _text_embeddings(self, run: Run, name: str, split: DeviceSplit) -> Tensor:
        """Contextual embeddings (N, L, D): the file's own, or those of the text model as it comes, not fine-tuned."""
        if self.own_text_dim:
            self.corpus = with_text(self.corpus)
            return torch.from_numpy(np.array(getattr(self.corpus, name).text))
        config, micro = self.config, EncoderName("micro", "T")
        origin = digest_of([text_model_sha256(config.text_model), config.tokens, self.corpus.sha256])
        folder = self.directory / "features" / f"text-{origin[:10]}"

        def compute() -> dict[str, Tensor]:
            encoder = TextEncoder(config.text_model).to(self.device)
            return encode_frozen(encoder, micro, split, config.override({"micro": "sequence"}))

        half = run.config.feature_cache == "fp16"
        return kept_on_disk(folder, name, compute, clips=len(split), origin=origin, half=half)[str(micro)]
