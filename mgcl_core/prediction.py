"""Predicting another feature file with a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .batching import DeviceSplit, Scaler
from .corpus import load_clips
from .corpus.data import BOUNDS
from .errors import RunError, nearest
from .files import atomic
from .model import encode_frozen, frozen_encoders
from .runs import SCALER, UNIMODAL_COLUMNS, build_system, choose_device, load_run, schedule_of, shapes_of
from .text import corpus_tokens, text_width
from .trainer import predict


def predict_file(directory: Path | str, file: Path | str, *, out: Path | str, splits: Sequence[str] = (),
                 device: str = "auto") -> pd.DataFrame:
    """Predict every clip of ``file`` with the finished MGCL run in ``directory`` and write a CSV.

    Scaling, vocabulary and encoders are those of the run. Labels are not needed and not looked at.

    Args:
        directory: of a finished run of MGCL.
        file: a feature file or a known name.
        out: the CSV to write: split, id, prediction, and the six unimodal predictions.
        splits: which splits of the file; all of them by default.
        device: "auto", "cpu", "cuda" …

    Raises:
        RunError: no finished MGCL run, or a split that the file lacks.
        CorpusError: the file is broken, or its features are not as wide as those the run was trained on.
    """
    run = load_run(Path(directory))
    if run.stage != "mgcl":
        raise RunError(f"{run.name} is a run of {run.stage!r}: predictions need a run of MGCL")
    chosen = choose_device(device)
    clips = load_clips(file, audio_dim=run.config.audio_dim, vision_dim=run.config.vision_dim)
    for name in splits:
        if name not in clips:
            raise RunError(f"{file} has no split {name!r}: {nearest(name, clips)}")
    scaler = Scaler.load(run.directory / SCALER) if run.config.normalize else None
    source = run.record()["corpus"]
    shapes = shapes_of(run, bound=BOUNDS[source["scheme"]], clips=source["clips"][0],
                       text_dim=text_width(run.config.text_model), text_steps=0)  # MGCL takes any number of tokens
    system, schedule = build_system(run, shapes=shapes, device=chosen, trained=True), schedule_of(run)
    frozen = {parent.stage: build_system(parent, shapes=shapes, device=chosen, trained=True).encoder
              for parent in run.parents if parent.stage in frozen_encoders(run.config)}
    frames = []
    for name in splits or clips:
        split = DeviceSplit(clips[name], chosen, scaler=scaler, labelled=False,
                            tokens=corpus_tokens(clips[name], run.config.text_model, run.config.tokens))
        for stage, encoder in frozen.items():
            split.features.update({key: values.to(chosen) for key, values in
                                   encode_frozen(encoder, stage, split, run.config).items()})
        outputs = predict(system, split, schedule)
        frames.append(pd.DataFrame({"split": name, "id": split.ids, "prediction": outputs["prediction"],
                                    **dict(zip(UNIMODAL_COLUMNS, outputs["unimodal"], strict=True))}))
    frame = pd.concat(frames, ignore_index=True)
    with atomic(Path(out)) as temporary:
        frame.to_csv(temporary, index=False)
    return frame
