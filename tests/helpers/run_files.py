"""Finished runs that somebody edited: changed, and sealed again as if they had been written so."""

import json
from collections.abc import Callable
from pathlib import Path

from mgcl_core.experiments.run_records import DONE, RECORD
from mgcl_core.support.integrity import list_files, write_sealed


def edit_record(directory: Path, change: Callable[[dict], object]) -> None:
    """Change the record of a run in place, and seal it."""
    record = json.loads((directory / RECORD).read_text())
    change(record)
    record.pop("checksum")
    write_sealed(directory / RECORD, record)
    seal(directory)


def seal(directory: Path) -> None:
    """List the files of a run as they are now."""
    for name in (RECORD, DONE):
        content = json.loads((directory / name).read_text())
        del content["checksum"]
        content["files"] = list_files(directory, [name for name in content["files"] if (directory / name).is_file()])
        write_sealed(directory / name, content)
