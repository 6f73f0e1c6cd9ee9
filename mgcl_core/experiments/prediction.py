"""Predicting another feature file with a finished run."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import Config
from ..data import load_clips
from ..data.batches import DeviceSplit
from ..data.corpus import BOUNDS, Split, describe_notes
from ..data.text_model import describe_source, local_files_only, text_model_sha256
from ..support.devices import choose_device
from ..support.errors import ConfigError, RunError
from ..support.files import atomic
from ..trainer import predict
from .frozen_features import encode_frozen
from .runs import UNIMODAL_COLUMNS, Run, load_run
from .splits import shapes_of
from .stages import MGCLStage
from .text_input import check_text_input, encoded_width, text_tokens

log = logging.getLogger(__name__)

_MOST_CLIPS = 256  # of a batch, whatever a stranger's run says


def predict_file(
    directory: Path | str,
    file: Path | str,
    *,
    out: Path | str,
    splits: Sequence[str] = (),
    device: str = "auto",
    tokens: str | None = None,
    download: bool = False,
) -> pd.DataFrame:
    """Predict every clip of ``file`` with the finished MGCL run in ``directory`` and write a CSV.

    Scaling, vocabulary and encoders are those of the run, and the file is checked as a corpus to train on is. Clips
    longer than the run's encoders take are cut, which is logged. Labels are not needed and not looked at. No code that
    lies in the folder of a run or of a text model is run.

    Args:
        directory: of a finished run of MGCL.
        file: a feature file or a known name.
        out: the CSV to write: split, id, prediction, and the six unimodal predictions.
        splits: which splits of the file; all of them by default.
        device: "auto", "cpu", "cuda" …
        tokens: "file" for its own ``text_bert``, "raw_text" for the sentences, tokenised; as in the run when None.
        download: let a text model be fetched from the hub; otherwise it must be on this machine.

    Raises:
        ConfigError: the text model is not on this machine, or asks to run code of its own.
        RunError: no finished MGCL run, one whose files are damaged, a split that the file lacks, or a prediction that
            is not finite.
        CorpusError: the file is broken, its features are not as wide as those the run was trained on, or its token
            ids are of another vocabulary.
    """
    with contextlib.nullcontext() if download else local_files_only():
        frame = _predict(load_run(Path(directory)), file, splits, choose_device(device), tokens)
    with atomic(Path(out)) as temporary:
        frame.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)
    return frame


def cut_to_fit(split: Split, config: Config) -> Split:
    """Clips with at most as many steps as the encoders of ``config`` take; how many are longer is logged."""
    steps = {"audio": config.audio_steps, "vision": config.vision_steps}
    if not config.reads_words:
        steps["text"] = config.text_steps
    split, notes = split.cut(**steps)
    for line in describe_notes(notes):
        log.info("%s: %s", split.name, line)
    return split


def _predict(
    run: Run, file: Path | str, splits: Sequence[str], device: torch.device, tokens: str | None
) -> pd.DataFrame:
    if not isinstance(run.stage, MGCLStage):
        raise RunError(f"{run.name} is a run of {run.stage.name!r}: predictions need a run of MGCL")
    config = run.config if tokens is None else run.config.override({"tokens": tokens})
    record = run.record()
    if config.reads_words:
        name, trained_with = config.text_model, record["text_model"].get("sha256")
        if text_model_sha256(name) != trained_with:
            raise ConfigError(f"{run.name}: the text model {name!r} is not the one that the run was trained with: "
                              f"SHA-256 {text_model_sha256(name)}, not {trained_with}")  # fmt: skip
    text = describe_source(config.text_model) if config.reads_words else "none, it reads features of the text"
    log.info("%s on %s; text model: %s", run.name, device, text)
    chosen = load_clips(
        file,
        audio_dim=config.audio_dim,
        vision_dim=config.vision_dim,
        text_dim=None if config.reads_words else config.text_dim,
        splits=splits,
        lengths=config.lengths,
        nonfinite=config.nonfinite,
    )
    chosen = {name: cut_to_fit(split, config) for name, split in chosen.items()}
    check_text_input(list(chosen.values()), config, Path(file))
    scaler = run.scaler()
    source = record["corpus"]
    shapes = shapes_of(
        config,
        bound=BOUNDS[source["scheme"]],
        clips=source["clips"][0],
        text_dim=encoded_width(config),
        text_steps=0,  # MGCL takes any number of tokens
    )
    system = run.build(shapes, device, trained=True)
    frozen = {parent.stage.encoder: parent.build(shapes, device, trained=True).encoder for parent in run.frozen_parents}
    schedule = run.stage.schedule
    schedule = dataclasses.replace(schedule, batch_size=min(schedule.batch_size, _MOST_CLIPS))
    frames = []
    for name, clip_split in chosen.items():
        split = DeviceSplit(clip_split, device, scaler=scaler, labelled=False, tokens=text_tokens(clip_split, config))
        for encoder_name, encoder in frozen.items():
            features = encode_frozen(encoder, encoder_name, split, config)
            split.features.update({key: values.to(device) for key, values in features.items()})
        outputs = predict(system, split, schedule)
        frames.append(
            pd.DataFrame(
                {
                    "split": name,
                    "id": split.ids,
                    "prediction": outputs["prediction"],
                    **dict(zip(UNIMODAL_COLUMNS, outputs["unimodal"], strict=True)),
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    bad = frame["id"][~np.isfinite(frame.drop(columns=["split", "id"])).all(axis=1)]
    if len(bad):
        raise RunError(
            f"{run.name}: {len(bad)} of {len(frame)} clips of {file} have a prediction that is not finite, "
            f"the first {bad.iloc[0]!r}"
        )
    return frame
