"""Clips that a person hands over: as a feature file would hold them, and the notes on them."""

import dataclasses
import re

import numpy as np
import pytest

from mgcl_core.data import load_corpus
from mgcl_core.data.own_clips import as_feature_file, cut_notes, feature_file, text_notes, unlike_training
from mgcl_core.data.scaling import Scaler
from mgcl_core.data.text_model import tokenize
from mgcl_core.support.errors import CorpusError

STEPS = np.arange(12.0).reshape(4, 3)


def test_a_sentence_alone_has_no_audio_and_no_vision():
    assert feature_file("a good film") == {"test": {"id": ["clip 1"], "raw_text": ["a good film"]}}


@pytest.mark.parametrize("given", [STEPS, STEPS[None], [STEPS], STEPS.tolist()])
def test_one_clip_may_come_as_steps_or_as_a_list_of_clips(given):
    split = feature_file(audio=given)["test"]
    np.testing.assert_array_equal(split["audio"], STEPS[None])
    assert split["audio_lengths"].tolist() == [4] and split["raw_text"] == [""] and "vision" not in split


def test_clips_of_several_lengths_are_padded_and_one_may_be_absent():
    split = feature_file(["a", "b", "c"], vision=[STEPS, None, STEPS[:2]])["test"]
    assert split["vision"].shape == (3, 4, 3) and split["vision_lengths"].tolist() == [4, 0, 2]
    np.testing.assert_array_equal(split["vision"][2, :2], STEPS[:2])
    assert not split["vision"][1].any() and not split["vision"][2, 2:].any()


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "no clips"),
        ({"text": ["a", "b"], "audio": STEPS}, "not as many of each.*'text': 2, 'audio': 1"),
        ({"audio": [STEPS, STEPS[:, :2]]}, "'audio'.*arrays .L, D. of one D"),
        ({"audio": np.zeros((2, 3, 4, 5))}, "'audio'.*arrays .L, D. of one D"),
    ],
)
def test_what_does_not_fit_together_is_an_error(given, message):
    with pytest.raises(CorpusError, match=message):
        feature_file(**given)


def test_a_dict_may_be_one_split_without_ids():
    whole = {"valid": {"id": ["x"], "raw_text": ["a"]}}
    assert as_feature_file(whole) == whole
    assert as_feature_file({"raw_text": ["a", "b"]})["test"] == {"id": ["clip 1", "clip 2"], "raw_text": ["a", "b"]}
    assert as_feature_file({"audio": STEPS[None], "id": ["mine"]})["test"]["id"] == ["mine"]


def test_longer_clips_are_noted(make_split):
    split = make_split(6)
    steps = split.audio_mask.sum(axis=1)
    notes = cut_notes(split, {"audio": 4, "vision": 7})
    assert notes == {
        split.ids[row]: [f"audio cut to its first 4 of {count} steps"] for row, count in enumerate(steps) if count > 4
    }
    assert notes


def test_unknown_words_and_cut_sentences_are_noted(make_split, tiny_bert):
    texts = ("a good film", "a strange film", "good " * 30)
    split = dataclasses.replace(make_split(3), raw_text=texts)
    notes = text_notes(split, tokenize(tiny_bert, texts, 10), tiny_bert, own_ids=False)
    assert set(notes) == {split.ids[1], split.ids[2]}
    assert "1 of 5 word pieces unknown" in notes[split.ids[1]][0]
    assert notes[split.ids[2]] == ["text cut to its first 10 of 32 word pieces"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda audio: audio, None),
        (lambda audio: audio * np.array([1, 1, 1000, 1], np.float32), r"audio: 1 of 4 dimensions \(from 0: 2\)"),
        (lambda audio: audio + 50, r"audio: 4 of 4 dimensions \(from 0: 0, 1, 2, 3\)"),
        (lambda audio: audio / 1000, "audio: all 4 dimensions vary by less than a twentieth"),
    ],
)
def test_features_of_another_scale_are_named_by_dimension(make_split, change, message):
    train, other = make_split(60), make_split(40, seed=1)
    changed = dataclasses.replace(other, audio=change(other.audio))
    found = unlike_training(changed, Scaler.fit(train))
    assert len(found) == (message is not None)
    if message:
        assert re.match(message, found[0])


def test_features_of_real_clips_are_those_that_were_trained_on(shared_data, tmp_path):
    """Neither all of them together nor a single clip is called unlike the training clips."""
    corpus = load_corpus(shared_data / "CMU-MOSI" / "context_8.pkl", cache_dir=tmp_path)
    scaler = Scaler.fit(corpus.train)
    assert unlike_training(corpus.valid, scaler) == [] and unlike_training(corpus.test, scaler) == []
    named = [bool(unlike_training(corpus.test.take(np.array([row])), scaler)) for row in range(len(corpus.test))]
    assert not any(named)
