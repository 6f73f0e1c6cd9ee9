"""The systems that Tables 3 and 4 compare MGCL with: one file each, one line each in `SYSTEMS`."""

from __future__ import annotations

from . import confede, lf_dnn, lmf, mag_bert, mfn, misa, mult, self_mm, sfttr, tfn
from .spec import SystemSpec

#: Name of a system → what builds it, in the order of the tables.
SYSTEMS: dict[str, SystemSpec] = {
    "lf_dnn": lf_dnn.SPEC,
    "mfn": mfn.SPEC,
    "lmf": lmf.SPEC,
    "tfn": tfn.SPEC,
    "mult": mult.SPEC,
    "misa": misa.SPEC,
    "mag_bert": mag_bert.SPEC,
    "self_mm": self_mm.SPEC,
    "confede": confede.SPEC,
    "sfttr": sfttr.SPEC,
}

__all__ = ["SYSTEMS", "SystemSpec"]
