"""Strict reading of values by their declared type, for settings, notebook parameters and preset files."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError, nearest


def read_fields(kind: type, values: Mapping[str, Any], what: str = "setting") -> dict[str, Any]:
    """``values`` for fields of the dataclass ``kind``, checked by name and type.

    Args:
        kind: a dataclass whose fields have the types that `read_value` knows.
        values: by field name.
        what: a field is called in errors.

    Raises:
        ConfigError: an unknown name, with the nearest, or a value that is not of the field's type.
    """
    hints = typing.get_type_hints(kind)
    known = [item.name for item in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown {what} {name!r}: {nearest(name, known)}")
    return {name: read_value(name, value, hints[name]) for name, value in values.items()}


def read_value(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``: bool, int, float, str, Path, a Literal, a tuple of one of them, or a union.

    Text is read too, as a command line or papermill gives it: ``true``, ``1e-4``, ``None``, and lists with commas.

    Raises:
        ConfigError: it is not of that type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(
            f"{name}={value!r}: must be one of {', '.join(map(repr, arguments))}; {nearest(str(value), arguments)}"
        )
    if origin in (types.UnionType, typing.Union):
        return _read_union(name, value, arguments)
    if origin is tuple:
        return _read_tuple(name, value, arguments[0])
    try:
        result = _CONVERSIONS[hint](value)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise ConfigError(f"{name}={value!r}: must be of type {hint.__name__}, not {type(value).__name__}") from None
    return result


def plain(value: Any) -> Any:
    """``value`` for JSON and for papermill, which would write a tuple as text."""
    return list(value) if isinstance(value, tuple) else value


def _read_union(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if type(None) in kinds and (value is None or value == "None"):
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return read_value(name, value, kind)
            except ConfigError as error:
                errors.append(error)
    raise errors[0]


def _read_tuple(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        value = [item.strip().strip("'\"") for item in text.split(",") if item.strip()]
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]  # papermill's -p gives one number of a list as a number
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name}={value!r}: must be a list")
    return tuple(read_value(name, item, kind) for item in value)


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        return {"true": True, "false": False}[value.lower()]
    if not isinstance(value, bool):
        raise TypeError
    return value


def _int(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if number != number or abs(number) == float("inf"):
        raise ValueError
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, (str, Path)):
        raise TypeError
    return Path(value)


_CONVERSIONS = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}
