"""load_corpus: names and places, the ways files were written, masks, label schemes, hashes."""

import copy
import hashlib
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.corpus_files import AUDIO, VISION, changed, make_content, with_numpy_names, write

from mgcl_core.data import load_corpus, synthetic
from mgcl_core.data.loading import SHA256
from mgcl_core.support.errors import ConfigError, CorpusError
from mgcl_core.support.paths import data_directory, project_root


@pytest.fixture
def load(tmp_path):
    def load(content, scheme=None, protocol=4):
        return load_corpus(write(tmp_path / "file.pkl", content, protocol), scheme, cache_dir=tmp_path / "cache")

    return load


def assert_equals(corpus, content):
    """Compares with a conversion written out by hand."""
    for split in corpus.splits:
        raw = content[split.name]
        count = len(raw["id"])
        assert len(split) == count
        assert list(split.ids) == raw["id"] and all(type(clip) is str for clip in split.ids)
        assert list(split.raw_text) == raw["raw_text"]
        assert split.text_bert.dtype == np.int64
        assert np.array_equal(split.text_bert, raw["text_bert"])
        for key in ("audio", "vision", "text"):
            assert getattr(split, key).dtype == np.float32
            assert np.array_equal(getattr(split, key), raw[key].astype(np.float32))
        for key, mask in (("audio", split.audio_mask), ("vision", split.vision_mask)):
            assert mask.dtype == bool
            for clip, length in enumerate(raw[f"{key}_lengths"]):
                assert mask[clip].tolist() == [step < length for step in range(raw[key].shape[1])]
        assert split.labels.dtype == np.float32
        assert np.array_equal(split.labels, np.float32(raw["regression_labels"]))
        for index, modality in enumerate("TVA"):
            assert np.array_equal(split.unimodal_labels[index], np.float32(raw[f"regression_labels_{modality}"]))


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_protocols_numpy_names_and_precisions(tmp_path, protocol, dtype, core):
    content = make_content(dtype=dtype)
    path = tmp_path / "file.pkl"
    data = with_numpy_names(pickle.dumps(content, protocol=protocol), core)
    assert (b"_codecs" in data) == (protocol == 2)
    path.write_bytes(data)
    assert_equals(load_corpus(path, cache_dir=tmp_path), content)


def test_lists_arrays_and_string_arrays_are_read_the_same(load):
    content = make_content()
    other = copy.deepcopy(content)
    for split in other.values():
        split["id"] = np.array(split["id"])
        split["raw_text"] = np.array(split["raw_text"], dtype=object)
        split["audio_lengths"] = np.array(split["audio_lengths"], dtype=np.int32)
        split["vision_lengths"] = [np.int64(length) for length in split["vision_lengths"]]
        split["regression_labels"] = [float(label) for label in split["regression_labels"]]
        split["regression_labels_T"] = [np.float32(label) for label in split["regression_labels_T"]]
        split["text_bert"] = split["text_bert"].astype(np.int64)
    assert_equals(load(other), content)
    for split in other.values():
        split["id"] = np.array([clip.encode() for clip in split["id"].tolist()])
        split["raw_text"] = tuple(np.str_(text) for text in split["raw_text"])
        split["audio_lengths"] = split["audio_lengths"].astype(np.float64)
        split["audio"] = np.asfortranarray(split["audio"])
        split["vision"] = split["vision"].astype(">f8")
    assert_equals(load(other), content)


def test_text_is_optional(load):
    assert load(make_content(text=False)).train.text is None


def test_masks_without_lengths_end_at_the_last_step_that_is_not_zero(load):
    content = make_content(lengths=False)
    audio = np.zeros((5, *AUDIO), np.float32)
    audio[0, [1, 4], 2] = 1  # zero steps at the start and inside are data
    audio[1, 0, 0] = -np.inf  # so is silence
    audio[2, -1, -1] = 1e-30
    audio[3] = 1
    corpus = load(changed(content, "train", audio=audio))
    assert corpus.train.audio_mask.sum(axis=1).tolist() == [5, 1, AUDIO[0], AUDIO[0], 0]
    assert corpus.train.audio_mask[0].tolist() == [True] * 5 + [False] * 2
    assert corpus.notes == {"audio_neg_inf": 1}


def test_a_length_of_zero_is_a_modality_that_is_absent(load):
    content = make_content()
    content["train"]["audio_lengths"][2] = 0
    assert not load(content).train.audio_mask[2].any()


def test_audio_minus_infinity_becomes_zero_and_is_counted(load, caplog):
    content = make_content(dtype=np.float64)
    content["train"]["audio"][0, 0, :3] = -np.inf
    content["test"]["audio"][1, 2, 0] = -np.inf
    with caplog.at_level(logging.INFO, "mgcl_core"):
        corpus = load(content)
    assert corpus.notes == {"audio_neg_inf": 4}
    assert "4 audio numbers were -inf" in caplog.text
    assert corpus.train.audio[0, 0].tolist() == [0, 0, 0, np.float32(content["train"]["audio"][0, 0, 3])]
    assert np.isfinite(corpus.test.audio).all()


def test_features_are_checked_in_chunks_as_if_whole(load, monkeypatch):
    monkeypatch.setattr("mgcl_core.data.validation.CHUNK_BYTES", 1)  # a chunk a clip
    content = make_content(lengths=False)
    content["train"]["audio"][4, 0, 0] = -np.inf
    corpus = load(content)
    expected = [int(np.flatnonzero(clip.any(axis=1)).max()) + 1 for clip in content["train"]["vision"]]
    assert corpus.train.vision_mask.sum(axis=1).tolist() == expected
    assert corpus.notes == {"audio_neg_inf": 1}
    content["test"]["audio"][3, 2, 1] = np.nan
    with pytest.raises(CorpusError, match="nan at clip 3, step 2, feature 1"):
        load(content)


def test_aligned_means_no_lengths_and_equal_steps(load):
    content = make_content(lengths=False)
    assert not load(content).aligned
    for split in content.values():
        count = len(split["id"])
        split |= {"audio": np.ones((count, 8, 4)), "vision": np.ones((count, 8, 6))}
    assert load(content).aligned
    for split in content.values():
        split |= {f"{key}_lengths": [8] * len(split["id"]) for key in ("audio", "vision")}
    assert not load(content).aligned


def test_labels_of_one_scheme_have_no_unimodal_labels_in_the_other(load):
    corpus = load(make_content("mosi"))
    assert corpus.train.unimodal_labels is None
    assert corpus.bound == 3


def test_the_labels_range_decides_the_scheme_and_it_is_logged(load, caplog):
    with caplog.at_level(logging.INFO, "mgcl_core"):
        assert load(make_content("sims")).scheme == "sims"
        assert load(make_content("mosi")).scheme == "mosi"
        assert load(make_content("sims"), "mosi").scheme == "mosi"
    decisions = [record.message for record in caplog.records if "label scheme" in record.message]
    assert decisions == [
        "file: label scheme 'sims', [-1, 1], by the range of its labels",
        "file: label scheme 'mosi', [-3, 3], by the range of its labels",
        "file: label scheme 'mosi', [-3, 3], as given",
    ]


def test_one_label_beyond_one_makes_it_the_wide_scheme(load):
    content = make_content("sims")
    content["test"]["regression_labels_V"][0] = 1.2
    assert load(content).scheme == "mosi"


def test_an_unknown_scheme_names_the_nearest(load):
    with pytest.raises(ConfigError, match="did you mean 'mosi'"):
        load(make_content(), "mossi")


@pytest.mark.parametrize(
    ("name", "file", "corpus_name", "scheme", "language"),
    [
        ("sims", "CH-SIMS/unaligned_39.pkl", "CH-SIMS", "sims", "Chinese"),
        ("MOSI", "CMU-MOSI/unaligned_50.pkl", "CMU-MOSI", "mosi", "English"),
        ("cmu-mosei", "CMU-MOSEI/unaligned_50.pkl", "CMU-MOSEI", "mosi", "English"),
    ],
)
def test_known_names_have_files_schemes_and_hashes(tmp_path, caplog, name, file, corpus_name, scheme, language):
    with pytest.raises(CorpusError, match="README") as caught:
        load_corpus(name, data_dir=tmp_path)
    assert caught.value.file == tmp_path / file
    (tmp_path / file).parent.mkdir()
    path = write(tmp_path / file, make_content("sims"))
    with caplog.at_level(logging.WARNING, "mgcl_core"):
        corpus = load_corpus(name, data_dir=tmp_path)
    assert (corpus.name, corpus.scheme, corpus.language) == (corpus_name, scheme, language)
    assert (corpus.path, corpus.synthetic) == (path, False)
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpus.sha256 in caplog.text and SHA256[file] in caplog.text
    assert (tmp_path / ".cache").is_dir()


def test_the_published_file_draws_no_warning(tmp_path, caplog, monkeypatch):
    (tmp_path / "CMU-MOSI").mkdir()
    path = write(tmp_path / "CMU-MOSI/aligned_50.pkl", make_content("mosi"))
    monkeypatch.setitem(SHA256, "CMU-MOSI/aligned_50.pkl", hashlib.sha256(path.read_bytes()).hexdigest())
    with caplog.at_level(logging.WARNING, "mgcl_core"):
        assert load_corpus(path, data_dir=tmp_path).name == "CMU-MOSI-aligned_50"
    assert not caplog.records


def test_an_unknown_name_names_the_nearest(tmp_path):
    with pytest.raises(CorpusError, match="did you mean 'mosei'"):
        load_corpus("moseii", data_dir=tmp_path)
    with pytest.raises(CorpusError, match="no corpus and no file"):
        load_corpus(tmp_path / "missing.pkl", data_dir=tmp_path)
    with pytest.raises(CorpusError, match="folder"):
        load_corpus(tmp_path, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("context_8.pkl", "context_8"),
        ("MOSI/Processed/unaligned_50.pkl", "MOSI-unaligned_50"),
        ("mine/features.pkl", "mine-features"),
    ],
)
def test_a_corpus_is_named_by_its_files_stem_unless_that_says_nothing(tmp_path, file, name):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    assert load_corpus(str(write(path, make_content())), data_dir=tmp_path).name == name


@pytest.mark.parametrize(("name", "scheme"), [("demo", "sims"), ("demo-mosi", "mosi")])
def test_the_demo_corpora_are_generated_once(tmp_path, monkeypatch, name, scheme):
    (tmp_path / "demo").mkdir()
    stale = tmp_path / "demo" / f"{name}.v-old.pkl"
    stale.write_bytes(b"")
    corpus = load_corpus(name.upper(), data_dir=tmp_path)
    assert (corpus.name, corpus.scheme, corpus.synthetic) == (name, scheme, True)
    assert corpus.language == "English (synthetic)"
    assert (corpus.train.unimodal_labels is not None) == (scheme == "sims")
    assert not stale.exists()
    monkeypatch.setattr(synthetic, "write_corpus", None)  # calling it again would fail
    again = load_corpus(name, data_dir=tmp_path)
    assert again.sha256 == corpus.sha256
    assert [path.suffix for path in (tmp_path / "demo").iterdir() if path.name.startswith(f"{name}.v")] == [".pkl"]


def test_a_data_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "demo").write_text("a file where a folder should be")
    with pytest.raises(CorpusError, match="MGCL_DATA"):
        load_corpus("demo", data_dir=tmp_path)


def test_project_and_data_folders_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MGCL_ROOT", raising=False)
    monkeypatch.delenv("MGCL_DATA", raising=False)
    assert project_root() == Path(__file__).resolve().parents[2]
    assert data_directory() == project_root() / "data"
    monkeypatch.setenv("MGCL_ROOT", str(tmp_path))
    assert (project_root(), data_directory()) == (tmp_path, tmp_path / "data")
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "elsewhere"))
    assert data_directory() == tmp_path / "elsewhere"
    with pytest.raises(CorpusError, match="elsewhere"):
        load_corpus("sims")


def test_arrays_cannot_be_written_to(load):
    split = load(make_content()).train
    for array in (split.audio, split.vision_mask, split.labels, split.text_bert, split.unimodal_labels):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_vision_keeps_its_shape(load):
    assert load(make_content()).test.vision.shape == (4, *VISION)
