"""The memory-mapped cache: used, rebuilt when it must be, and never in the way."""

import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.corpus_files import TEXT, make_content, write

from mgcl_core.data import cache, load_corpus, reading
from mgcl_core.data.loading import with_text
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

    monkeypatch.setattr(reading, "read_source", fail)


def is_mapped(array) -> bool:
    """Whether an array lies in a mapping of an .npy file, of those that the kernel lists."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not list what is mapped")
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(part, 16) for part in line.split()[0].split("-"))
        if line.endswith(".npy") and start <= array.ctypes.data < stop:
            return True
    return False


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
    assert is_mapped(second.train.audio) and not is_mapped(first.train.audio)


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
    path.write_bytes(path.read_bytes()[:-2])


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


BROKEN = {
    "no index": lambda entry: (entry / "index.json").unlink(),
    "a cut index": lambda entry: truncate(entry / "index.json"),
    "an index of something else": lambda entry: (entry / "index.json").write_text("[1, 2]"),
    "an index of another file": lambda entry: (entry / "index.json").write_text('{"source": []}'),
    "no array": lambda entry: (entry / "test-vision.npy").unlink(),
    "a cut array": lambda entry: truncate(entry / "train-audio.npy"),
    "an empty array": lambda entry: (entry / "train-labels.npy").write_bytes(b""),
    "no array at all": lambda entry: (entry / "train-vision.npy").write_bytes(b"x" * 5000),
    "other numbers": lambda entry: np.save(entry / "train-audio.npy", 0 * np.load(entry / "train-audio.npy")),
    "an edited index": lambda entry: replace(entry / "index.json", '"train_000$_$1"', '"train_000$_$2"'),
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
    assert is_mapped(corpus.train.audio)


def test_text_is_cached_beside_the_features_and_read_only_when_asked_for(tmp_path, path, entry, request):
    corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    assert corpus.train.text is None and corpus.text_dim == TEXT[1] and not list(entry.glob("*-text.npy"))
    first = with_text(corpus)
    (other,) = (item for item in entry.parent.iterdir() if item.is_dir() and item != entry)
    assert other.name.split("-")[0] == entry.name.split("-")[0]  # the same state of the file, read another way
    request.getfixturevalue("no_unpickling")
    again = with_text(load_corpus(path, cache_dir=tmp_path / "cache"))
    assert entry.is_dir()  # an entry does not make another way of reading the same file stale
    for name in ("train", "valid", "test"):
        text = getattr(again, name).text
        assert is_mapped(text) and np.array_equal(text, make_content()[name]["text"])
        assert np.array_equal(getattr(first, name).text, text)
    (broken,) = entry.parent.rglob("train-text.npy")
    truncate(broken)
    with pytest.raises(AssertionError, match="unpickled again"):
        with_text(corpus)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("read", [load_corpus, lambda path, **options: with_text(load_corpus(path, **options))])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, path, monkeypatch, read, cached):
    folder = tmp_path / "cache"
    if not cached:
        folder.write_text("")
    elif read is not load_corpus:
        load_corpus(path, cache_dir=folder)  # so that the text is what is read
    read_source = reading.read_source

    def touched(file):
        content = read_source(file)
        os.utime(file, ns=(7, 7))
        return content

    monkeypatch.setattr(reading, "read_source", touched)
    with pytest.raises(CorpusError, match="changed while it was read") as caught:
        read(path, cache_dir=folder)
    assert caught.value.file == path
    assert not cached or not [item for item in folder.rglob("*") if item.name == "building"]
    monkeypatch.undo()
    assert len(read(path, cache_dir=folder).train) == 5


def test_text_of_a_file_that_changed_since_it_was_loaded_is_an_error(tmp_path, path):
    corpus = load_corpus(path, cache_dir=tmp_path / "cache")
    write(path, make_content(sizes=(6, 3, 4), seed=1))
    with pytest.raises(CorpusError) as caught:
        with_text(corpus)  # its clips are others
    assert caught.value.file == path


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_corpora_that_are_kept_hold_no_open_files(tmp_path, path):
    load_corpus(path, cache_dir=tmp_path / "cache")
    before = len(os.listdir("/proc/self/fd"))
    kept = [with_text(load_corpus(path, cache_dir=tmp_path / "cache")) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(is_mapped(corpus.train.text) for corpus in kept)


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
    queue.put((float(corpus.train.audio.sum()), is_mapped(corpus.train.audio)))


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
    assert sorted(item.name for item in only_entry(tmp_path / "cache").parent.iterdir())[-1].startswith("lock.lease-")
