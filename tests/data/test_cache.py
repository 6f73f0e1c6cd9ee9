"""The memory-mapped cache: used, rebuilt when it must be, and never in the way."""

import logging
import multiprocessing
import os
import time

import numpy as np
import pytest
from helpers.corpus_files import make_content, write

from mgcl_core.data import cache, load_corpus, loading
from mgcl_core.support.errors import CorpusError


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "file.pkl", make_content())


@pytest.fixture
def entry(tmp_path, path):
    """The folder of a finished cache."""
    load_corpus(path, cache_dir=tmp_path / "cache")
    return only_entry(tmp_path / "cache")


def only_entry(folder):
    (entry,) = (item for item in folder.glob("*/*") if item.is_dir())
    return entry


@pytest.fixture
def no_unpickling(monkeypatch):
    def fail(path):
        raise AssertionError("the file is unpickled again")

    monkeypatch.setattr(loading, "read_pickle", fail)


def same(left, right) -> bool:
    for a, b in zip(left.splits, right.splits, strict=True):
        for name, value in vars(a).items():
            other = getattr(b, name)
            equal = np.array_equal(value, other) if isinstance(value, np.ndarray) else value == other
            if not equal:
                return False
    return (left.sha256, left.notes, left.aligned) == (right.sha256, right.notes, right.aligned)


def in_memory(path, tmp_path):
    """Read without a cache, because a file has the name of its folder."""
    (tmp_path / "file").write_text("")
    return load_corpus(path, cache_dir=tmp_path / "file")


def test_the_second_start_reads_only_the_cache(tmp_path, path, entry, request):
    first = in_memory(path, tmp_path)
    request.getfixturevalue("no_unpickling")
    second = load_corpus(path, cache_dir=tmp_path / "cache")
    assert same(first, second)
    assert isinstance(second.train.audio, np.memmap)
    assert not isinstance(first.train.audio, np.memmap)


def test_the_scheme_is_no_part_of_the_cache(tmp_path, path, entry, no_unpickling):
    assert load_corpus(path, "mosi", cache_dir=tmp_path / "cache").scheme == "mosi"
    assert load_corpus(path, "sims", cache_dir=tmp_path / "cache").scheme == "sims"


def test_a_changed_file_is_read_again_and_its_old_cache_removed(tmp_path, path, entry):
    write(path, make_content(seed=1))
    os.utime(path, ns=(1, 1))
    corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    assert np.array_equal(corpus.train.audio, make_content(seed=1)["train"]["audio"])
    assert only_entry(tmp_path / "cache") != entry


def test_another_format_is_read_again(tmp_path, path, entry, monkeypatch):
    monkeypatch.setattr(cache, "CACHE_FORMAT", cache.CACHE_FORMAT + 1)
    load_corpus(path, cache_dir=tmp_path / "cache")
    assert only_entry(tmp_path / "cache") != entry


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


BROKEN = {
    "no index": lambda entry: (entry / "corpus.json").unlink(),
    "a cut index": lambda entry: truncate(entry / "corpus.json"),
    "an index of something else": lambda entry: (entry / "corpus.json").write_text("[1, 2]"),
    "an index of another file": lambda entry: (entry / "corpus.json").write_text('{"source": []}'),
    "no array": lambda entry: (entry / "test-vision.npy").unlink(),
    "a cut array": lambda entry: truncate(entry / "train-audio.npy"),
    "an empty array": lambda entry: (entry / "train-labels.npy").write_bytes(b""),
    "no array at all": lambda entry: (entry / "train-text.npy").write_bytes(b"x" * 5000),
    "another shape": lambda entry: np.save(entry / "train-audio.npy", np.zeros(3, np.float32)),
    "a pickled array": lambda entry: np.save(entry / "train-labels.npy", np.array([None])),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cache_is_built_again(tmp_path, path, entry, caplog, name):
    BROKEN[name](entry)
    with caplog.at_level(logging.INFO, "mgcl_core"):
        corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    assert "built again" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert same(corpus, in_memory(path, tmp_path))
    assert isinstance(corpus.train.audio, np.memmap)


def test_what_a_killed_process_left_is_removed(tmp_path, path, entry):
    left = entry.parent / "building"
    left.mkdir()
    (left / "train-audio.npy").write_bytes(b"half")
    write(path, make_content(seed=2))
    os.utime(path, ns=(2, 2))
    load_corpus(path, cache_dir=tmp_path / "cache")
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, path, caplog):
    with caplog.at_level(logging.WARNING, "mgcl_core"):
        corpus = in_memory(path, tmp_path)
    assert "kept in memory" in caplog.text
    assert np.array_equal(corpus.train.audio, make_content()["train"]["audio"])


def test_a_full_disk_is_a_warning_and_leaves_nothing(tmp_path, path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with caplog.at_level(logging.WARNING, "mgcl_core"):
        corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    assert "No space left" in caplog.text
    assert len(corpus.train) == 5
    assert not [item for item in (tmp_path / "cache").rglob("*") if item.suffix == ".npy"]


def test_a_broken_file_leaves_no_cache(tmp_path):
    content = make_content()
    content["test"]["audio"][0, 0, 0] = np.nan  # found after most arrays were written
    path = write(tmp_path / "file.pkl", content)
    with pytest.raises(CorpusError):
        load_corpus(path, cache_dir=tmp_path / "cache")
    assert not [item for item in (tmp_path / "cache").rglob("*") if item.suffix == ".npy"]


def _load_after(start, path, folder, queue):
    time.sleep(max(0, start - time.time()))
    corpus = load_corpus(path, cache_dir=folder)
    queue.put((float(corpus.train.audio.sum()), isinstance(corpus.train.audio, np.memmap)))


def test_processes_that_start_together_share_one_cache(tmp_path, path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    start = time.time() + 0.5
    processes = [context.Process(target=_load_after, args=(start, path, tmp_path / "cache", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert len(set(results)) == 1
    assert results[0][1]
    assert sorted(item.name for item in only_entry(tmp_path / "cache").parent.iterdir())[-1] == "lock"
