"""How much of the property tests runs: a share in every run of the tests, and all of it by ``make mutations``."""

import os
import stat
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, settings

#: Times the usual share.
FACTOR = float(os.environ.get("MGCL_MUTATIONS", "1"))


def share(examples: int, *, seconds: float) -> settings:
    """Settings of hypothesis for a usual share of ``examples``, none of which may take longer than ``seconds``."""
    return settings(
        max_examples=max(1, round(examples * FACTOR)),
        deadline=seconds * 1000,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def damage(path: Path, random: Random) -> str:
    """Damage one file as disks, copies and people do; says how."""
    content = path.read_bytes()
    kinds = ["deleted", "emptied", "cut", "a bit flipped", "a block of zeros", "lengthened", "a folder", "a pipe"]
    kinds += ["a digit changed", "half the lines"] * (path.suffix in (".json", ".jsonl", ".csv", ""))
    kind = random.choice(kinds)
    place = random.randrange(max(1, len(content)))
    changed = bytearray(content)
    if kind in ("deleted", "a folder", "a pipe"):
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind == "a pipe":
            os.mkfifo(path)
        return kind
    if kind == "emptied":
        changed.clear()
    elif kind == "cut":
        del changed[place:]
    elif kind == "a bit flipped" and changed:
        changed[place] ^= 1 << random.randrange(8)
    elif kind == "a block of zeros":
        changed[place : place + 512] = bytes(len(changed[place : place + 512]))
    elif kind == "lengthened":
        changed += content[-100:]
    elif kind == "half the lines":
        lines = content.splitlines(keepends=True)
        changed = bytearray(b"".join(lines[: len(lines) // 2]))
    else:
        digits = [index for index, byte in enumerate(changed) if chr(byte).isdigit()]
        if digits:
            changed[random.choice(digits)] = ord(random.choice("0123456789"))
    mode = stat.S_IMODE(path.stat().st_mode)
    path.write_bytes(changed)
    path.chmod(mode)
    return kind
