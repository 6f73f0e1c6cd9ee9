"""Reading a pickle of numpy arrays, strings, numbers and plain containers without running any of it.

``pickle.load`` calls whatever a file names. Here the readers of ``pickletools`` split the memory-mapped
file into opcodes and a small stack machine executes the few that such a file needs; nothing is imported,
and the "calls" a file can make are the functions in ``ADMITTED``, which build values by themselves.

Nothing a file declares is believed: a payload is a view of the mapped file, so it cannot be longer
than the file; an array's shape must fit its payload; the number of opcodes is bounded; no recursion.
Array payloads are not copied, so a file of many GB costs little memory.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from pathlib import Path
from typing import Any

from ...support.errors import CorpusError
from .allowed import ADMITTED, Pending, kind_of, short

#: A corpus the size of CMU-MOSEI needs some 300,000; this many take some ten seconds.
MAX_OPCODES = 2_000_000
_VIEW_FROM = 1 << 16  # payloads from this size on stay in the mapped file
_LONGEST_LINE = 1000  # only module and class names end with a newline
_EXPECTED = "a pickle (protocol 2 to 5) of numpy arrays, strings, numbers and plain containers"


class _Refused(Exception):
    """The pickle is broken or asks for what is not admitted: (problem, found)."""


class _Mapped:
    """The file as ``pickletools`` wants it, giving long payloads as views instead of copies."""

    def __init__(self, buffer: memoryview):
        self.buffer, self.position = buffer, 0

    def remaining(self) -> int:
        return len(self.buffer) - self.position

    def read(self, size: int) -> bytes | memoryview:
        piece = self.buffer[self.position : self.position + size]
        self.position += len(piece)
        return piece if len(piece) >= _VIEW_FROM else bytes(piece)

    def readline(self) -> bytes:
        line = bytes(self.buffer[self.position : self.position + _LONGEST_LINE])
        line = line[: line.find(b"\n") + 1]  # empty without a newline: pickletools refuses it
        self.position += len(line)
        return line


def read_pickle(path: Path) -> Any:
    """The object in a pickle file, as the plain unpickler would give it.

    Arrays are read-only views of the mapped file. Raises ``CorpusError`` where the file cannot be
    opened, is no pickle, is truncated, or asks for anything but arrays, strings, numbers and plain
    containers.
    """
    try:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise CorpusError("the file is empty", file=path, expected=_EXPECTED, found="0 bytes")
            mapped = _Mapped(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except OSError as error:
        raise CorpusError(
            "the file cannot be opened", file=path, expected="a file to read", found=error.strerror
        ) from error
    try:
        return _execute(mapped)
    except _Refused as refused:
        problem, found = refused.args
        at = f"{found}, at byte {mapped.position} of {len(mapped.buffer)}"
        raise CorpusError(problem, file=path, expected=_EXPECTED, found=at) from None


def _execute(mapped: _Mapped) -> Any:
    machine = _Machine(mapped)
    for _ in range(MAX_OPCODES):
        try:
            name, argument = _next_opcode(mapped)
        except (ValueError, struct.error, IndexError) as error:  # pickletools' words for a broken stream
            found = "a truncated file" if not mapped.remaining() else short(error)
            raise _Refused("the pickle cannot be read", found) from None
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
    # The reader of bytearrays would copy them, and protocol 5 writes arrays so; bytes are written alike.
    reader = pickletools.read_bytes8 if opcode.name == "BYTEARRAY8" else opcode.arg.reader
    return opcode.name, reader(mapped)


class _Machine:
    """The unpickler's stack, marks and memo; one method an opcode."""

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
            raise _Refused("the pickle is broken", f"items for {kind_of(self.stack[-1])}, not for a list")
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
            raise _Refused("the pickle is broken", f"entries for {kind_of(self.stack[-1])}, not for a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # hashing a deep tuple would overflow the C stack
                raise _Refused("a dict has a key that is not read", kind_of(key))
            self.stack[-1][key] = value

    # -- memo

    def op_binput(self, index: int) -> None:
        value = self.stack[-1]
        if index > MAX_OPCODES:  # picklers count up from 0
            raise _Refused("the pickle is broken", f"memo entry {index}")
        if isinstance(value, Pending):
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

    # -- what is called by name

    def op_global(self, name: str) -> None:
        self.find(*name.split(" ", 1))

    def op_stack_global(self, _: None) -> None:
        name = self.stack.pop()
        self.find(self.stack.pop(), name)

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise _Refused("the pickle is broken", "a name that is not a string")
        if (module, name) not in ADMITTED:
            raise _Refused("the pickle holds more than data; nothing of it was run", short(f"{module}.{name}"))
        self.push(ADMITTED[module, name])

    def op_reduce(self, _: None) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        # Only ADMITTED puts functions on the stack.
        if not callable(function) or type(arguments) is not tuple:
            raise _Refused("the pickle is broken", f"a call of {kind_of(function)}")
        try:
            self.push(function(*arguments))
        except (TypeError, ValueError, UnicodeError, OverflowError) as error:
            raise _Refused("an array of the pickle is broken", short(error)) from None

    def op_build(self, _: None) -> None:
        state = self.stack.pop()
        pending = self.stack[-1]
        if not isinstance(pending, Pending):
            raise _Refused("the pickle is broken", f"a state for {kind_of(pending)}")
        try:
            value = pending.build(state)
        except (TypeError, ValueError, OverflowError) as error:
            raise _Refused("an array of the pickle is broken", short(error)) from None
        self.stack[-1] = value
        for key in pending.memo_keys:
            if self.memo[key] is pending:
                self.memo[key] = value
