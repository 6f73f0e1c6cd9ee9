"""load_corpus: names and places, the ways files were written, masks, label schemes, hashes."""

import copy
import hashlib
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.corpus_files import AUDIO, VISION, changed, make_content, with_numpy_names, write

from mgcl_core.data import load_clips, load_corpus, synthetic
from mgcl_core.data.known_files import PUBLISHED, SHA256
from mgcl_core.data.loading import with_text
from mgcl_core.support.errors import ConfigError, CorpusError
from mgcl_core.support.paths import data_directory, project_root


@pytest.fixture
def load(tmp_path):
    def load(content, scheme=None, protocol=4, **options):
        path = write(tmp_path / "file.pkl", content, protocol)
        return load_corpus(path, scheme, cache_dir=tmp_path / "cache", **options)

    return load


def assert_equals(corpus, content):
    """Compares with a conversion written out by hand."""
    for split in with_text(corpus).splits:
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
    corpus = load(make_content(text=False))
    assert corpus.text_dim is None and with_text(corpus) is corpus and corpus.train.text is None


def test_without_lengths_a_clip_runs_from_its_first_to_its_last_step_that_is_not_zero(load):
    content = make_content(lengths=False)
    audio = np.zeros((5, *AUDIO), np.float32)
    audio[0, [1, 4], 2] = 1  # zero steps inside are data, those in front are padding
    audio[1, 0, 0] = -np.inf  # so is silence
    audio[2, -1, -1] = 1e-30
    audio[3] = 1
    corpus = load(changed(content, "train", audio=audio))
    assert corpus.train.audio_mask.sum(axis=1).tolist() == [4, 1, 1, AUDIO[0], 0]
    assert corpus.train.audio_mask[0].tolist() == [True] * 4 + [False] * 3
    assert corpus.train.audio[0, :, 2].tolist() == [1, 0, 0, 1, 0, 0, 0]
    assert corpus.train.audio[2, :, -1].tolist() == [np.float32(1e-30)] + [0] * 6
    assert corpus.notes == {"audio_neg_inf": 1, "audio_clips_shifted": 2, "audio_clips_absent": 1}


def test_lengths_that_stop_at_the_first_zero_row_lose_nothing(load, caplog):
    """As MMSA's getLengths.py counts them: a step in which the face was lost ends the clip."""
    content = make_content()
    vision = np.random.default_rng(0).normal(size=(5, *VISION)).astype(np.float32)
    vision[1, 2] = 0  # lost for a step, with two more to come
    vision[2, 3:] = 0  # a clip that ends
    vision[4, 0] = 0  # lost in the first step
    first_zero = [int(np.append(np.flatnonzero(~clip.any(axis=1)), VISION[0])[0]) for clip in vision]
    assert first_zero == [5, 2, 3, 5, 0]
    content = changed(content, "train", vision=vision, vision_lengths=first_zero)
    with caplog.at_level(logging.INFO, "mgcl_core"):
        corpus = load(content)
    assert corpus.train.vision_mask.sum(axis=1).tolist() == [5, 5, 3, 5, 4]
    np.testing.assert_array_equal(corpus.train.vision[:4], vision[:4])
    np.testing.assert_array_equal(corpus.train.vision[4, :4], vision[4, 1:])
    assert corpus.notes == {"vision_clips_beyond_length": 2, "vision_steps_beyond_length": 6, "vision_clips_shifted": 1}
    assert "2 clips go on beyond their length" in caplog.text and "6 observed steps" in caplog.text
    assert corpus.train.audio_mask.sum(axis=1).tolist() == content["train"]["audio_lengths"]  # those cut nothing off

    corpus = load(content, lengths="file")
    assert corpus.train.vision_mask.sum(axis=1).tolist() == first_zero
    np.testing.assert_array_equal(corpus.train.vision, vision)
    assert corpus.notes == {
        "vision_clips_cut_by_length": 2, "vision_steps_cut_by_length": 6, "vision_clips_absent": 1,
    }  # fmt: skip


def test_one_length_that_cuts_a_step_off_puts_all_of_the_file_in_doubt(load):
    content = make_content()
    content["test"]["vision"][0] = 1
    content["test"]["vision_lengths"][0] = 4
    content["train"]["vision"][1] = 0
    content["train"]["vision"][1, :2] = 1
    content["train"]["vision_lengths"][1] = 4
    corpus = load(content)
    assert corpus.test.vision_mask[0].all()
    assert corpus.train.vision_mask[1].tolist() == [True, True, False, False, False]


def test_lengths_may_be_believed_always_or_never(load):
    content = make_content()
    content["train"]["audio"][0] = 0
    content["train"]["audio"][0, 2:4] = 1
    content["train"]["audio_lengths"][0] = 6  # longer than what is there, so nothing is lost by it
    for rule, mask in (
        ("auto", [1, 1, 1, 1, 1, 1, 0]),
        ("file", [1, 1, 1, 1, 1, 1, 0]),
        ("nonzero", [1, 1, 0, 0, 0, 0, 0]),
    ):
        corpus = load(content, lengths=rule)
        assert corpus.lengths == rule and corpus.train.audio_mask[0].tolist() == mask
        assert corpus.train.audio[0, :, 0].tolist() == ([0, 0, 1, 1] if rule != "nonzero" else [1, 1, 0, 0]) + [0] * 3
        assert corpus.notes == ({"audio_clips_shifted": 1} if rule == "nonzero" else {})
    with pytest.raises(CorpusError, match="lengths that are not there") as caught:
        load(make_content(lengths=False), lengths="file")
    assert caught.value.key == "audio_lengths"


def test_a_file_that_is_padded_in_front_is_moved_to_step_0(load):
    content, front = make_content(lengths=False), make_content(lengths=False)
    for split in front.values():
        for key in ("audio", "vision"):
            for clip in split[key]:
                clip[:] = np.roll(clip, -1 - np.flatnonzero(clip.any(axis=1))[-1], axis=0)
    plain, moved = load(content), load(front)
    for left, right in zip(plain.splits, moved.splits, strict=True):
        for name in ("audio", "audio_mask", "vision", "vision_mask"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert plain.notes == {} and set(moved.notes) == {"audio_clips_shifted", "vision_clips_shifted"}


def test_aligned_files_keep_their_places(load):
    content = make_content(lengths=False)
    for split in content.values():
        count = len(split["id"])
        split |= {"audio": np.ones((count, 8, 4)), "vision": np.ones((count, 8, 6))}
        split["vision"][0, [0, 1, 7]] = 0
    corpus = load(content)
    assert corpus.aligned and corpus.notes == {}
    assert corpus.valid.vision_mask[0].tolist() == [False] * 2 + [True] * 5 + [False]
    np.testing.assert_array_equal(corpus.valid.vision, content["valid"]["vision"])


def test_a_modality_that_is_all_zero_or_of_length_0_is_absent_and_counted(load):
    content = make_content()
    content["train"]["audio"][2] = 0  # of some length
    content["test"]["vision"][[1, 3]] = 0
    content["test"]["vision_lengths"][1] = 0
    content["valid"]["raw_text"][0] = " "
    content["valid"]["text_bert"][0, 1] = [1, 1, 0, 0, 0, 0, 0, 0]  # [CLS] and [SEP]
    corpus = load(content)
    assert corpus.notes == {"audio_clips_absent": 1, "vision_clips_absent": 2, "text_clips_absent": 1}
    assert np.flatnonzero(~corpus.train.audio_mask.any(axis=1)).tolist() == [2]
    assert np.flatnonzero(~corpus.test.vision_mask.any(axis=1)).tolist() == [1, 3]
    content = make_content()  # a length may also cut all off
    content["train"]["audio_lengths"][2] = 0
    assert not load(content, lengths="file").train.audio_mask[2].any()


@pytest.mark.parametrize("key", ["audio", "vision"])
@pytest.mark.parametrize("lengths", [True, False])
def test_a_missing_key_means_absent_in_every_clip(load, key, lengths):
    content = make_content(lengths=lengths)
    for split in content.values():
        del split[key]
    corpus = load(content)
    assert corpus.notes == {f"{key}_clips_absent": 12}
    for split in corpus.splits:
        assert getattr(split, key).shape == (len(split), 1, 1) and not getattr(split, key).any()
        assert not getattr(split, f"{key}_mask").any()


def test_text_bert_is_optional_and_missing_sentences_are_empty(load):
    content = make_content()
    for split in content.values():
        del split["text_bert"]
        split["raw_text"][:2] = [None, float("nan")]
    corpus = load(content)
    assert corpus.train.text_bert is None and corpus.train.raw_text[:2] == ("", "")
    assert corpus.train.raw_text[2:] == tuple(content["train"]["raw_text"][2:])
    assert corpus.notes == {"text_clips_absent": 6}
    for split in content.values():
        split["raw_text"] = np.array(split["raw_text"], dtype=object)
    assert load(content).train.raw_text == corpus.train.raw_text


def test_numbers_that_are_not_finite_are_errors_or_zeros_that_are_counted(load, caplog):
    content = make_content(dtype=np.float64)
    content["train"]["audio"][3, 0, :2] = np.nan, np.inf
    content["test"]["vision"][0, 0, 0] = 1e300  # not finite in float32
    content["test"]["vision"][1, 0, 1] = -np.inf
    with pytest.raises(CorpusError, match="nan at clip 3, step 0, feature 0 .*") as caught:
        load(content)
    assert caught.value.key == "audio" and "nonfinite='zero'" in caught.value.expected
    with caplog.at_level(logging.INFO, "mgcl_core"):
        corpus = load(content, nonfinite="zero")
    assert corpus.notes == {"audio_nonfinite": 2, "vision_nonfinite": 1, "vision_neg_inf": 1}
    assert "2 numbers of audio were not finite" in caplog.text
    assert corpus.train.audio[3, 0].tolist() == [0, 0, *np.float32(content["train"]["audio"][3, 0, 2:])]
    assert all(np.isfinite(values).all() for split in corpus.splits for values in (split.audio, split.vision))


@pytest.mark.parametrize(("option", "value"), [("lengths", "files"), ("nonfinite", "zeros"), ("dataset", "mosey")])
def test_options_that_are_none_of_their_values_are_errors(load, option, value):
    with pytest.raises(ConfigError, match=f"unknown {option} '{value}'.*did you mean"):
        load(make_content(), **{option: value})


def test_the_dataset_is_as_given_or_that_of_a_known_corpus(load, tmp_path):
    assert load(make_content()).dataset is None
    assert load(make_content(), dataset="mosei").dataset == "mosei"
    assert load_corpus("demo-mosi", data_dir=tmp_path).dataset == "mosi"
    assert load_corpus("demo-mosi", dataset="mosei", data_dir=tmp_path).dataset == "mosei"


def test_audio_minus_infinity_becomes_zero_and_is_counted(load, caplog):
    content = make_content(dtype=np.float64)
    content["train"]["audio"][0, 0, :3] = -np.inf
    content["test"]["audio"][1, 2, 0] = -np.inf
    with caplog.at_level(logging.INFO, "mgcl_core"):
        corpus = load(content)
    assert corpus.notes == {"audio_neg_inf": 4}
    assert "4 numbers of audio were -inf" in caplog.text
    assert corpus.train.audio[0, 0].tolist() == [0, 0, 0, np.float32(content["train"]["audio"][0, 0, 3])]
    assert np.isfinite(corpus.test.audio).all()


def test_features_are_checked_in_chunks_as_if_whole(load, monkeypatch):
    monkeypatch.setattr("mgcl_core.data.feature_stream.CHUNK_BYTES", 1)  # a chunk for each clip
    monkeypatch.setattr("mgcl_core.data.reading._SHIFT_CLIPS", 2)
    content = make_content(lengths=False)
    content["train"]["audio"][4, 0, 0] = -np.inf
    content["train"]["vision"][[1, 3]] = content["train"]["vision"][[1, 3], ::-1]
    corpus = load(content)
    steps = [np.flatnonzero(clip.any(axis=1)) for clip in content["train"]["vision"]]
    expected = [int(seen.max() - seen.min()) + 1 for seen in steps]
    assert corpus.train.vision_mask.sum(axis=1).tolist() == expected
    for clip, seen in enumerate(steps):
        moved = np.roll(content["train"]["vision"][clip], -seen.min(), axis=0)
        np.testing.assert_array_equal(corpus.train.vision[clip], moved)
    assert corpus.notes == {"audio_neg_inf": 1, "vision_clips_shifted": sum(seen.min() > 0 for seen in steps)}
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


@pytest.fixture
def publish(monkeypatch):
    """Function of a file and a known place: makes it the file that is published there."""

    def publish(path, place):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(SHA256, place, sha256)
        monkeypatch.setitem(PUBLISHED, sha256, place)

    return publish


@pytest.mark.parametrize("file", ["CMU-MOSI/aligned_50.pkl", "MOSI/Processed/aligned_50.pkl", "downloads/mine.pkl"])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_published_file_is_known_by_its_hash_wherever_it_lies(tmp_path, caplog, publish, file, aligned):
    content = make_content("sims", lengths=not aligned)  # no label says that it is of the wide scheme
    for split in content.values():
        if aligned:
            split |= {key: np.ones((len(split["id"]), 8, 4)) for key in ("audio", "vision")}
    (tmp_path / file).parent.mkdir(parents=True)
    path = write(tmp_path / file, content)
    publish(path, "CMU-MOSI/aligned_50.pkl")
    with caplog.at_level(logging.WARNING, "mgcl_core"):
        corpus = load_corpus(path, data_dir=tmp_path)
    assert not caplog.records
    assert (corpus.name, corpus.aligned) == ("CMU-MOSI-aligned" if aligned else "CMU-MOSI", aligned)
    assert (corpus.scheme, corpus.dataset, corpus.language) == ("mosi", "mosi", "English")
    assert load_corpus(path, dataset="mosei", data_dir=tmp_path).dataset == "mosei"


@pytest.mark.parametrize(
    ("name", "file", "published"),
    [
        ("sims", "SIMS/Processed/unaligned_39.pkl", "CH-SIMS/unaligned_39.pkl"),
        ("mosi", "MOSI/Processed/unaligned_50.pkl", "CMU-MOSI/unaligned_50.pkl"),
        ("mosei", "MOSEI/Processed/unaligned_50.pkl", "CMU-MOSEI/unaligned_50.pkl"),
    ],
)
def test_mmsas_folders_are_found_in_mgcl_data(tmp_path, monkeypatch, caplog, publish, name, file, published):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    (tmp_path / file).parent.mkdir(parents=True)
    path = write(tmp_path / file, make_content())
    for place in (name, path):  # another file in the published one's place
        caplog.clear()
        corpus = load_corpus(place)
        assert corpus.path == path and corpus.sha256 in caplog.text and SHA256[published] in caplog.text
    publish(path, published)
    caplog.clear()
    known, by_path = load_corpus(name), load_corpus(path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert known.name == by_path.name == published.split("/")[0]


@pytest.mark.parametrize("file", ["CMU-MOSI/unaligned_50.pkl", "MOSI/Processed/unaligned_50.pkl"])
def test_a_damaged_download_is_named_with_both_hashes(tmp_path, file):
    (tmp_path / file).parent.mkdir(parents=True)
    path = write(tmp_path / file, make_content())
    path.write_bytes(path.read_bytes()[:-1000])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for place in ("mosi", path):
        with pytest.raises(CorpusError, match="truncated.*damaged or incomplete download") as caught:
            load_corpus(place, data_dir=tmp_path)
        assert sha256 in caught.value.found and SHA256["CMU-MOSI/unaligned_50.pkl"] in caught.value.found
    elsewhere = tmp_path / "mine.pkl"
    elsewhere.write_bytes(path.read_bytes())
    with pytest.raises(CorpusError, match="truncated") as caught:
        load_corpus(elsewhere, data_dir=tmp_path)
    assert "SHA-256" not in str(caught.value)


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


def test_clips_to_predict_are_read_by_the_same_rules(tmp_path, caplog):
    content = make_content(dtype=np.float64)
    del content["train"]
    for split in content.values():
        del split["vision"], split["text_bert"], split["text"]
        split["raw_text"][0] = None
    content["test"]["audio"][0, :2] = [[0], [1]]
    content["test"]["audio_lengths"][0] = 1  # one step too few
    content["test"]["audio"][1, 0, 0] = np.nan
    path = write(tmp_path / "clips.pkl", content)
    sizes = {"audio_dim": AUDIO[1], "vision_dim": VISION[1]}
    with pytest.raises(CorpusError, match="nan at clip 1") as caught:
        load_clips(path, **sizes)
    assert "nonfinite='zero'" in caught.value.expected
    with caplog.at_level(logging.INFO, "mgcl_core"):
        clips = load_clips(path, nonfinite="zero", **sizes)
    assert "vision is absent in 7 clips" in caplog.text and "1 numbers of audio were not finite" in caplog.text
    test = clips["test"]
    assert list(clips) == ["valid", "test"] and test.labels is None and test.text_bert is None
    assert test.raw_text[0] == "" and test.audio[0, 0].tolist() == [1] * AUDIO[1]
    assert test.vision.shape == (4, 1, VISION[1]) and not test.vision_mask.any()
    believed = load_clips(path, splits=["test"], lengths="file", nonfinite="zero", **sizes)["test"]
    assert believed.audio_mask[0].tolist() == [True] + [False] * 6 and not believed.audio[0, 0].any()
    with pytest.raises(CorpusError, match="features of another width"):
        load_clips(path, audio_dim=9, vision_dim=6)
