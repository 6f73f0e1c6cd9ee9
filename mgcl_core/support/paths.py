"""The folders of the project and of its data."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from .errors import RunError


def project_root() -> Path:
    """Return the folder of results and data: ``MGCL_ROOT``, else the checkout, else the working directory."""
    return _checkout() or Path.cwd()


def shipped(*parts: str) -> Path:
    """Find a file or folder that belongs to this project and that no user makes: notebooks, the paper's tables.

    It lies in the checkout, or where a wheel puts it: in ``share/mgcl-core`` of its environment.

    Args:
        parts: Of its path in the checkout.

    Raises:
        RunError: It is not there.
    """
    root = _checkout() or Path(sysconfig.get_path("data")) / "share" / "mgcl-core"
    place = root.joinpath(*parts)
    if not place.exists():
        raise RunError(
            f"{Path(*parts)} of this project is not in {root}: set MGCL_ROOT to a checkout of it, or install mgcl-core "
            "again into an environment of its own"
        )
    return place


def find(path: str | os.PathLike) -> Path:
    """Return ``path`` as it is from the working directory, or from the project where only that exists.

    So a path that is written as the README writes it holds in a notebook too, whose working directory is its folder.
    """
    path = Path(path).expanduser()
    in_project = project_root() / path
    return in_project if not path.exists() and in_project.exists() else path


def data_directory() -> Path:
    """Return the folder of feature files: ``MGCL_DATA``, else ``data`` in the project."""
    if os.environ.get("MGCL_DATA"):
        return Path(os.environ["MGCL_DATA"]).expanduser().resolve()
    return project_root() / "data"


def _checkout() -> Path | None:
    if os.environ.get("MGCL_ROOT"):
        return Path(os.environ["MGCL_ROOT"]).expanduser().resolve()
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "notebooks").is_dir() else None
