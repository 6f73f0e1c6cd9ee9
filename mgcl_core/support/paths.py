"""The folders of the project and of its data."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """Return the folder that holds ``notebooks/``: ``MGCL_ROOT``, else the checkout, else the working directory."""
    if os.environ.get("MGCL_ROOT"):
        return Path(os.environ["MGCL_ROOT"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


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
