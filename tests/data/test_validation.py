"""Every way in which a feature file can break the format is an error that names where and what."""

import copy
import os
import pickle

import numpy as np
import pytest
from helpers.corpus_files import VISION, changed, make_content, write

from mgcl_core.data import load_corpus
from mgcl_core.data.feature_stream import FeatureStream
from mgcl_core.data.loading import with_text
from mgcl_core.data.safe_pickle import read_pickle
from mgcl_core.data.validation import check_file
from mgcl_core.data.values import Location
from mgcl_core.support.errors import CorpusError, MGCLError

CONTENT = make_content()
TRAIN = CONTENT["train"]


def without(split: str) -> dict:
    return {name: value for name, value in CONTENT.items() if name != split}


def altered(split: str, key: str, index, value, content=CONTENT) -> dict:
    """A copy with one number of one array or list replaced."""
    content = copy.deepcopy(content)
    content[split][key][index] = value
    return content


def objects(value) -> np.ndarray:
    array = np.empty(np.shape(value), dtype=object)
    array[...] = value
    return array


# name: (content, split, key, in the message)
BROKEN = {
    "a number": (7, None, None, "a dict of the splits"),
    "a list of numbers": ([1, 2], "test", None, "(words, visual, acoustic), label, segment); found int at clip 0"),
    "no valid split": (without("valid"), None, "valid", "train, test"),
    "other names": ({"training": TRAIN}, None, "train", "training"),
    "a split that is a list": (CONTENT | {"test": []}, "test", None, "found list"),
    "an array as top level": (np.zeros(3), None, None, "found ndarray"),
    "no text_bert": (changed(CONTENT, "valid", text_bert=...), "valid", "text_bert", "found not there"),
    "no labels": (changed(CONTENT, "train", regression_labels=...), "train", "regression_labels", "missing"),
    "no ids": (changed(CONTENT, "train", id=...), "train", "id", "missing"),
    "no label_A": (
        changed(CONTENT, "train", regression_labels_A=...), "train", "regression_labels_A", "all of T, A, V",
    ),
    "unimodal labels in train alone": (
        changed(CONTENT, "valid", **{f"regression_labels_{m}": ... for m in "TAV"}),
        "valid", "regression_labels_T", "found not there",
    ),
    "lengths in train alone": (
        changed(CONTENT, "test", audio_lengths=...), "test", "audio_lengths", "found not there",
    ),
    "text in valid alone": (
        changed(make_content(text=False), "valid", text=CONTENT["valid"]["text"]), "valid", "text", "found there",
    ),
    "audio of rank 2": (changed(CONTENT, "train", audio=TRAIN["audio"][:, 0]), "train", "audio", "(5, 4)"),
    "vision of rank 4": (changed(CONTENT, "test", vision=CONTENT["test"]["vision"][None]), "test", "vision", "rank 3"),
    "two labels a clip": (
        changed(CONTENT, "train", regression_labels=np.ones((5, 2))), "train", "regression_labels", "(5, 2)",
    ),
    "ids of rank 3": (changed(CONTENT, "train", id=np.array([[["a"]]])), "train", "id", "(1, 1, 1)"),
    "numbers as ids of rank 2": (changed(CONTENT, "train", id=np.ones((5, 3))), "train", "id", "(5, 3)"),
    "an integer as a key": (changed(CONTENT, "valid") | {"valid": CONTENT["valid"] | {5: 1}}, "valid", "5", "not text"),
    "audio as nested lists": (changed(CONTENT, "train", audio=TRAIN["audio"].tolist()), "train", "audio", "list"),
    "text_bert without mask": (
        changed(CONTENT, "train", text_bert=TRAIN["text_bert"][:, :2]), "train", "text_bert", "(N, 3, L)",
    ),
    "audio without steps": (
        changed(CONTENT, "train", audio=np.zeros((5, 0, 4), np.float32)), "train", "audio", "(5, 0, 4)",
    ),
    "a negative length": (altered("test", "vision_lengths", 3, -1), "test", "vision_lengths", "0 to 5; found -1"),
    "half a length": (altered("train", "audio_lengths", 0, 1.5), "train", "audio_lengths", "1.5"),
    "lengths as strings": (altered("train", "audio_lengths", 0, "3"), "train", "audio_lengths", "holding str"),
    "lengths as bools": (altered("train", "audio_lengths", 0, True), "train", "audio_lengths", "holding bool"),
    "a NaN length": (altered("train", "audio_lengths", 0, float("nan")), "train", "audio_lengths", "nan"),
    "one audio too few": (changed(CONTENT, "train", audio=TRAIN["audio"][1:]), "train", "audio", "found 4"),
    "one length too many": (
        changed(CONTENT, "train", vision_lengths=[*TRAIN["vision_lengths"], 1]), "train", "vision_lengths", "found 6",
    ),
    "one label too few": (
        changed(CONTENT, "train", regression_labels_V=TRAIN["regression_labels_V"][1:]),
        "train", "regression_labels_V", "5, as in id",
    ),
    "one text too few": (changed(CONTENT, "train", raw_text=TRAIN["raw_text"][1:]), "train", "raw_text", "found 4"),
    "other features in test": (
        changed(CONTENT, "test", audio=np.ones((4, 7, 9), np.float32)), "test", "audio", "(N, 7, 4)",
    ),
    "other steps in valid": (
        changed(CONTENT, "valid", vision=np.ones((3, 9, 6), np.float32)), "valid", "vision", "(N, 5, 6)",
    ),
    "text of other steps": (
        changed(CONTENT, "train", text=np.ones((5, 4, 3), np.float32)), "train", "text", "expected 8; found 4",
    ),
    "a label beyond both schemes": (
        altered("valid", "regression_labels", 2, 3.2), "valid", "regression_labels", "[-3, 3]",
    ),
    "a NaN label": (altered("train", "regression_labels", 0, np.nan), "train", "regression_labels", "nan at clip 0"),
    "a NaN unimodal label": (
        altered("test", "regression_labels_T", 1, np.nan), "test", "regression_labels_T", "nan at clip 1",
    ),
    "an infinite label": (altered("train", "regression_labels", 0, np.inf), "train", "regression_labels", "inf"),
    "NaN in audio": (
        altered("train", "audio", (2, 1, 3), np.nan), "train", "audio", "nan at clip 2, step 1, feature 3 (1 such",
    ),
    "+inf in audio": (altered("train", "audio", (0, 0, 0), np.inf), "train", "audio", "inf at clip 0"),
    "NaN in vision": (altered("valid", "vision", (0, 4, 5), np.nan), "valid", "vision", "nonfinite='zero'"),
    "audio in train alone": (
        changed(CONTENT, "test", audio=..., audio_lengths=...), "test", "audio", "found not there",
    ),
    "no sentence": (
        {name: part | {"raw_text": [None] * len(part["id"]), "text_bert": 0 * part["text_bert"]}
         for name, part in make_content(text=False).items()},
        None, "raw_text", "no clip has a word",
    ),
    "NaN in padding": (altered("train", "audio", (0, -1, 0), np.nan), "train", "audio", "nan"),
    "beyond float32": (
        altered("train", "audio", (0, 0, 0), -1e300, make_content(dtype=np.float64)), "train", "audio", "-1e+300",
    ),
    "object array of features": (changed(CONTENT, "train", audio=objects(TRAIN["audio"])), "train", "audio", "object"),
    "object array of labels": (
        changed(CONTENT, "valid", regression_labels=objects([0.2, 0.4, 0.6])), "valid", "regression_labels", "object",
    ),
    "object array of lengths": (
        changed(CONTENT, "valid", audio_lengths=objects([1, 2, 3])), "valid", "audio_lengths", "object",
    ),
    "object array of mixed ids": (changed(CONTENT, "valid", id=objects(["a", 1, "c"])), "valid", "id", "holding int"),
    "numbers as ids": (changed(CONTENT, "valid", id=[1, 2, 3]), "valid", "id", "holding int"),
    "a string as ids": (changed(CONTENT, "valid", id="abc"), "valid", "id", "str"),
    "string features": (changed(CONTENT, "train", vision=np.full((5, 5, 6), "x")), "train", "vision", "<U1"),
    "an empty split": (CONTENT | {"valid": {key: value[:0] for key, value in CONTENT["valid"].items()}},
                       "valid", "id", "at least one clip"),
    "a clip twice": (altered("train", "id", 1, TRAIN["id"][0]), "train", "id", "twice"),
    "a leak": (altered("test", "id", 1, TRAIN["id"][0]), "test", "id", "leak"),
    "a mask of 2": (altered("train", "text_bert", (1, 1, 0), 2), "train", "text_bert", "mask"),
    "half a token": (altered("train", "text_bert", (1, 0, 0), 7.5), "train", "text_bert", "7.5 at clip 1, step 0"),
    "a negative token": (altered("train", "text_bert", (1, 0, 0), -1), "train", "text_bert", "token id"),
    "a NaN token": (altered("train", "text_bert", (1, 0, 0), np.nan), "train", "text_bert", "nan"),
    "a token type of 7": (altered("train", "text_bert", (1, 2, 0), 7), "train", "text_bert", "token type"),
    "half a surrogate pair": (altered("train", "raw_text", 1, "\ud800"), "train", "raw_text", "Unicode"),
    "bytes that are no UTF-8": (
        changed(CONTENT, "valid", raw_text=np.array([b"a", b"\xff", b"c"])), "valid", "raw_text", "Unicode",
    ),
    "code points that are none": (
        changed(CONTENT, "valid", raw_text=np.full(3, 2**31 - 1, "<i4").view("<U1")), None, None, "code points",
    ),
    "texts longer than the file": (
        changed(CONTENT, "train", raw_text=["x" * 10_000] * 5), "train", "raw_text", "expected up to",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_that_says_where_and_what(tmp_path, name):
    content, split, key, text = BROKEN[name]
    path = write(tmp_path / "broken.pkl", content)
    with pytest.raises(CorpusError) as caught:
        load_corpus(path, cache_dir=tmp_path / "cache")
    error = caught.value
    assert (error.file, error.split, error.key) == (path, split, key)
    assert error.expected is not None and error.found is not None
    assert text in str(error)
    assert isinstance(error, MGCLError)
    assert not [left for left in (tmp_path / "cache").rglob("*") if left.name == "building"]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_text_is_checked_when_it_is_read(tmp_path, value):
    path = write(tmp_path / "a.pkl", altered("test", "text", (0, 1, 2), value))
    with pytest.raises(CorpusError, match="at clip 0, step 1, feature 2") as caught:
        with_text(load_corpus(path, cache_dir=tmp_path))
    assert (caught.value.file, caught.value.split, caught.value.key) == (path, "test", "text")
    text = with_text(load_corpus(path, nonfinite="zero", cache_dir=tmp_path)).test.text
    assert text[0, 1, 2] == 0 and np.isfinite(text).all() and text[0, 1, 1] == CONTENT["test"]["text"][0, 1, 1]


SCALES = {  # labels, in the message
    "0 to 1": ([0, 0.25, 0.5, 1, 0.75], "none is negative.*subtract 0.5, the middle of the scale"),
    "0 to 3": ([0, 1, 2, 3, 3], "none is negative.*subtract 1.5"),
    "1 to 5": ([1, 2, 3, 4, 5], "out of range.*subtract 3, the middle of these"),
    "classes": ([-1, 0, 1, 1, 0], "three classes"),
}


@pytest.mark.parametrize("name", SCALES)
def test_labels_of_another_scale_are_refused_unless_a_scheme_is_given(tmp_path, name):
    labels, message = SCALES[name]
    content = make_content("mosi")
    for split in content.values():
        split["regression_labels"] = [float(label) for label in labels[-len(split["id"]) :]]
    path = write(tmp_path / "a.pkl", content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(path, cache_dir=tmp_path)
    assert caught.value.key == "regression_labels"
    if name == "1 to 5":  # beyond every scheme
        with pytest.raises(CorpusError, match=message):
            load_corpus(path, "mosi", cache_dir=tmp_path)
    else:
        corpus = load_corpus(path, "mosi", cache_dir=tmp_path)
        assert corpus.scheme == "mosi" and corpus.train.labels.tolist() == labels


@pytest.mark.parametrize(("scheme", "limit"), [("sims", 1), ("mosi", 3)])
@pytest.mark.parametrize("key", ["regression_labels", "regression_labels_A"])
def test_labels_must_fit_the_given_scheme(tmp_path, scheme, limit, key):
    content = altered("test", key, 0, -limit)
    assert load_corpus(write(tmp_path / "fits.pkl", content), scheme, cache_dir=tmp_path).scheme == scheme
    path = write(tmp_path / "broken.pkl", altered("test", key, 0, -limit - 0.2))
    with pytest.raises(CorpusError) as caught:
        load_corpus(path, scheme, cache_dir=tmp_path)
    assert (caught.value.split, caught.value.key) == ("test", key)
    assert f"[-{limit}, {limit}]" in str(caught.value)


def test_unknown_keys_are_ignored(tmp_path):
    content = changed(CONTENT, "train", notes={"a": [1]}, more=objects([1, None]))
    content["readme"] = "text"
    assert len(load_corpus(write(tmp_path / "a.pkl", content), cache_dir=tmp_path).train) == 5


def test_annotations_and_classes_are_optional(tmp_path):
    content = CONTENT
    for split in CONTENT:
        content = changed(content, split, annotations=..., classification_labels=...)
    assert len(load_corpus(write(tmp_path / "a.pkl", content), cache_dir=tmp_path).train) == 5


def test_a_truncated_file_says_so(tmp_path):
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=4)[:-1000])
    with pytest.raises(CorpusError, match="truncated"):
        load_corpus(path, cache_dir=tmp_path / "cache")


def test_padding_may_hold_anything_finite_where_lengths_are_given_precedence(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["train"]["vision"][:] = 1
    corpus = load_corpus(write(tmp_path / "a.pkl", content), lengths="file", cache_dir=tmp_path)
    assert corpus.train.vision_mask.sum(axis=1).tolist() == TRAIN["vision_lengths"]
    assert corpus.train.vision.shape == (5, *VISION)


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    """Its features are views of the mapped file, and to read beyond its end would be a signal."""
    monkeypatch.setattr("mgcl_core.data.feature_stream.CHUNK_BYTES", 1)  # a chunk a clip
    path = write(tmp_path / "file.pkl", make_content())
    source = check_file(read_pickle(path), path)["train"].features["audio"]
    chunks = FeatureStream(source, "audio", Location(path, "train")).chunks()
    next(chunks)
    os.truncate(path, 100)
    with pytest.raises(CorpusError, match="changed while it was read.*100 bytes"):
        next(chunks)
