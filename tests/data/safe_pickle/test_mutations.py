"""Mutated feature files: each is refused with a CorpusError, or read as a trusted reader reads it.

A thousand run with the tests, half of bytes, half of structure; ten thousand by ``make mutations``.
"""

import copy
import pickle
import resource
import time
import warnings
from random import Random

import numpy as np
import pytest
from helpers.corpus_files import make_content
from helpers.mutations import FACTOR, share
from hypothesis import given
from hypothesis import strategies as st

from mgcl_core.data import load_corpus
from mgcl_core.data.corpus import SPLITS
from mgcl_core.data.loading import with_text
from mgcl_core.support.errors import CorpusError

SETTINGS = share(500, seconds=5)
MOST_MEMORY = 300_000  # KiB by which a thousand tiny files may raise the peak of the process
CONTENTS = [
    make_content("sims", (3, 2, 2)),
    make_content("mosi", (2, 2, 2), lengths=False, text=False, dtype=np.float64),
    make_content("sims", (2, 2, 2), text=False),
]
for _split in CONTENTS[2].values():  # strings and lengths as arrays
    for _key in ("id", "raw_text", "audio_lengths", "vision_lengths", "annotations"):
        _split[_key] = np.array(_split[_key])
FILES = [pickle.dumps(content, protocol=protocol) for content in CONTENTS for protocol in (2, 3, 4, 5)]
INTERESTING = [0, 1, 2, 3, 5, 0x7F, 0x80, 0xFF, *b".()]}NKMJXBCcRbteus0hjqr\x8c\x8d\x8e\x93\x94\x95"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield tmp_path_factory.mktemp("mutations") / "file.pkl"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY * max(1, FACTOR)


def outcome(path, data: bytes) -> str:
    """Reads mutated bytes; where they are accepted, compares with ``pickle`` and checks what was read."""
    path.write_bytes(data)
    try:
        corpus = with_text(load_corpus(path, "mosi", cache_dir=path))  # a file is no folder, so nothing is cached
    except CorpusError as error:
        assert error.problem and error.file == path
        return "refused"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy 2.x on numpy.core
        trusted = pickle.loads(data)  # nothing that runs code was accepted
    keys = ["audio", "vision"]
    if "text" in trusted["train"] and "text_bert" not in trusted["train"]:
        keys.append("text")
    for key in keys:
        assert_features_as_trusted(corpus, key, {name: trusted[name] for name in SPLITS})
    for split in corpus.splits:
        assert_as_trusted(split, trusted[split.name])
        assert_well_formed(split)
    clips = [clip for split in corpus.splits for clip in split.ids]
    assert len(set(clips)) == len(clips)
    return "read"


def strings(values) -> list:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def sentences(values) -> list:
    return strings("" if value is None or value != value else value for value in values)


def clip_ids(values) -> list:
    if np.ndim(values) < 2:
        return strings(values)
    rows = [strings(row) for row in values]
    return [first if not rest else f"{first}$_${'-'.join(rest)}" for first, *rest in rows]


def assert_as_trusted(split, raw):
    assert list(split.ids) == clip_ids(raw["id"])
    assert list(split.raw_text) == sentences(raw.get("raw_text", [""] * len(split)))
    assert (split.text_bert is None) == ("text_bert" not in raw)
    assert split.text_bert is None or np.array_equal(split.text_bert, raw["text_bert"])
    assert np.array_equal(split.labels, np.asarray(raw["regression_labels"]).reshape(-1).astype(np.float32))
    assert (split.unimodal_labels is None) == ("regression_labels_T" not in raw)
    for index, modality in enumerate("TVA" if split.unimodal_labels is not None else ""):
        trusted = np.asarray(raw[f"regression_labels_{modality}"]).reshape(-1).astype(np.float32)
        assert np.array_equal(split.unimodal_labels[index], trusted)
    if "text" in raw and "text_bert" in raw:
        assert np.array_equal(split.text, raw["text"].astype(np.float32))
        assert np.array_equal(split.text_mask, raw["text_bert"][:, 1] > 0)
    elif "text" not in raw:
        assert split.text is None or not (split.text.any() or split.text_mask.any())


def assert_features_as_trusted(corpus, key: str, raw: dict):
    """Compares with decision 19, written out clip by clip."""
    steps = {}  # that are not zero, by split and clip
    for name, part in raw.items():
        for clip in range(len(part["id"])):
            values = part[key][clip].astype(np.float32) if key in part else np.zeros((1, 1))
            steps[name, clip] = np.flatnonzero((values != 0).any(axis=1))
    lengths = {name: part.get(f"{key}_lengths") if key in part else None for name, part in raw.items()}
    lengths = {  # those of before a cut are cut too
        name: None if values is None else np.minimum(np.reshape(values, -1), part[key].shape[1])
        for (name, values), part in zip(lengths.items(), raw.values(), strict=True)
    }
    believed = all(values is not None for values in lengths.values()) and all(
        (seen < lengths[name][clip]).all() for (name, clip), seen in steps.items()
    )
    for (name, clip), seen in steps.items():
        split = getattr(corpus, name)
        trusted = raw[name][key][clip].astype(np.float32) if key in raw[name] else np.zeros((1, 1))
        trusted[np.isneginf(trusted)] = 0
        start = 0 if believed or corpus.aligned or not len(seen) else seen[0]
        stop = 0 if not len(seen) else lengths[name][clip] if believed else seen[-1] + 1
        first = seen[0] if corpus.aligned and not believed and len(seen) else 0
        assert np.array_equal(getattr(split, key)[clip], np.concatenate([trusted[start:], 0 * trusted[:start]]))
        mask = getattr(split, f"{key}_mask")[clip]
        assert mask.tolist() == [first <= step < stop - start for step in range(len(mask))]


def assert_well_formed(split):
    count = len(split)
    assert count > 0
    assert len(split.ids) == len(split.raw_text) == count
    if split.text_bert is not None:
        assert split.text_bert.shape[:2] == (count, 3) and split.text_bert.dtype == np.int64
        assert split.text_bert.min() >= 0 and split.text_bert[:, 1:].max() <= 1
    for features, mask in ((split.audio, split.audio_mask), (split.vision, split.vision_mask)):
        assert features.dtype == np.float32 and features.ndim == 3 and features.shape[:2] == mask.shape
        assert mask.dtype == bool and len(features) == count
        assert np.isfinite(features).all()
    assert split.labels.dtype == np.float32 and np.abs(split.labels).max() <= 3.001
    if split.unimodal_labels is not None:
        assert split.unimodal_labels.shape == (3, count) and np.abs(split.unimodal_labels).max() <= 3.001


def test_the_unmutated_files_are_read(path):
    for data in FILES:
        assert outcome(path, data) == "read"


def mutate_bytes(data: bytes, random: Random) -> bytes:
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 4])):
        # A third of the places are near a name, so among opcodes; most of the others are in a payload.
        position = random.randrange(len(data))
        if random.random() < 1 / 3:
            name = random.choice([b"numpy", b"regression", b"audio", b"id", b"f4", b"\x80"])
            position = max(data.find(name), 0) + random.randrange(60)
        position = min(position, len(data) - 1)
        kind = random.choice(["set"] * 3 + ["flip"] * 3 + ["insert", "delete", "cut", "copy", "integer"])
        if kind == "set":
            data[position] = random.choice(INTERESTING)
        elif kind == "flip":
            data[position] ^= 1 << random.randrange(8)
        elif kind == "insert":
            data[position:position] = random.choices(INTERESTING, k=random.randint(1, 4))
        elif kind == "delete":
            del data[position : position + random.randint(1, 8)]
        elif kind == "cut":
            del data[position + 1 :]
        elif kind == "copy":
            start = random.randrange(len(data))
            data[position:position] = data[start : start + random.randint(1, 40)]
        else:
            size = random.choice([4, 8])
            data[position : position + size] = random.getrandbits(8 * size).to_bytes(size, "little")
    return bytes(data)


@SETTINGS
@given(data=st.sampled_from(FILES), seed=st.integers(0, 2**64))
def test_mutated_bytes_are_refused_or_read_as_pickle_reads_them(path, data, seed):
    started = time.perf_counter()
    outcome(path, mutate_bytes(data, Random(seed)))
    assert time.perf_counter() - started < 5


NUMBER = st.sampled_from([np.nan, np.inf, -np.inf, -1, 0, 1, 2, 0.5, 3, 3.5, 1e300, 2**40])
OBJECT = st.sampled_from([None, True, 1, -1, 2**70, 0.5, "text", b"bytes", [], {}, (), [[1], [2]], [None, None]])


def _array_mutation(draw, array: np.ndarray):
    kind = draw(st.sampled_from(["number", "number", "dtype", "slice", "axes", "repeat", "rank", "list", "order"]))
    if kind == "number" and array.size:
        array = array.copy()
        with np.errstate(all="ignore"):
            array.flat[draw(st.integers(0, array.size - 1))] = draw(NUMBER)
    elif kind == "dtype":
        with np.errstate(all="ignore"):
            array = array.astype(draw(st.sampled_from(["f2", "<f4", ">f8", "i1", "u8", "U", "O", "b1", "c8", "S"])))
    elif kind == "slice":
        array = array[draw(st.integers(0, len(array))) :]
    elif kind == "axes":
        array = np.moveaxis(array, 0, -1)
    elif kind == "repeat":
        array = np.concatenate([array, array], axis=draw(st.integers(0, array.ndim - 1)))
    elif kind == "rank":
        array = array[..., None] if draw(st.booleans()) else array[0]
    elif kind == "list":
        array = array.tolist()
    else:
        array = np.asfortranarray(array)[::-1]
    return array


def _list_mutation(draw, values: list):
    values = list(values)
    kind = draw(st.sampled_from(["item", "item", "number", "twice", "drop", "array", "objects", "repeat"]))
    position = draw(st.integers(0, max(0, len(values) - 1)))
    if kind == "item" and values:
        values[position] = draw(OBJECT)
    elif kind == "number" and values:
        values[position] = draw(NUMBER)
    elif kind == "twice" and values:
        values[position] = values[0]
    elif kind == "drop":
        del values[position : position + 1]
    elif kind in ("array", "objects"):
        return np.array(values, dtype=object if kind == "objects" else None)
    elif kind == "repeat":
        values += values
    return values


@st.composite
def mutated_structure(draw) -> dict:
    content = copy.deepcopy(draw(st.sampled_from(CONTENTS)))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(SPLITS))
        split = content[name]
        if not isinstance(split, dict) or not split:
            break
        key = draw(st.sampled_from(sorted(split)))
        kind = draw(st.sampled_from(["value"] * 8 + ["drop", "replace", "move", "add", "split", "swap"]))
        if kind == "value":
            mutate = _array_mutation if isinstance(split[key], np.ndarray) else _list_mutation
            try:
                split[key] = mutate(draw, split[key])
            except (ValueError, TypeError, OverflowError, IndexError):  # numpy itself makes no such array
                split[key] = [split[key]]
        elif kind == "drop":
            del split[key]
        elif kind == "replace":
            split[key] = draw(OBJECT)
        elif kind == "move":
            split[key] = content[draw(st.sampled_from(SPLITS))]
        elif kind == "add":
            split[draw(st.sampled_from(["extra", "text", "audio_lengths", "regression_labels_T"]))] = split[key]
        elif kind == "split":
            content[name] = draw(OBJECT)
        elif kind == "swap":
            content[name] = content[draw(st.sampled_from(SPLITS))]
    return content


@SETTINGS
@given(content=mutated_structure(), protocol=st.sampled_from([2, 3, 4, 5]))
def test_mutated_structures_are_refused_or_read_as_pickle_reads_them(path, content, protocol):
    started = time.perf_counter()
    outcome(path, pickle.dumps(content, protocol=protocol))
    assert time.perf_counter() - started < 5
