"""A second device with real numbers, in Python alone, so that what a GPU would refuse or wait for shows without one.

A tensor of the device "pretend" holds a CPU tensor that no other code can reach. As on a GPU, an operation on tensors
of both devices raises (scalars may mix) and so does `.numpy()`; what crosses between the devices, or makes the host
wait for a value, is counted by the place in the package that asks for it.

It needs hooks of torch that are not public (`mgcl_core.bench.pretend`): `register` says whether this torch has them.
"""

from __future__ import annotations

import collections
import functools
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mgcl_core.bench import pretend
from mgcl_core.bench.pretend import NAME

#: (kind, place) → how often; kinds are "to device", "to host", "value" (`.item()` and truth), "shape" (of `nonzero`).
crossings: collections.Counter[tuple[str, str]] = collections.Counter()
#: Place → the types of number in which it multiplied matrices.
products: collections.defaultdict[str, set[torch.dtype]] = collections.defaultdict(set)
_PACKAGE = f"{Path('mgcl_core')}/"


def place() -> str:
    """The innermost function of the package that runs now, "backward" where autograd runs alone."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if _PACKAGE in code.co_filename:
            return f"{Path(code.co_filename).stem}.{code.co_qualname.removesuffix('.<locals>.<lambda>')}"
        frame = frame.f_back
    return "backward"


class DeviceTensor(Tensor):
    """A tensor of the second device around one of the CPU."""

    @staticmethod
    def __new__(cls, raw: Tensor) -> DeviceTensor:
        return Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, raw: Tensor):
        self.raw = raw

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: object) -> str:
        return f"DeviceTensor({self.raw!r})"

    def __reduce_ex__(self, protocol: int):  # what torch.save writes
        crossings["to host", place()] += 1
        return self.raw.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args: tuple, kwargs: dict):
    name = str(function).removeprefix("aten.")
    if name.startswith("_to_copy"):
        return _to_copy(*args, **kwargs)
    if name.startswith("copy_"):
        return _copy_from(args[1], args[0])
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(not isinstance(tensor, DeviceTensor) and tensor.dim() > 0 for tensor in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, found {NAME} and cpu in {name}")
    if name.split(".")[0] in ("mm", "bmm", "addmm", "baddbmm"):
        products[place()].add(tensors[-1].dtype)
    if name.startswith(("_local_scalar_dense", "equal", "is_nonzero")):
        crossings["value", place()] += 1
    if name.startswith("where") and any(not isinstance(tensor, DeviceTensor) for tensor in tensors):
        crossings["to device", place()] += 1  # a number that `torch.where` is given, unlike those of other operations
    masks = name.startswith(("index.", "index_put")) and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1])
    )
    if masks or name.startswith(("nonzero.", "masked_select", "unique", "repeat_interleave.Tensor")):
        crossings["shape", place()] += 1
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = function(*tree_map(_raw, args), **tree_map(_raw, kwargs))
    schema = function._schema
    if schema.is_mutable and len(schema.returns) == 1 and schema.returns[0].alias_info is not None:
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        return next(given[a.name] for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    return tree_map(lambda leaf: DeviceTensor(leaf) if isinstance(leaf, Tensor) else leaf, result)


def _raw(leaf):
    return leaf.raw if isinstance(leaf, DeviceTensor) else leaf


def _to_copy(source: Tensor, *, device=None, pin_memory=None, **options) -> Tensor:
    copied = torch.ops.aten._to_copy.default(_raw(source), **options)
    ours = isinstance(source, DeviceTensor)
    there = ours if device is None else torch.device(device).type == NAME
    if there != ours:
        crossings["to device" if there else "to host", place()] += 1
    return DeviceTensor(copied) if there else copied


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if isinstance(source, DeviceTensor) != isinstance(target, DeviceTensor):
        crossings["to device" if isinstance(target, DeviceTensor) else "to host", place()] += 1
    _raw(target).copy_(_raw(source))
    return target


@functools.cache
def register() -> bool:
    """Make the device known to torch, once a process; False where this torch has no hooks for it."""
    if not pretend.register():
        return False
    register.library = _register_operators()  # what it registers ends with it
    return True


def _register_operators() -> torch.library.Library:
    made = torch.library.Library("aten", "IMPL", "PrivateUse1")
    options = {"layout": None, "device": None, "pin_memory": None}

    def factory(function):
        return lambda *args, **kwargs: DeviceTensor(
            function(*args, **{name: value for name, value in kwargs.items() if name not in options})
        )

    made.impl("empty.memory_format", factory(torch.ops.aten.empty.memory_format))
    made.impl("empty_strided", factory(torch.empty_strided))
    for overload in ("arange", "arange.start", "arange.start_step"):
        made.impl(overload, factory(torch.arange))
    made.impl("eye", factory(torch.eye))
    made.impl("_to_copy", _to_copy)
    made.impl("_copy_from", _copy_from)
    return made


def lstm(self: nn.LSTM, values: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer of `nn.LSTM` (batch first) by its equations: the fused kernels are CUDA's."""
    hidden = cell = values.new_zeros(len(values), self.hidden_size)
    states = []
    for step in values.unbind(1):
        gates = nn.functional.linear(step, self.weight_ih_l0, self.bias_ih_l0)
        hidden, cell = _lstm_step(gates + nn.functional.linear(hidden, self.weight_hh_l0, self.bias_hh_l0), cell)
        states.append(hidden)
    return torch.stack(states, 1), (hidden[None], cell[None])


def lstm_cell(self: nn.LSTMCell, values: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    gates = nn.functional.linear(values, self.weight_ih, self.bias_ih)
    return _lstm_step(gates + nn.functional.linear(state[0], self.weight_hh, self.bias_hh), state[1])


def _lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    write, keep, candidate, show = gates.chunk(4, -1)
    cell = keep.sigmoid() * cell + write.sigmoid() * candidate.tanh()
    return show.sigmoid() * cell.tanh(), cell
