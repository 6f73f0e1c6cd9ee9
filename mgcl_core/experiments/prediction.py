"""Predicting another feature file with a finished run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..support.files import atomic
from .runs import load_run


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
    longer than the run's encoders take are cut, and their note says so. Labels are not needed and not looked at. No
    code that lies in the folder of a run or of a text model is run.

    Args:
        directory: of a finished run of MGCL.
        file: a feature file or a known name.
        out: the CSV to write: split, id, prediction, the six unimodal predictions, and a note on what a clip lacks.
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
    frame = load_run(Path(directory)).predict(file, splits=splits, device=device, tokens=tokens, download=download)
    with atomic(Path(out)) as temporary:
        frame.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)
    return frame
