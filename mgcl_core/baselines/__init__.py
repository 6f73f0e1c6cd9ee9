"""The systems that Tables 3 and 4 compare MGCL with: one file each, and `layers`, which they share.

Each file holds its settings with the published values, the system, and its ``ENTRY``, and says where it departs from
its reference. Two settings are ours: ``epochs`` of those that mmsa publishes, since it trains until its early stop, and
``clip_norm`` of all, since no reference clips the norm (mmsa's MISA and MulT clip each value of the gradient, at 0.6 to
1).
"""

from __future__ import annotations

from importlib import import_module

from ..system import SystemEntry

#: Modules of this folder, in the order of the tables; a module's name is the system's.
MODULES = ("lf_dnn", "mfn", "lmf", "tfn", "mult", "misa", "mag_bert", "self_mm", "confede", "sfttr")
#: Name of a system → its entry.
COMPARED_SYSTEMS: dict[str, SystemEntry] = {name: import_module(f".{name}", __name__).ENTRY for name in MODULES}
