"""All checks of ``mgcl doctor``: those of the machine and of the data, and here those of notebooks and kernels."""

from __future__ import annotations

import sys
from pathlib import Path

from ..config import DATASETS, PROFILES
from ..data.doctor import data_checks, text_model_checks
from ..experiments.verification import verification_checks
from ..support.doctor import Check, attempt, machine_checks
from ..support.errors import ConfigError
from ..support.paths import data_directory, project_root
from .runner import ordered_notebooks


def all_checks(results: Path | None = None, *, verify: bool = False) -> list[Check]:
    """Every check, in the order of the page.

    Args:
        results: Folder of all results; the project's ``results/`` when None.
        verify: Compare the contents of all runs, kept features and caches with what was written, too.
    """
    data, results = data_directory(), results or project_root() / "results"
    models = {
        str(settings["text_model"]) for settings in (*DATASETS.values(), *PROFILES.values()) if "text_model" in settings
    }
    return [
        *machine_checks(results, data),
        *data_checks(data),
        *text_model_checks(tuple(sorted(models))),
        attempt("notebooks", _notebooks),
        attempt("kernels", _kernels),
        *(verification_checks(results, data) if verify else ()),
    ]


def _notebooks() -> tuple[str, str]:
    notebooks = ordered_notebooks()
    return "ok", f"{len(notebooks)} in {next(iter(notebooks.values())).parent}"


def _kernels() -> tuple[str, str]:
    """Every kernel that Jupyter finds. ``mgcl run`` takes its own interpreter, JupyterLab the one named python3."""
    try:
        import ipykernel
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError as error:
        raise ConfigError(f"{error}: install the extra 'notebooks'") from error
    lines = [f"`mgcl run` starts {sys.executable} (ipykernel {ipykernel.__version__})"]
    found = {name: entry["spec"]["argv"][0] for name, entry in KernelSpecManager().get_all_specs().items()}
    lines += [f"{name}: {program}" for name, program in sorted(found.items())]
    program = found.get("python3", "")
    own = program in ("python", "python3", f"python3.{sys.version_info[1]}") or _same(program, sys.executable)
    if not own:
        lines.append("JupyterLab's python3 is another interpreter: start it with `make lab`, or choose another kernel")
    return "ok" if own else "note", "\n".join(lines)


def _same(one: str, other: str) -> bool:
    return Path(one).parent.resolve() == Path(other).parent.resolve()
