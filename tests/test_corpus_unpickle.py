"""The restricted unpickler: what it must read, what it must refuse, and at what cost."""

import io
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from corpus_files import make_content, with_numpy_names

from mgcl_core.corpus.unpickle import read_pickle
from mgcl_core.errors import CorpusError


def equal(left, right) -> bool:
    """Equal in value and type, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return left == right


@pytest.fixture
def reads(tmp_path):
    def read(data: bytes):
        path = tmp_path / "file.pkl"
        path.write_bytes(data)
        return read_pickle(path)

    return read


VALUES = {
    "numbers": [0, 1, 255, 65536, -1, 2**31, 2**63, 1.5, float("inf"), True, False, None],
    "strings": ["", "text", "你好", "x" * 300, "y" * 70_000],
    "bytes": [b"", b"\x00\xff", b"z" * 300],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "nested": {"a": [{"b": [[]]}], 3: {}},
    "arrays": [np.arange(6, dtype=code).reshape(2, 3) for code in ("i1", "u2", "<i4", ">i8", "f2", "<f4", ">f8")],
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "large": np.arange(40_000, dtype=np.float64).reshape(100, 400),
    "bool": np.array([True, False]),
    "no items": np.zeros((0, 4), np.float32),
    "no dimensions": np.array(3.0),
    "unicode array": np.array(["a", "好的", "longer"]),
    "bytes array": np.array([b"a", b"bcd"]),
    "object array": np.array(["a", None, 3], dtype=object),
    "scalars": [np.float32(0.6), np.int64(-3), np.str_("id"), np.bool_(True)],
}


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_the_plain_unpickler_reads(reads, protocol, core):
    data = with_numpy_names(pickle.dumps(VALUES, protocol=protocol), core)
    assert (b"numpy.core" in data) == (core == "numpy.core")
    assert equal(reads(data), VALUES)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_the_pure_python_picklers_output(reads, protocol):
    buffer = io.BytesIO()
    pickle._Pickler(buffer, protocol).dump(VALUES)
    assert equal(reads(buffer.getvalue()), VALUES)


def test_an_array_that_is_there_twice_is_one_array(reads):
    array = np.arange(5.0)
    content = reads(pickle.dumps({"a": array, "b": array}, protocol=4))
    assert content["a"] is content["b"]


def test_array_payloads_stay_in_the_file(reads):
    data = pickle.dumps(np.ones((1000, 1000)), protocol=4)
    tracemalloc.start()
    try:
        array = reads(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert array.sum() == 1_000_000
    assert not array.flags.writeable


class Touch:
    """Unpickled by ``pickle``, it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_and_not_run(reads, tmp_path, protocol):
    marker = tmp_path / "marker"
    data = pickle.dumps({"train": make_content()["train"], "x": Touch(marker)}, protocol=protocol)
    with pytest.raises(CorpusError) as caught:
        reads(data)
    assert not marker.exists()
    if protocol >= 2:
        assert "nothing of it was run" in str(caught.value)
        assert ".open" in caught.value.found
    pickle.loads(data)  # the trap is a real one
    assert marker.exists()


CODE = {
    "GLOBAL and REDUCE": b"\x80\x02cos\nsystem\nU\x04true\x85R.",
    "STACK_GLOBAL and REDUCE": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo.",
    "NEWOBJ": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)}\x92.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02K\x01Q.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "attribute of numpy": b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\n.",
    "numpy.ndarray called": b"\x80\x02cnumpy\nndarray\nK\x05\x85\x85R.",
    "state of a list": b"\x80\x02]}b.",
    "call of a number": b"\x80\x02K\x01)R.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "tuple as key": b"\x80\x02})K\x01s.",
    "items for a number": b"\x80\x02K\x01K\x02a.",
    "memo never set": b"\x80\x02h\x05.",
    "empty stack": b"\x80\x02.",
    "two values": b"\x80\x02K\x01K\x02.",
    "open mark": b"\x80\x02(K\x01.",
    "mark never set": b"\x80\x02K\x01t.",
    "bytes after the end": b"\x80\x02K\x01.K\x01",
    "protocol 9": b"\x80\x09K\x01.",
    "unknown opcode": b"\x80\x02\xff.",
    "no pickle": b"PK\x03\x04 this is a zip archive",
    "nothing": b"",
    "integer of 800 bits": b"\x80\x02\x8a\x64" + b"\x7f" * 100 + b".",
}


@pytest.mark.parametrize("name", CODE)
def test_other_opcodes_and_broken_streams_are_refused(reads, name):
    with pytest.raises(CorpusError, match=r"file\.pkl"):
        reads(CODE[name])


def test_every_truncation_is_refused(reads):
    data = pickle.dumps({"a": ["x", 1], "b": np.arange(3.0)}, protocol=4)
    for size in range(len(data)):
        with pytest.raises(CorpusError):
            reads(data[:size])


def _array(shape: bytes, data: bytes = b"C\x08" + bytes(8), name: bytes = b"f8", state: bytes = b"") -> bytes:
    """A protocol-4 array of the given shape opcodes, written by hand."""
    state = state or b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return (
        b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93\x8c\x05numpy\x8c\x07ndarray\x93"
        b"K\x00\x85C\x01b\x87R(K\x01" + shape + b"\x8c\x05numpy\x8c\x05dtype\x93\x8c" + bytes([len(name)]) + name
        + b"\x89\x88\x87R" + state + b"\x89" + data + b"tb."
    )  # fmt: skip


def test_the_hand_written_array_is_read(reads):
    assert equal(reads(_array(b"K\x01\x85")), np.zeros(1))


HUGE = struct.pack("<Q", 2**62)
ABSURD = {
    "BINBYTES8": b"\x80\x04\x8e" + HUGE + b"abc.",
    "BINBYTES8 beyond 64 bits signed": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"abc.",
    "BINBYTES": b"\x80\x03B\xff\xff\xff\xffabc.",
    "BINUNICODE8": b"\x80\x04\x8d" + HUGE + b"abc.",
    "BYTEARRAY8": b"\x80\x05\x96" + HUGE + b"abc.",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "FRAME": b"\x80\x04\x95" + HUGE + b"K\x01.",
    "LONG_BINPUT": b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # the C unpickler allocates its memo up to there
    "a line without end": b"\x80\x02c" + b"a" * 5_000_000,
    "shape of 2**31 clips": _array(b"J\xff\xff\xff\x7f\x85"),
    "shape of 2**120": _array(b"J\xff\xff\xff\x7f" * 4 + b"\x8a\x08" + b"\xff" * 7 + b"\x7ft").replace(
        b"(K\x01J", b"(K\x01(J", 1
    ),
    "negative shape": _array(b"J\xff\xff\xff\xff\x85"),
    "shape of 40 dimensions": _array(b"(" + b"K\x01" * 40 + b"t"),
    "_reconstruct of a shape": _array(b"K\x01\x85").replace(b"K\x00\x85C", b"J\xff\xff\xff\x7f\x85C"),
    "huge item size": _array(b"K\x01\x85", name=b"U9999999"),
    "item size that is not the dtype's": _array(
        b"K\x01\x85", name=b"U2", state=b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\x7fK\x04K\x08tb"
    ),
    "object flag on numbers": _array(
        b"K\x01\x85", state=b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    ),
    "object array of no objects": _array(
        b"K\x01\x85", name=b"O8", state=b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    ),
    "dtype of fields": _array(b"K\x01\x85", name=b"f8,f8"),
    "void dtype": _array(b"K\x01\x85", name=b"V999999"),
    "bytes(10**9)": b"\x80\x02c__builtin__\nbytes\nJ\x00\xca\x9a\x3b\x85R.",
    "an unfinished array as state": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87Rb.",
    "a hundred thousand marks": b"\x80\x02" + b"(" * 100_000 + b".",
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_declared_sizes_cost_nothing(reads, name):
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(CorpusError):
            reads(ABSURD[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(ABSURD[name]) + 200_000_000
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("opcodes", [b"]" + b"\x85" * 300_000, b"]" * 300_001 + b"a" * 300_000])
def test_deep_nesting_needs_no_recursion(reads, opcodes):
    value = reads(b"\x80\x02" + opcodes + b".")
    depth = 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == 300_000


def test_the_number_of_opcodes_is_bounded(reads, monkeypatch):
    monkeypatch.setattr("mgcl_core.corpus.unpickle.MAX_OPCODES", 1000)
    assert reads(b"\x80\x02]" + b"Na" * 400 + b".") == [None] * 400
    with pytest.raises(CorpusError, match="1000 opcodes"):
        reads(b"\x80\x02]" + b"Na" * 600 + b".")


def test_an_error_names_file_place_expected_and_found(reads, tmp_path):
    with pytest.raises(CorpusError) as caught:
        reads(b"\x80\x02cos\nsystem\n.")
    error = caught.value
    assert error.file == tmp_path / "file.pkl"
    assert "numpy arrays" in error.expected
    assert error.found == "os.system, at byte 13 of 14"


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="No such file"):
        read_pickle(tmp_path / "none.pkl")
