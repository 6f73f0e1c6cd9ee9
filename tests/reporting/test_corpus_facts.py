"""What notebook 01 says of a corpus before any run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mgcl_core.reporting import corpus_facts


@pytest.fixture
def corpus(make_split, make_corpus):
    """20 training clips of 4 videos, whose label is the video's; 6 of 12 validation clips are of those videos."""
    parts = []
    for name, videos in (
        ("train", [0, 1, 2, 3] * 5),
        ("valid", [0, 1, 2, 3, 0, 1, 7, 7, 7, 8, 8, 8]),
        ("test", [9, 0]),
    ):
        split = make_split(len(videos), seed=len(videos))
        ids = tuple(f"v{video}$_${name}{row}" for row, video in enumerate(videos))
        labels = np.array([{0: -1.0, 1: -0.4, 2: 0.4, 3: 1.0}.get(video, 0.0) for video in videos], np.float32)
        parts.append(dataclasses.replace(split, name=name, ids=ids, labels=labels))
    return dataclasses.replace(make_corpus(*parts), notes={"vision_clips_absent": 2, "audio_neg_inf": 5})


def test_videos_that_splits_share_and_what_they_give_away(corpus):
    frame = corpus_facts.videos(corpus)
    assert frame["clips"].tolist() == [12, 2] and frame["videos"].tolist() == [6, 2]
    assert frame["of a training video"].tolist() == [6, 1]
    assert frame["Corr of the video alone"][0] > 0.95 and np.isnan(frame["Corr of the video alone"][1])


def test_splits_without_a_common_video_have_no_such_floor(corpus):
    valid = dataclasses.replace(corpus.valid, ids=tuple(f"other{row}$_$0" for row in range(12)))
    assert corpus_facts.videos(dataclasses.replace(corpus, valid=valid))["Corr of the video alone"].isna().all()


def test_clips_from_the_lowest_label_to_the_highest(corpus):
    frame = corpus_facts.example_clips(corpus.train, 4)
    assert frame["y"].tolist() == sorted(frame["y"]) and len(frame) == 4
    row = corpus.train.ids.index(frame["clip"][0])
    assert frame["audio steps"][0] == corpus.train.audio_mask[row].sum() and "y_A" in frame


def test_what_reading_decided_is_said(corpus):
    notes = corpus_facts.reading(corpus)["note"].tolist()
    assert notes == ["vision is absent in 2 clips", "5 numbers of audio were -inf and became 0"]
    assert "nothing was changed" in corpus_facts.reading(dataclasses.replace(corpus, notes={}))["note"][0]
