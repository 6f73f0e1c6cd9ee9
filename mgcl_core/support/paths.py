"""The folders of the project and of its data."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from .errors import RunError


def project_root() -> Path:
    """Return the folder that holds ``notebooks/``: ``MGCL_ROOT``, else the checkout, else the working directory."""
    if os.environ.get("MGCL_ROOT"):
        return Path(os.environ["MGCL_ROOT"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def shipped(*parts: str) -> Path:
    """Find a file or folder that belongs to this project and that no user makes: notebooks, the paper's tables.

    It lies in the checkout. A wheel installs it under ``share/mgcl-core`` of its environment.

    Args:
        parts: Of its path in the checkout.

    Raises:
        RunError: It is in neither.
    """
    roots = [project_root()]
    if not os.environ.get("MGCL_ROOT"):
        roots.append(Path(sysconfig.get_path("data")) / "share" / "mgcl-core")
    for root in roots:
        if (place := root.joinpath(*parts)).exists():
            return place
    raise RunError(
        f"{Path(*parts)} of this project is not in {' nor in '.join(map(str, roots))}: set MGCL_ROOT to a checkout, or "
        "install mgcl-core again into an environment of its own"
    )


def data_directory() -> Path:
    """Return the folder of feature files: ``MGCL_DATA``, else ``data`` in the project."""
    if os.environ.get("MGCL_DATA"):
        return Path(os.environ["MGCL_DATA"]).expanduser().resolve()
    return project_root() / "data"
