"""The forms that feature files are passed round in: each is read as MMSA's, or refused by name, in bounded work."""

from __future__ import annotations

import logging
import pickle
import resource
import time

import numpy as np
import pytest
from helpers.corpus_files import AUDIO, TEXT, VISION, make_content, write

from mgcl_core.cli import main
from mgcl_core.data import load_clips, load_corpus
from mgcl_core.data.loading import with_text
from mgcl_core.support.errors import CorpusError

WORDS = ["it", "was", "naïve", "good"]
SIZES = {"train": 5, "valid": 3, "test": 4}


def sequence(random, most: int, width: int) -> np.ndarray:
    return random.normal(size=(random.integers(1, most + 1), width))


def mult(random, *, padded_in_front: bool = True) -> dict:
    """As yaohungt/Multimodal-Transformer reads them."""
    content = {}
    for name, count in SIZES.items():
        split = content[name] = {"labels": np.round(random.uniform(-3, 3, (count, 1, 1)), 1)}
        split["id"] = np.array([[f"{name}{row}".encode(), b"0.5", b"2.25"] for row in range(count)])
        for key, (steps, width) in {"audio": AUDIO, "vision": VISION, "text": (8, 30)}.items():
            split[key] = np.zeros((count, steps, width))
            for row in range(count):
                values = sequence(random, steps, width)
                split[key][row, slice(-len(values), None) if padded_in_front else slice(len(values))] = values
    return content


def examples(random, name: str, *, misa: bool) -> list:
    """As MAG-BERT's and MISA's loaders read them."""
    made = []
    for row in range(SIZES[name]):
        words = [str(word) for word in random.choice(WORDS, random.integers(1, 6))]
        visual, acoustic = random.normal(size=(len(words), 6)), random.normal(size=(len(words), 4))
        parts = (words, visual, acoustic)
        if misa:
            parts = (np.arange(len(words)), visual, acoustic, words)
        made.append((parts, np.array([[(-1.0) ** row * 2.4]]), f"{name}_video[{row}]"))
    return made


def corpus_of(tmp_path, content, **options):
    return load_corpus(write(tmp_path / "file.pkl", content), cache_dir=tmp_path / "cache", **options)


def test_mults_pickle_is_read_as_features_of_the_text(tmp_path, capsys):
    content = mult(np.random.default_rng(0))
    corpus = corpus_of(tmp_path, content)
    assert not corpus.has_words and corpus.form.startswith("MulT's") and corpus.scheme == "mosi"
    assert (corpus.text_dim, corpus.text_steps, corpus.aligned) == (30, 8, False)
    for name, split in content.items():
        read = getattr(corpus, name)
        assert read.ids == tuple(f"{name}{row}$_$0.5-2.25" for row in range(SIZES[name]))
        np.testing.assert_array_equal(read.labels, split["labels"].reshape(-1).astype(np.float32))
        for key in ("audio", "vision", "text"):
            mask = getattr(read, f"{key}_mask")
            steps = (split[key] != 0).any(2).sum(1)
            assert mask.tolist() == [[step < count for step in range(mask.shape[1])] for count in steps]
            for row, count in enumerate(steps):  # moved to step 0
                padding = split[key].shape[1] - count
                np.testing.assert_array_equal(getattr(read, key)[row, :count], split[key][row, padding:].astype("f4"))
    assert main(["corpus", str(tmp_path / "file.pkl")]) == 0
    assert "form: MulT's" in (printed := capsys.readouterr().out) and "no words" in printed


def test_mults_aligned_pickle_keeps_its_places(tmp_path):
    content = mult(np.random.default_rng(0))
    for split in content.values():
        split |= {
            key: np.pad(split[key], ((0, 0), (8 - split[key].shape[1], 0), (0, 0))) for key in ("audio", "vision")
        }
    corpus = corpus_of(tmp_path, content)
    assert corpus.aligned
    np.testing.assert_array_equal(corpus.train.text, content["train"]["text"].astype(np.float32))
    assert corpus.train.text_mask[:, -1].all()


def test_ids_that_several_clips_have_are_numbered_and_a_clip_in_two_splits_is_a_leak(tmp_path):
    content = mult(np.random.default_rng(0))
    for split in content.values():
        split["id"][:] = [b"video", b"0.1", b"2.2"]
    corpus = corpus_of(tmp_path, content)
    assert "12 clips have ids that others have too" in corpus.form
    assert corpus.test.ids[3] == "video$_$0.1-2.2-test3"
    for key, values in content["train"].items():
        content["test"][key][0] = values[0]
    with pytest.raises(CorpusError, match="a leak"):
        corpus_of(tmp_path, content)


def test_labels_of_emotions_are_refused(tmp_path):
    content = mult(np.random.default_rng(0))
    content["train"]["labels"] = np.ones((5, 4, 2))
    with pytest.raises(CorpusError, match=r"labels of several classes or emotions.*\(5, 4, 2\)"):
        corpus_of(tmp_path, content)


@pytest.mark.parametrize("misa", [False, True])
def test_lists_of_clips_are_read_in_one_file_or_a_folder(tmp_path, misa):
    random = np.random.default_rng(0)
    content = {name: examples(random, split, misa=misa) for name, split in
               {"train": "train", "dev": "valid", "test": "test"}.items()}  # fmt: skip
    corpus = corpus_of(tmp_path, content)
    assert corpus.form.startswith("MISA's" if misa else "MAG-BERT's") and corpus.has_words
    longest = max(len(parts[1]) for split in content.values() for parts, _, _ in split)
    for name, split in zip(SIZES, content.values(), strict=True):
        read = getattr(corpus, name)
        assert read.ids == tuple(f"{name}_video$_${row}" for row in range(SIZES[name]))
        assert read.audio.shape == (SIZES[name], longest, 4) and read.vision.shape == (SIZES[name], longest, 6)
        for row, (parts, label, _) in enumerate(split):
            assert read.raw_text[row] == " ".join(parts[3 if misa else 0]) and read.labels[row] == np.float32(
                label[0, 0]
            )
            count = len(parts[1])
            np.testing.assert_array_equal(read.vision[row, :count], parts[1].astype(np.float32))
            assert read.audio_mask[row].tolist() == [step < count for step in range(longest)]
            assert not read.audio[row, count:].any()
    folder = tmp_path / "mosi"
    folder.mkdir()
    for name, split in content.items():
        write(folder / f"{name}.pkl", split)
    again = load_corpus(folder, cache_dir=tmp_path / "cache")
    assert again.name == "mosi" and again.sha256 != corpus.sha256
    np.testing.assert_array_equal(again.train.audio, corpus.train.audio)
    write(folder / "dev.pkl", content["dev"][:2])
    assert len(load_corpus(folder, cache_dir=tmp_path / "cache").valid) == 2  # the cache is of another state
    (folder / "dev.pkl").unlink()
    with pytest.raises(CorpusError, match="found a folder with train.pkl, test.pkl"):
        load_corpus(folder)


def test_a_fourth_split_is_ignored_and_said(tmp_path):
    content = make_content() | {"unlabeled": {"audio": np.ones((2, 3, 4))}}
    corpus = corpus_of(tmp_path, content)
    assert corpus.form == "MMSA's; of its other parts, unlabeled is ignored"


def test_columns_of_labels_and_ids_of_three_parts_are_squeezed_and_joined(tmp_path):
    content, plain = make_content(), make_content()
    for split in content.values():
        split["regression_labels"] = split["regression_labels"][:, None, None]
        split["regression_labels_T"] = split["regression_labels_T"][:, None]
        split["id"] = np.array([[clip.split("$_$")[0], "1", "2.5"] for clip in split["id"]], dtype=object)
    corpus = corpus_of(tmp_path, content)
    np.testing.assert_array_equal(corpus.train.labels, plain["train"]["regression_labels"])
    np.testing.assert_array_equal(corpus.test.unimodal_labels[0], plain["test"]["regression_labels_T"])
    assert corpus.valid.ids[1] == "valid_001$_$1-2.5"


def test_lengths_of_before_a_cut_are_cut_and_counted(tmp_path):
    content = make_content()
    content["valid"]["audio"][1] = 1
    content["valid"]["audio_lengths"][1] = AUDIO[0] + 20
    corpus = corpus_of(tmp_path, content)
    assert corpus.notes["audio_lengths_cut"] == 1 and corpus.valid.audio_mask[1].all()
    assert "audio_clips_beyond_length" not in corpus.notes


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_memory_maps_are_read_as_arrays(tmp_path, protocol):
    content = make_content()
    for name, split in content.items():
        mapped = np.memmap(tmp_path / name, dtype=np.float32, mode="w+", shape=split["vision"].shape)
        mapped[:] = split["vision"]
        split["vision"] = mapped
    path = write(tmp_path / "file.pkl", content, protocol)
    assert b"memmap" in path.read_bytes()
    for name in content:
        (tmp_path / name).unlink()
    corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(corpus.test.vision, make_content()["test"]["vision"])


def test_a_file_without_any_text_has_none_in_any_clip(tmp_path):
    content = make_content()
    for split in content.values():
        del split["raw_text"], split["text_bert"], split["text"]
    corpus = corpus_of(tmp_path, content)
    assert corpus.notes == {"text_clips_absent": 12} and not corpus.has_words
    assert corpus.train.text.shape == (5, 1, 1) and not corpus.train.text_mask.any()


def test_text_features_beside_tokens_have_the_tokens_mask(tmp_path):
    content = make_content()
    corpus = corpus_of(tmp_path, content)
    assert corpus.train.text is None
    corpus = with_text(corpus)
    np.testing.assert_array_equal(corpus.test.text_mask, content["test"]["text_bert"][:, 1] > 0)
    np.testing.assert_array_equal(corpus.test.text, content["test"]["text"])


def clips(tmp_path, content, name="clip_7", **options):
    return load_clips(write(tmp_path / f"{name}.pkl", content), audio_dim=4, vision_dim=6, **options)


def test_a_single_clip_of_the_extraction_tool_is_a_split_of_one(tmp_path, caplog):
    random = np.random.default_rng(0)
    tokens = np.stack([np.arange(5), np.ones(5), np.zeros(5)])
    clip = {"audio": random.normal(size=(9, 4)), "vision": random.normal(size=(3, 6)), "text": np.ones((7, 768)),
            "text_bert": tokens.T, "config": {"audio": {"tool": "librosa", "args": None}}}  # fmt: skip
    with caplog.at_level(logging.INFO, "mgcl_core"):
        (split,) = clips(tmp_path, clip).values()
    assert "MMSA-FET's, of a single clip" in caplog.text
    assert split.ids == ("clip_7",) and split.audio.shape == (1, 9, 4) and split.vision_mask.all()
    np.testing.assert_array_equal(split.text_bert[0], tokens)
    (split,) = clips(tmp_path, {key: clip[key] for key in ("audio", "text")}, text_dim=768).values()
    assert split.text.shape == (1, 7, 768) and not split.vision_mask.any()
    with pytest.raises(CorpusError, match="the model reads features of the text.*'text'"):
        clips(tmp_path, {"audio": clip["audio"], "raw_text": "words alone"}, text_dim=768)
    (split,) = clips(tmp_path, {"audio": clip["audio"]}, text_dim=768).values()
    assert split.text.shape == (1, 1, 768) and not split.text_mask.any()
    with pytest.raises(CorpusError, match="splits are missing.*MMSA-FET's, of a single clip"):
        load_corpus(write(tmp_path / "one.pkl", clip), cache_dir=tmp_path / "cache")


def test_clips_without_splits_and_clips_by_id_are_read_to_be_predicted(tmp_path):
    part = make_content()["test"]
    (split,) = clips(tmp_path, {key: part[key] for key in ("audio", "vision", "raw_text")}).values()
    assert split.ids == tuple(f"clip_7$_${row}" for row in range(4)) and split.raw_text == tuple(part["raw_text"])
    by_id = {f"v$_${row}": {"audio": part["audio"][row, : row + 1], "raw_text": "good"} for row in range(4)}
    (split,) = clips(tmp_path, by_id).values()
    assert split.ids == tuple(by_id) and split.audio.shape == (4, 4, 4) and split.raw_text == ("good",) * 4
    assert split.audio_mask.sum(1).tolist() == [1, 2, 3, 4] and not split.vision_mask.any()
    del by_id["v$_$2"]["audio"]
    with pytest.raises(CorpusError, match="splits are missing|not a file of clips"):
        clips(tmp_path, by_id)


OTHERS = {
    "a web page": b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a zip archive": b"PK\x03\x04" + bytes(22) + (8).to_bytes(4, "little") + b"data.pkl" + bytes(50),
    "torch.save": b"PK\x03\x04" + bytes(22) + (16).to_bytes(4, "little") + b"archive/data.pkl" + bytes(50),
    "numpy.savez": b"PK\x03\x04" + bytes(22) + (9).to_bytes(4, "little") + b"audio.npy" + bytes(50),
    "gzip": b"\x1f\x8b\x08" + bytes(50),
    "a video (MP4)": b"\x00\x00\x00\x20ftypisom" + bytes(50),
    "a single array of numpy.save": b"\x93NUMPY\x01\x00" + bytes(50),
    "file of torch.save": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_pickle_of_features_is_named_with_what_to_do(tmp_path, name, capsys):
    path = tmp_path / "unaligned_50.pkl"
    path.write_bytes(OTHERS[name])
    assert main(["corpus", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"the file is {name}" in said or name in said.partition("expected")[0]
    assert "data/README.md" in said and "Traceback" not in said


# Hostile files: one large object in many places, and clips that padding would blow up

MOST_MEMORY = 400_000  # KiB


def refused(tmp_path, content, match: str, protocol: int = 4) -> None:
    """A file of some MB is refused in seconds, without a copy for each place."""
    path = write(tmp_path / "hostile.pkl", content, protocol)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(CorpusError, match=match):
        load_corpus(path, cache_dir=tmp_path / "cache")
    assert time.perf_counter() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert sum(item.stat().st_size for item in (tmp_path / "cache").rglob("*") if item.is_file()) < 1_000_000


@pytest.mark.parametrize("kind", [str, bytes])
def test_one_long_text_in_every_clip_is_refused_at_once(tmp_path, kind):
    content = make_content()
    count = 20_000
    text = "x" * (20_000_000 if kind is str else 60_000)  # longer bytes are not read at all
    content["train"] = {
        "id": [f"clip{row}" for row in range(count)],
        "raw_text": [text] * count if kind is str else np.array([text.encode()] * count, dtype=object),
        "regression_labels": [0.0] * count,
    }
    refused(tmp_path, content, "texts are longer than the file")


@pytest.mark.parametrize("key", ["audio", "text_bert"])
def test_small_integers_that_splits_share_are_refused_before_they_are_copied(tmp_path, key):
    content = make_content(text=False)
    shared = np.ones((5, 3, 1_000_000), np.int8)
    for split in content.values():
        split |= {"id": [f"{id(split)}-{row}" for row in range(5)], "raw_text": ["good"] * 5, key: shared}
        split |= {name: np.resize(split[name], 5) for name in split if name.startswith("regression")}
    refused(tmp_path, content, "arrays hold more numbers than the file has bytes")


def shared_example(words, *, steps=3, name="v[0]", misa=False):
    parts = (words, np.ones((steps, 6), np.int8), np.ones((steps, 4), np.int8))
    return ((np.arange(2), *parts[1:], words) if misa else parts, np.array([[1.0]]), name)


HOSTILE_LISTS = {
    "one list of words in every clip": (shared_example(["good"] * 200_000), "texts are longer than the file"),
    "one long word in every clip": (shared_example(["x" * 20_000_000]), "texts are longer than the file"),
    "an array of words in every clip": (
        shared_example(np.array(["good"] * 200_000), misa=True), "texts are longer than the file",
    ),
    "one long name for every clip": (shared_example(["good"], name="[1" * 10_000_000), "a clip is (there|in)"),
    "one array in every clip": (shared_example(["good"], steps=100_000), "more numbers than the file has bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_LISTS)
def test_a_list_of_one_clip_many_times_is_refused_in_bounded_work(tmp_path, name):
    example, message = HOSTILE_LISTS[name]
    refused(tmp_path, {split: [example] * 20_000 for split in ("train", "dev", "test")}, message)


def test_one_long_clip_among_many_short_ones_is_refused(tmp_path):
    content = {
        name: [shared_example(["good"], steps=1, name=f"{name}[{row}]") for row in range(2000)]
        for name in ("train", "dev", "test")
    }
    content["train"][0] = shared_example(["good"], steps=500_000, name="long[0]")
    refused(tmp_path, content, "clips are too unequal in length to be padded")


@pytest.mark.parametrize("share", ["list", "dict"])
def test_containers_inside_one_another_are_not_unfolded(tmp_path, share):
    bomb = []
    for number in range(60):  # two to the power of sixty, were it walked through
        bomb = [bomb, bomb] if share == "list" else {"audio": bomb, "vision": bomb, str(number): bomb}
    for content in (bomb, {"train": bomb, "dev": bomb, "test": bomb}, {"train": {"audio": bomb, "labels": bomb}}):
        refused(tmp_path, content, ".")


WRONG = [None, True, 7, -1.5, "text", b"bytes", [], {}, (), [[1]], np.zeros(0), np.array(1.0), np.zeros((2, 2)),
         np.array(["a"], dtype=object), np.zeros((0, 3)), np.full((2, 3), np.nan), {"a": 1}, [None]]  # fmt: skip


def places(value, path=()):
    """Paths to everything inside, three levels of containers deep for lists (their first item)."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index in range(min(len(value), 1 if isinstance(value, list) else 4)):
            yield from places(value[index], (*path, index))


def replaced(value, path, new):
    if not path:
        return new
    if isinstance(value, dict):
        return value | {path[0]: replaced(value[path[0]], path[1:], new)}
    items = list(value)
    items[path[0]] = replaced(items[path[0]], path[1:], new)
    return tuple(items) if isinstance(value, tuple) else items


FORMS = {
    "MulT": mult(np.random.default_rng(0)),
    "MAG-BERT": {n: examples(np.random.default_rng(1), s, misa=False) for n, s in
                 {"train": "train", "dev": "valid", "test": "test"}.items()},
    "MISA": {n: examples(np.random.default_rng(1), s, misa=True) for n, s in
             {"train": "train", "valid": "valid", "test": "test"}.items()},
    "single": {"audio": np.ones((3, 4)), "vision": np.ones((2, 6)), "text_bert": np.ones((5, 3)), "raw_text": "a"},
    "flat": {"id": ["a", "b"], "audio": np.ones((2, 3, 4)), "raw_text": ["a", "b"]},
    "by id": {"a": {"audio": np.ones((3, 4)), "raw_text": "a"}, "b": {"audio": np.ones((2, 4)), "raw_text": "b"}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_whatever_stands_in_the_place_of_a_value_is_read_or_is_one_typed_error(tmp_path, form):
    outcomes = []
    for path in places(FORMS[form]):
        for wrong in WRONG:
            file = tmp_path / "file.pkl"
            file.write_bytes(pickle.dumps(replaced(FORMS[form], path, wrong), protocol=4))
            for read in (
                lambda file: load_corpus(file, cache_dir=file),
                lambda file: load_clips(file, audio_dim=4, vision_dim=6),
            ):
                try:
                    read(file)
                    outcomes.append("read")
                except CorpusError as error:
                    assert error.file == file
                    outcomes.append("refused")
    assert {"read", "refused"} == set(outcomes)
    assert len(outcomes) > 100


def test_a_text_of_other_steps_than_its_words_is_read_on_its_own(tmp_path):
    """As with GloVe, where a step is a word and not a word piece."""
    content = make_content()
    for split in content.values():
        del split["text_bert"]
        split["text"] = np.pad(split["text"], ((0, 0), (2, 3), (0, 0)))
    corpus = with_text(corpus_of(tmp_path, content))
    assert corpus.has_words and corpus.text_steps == TEXT[0] + 5
    assert corpus.train.text_mask.sum(1).tolist() == [TEXT[0]] * 5
    np.testing.assert_array_equal(corpus.train.text[:, : TEXT[0]], make_content()["train"]["text"])
