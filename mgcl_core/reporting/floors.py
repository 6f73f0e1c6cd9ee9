"""Text-only floors as they are shown: percent, intervals, and the paper's rows where the test clips are its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.corpus import video_of
from ..experiments.text_floors import Sentences, floors, knows_language, read_sentences
from ..metrics import METRIC_NAMES
from .published import SCHEMES, paper_file, paper_models, paper_text
from .tables import COLUMNS
from .wording import interval_text, number_text

#: Taken where no text model is named and its language is that of the sentences.
DEFAULT = "minilm"


def report(source: str, text_models: Sequence[str], device: str, out: Path | None) -> str:
    """What ``mgcl floors`` prints: `floors_table` of ``source``, and what it rests on.

    Args:
        source: for `read_sentences`.
        text_models: frozen encoders; none: `DEFAULT`, where it knows the language.
        device: for `floors`.
        out: a CSV for the numbers in full.

    Raises:
        CorpusError, ConfigError: a file or a text model that cannot be read, or one of another language.
    """
    sentences = read_sentences(source)
    default = [DEFAULT] if knows_language(DEFAULT, sentences.texts["train"]) else []
    found = floors(sentences, text_models or default, device)
    if out is not None:
        found.to_csv(out)
    ids, dataset = sentences.ids["test"], paper_dataset_of(sentences)
    synthetic = "synthetic " if sentences.synthetic else ""
    lines = [
        floors_table(sentences, found).to_string(),
        f"{len(ids)} test clips of {len(set(map(video_of, ids)))} videos of {synthetic}{sentences.name!r}, "
        + (f"the paper's own of {dataset}" if dataset else "not the paper's")
        + "; Acc and F1 in percent. Fitted on train, the penalty chosen by validation MAE; in brackets the 95 % "
        "interval for other videos.",
    ]
    if not text_models and not default:
        lines.append(f"{DEFAULT} does not know the language: --text-model names an encoder that does.")
    return "\n".join(lines)


def paper_dataset_of(sentences: Sentences) -> str | None:
    """The dataset of the paper whose test clips these are, by their number, videos' number and signs of the labels."""
    labels, ids = sentences.labels["test"], sentences.ids["test"]
    own = (len(ids), len(set(map(video_of, ids))), *_signs(labels))
    sets = paper_file("test_sets").set_index("dataset").astype(int)
    return next((name for name, row in sets.iterrows() if tuple(row) == own), None)


def floors_table(sentences: Sentences, floors: pd.DataFrame) -> pd.DataFrame:
    """The floors, each with its 95 % interval, and below them the paper's rows as printed, if they are of these clips.

    Args:
        sentences: that the floors are of.
        floors: of `mgcl_core.experiments.text_floors.floors`.
    """
    metrics = COLUMNS[sentences.scheme]
    rows = {}
    for floor, row in floors.iterrows():
        cells = [{"metric": m, "mean": row[m], "low": row[f"{m}_low"], "high": row[f"{m}_high"]} for m in metrics]
        rows[floor] = {
            c["metric"]: f"{number_text(c['metric'], c['mean'])} {interval_text(c, 'low', 'high')}" for c in cells
        }
    dataset = paper_dataset_of(sentences)
    if dataset is not None:
        number = 3 if SCHEMES[dataset] == "sims" else 4
        for model, printed in paper_models(number).items():
            texts = {m: paper_text(number, dataset, model, m) for m in metrics}
            rows[f"{printed}, paper"] = {m: (text or "-").replace("-", "–") for m, text in texts.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename(columns=METRIC_NAMES).rename_axis("row")
    return frame[[METRIC_NAMES[m] for m in metrics]]


def _signs(labels: np.ndarray) -> tuple[int, int, int]:
    return tuple(int(count) for count in ((labels < 0).sum(), (labels == 0).sum(), (labels > 0).sum()))
