"""What a person should know of a corpus before any run: some clips, what reading decided, what the videos give away."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.preprocessing import OneHotEncoder

from ..data.corpus import Corpus, Split, describe_notes, video_of
from ..data.scaling import unusual_dimensions
from ..trainer import correlation


def example_clips(split: Split, count: int = 5) -> pd.DataFrame:
    """``count`` clips, evenly spread over the split by their labels: words, valid steps, labels."""
    order = np.argsort(split.labels, kind="stable")
    rows = order[np.unique(np.linspace(0, len(split) - 1, count).astype(int))]
    columns = {
        "clip": [split.ids[row] for row in rows],
        "words": [split.raw_text[row] for row in rows],
        "audio steps": split.audio_mask[rows].sum(axis=1),
        "vision steps": split.vision_mask[rows].sum(axis=1),
        "y": split.labels[rows],
    }
    if split.unimodal_labels is not None:
        columns |= {f"y_{m}": split.unimodal_labels[k, rows] for k, m in enumerate("TVA")}
    return pd.DataFrame(columns)


def reading(corpus: Corpus) -> pd.DataFrame:
    """What reading decided and changed, and unusual dimensions, a sentence a row."""
    lines = describe_notes(corpus.notes)
    for row in unusual_dimensions(corpus.train).itertuples():
        lines.append(f"{row.modality}: {row.count} of {row.of} dimensions are {row.kind} (from 0: {row.dimensions})")
    return pd.DataFrame({"note": lines or ["nothing was changed, and no dimension is unusual"]})


def videos(corpus: Corpus) -> pd.DataFrame:
    """Videos that splits share, and what the video alone tells of the sentiment.

    The last is the Corr of a ridge regression of the training labels on the identity of the video, on the validation
    clips: a floor that no system should be proud of. Test labels are not read.
    """
    train = {video_of(clip) for clip in corpus.train.ids}
    rows = []
    for split in (corpus.valid, corpus.test):
        own = [video_of(clip) for clip in split.ids]
        shared = sum(video in train for video in own)
        rows.append({"split": split.name, "clips": len(own), "videos": len(set(own)), "of a training video": shared})
    encoder = OneHotEncoder(handle_unknown="ignore").fit([[video_of(clip)] for clip in corpus.train.ids])
    inputs = {
        split.name: encoder.transform([[video_of(clip)] for clip in split.ids])
        for split in (corpus.train, corpus.valid)
    }
    predicted = Ridge().fit(inputs["train"], corpus.train.labels).predict(inputs["valid"])
    corr = correlation(predicted, np.asarray(corpus.valid.labels)) if rows[0]["of a training video"] else np.nan
    frame = pd.DataFrame(rows)
    frame["Corr of the video alone"] = [corr, np.nan]
    return frame
