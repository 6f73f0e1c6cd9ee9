"""What a pickled file may call: stand-ins for the numpy functions that rebuild arrays, and nothing else.

Arguments come from the file, so the exact type of each is checked before use; anything unexpected raises
``ValueError`` or ``TypeError``. The real functions of numpy are never called with these arguments, because they
trust the sizes and flags they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...support.errors import shorten

_MAX_DIMENSIONS = 32
_NUMERIC_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class Unfinished:
    """An array or dtype that was created but still waits for its state, which the opcode BUILD gives it."""

    def __init__(self, build: Callable[[Any], Any]):
        self.build = build
        self.memo_keys: list[int] = []


def _ndarray(*_: Any) -> None:
    raise ValueError("numpy.ndarray itself is called")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Unfinished:
    empty = type(shape) is tuple and len(shape) == 1 and type(shape[0]) is int and shape[0] == 0
    if kind is not _ndarray or not empty or type(code) is not bytes or code != b"b":
        raise ValueError("an unusual call of _reconstruct")
    return Unfinished(_array_from_state)


def _array_from_state(state: Any) -> np.ndarray:
    if type(state) is not tuple or len(state) != 5:
        raise ValueError("an unusual array state")
    version, shape, dtype, fortran, data = state
    if type(version) is not int or version != 1 or type(fortran) is not bool:
        raise ValueError("an unusual array state")
    return _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"a shape of kind {type(shape).__name__}")
    if not isinstance(dtype, np.dtype) or type(order) is not str or order not in ("C", "F"):
        raise ValueError(f"a dtype of kind {type(dtype).__name__} or an order that is neither C nor F")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError("a shape that is not of sizes")
        count *= size
    if dtype.hasobject:
        if type(data) is not list or len(data) != count:
            raise ValueError("an object array whose items do not fit its shape")
        flat = np.empty(count, dtype=object)
        for index, item in enumerate(data):
            flat[index] = item
        order = "C"  # numpy lists objects in this order, whatever order it names
    else:
        if type(data) not in (bytes, bytearray, memoryview) or len(data) != count * dtype.itemsize:
            raise ValueError(f"data that does not fit shape {shorten(shape)} of {dtype}")
        if dtype.kind == "U" and count and np.frombuffer(data, f"{dtype.byteorder}u4").max() > 0x10FFFF:
            raise ValueError("a string with invalid code points")  # numpy crashes or fails on use
        flat = np.frombuffer(memoryview(data).toreadonly(), dtype=dtype) if count else np.empty(0, dtype)
    return flat.reshape(shape, order=order)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if axes is None:
        return _array(data, dtype, shape, order)
    # Order K, since numpy 2.3: neither C nor Fortran. The data is in C order and its axes are then permuted.
    if type(order) is not str or order != "K":
        raise ValueError("an order of axes without order K")
    if type(axes) is not tuple or any(type(axis) is not int for axis in axes):  # sorting deep tuples would recurse
        raise ValueError("an order of axes that is not of numbers")
    array = _array(data, dtype, shape)
    if sorted(axes) != list(range(array.ndim)):
        raise ValueError("an order of axes that is not a permutation")
    return array.transpose(axes)


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise ValueError("a scalar whose dtype is not allowed")
    return _array(data, dtype, (1,))[0]


def _dtype(name: Any, align: Any = False, copy: Any = True) -> Unfinished:
    if type(name) is not str or type(align) not in (bool, int) or type(copy) not in (bool, int):
        raise ValueError("an unusual call of dtype")
    if name not in _NUMERIC_DTYPES and name != "O8" and not _is_text(name):
        raise ValueError(f"dtype {shorten(name)}")
    dtype = np.dtype(name if name != "O8" else object)

    def build(state: Any) -> np.dtype:
        kinds = [int, str, *[type(None)] * 3, int, int, int]
        if type(state) is not tuple or [type(item) for item in state] != kinds:
            raise ValueError(f"an unusual state of dtype {name}")
        version, byte_order, _subdtype, _names, _fields, itemsize, alignment, flags = state
        sizes = (dtype.itemsize, dtype.alignment) if _is_text(name) else (-1, -1)
        allowed_flags = (63,) if dtype.hasobject else (0, 8) if _is_text(name) else (0,)
        if (
            version != 3
            or byte_order not in ("<", ">", "|", "=")
            or (itemsize, alignment) != sizes
            or flags not in allowed_flags
        ):
            raise ValueError(f"an unusual state of dtype {name}")
        return dtype if byte_order in "|=" else dtype.newbyteorder(byte_order)

    return Unfinished(build)


def _is_text(name: str) -> bool:
    """Tell whether a dtype is a string type of some width (`U220`, `S8`)."""
    width = name[1:]
    return name[0:1] in ("U", "S") and len(width) < 8 and width.isascii() and width.isdigit() and int(width) > 0


def _encode(text: Any, codec: Any) -> bytes:
    if type(text) is not str or codec != "latin1":  # how protocol 2 writes bytes
        raise ValueError(f"_codecs.encode of {type(text).__name__}")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""  # how protocol 2 writes empty bytes


ALLOWED_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "memmap"): _ndarray,  # its numbers are in the pickle as an array's are
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "bytes"): _bytes,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1.x and 2.x
    ALLOWED_FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    ALLOWED_FUNCTIONS[f"{_core}.multiarray", "scalar"] = _scalar
    ALLOWED_FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = _frombuffer
