"""A finished run of MGCL, loaded: it predicts clips, and says what each of them lacks."""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..data import load_clips
from ..data.batches import DeviceSplit
from ..data.corpus import EncoderName, Split, describe_notes
from ..data.own_clips import as_feature_file, cut_notes, text_notes, unlike_training
from ..data.scaling import Scaler
from ..model import MGCL, Explanation
from ..support.errors import CorpusError, RunError
from ..support.runtime import autocast, matrix_precision
from ..trainer import predict
from .frozen_features import encode_frozen
from .stages import MGCLStage
from .text_input import check_text_input, text_tokens

log = logging.getLogger(__name__)

UNIMODAL_COLUMNS = ("T_macro", "V_macro", "A_macro", "T_micro", "V_micro", "A_micro")
#: With fewer clips, single words that the text model does not know are noted, and are no error.
FEW_CLIPS = 20
MOST_CLIPS = 256  # of a batch, whatever a stranger's run says


@dataclass(frozen=True)
class Predictor:
    """A run's system and frozen encoders with their final weights, and its scaling, on one device.

    Attributes:
        name: Of the run.
        stage: What it trained.
        system: MGCL; the features of frozen encoders come with its batches.
        frozen: Those encoders.
        scaler: Of audio and vision, or None.
        device: Where they are.
    """

    name: str
    stage: MGCLStage
    system: MGCL
    frozen: Mapping[EncoderName, nn.Module]
    scaler: Scaler | None
    device: torch.device

    def load(self, clips: str | Path | Split | Mapping[str, Any], splits: Sequence[str] = ()) -> dict[str, Split]:
        """Read and check clips as the run's own were: a feature file, a dict as it holds, or a split.

        Raises:
            CorpusError: They break the format, or their features are not as wide as the run's.
        """
        config = self.stage.config
        if isinstance(clips, Split):
            for name, width in (("audio", config.audio_dim), ("vision", config.vision_dim)):
                found = getattr(clips, name).shape[2]
                if found != width:
                    raise CorpusError("features of another width", split=clips.name, key=name,
                                      expected=f"{width} values a step", found=f"{found} values")  # fmt: skip
            return {clips.name: clips}
        if isinstance(clips, Mapping):  # goes the way of a file, so that there is one way to read and check clips
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "given_clips.pkl"
                path.write_bytes(pickle.dumps(as_feature_file(clips), protocol=4))
                return self.load(path, splits)
        return load_clips(
            clips,
            audio_dim=config.audio_dim,
            vision_dim=config.vision_dim,
            text_dim=None if config.reads_words else config.text_dim,
            splits=splits,
            lengths=config.lengths,
            nonfinite=config.nonfinite,
        )

    def prepare(self, split: Split, *, tokens: str | None = None) -> tuple[DeviceSplit, list[str]]:
        """Clips on the device with all that the system reads, and a note on each ("" for most).

        Args:
            split: the clips, at their own scale.
            tokens: as for `corpus_tokens`; as in the run when None.
        """
        config = self.stage.config if tokens is None else self.stage.config.override({"tokens": tokens})
        steps = {"audio": config.audio_steps, "vision": config.vision_steps}
        if not config.reads_words:
            steps["text"] = config.text_steps
        notes = cut_notes(split, steps)
        split, counts = split.cut(**steps)
        for line in describe_notes(counts):
            log.info("%s: %s", split.name, line)
        token_ids = text_tokens(split, config)
        if config.reads_words:
            own_ids = config.tokens == "file" and split.text_bert is not None
            for clip, more in text_notes(split, token_ids, config.text_model, own_ids=own_ids).items():
                notes.setdefault(clip, []).extend(more)
        prepared = DeviceSplit(split, self.device, scaler=self.scaler, labelled=False, tokens=token_ids)
        for name, encoder in self.frozen.items():
            features = encode_frozen(encoder, name, prepared, config)
            prepared.features.update({key: values.to(self.device) for key, values in features.items()})
        for row, here in enumerate(prepared.present.cpu().numpy().T):
            absent = [name for name, is_here in zip(("text", "vision", "audio"), here, strict=True) if not is_here]
            if absent:
                notes.setdefault(split.ids[row], []).insert(0, f"no {' and no '.join(absent)}")
        if self.scaler is not None:
            for sentence in unlike_training(split, self.scaler):
                log.warning("these are not the features that %s was trained on: %s", self.name, sentence)
        return prepared, ["; ".join(notes.get(clip, [])) for clip in split.ids]

    def explain(self, prepared: DeviceSplit, rows: np.ndarray | None = None) -> Explanation:
        """What the predictions of prepared clips, all or those at ``rows``, rest on."""
        precision = self.stage.config.precision
        with matrix_precision(self.device, precision), autocast(self.device, precision):
            return self.system.explain(prepared.batch(rows))

    def predict(
        self, clips: str | Path | Split | Mapping[str, Any], *, splits: Sequence[str] = (), tokens: str | None = None
    ) -> pd.DataFrame:
        """Predict clips (`load`), a row each: split, id, prediction, six unimodal predictions, and a note.

        Raises:
            CorpusError: As `load`, or the token ids are of another vocabulary.
            RunError: A prediction is not finite.
        """
        chosen = self.load(clips, splits)
        changes: dict[str, Any] = {} if tokens is None else {"tokens": tokens}
        if sum(map(len, chosen.values())) < FEW_CLIPS:
            changes["check_vocabulary"] = False
        if any(_has_words(split) for split in chosen.values()):
            where = Path(clips) if isinstance(clips, (str, Path)) else Path("the given clips")
            check_text_input(list(chosen.values()), self.stage.config.override(changes), where)
        schedule = self.stage.schedule
        schedule = replace(schedule, batch_size=min(schedule.batch_size, MOST_CLIPS))
        frames = []
        for name, split in chosen.items():
            prepared, notes = self.prepare(split, tokens=tokens)
            outputs = predict(self.system, prepared, schedule)
            unimodal = dict(zip(UNIMODAL_COLUMNS, outputs["unimodal"] + 0.0, strict=True))
            columns = {"split": name, "id": prepared.ids, "prediction": outputs["prediction"], **unimodal}
            frames.append(pd.DataFrame({**columns, "note": notes}))
        frame = pd.concat(frames, ignore_index=True)
        bad = frame["id"][~np.isfinite(frame[["prediction", *UNIMODAL_COLUMNS]]).all(axis=1)]
        if len(bad):
            raise RunError(
                f"{self.name}: {len(bad)} of {len(frame)} clips have a prediction that is not finite, "
                f"the first {bad.iloc[0]!r}"
            )
        return frame


def _has_words(split: Split) -> bool:
    return any(text.strip() for text in split.raw_text) or (
        split.text_bert is not None and bool(split.text_bert[:, 1].any())
    )
