"""JupyterLab on copies of the notebooks, which are no part of the checkout, and the page that it starts with.

JupyterLab saves what it shows, outputs too. On the notebooks themselves that would change tracked files; so people work
on copies in ``lab/``, which git ignores.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

from ..support.errors import ConfigError, DamagedFile
from ..support.files import atomic, read_json, write_json
from ..support.paths import project_root
from .runner import ordered_notebooks

log = logging.getLogger(__name__)

START, COPIED, WORKSPACE = "start.md", ".copied.json", "mgcl"
_PAGE = """# MGCL: start here

Open a notebook and run its cells from the top (Shift+Enter). The demo corpora are generated, so everything made from
them is synthetic. Runs that are finished are not repeated. The square button stops a cell; what is done stays.

| notebook | what it is | |
|---|---|---|
{rows}

**Your own file**: change `corpus` in the parameters cell to its path, from here or from the project.

**A setting**: `overrides = {{"alpha": 0.2}}`; `mgcl settings` says what each does.

These are copies, which git ignores. One that you did not change follows its original; one that you changed is yours,
and deleting it brings a fresh copy at the next `make lab`.

## Reports

{reports}
"""


def make_copies(folder: Path) -> dict[str, str]:
    """Copy every notebook into ``folder`` where it is missing, or where its copy is untouched and older.

    Returns:
        What became of each, by file name: "new", "updated", "as it was", or "yours" (changed by its user: left alone).
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        copied = read_json(folder / COPIED)
    except DamagedFile:  # the first time it is missing; of a damaged one, every copy counts as its user's
        copied = {}
    states = {}
    for original in ordered_notebooks().values():
        copy, now = folder / original.name, _digest(original)
        was = _digest(copy) if copy.exists() else None
        if was == now or (was is not None and was != copied.get(original.name)):
            states[original.name] = "as it was" if was == now else "yours"
        else:
            shutil.copyfile(original, copy)
            states[original.name] = "new" if was is None else "updated"
        if states[original.name] != "yours":
            copied[original.name] = now
    write_json(folder / COPIED, copied)
    return states


def write_start_page(folder: Path, states: dict[str, str]) -> Path:
    """The page that JupyterLab opens with: what each notebook is, where reports are, and what to change first."""
    rows = []
    for original in ordered_notebooks().values():
        title = _title(original).replace("|", "\\|")
        changed = "you changed it" if states[original.name] == "yours" else ""
        rows.append(f"| [{original.name}]({original.name}) | {title} | {changed} |")
    root = project_root()
    reports = sorted((root / "results" / "report").rglob("report.html"))
    shown = [f"- [{path.parent.name}]({os.path.relpath(path, folder)})" for path in reports]
    with atomic(folder / START) as temporary:
        page = _PAGE.format(rows="\n".join(rows), reports="\n".join(shown) or "None yet: `mgcl run` makes one.")
        temporary.write_text(page, encoding="utf-8")
    return folder / START


def open_lab(options: list[str]) -> None:
    """Make what is missing in ``lab/``, and become JupyterLab on its start page.

    Args:
        options: more of JupyterLab's own, such as ``--no-browser``.

    Raises:
        ConfigError: JupyterLab is not installed.
    """
    try:
        from jupyterlab_server.workspaces_handler import WorkspacesManager
    except ImportError as error:
        raise ConfigError("JupyterLab is not installed: pip install 'mgcl-core[notebooks]'") from error
    root = project_root()
    states = make_copies(root / "lab")
    start = write_start_page(root / "lab", states)
    for name, state in states.items():
        if state in ("updated", "yours"):
            log.info("lab/%s: %s", name, {"updated": "updated", "yours": "changed by you, left as it is"}[state])
    # A workspace, and not a URL with `?factory=Markdown Preview`: Jupyter prints its token behind another "?".
    folder = start.parent / ".workspaces"
    WorkspacesManager(str(folder)).save(WORKSPACE, json.dumps(_workspace(start.relative_to(root).as_posix())))
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", f"--LabApp.workspaces_dir={folder}",
               f"--LabApp.default_url=/lab/workspaces/{WORKSPACE}"]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *options])


def _workspace(page: str) -> dict[str, object]:
    """A layout of JupyterLab: the notebooks on the left, the start page as it is read in the middle."""
    widget = f"markdownviewer-widget:{page}"
    layout = {
        "main": {"dock": {"type": "tab-area", "currentIndex": 0, "widgets": [widget]}, "current": widget},
        "left": {"collapsed": False, "current": "filebrowser", "widgets": ["filebrowser"]},
        "right": {"collapsed": True, "widgets": []},
    }
    opened = {"data": {"path": page, "factory": "Markdown Preview"}}
    folder = {"path": str(Path(page).parent)}
    data = {"layout-restorer:data": layout, widget: opened, "file-browser-filebrowser:cwd": folder}
    return {"data": data, "metadata": {"id": WORKSPACE}}


def _title(notebook: Path) -> str:
    """The heading that a notebook opens with."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))
    return first.splitlines()[0].lstrip("# ")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
