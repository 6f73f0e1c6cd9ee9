"""A device that torch takes for a GPU, in Python alone: known to autograd and autocast, with no kernel behind it.

Tensors of it come from elsewhere: fake ones hold shapes and types and no numbers (`fake`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

NAME = "pretend"
#: Of autocast on CUDA, what the systems call: products in bfloat16; norms, exponentials and sums of them in float32.
LOWER = ("linear", "mm", "bmm", "addmm", "addbmm", "baddbmm", "matmul", "conv1d", "scaled_dot_product_attention")
UPPER = ("layer_norm", "softmax.int", "log_softmax.int", "norm.Scalar", "norm.ScalarOpt_dim", "linalg_vector_norm",
         "exp", "log", "pow.Tensor_Scalar", "logsumexp", "softplus", "sum", "sum.dim_IntList", "prod")  # fmt: skip
ThingT = TypeVar("ThingT")


@functools.cache
def register() -> bool:
    """Make the device known to torch, once a process and before its first backward pass.

    Returns:
        Whether this torch has the hooks that it needs, which are not public.
    """
    try:
        from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

        class Module(_DummyBackendModule):
            """What `torch.pretend` is."""

            get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
            get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
            set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))
            device = staticmethod(lambda *_: contextlib.nullcontext())
            is_initialized = staticmethod(lambda: True)
            current_device = staticmethod(lambda: 0)

        _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
        register.libraries = _autocast_rules()  # what they register ends with them
    except (ImportError, AttributeError, RuntimeError):
        return False
    return True


def _autocast_rules() -> list[torch.library.Library]:
    lowered = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    for operators, dtype in ((LOWER, torch.bfloat16), (UPPER, torch.float32)):
        for operator in operators:
            lowered.impl(operator, _caster(operator, dtype), "AutocastPrivateUse1")
    return [lowered, others]


def _caster(operator: str, dtype: torch.dtype):
    name, _, overload = operator.partition(".")
    function = getattr(getattr(torch.ops.aten, name), overload or "default")

    def cast(value):
        floats = isinstance(value, Tensor) and value.is_floating_point() and value.device.type == NAME
        return value.to(dtype) if floats and value.dtype != torch.float64 else value

    def call(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return function(*tree_map(cast, args), **tree_map(cast, kwargs))

    return call


def fake(mode: FakeTensorMode, thing: ThingT) -> ThingT:
    """Move ``thing`` to the device, without its numbers.

    Args:
        mode: What its tensors belong to.
        thing: A tensor, a module (changed in place), or a dataclass that holds tensors, also in dicts (a copy is made).
    """
    made: dict[int, Tensor] = {}  # what shares its memory goes on to share it

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: move(item) for name, item in value.items()}
        if not isinstance(value, Tensor):
            return value
        if id(value) not in made:
            moved = FakeTensor(mode, value.detach().to("meta"), torch.device(NAME, 0))
            made[id(value)] = nn.Parameter(moved, value.requires_grad) if isinstance(value, nn.Parameter) else moved
        return made[id(value)]

    if isinstance(thing, nn.Module):
        for module in thing.modules():
            for values in (module._parameters, module._buffers):
                values.update(move(dict(values)))
        return thing
    if isinstance(thing, Tensor):
        return move(thing)
    return dataclasses.replace(thing, **{name: move(value) for name, value in vars(thing).items()})
