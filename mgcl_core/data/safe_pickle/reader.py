"""Reading a pickle of numpy arrays, strings, numbers and plain containers without running any of it.

The README.md in this folder explains how.
"""

from __future__ import annotations

import mmap
import os
import pickletools
import struct
from pathlib import Path
from typing import Any, BinaryIO

from ...support.errors import CorpusError, shorten
from .allowed import ALLOWED_FUNCTIONS, Unfinished

#: CMU-MOSEI in MMSA's form needs about 300,000, as MISA's list of clips about 3 million; this many take ten seconds.
MAX_OPCODES = 5_000_000
_MIN_VIEW_BYTES = 1 << 16  # larger payloads stay in the mapped file
_MAX_LINE_BYTES = 1000  # only module and class names end with a newline
_EXPECTED = "a pickle (protocol 2 to 5) of numpy arrays, strings, numbers and plain containers"


class _Refused(Exception):
    """The pickle is broken or asks for something that is not allowed; ``args`` are problem and found."""


class _Mapped:
    """The file as ``pickletools`` reads it; long payloads are views of the mapped file instead of copies.

    All else is read from the file itself: of a file that another program cuts off meanwhile, a read is short, where the
    map would end this process by a signal.
    """

    def __init__(self, buffer: memoryview, file: BinaryIO):
        self.buffer, self.file, self.position = buffer, file, 0
        file.seek(0)

    def remaining(self) -> int:
        return len(self.buffer) - self.position

    def read(self, size: int) -> bytes | memoryview:
        if size < _MIN_VIEW_BYTES:
            piece = self.file.read(size)
        else:
            piece = self.buffer[self.position : self.position + size]
            self.file.seek(len(piece), os.SEEK_CUR)
        self.position += len(piece)
        return piece

    def readline(self) -> bytes:
        line = self.file.readline(_MAX_LINE_BYTES)
        self.position += len(line)
        return line if line.endswith(b"\n") else b""  # which pickletools refuses


def read_pickle(path: Path) -> Any:
    """Read the object in a pickle file, without executing anything that the file names.

    Args:
        path: A pickle of protocol 2 to 5.

    Returns:
        What ``pickle.load`` would give; arrays are read-only views of the mapped file.

    Raises:
        CorpusError: The file cannot be opened, is not a pickle, is truncated, or asks for anything but numpy arrays,
            strings, numbers and plain containers.
    """
    try:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise CorpusError("the file is empty", file=path, expected=_EXPECTED, found="0 bytes")
            mapped = _Mapped(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), file)
            try:
                return _execute(mapped)
            except _Refused as refused:
                problem, detail = refused.args
                position = f"at byte {mapped.position} of {len(mapped.buffer)}"
                raise CorpusError(problem, file=path, expected=_EXPECTED, found=f"{detail}, {position}") from None
    except OSError as error:
        raise CorpusError(
            "the file cannot be opened", file=path, expected="a file to read", found=error.strerror
        ) from error


def _execute(mapped: _Mapped) -> Any:
    machine = _Machine(mapped)
    for _ in range(MAX_OPCODES):
        try:
            name, argument = _next_opcode(mapped)
        except (ValueError, struct.error, IndexError) as error:  # what pickletools raises on a broken stream
            detail = "a truncated file" if not mapped.remaining() else shorten(error)
            raise _Refused("the pickle cannot be read", detail) from None
        if name == "STOP":
            return machine.result()
        operation = getattr(machine, f"op_{name.lower()}", None)
        if operation is None:
            raise _Refused("the pickle holds more than data", f"opcode {name}")
        try:
            operation(argument)
        except IndexError:
            raise _Refused("the pickle is broken", f"{name} on an empty stack") from None
    raise _Refused("the pickle is too long", f"more than {MAX_OPCODES} opcodes")


def _next_opcode(mapped: _Mapped) -> tuple[str, Any]:
    code = mapped.read(1)
    opcode = pickletools.code2op.get(code.decode("latin-1"))
    if opcode is None:
        raise ValueError(f"opcode {code!r} unknown")
    if opcode.arg is None:
        return opcode.name, None
    # Protocol 5 writes arrays as bytearrays, which their own reader would copy; bytes have the same form.
    reader = pickletools.read_bytes8 if opcode.name == "BYTEARRAY8" else opcode.arg.reader
    return opcode.name, reader(mapped)


class _Machine:
    """The unpickler's stack, marks and memo; one method for each opcode."""

    def __init__(self, mapped: _Mapped):
        self.mapped = mapped
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        if self.marks or len(self.stack) != 1:
            raise _Refused("the pickle is broken", f"{len(self.stack)} values at its end, not one")
        if self.mapped.remaining():
            raise _Refused("the pickle is broken", f"{self.mapped.remaining()} bytes after its end")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    # -- framing

    def op_proto(self, version: int) -> None:
        if not 2 <= version <= 5:
            raise _Refused("the pickle's protocol is not read", f"protocol {version}")

    def op_frame(self, size: int) -> None:
        if size > self.mapped.remaining():
            raise _Refused("the pickle is truncated", f"a frame of {size} bytes")

    # -- values

    op_binint = op_binint1 = op_binint2 = op_binfloat = push
    op_binunicode = op_short_binunicode = op_binunicode8 = push
    op_binbytes = op_short_binbytes = op_binbytes8 = push

    def op_bytearray8(self, value: bytes | memoryview) -> None:
        self.push(bytearray(value) if type(value) is bytes else value)

    def op_long1(self, value: int) -> None:
        if not -(2**63) <= value < 2**64:
            raise _Refused("a number is too large", f"an integer of {value.bit_length()} bits")
        self.push(value)

    op_long4 = op_long1

    def op_none(self, _: None) -> None:
        self.push(None)

    def op_newtrue(self, _: None) -> None:
        self.push(True)

    def op_newfalse(self, _: None) -> None:
        self.push(False)

    # -- containers

    def op_mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def op_empty_tuple(self, _: None) -> None:
        self.push(())

    def op_tuple(self, _: None) -> None:
        self.push(tuple(self.pop_mark()))

    def op_tuple1(self, _: None) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def op_tuple2(self, _: None) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def op_tuple3(self, _: None) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def op_empty_list(self, _: None) -> None:
        self.push([])

    def op_append(self, _: None) -> None:
        value = self.stack.pop()
        self.extend([value])

    def op_appends(self, _: None) -> None:
        self.extend(self.pop_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("the pickle is broken", f"items for {type(self.stack[-1]).__name__}, not for a list")
        self.stack[-1].extend(items)

    def op_empty_dict(self, _: None) -> None:
        self.push({})

    def op_setitem(self, _: None) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.update([key, value])

    def op_setitems(self, _: None) -> None:
        self.update(self.pop_mark())

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise _Refused("the pickle is broken", f"entries for {type(self.stack[-1]).__name__}, not for a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # hashing a deep tuple would overflow the C stack
                raise _Refused("a dict has a key that is not read", type(key).__name__)
            self.stack[-1][key] = value

    # -- memo

    def op_binput(self, index: int) -> None:
        value = self.stack[-1]
        if index > MAX_OPCODES:  # picklers count up from 0
            raise _Refused("the pickle is broken", f"memo entry {index}")
        if isinstance(value, Unfinished):
            value.memo_keys.append(index)
        self.memo[index] = value

    op_long_binput = op_binput

    def op_memoize(self, _: None) -> None:
        self.op_binput(len(self.memo))

    def op_binget(self, index: int) -> None:
        if index not in self.memo:
            raise _Refused("the pickle is broken", f"memo entry {index}, which was never set")
        self.push(self.memo[index])

    op_long_binget = op_binget

    # -- functions

    def op_global(self, name: str) -> None:
        self.push_function(*name.split(" ", 1))

    def op_stack_global(self, _: None) -> None:
        name = self.stack.pop()
        self.push_function(self.stack.pop(), name)

    def push_function(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise _Refused("the pickle is broken", "a name that is not a string")
        if (module, name) not in ALLOWED_FUNCTIONS:
            raise _Refused("the pickle holds more than data; nothing of it was run", shorten(f"{module}.{name}"))
        self.push(ALLOWED_FUNCTIONS[module, name])

    def op_reduce(self, _: None) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        # Every function on the stack is one of ALLOWED_FUNCTIONS.
        if not callable(function) or type(arguments) is not tuple:
            raise _Refused("the pickle is broken", f"a call of {type(function).__name__}")
        try:
            self.push(function(*arguments))
        except (TypeError, ValueError, UnicodeError, OverflowError) as error:
            raise _Refused("an array of the pickle is broken", shorten(error)) from None

    def op_build(self, _: None) -> None:
        state = self.stack.pop()
        unfinished = self.stack[-1]
        if not isinstance(unfinished, Unfinished):
            raise _Refused("the pickle is broken", f"a state for {type(unfinished).__name__}")
        try:
            value = unfinished.build(state)
        except (TypeError, ValueError, OverflowError) as error:
            raise _Refused("an array of the pickle is broken", shorten(error)) from None
        self.stack[-1] = value
        for key in unfinished.memo_keys:
            if self.memo[key] is unfinished:
                self.memo[key] = value
