"""The systems that Tables 3 and 4 compare MGCL with: one file each, one line each here."""

from __future__ import annotations

from importlib import import_module

from .spec import SystemSpec

#: Files of this folder, in the order of the tables. Each holds a ``SPEC``, and its name is the system's.
FILES = ("lf_dnn", "mfn", "lmf", "tfn", "mult", "misa", "mag_bert", "self_mm", "confede", "sfttr")
#: Name of a system → what builds it.
SYSTEMS: dict[str, SystemSpec] = {name: import_module(f".{name}", __name__).SPEC for name in FILES}

__all__ = ["SYSTEMS", "SystemSpec"]
