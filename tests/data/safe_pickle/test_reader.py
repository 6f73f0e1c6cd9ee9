"""The restricted unpickler: what it must read, what it must refuse, and at what cost."""

import io
import itertools
import mmap
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from helpers.corpus_files import make_content, with_numpy_names

from mgcl_core.data.safe_pickle import read_pickle
from mgcl_core.support.errors import CorpusError


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


NUMBERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
DTYPES = ["?", *NUMBERS, *[f">{code}" for code in NUMBERS if code[1] != "1"], "U3", ">U3", "S3", "O"]
SHAPES = [(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 4), (3, 1, 2, 4)]
TEXTS = np.array(["", "a", "naïf", "你好"])


def some_array(shape: tuple[int, ...], code: str) -> np.ndarray:
    """Any bits where the dtype is of numbers, else a few texts."""
    dtype, random = np.dtype(code), np.random.default_rng(0)
    if dtype.kind in "USO":
        texts = np.char.encode(TEXTS, "utf-8") if dtype.kind == "S" else TEXTS
        return np.asarray(random.choice(texts, shape), dtype)
    bits = random.integers(0, 2 if dtype.kind == "b" else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return bits.view(dtype).reshape(shape)


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The array in each order of its axes (C, Fortran and between), each whole, in parts and backwards."""
    arrays = {}
    for axes in itertools.permutations(range(array.ndim)):
        whole = array.transpose(axes)
        frozen = whole.view()
        frozen.flags.writeable = False  # protocol 5 writes it as bytes, not as a bytearray
        name = f"of {array.shape}, axes {axes}"
        arrays |= {name: whole, f"{name}, frozen": frozen}
        arrays[f"{name}, repeated"] = np.broadcast_to(whole, (2, *whole.shape))
        for step in (-1, 2):
            arrays[f"{name}, step {step}"] = whole[(..., *[slice(None, None, step)] * array.ndim)]
    return arrays


def same_array(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal to the bit: any NaN equals itself."""
    if type(left) is not type(right) or (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return left.tolist() == right.tolist() if left.dtype.hasobject else left.tobytes() == right.tobytes()


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_array_of_any_layout_is_what_the_plain_unpickler_gives(reads, protocol, code):
    arrays = {}
    for shape in SHAPES:
        arrays |= layouts(some_array(shape, code))
    data = pickle.dumps(arrays, protocol=protocol)
    expected = pickle.loads(data)
    content = reads(data)
    assert content.keys() == expected.keys()
    for name, array in content.items():
        assert same_array(array, arrays[name]), name
        if expected[name].dtype != array.dtype:  # numpy swaps big-endian bytes of protocols 2 to 4; a view keeps them
            array = array.astype(array.dtype.newbyteorder("="))
        assert same_array(array, expected[name]), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_only_at_any_size(reads, protocol):
    for array in reads(pickle.dumps([np.ones(3), np.ones(100_000), np.array(["a"])], protocol=protocol)):
        assert not array.flags.writeable


def test_a_bytearray_of_no_array_stays_one(reads):
    assert equal(reads(pickle.dumps([bytearray(b"abc"), bytearray()], protocol=5)), [bytearray(b"abc"), bytearray()])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_array_payloads_stay_in_the_file(reads, protocol):
    block = np.ones((100, 200, 100))  # 16 MB
    arrays = {"C": block, "Fortran": np.asfortranarray(block), "permuted": block.transpose(2, 0, 1)}
    arrays["text"] = np.full(40_000, "x" * 100)
    data = pickle.dumps(arrays, protocol=protocol)
    assert len(data) > 64_000_000
    tracemalloc.start()
    try:
        content = reads(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    for name, array in content.items():
        assert same_array(array, arrays[name])
        assert not array.flags.writeable
        while isinstance(array, np.ndarray):
            assert not array.flags.owndata
            array = array.base
        assert isinstance(array, memoryview) and isinstance(array.obj, mmap.mmap)


def _permuted(axes: bytes, order: bytes = b"\x8c\x01K", data: bytes = bytes(range(24))) -> bytes:
    """Bytes of shape (2, 3, 4) and then an order of the axes, written by hand as numpy 2.3 and later write it."""
    return (
        b"\x80\x05\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93(\x96" + struct.pack("<Q", len(data)) + data
        + b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02u1\x89\x88\x87R"
        + b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbK\x02K\x03K\x04\x87" + order + axes + b"tR."
    )  # fmt: skip


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
def test_permuted_axes_are_read_whatever_numpy_is_installed(reads, axes):
    expected = np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(axes)
    data = _permuted(b"K%cK%cK%c\x87" % axes)
    for core in ("numpy.core", "numpy._core"):
        assert same_array(reads(with_numpy_names(data, core)), expected)


WRONG_AXES = {
    "an axis twice": b"K\x00K\x01K\x01\x87",
    "an axis too few": b"K\x00K\x01\x86",
    "an axis too many": b"(K\x00K\x01K\x02K\x03t",
    "no axes": b")",
    "an axis that is not there": b"K\x00K\x01K\x03\x87",
    "an axis of 2**63": b"K\x00K\x01\x8a\x09" + bytes(7) + b"\x80\x00\x87",
    "axes from the end": b"K\x00K\x01J\xff\xff\xff\xff\x87",
    "bools": b"\x89\x88K\x02\x87",
    "floats": b"K\x00K\x01G@\x00\x00\x00\x00\x00\x00\x00\x87",
    "strings": b"\x8c\x010\x8c\x011\x8c\x012\x87",
    "a list": b"](K\x00K\x01K\x02e",
    "a number": b"K\x02",
    "a tuple within": b"K\x00K\x01K\x02\x85\x87",
    "a deep tuple": b")" + b"\x85" * 300_000,
    "a deep tuple as an axis": b"K\x00K\x01)" + b"\x85" * 300_000 + b"\x87",
    "deep tuples as axes": b"(" + (b")" + b"\x85" * 100_000) * 3 + b"t",
    "a hundred thousand axes": b"(" + b"K\x00" * 100_000 + b"t",
    "a function": b"\x8c\x05numpy\x8c\x05dtype\x93",
    "None": b"N",
    "nothing": b"",
    "a sixth argument": b"K\x00K\x01K\x02\x87N",
}


@pytest.mark.parametrize("name", WRONG_AXES)
def test_axes_that_are_no_permutation_are_refused(reads, name):
    with pytest.raises(CorpusError, match="an array of the pickle is broken"):
        reads(_permuted(WRONG_AXES[name]))


@pytest.mark.parametrize("order", [b"\x8c\x01C", b"\x8c\x01F", b"\x8c\x01A", b"K\x00", b"N", b"]", b"C\x01K"])
def test_axes_go_with_order_k_only(reads, order):
    with pytest.raises(CorpusError, match="an array of the pickle is broken"):
        reads(_permuted(b"K\x00K\x01K\x02\x87", order))


@pytest.mark.parametrize("size", [0, 23, 25])
def test_a_permuted_array_must_fit_its_payload(reads, size):
    with pytest.raises(CorpusError, match="does not fit shape"):
        reads(_permuted(b"K\x02K\x00K\x01\x87", data=bytes(size)))


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
    monkeypatch.setattr("mgcl_core.data.safe_pickle.reader.MAX_OPCODES", 1000)
    assert reads(b"\x80\x02]" + b"Na" * 400 + b".") == [None] * 400
    with pytest.raises(CorpusError, match="1000 opcodes"):
        reads(b"\x80\x02]" + b"Na" * 600 + b".")


def test_an_error_names_file_position_expected_and_found(reads, tmp_path):
    with pytest.raises(CorpusError) as caught:
        reads(b"\x80\x02cos\nsystem\n.")
    error = caught.value
    assert error.file == tmp_path / "file.pkl"
    assert "numpy arrays" in error.expected
    assert error.found == "os.system, at byte 13 of 14"


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="No such file"):
        read_pickle(tmp_path / "none.pkl")
