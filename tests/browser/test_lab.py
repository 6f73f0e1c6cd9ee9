"""What a person does in JupyterLab, done in a real browser: start page, a mistake in the parameters, an interrupt."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers.browser import Page, chromium, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAME = "02_pretraining.ipynb"
#: Long enough to be interrupted, and small.
PARAMETERS = """corpus = "demo"
profile = "auto"
seeds = [1111]
overrides = {"text_epochs": 200, "sequence_epochs": 200}
device = "cpu"
precision = "auto"
workers = 2
cluster = None
results = None"""
CARD = "11_explore.ipynb"
SHORT = """corpus = "demo"
profile = "auto"
seeds = [1111]
overrides = {"encoders": "shared", "text_epochs": 1, "sequence_epochs": 1, "mgcl_epochs": 1}
device = "cpu"
precision = "auto"
workers = 2
cluster = None
results = None"""


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        if os.environ.get("MGCL_TEST_BROWSER") == "1":
            pytest.fail("MGCL_TEST_BROWSER=1, and there is no chromium")
        pytest.skip("no chromium; MGCL_TEST_BROWSER=1 makes this an error")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the notebooks, whose copies of two have short training, and one of them a misspelt parameter."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (folder / "lab").mkdir()
    for name, parameters in ((NAME, PARAMETERS.replace("corpus", "corpsu")), (CARD, SHORT)):
        notebook = json.loads((folder / "notebooks" / name).read_text())
        (cell,) = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
        cell["source"] = parameters
        (folder / "lab" / name).write_text(json.dumps(notebook))
    return folder


@pytest.fixture(scope="module")
def address(browser, project):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MGCL_ROOT": str(project), "MGCL_DATA": str(ROOT / "data")}
    environment |= {f"JUPYTER_{kind}_DIR": str(project / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    options = ["--no-browser", f"--ServerApp.port={port}", "--IdentityProvider.token=token"]
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    server = subprocess.Popen([sys.executable, "-m", "mgcl_core", "lab", "--", *options], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        ping = f"http://127.0.0.1:{port}/api/status?token=token"
        wait_for(lambda: urllib.request.urlopen(ping, timeout=5).status == 200, 120)
        yield f"http://127.0.0.1:{port}/lab/workspaces/mgcl?token=token"
    finally:
        server.terminate()
        server.wait(30)


class Notebook:
    """The notebook in a page's foreground."""

    def __init__(self, page: Page):
        self.page = page

    def click(self, selector: str, number: int = 0) -> None:
        self.page.wait_until(f"document.querySelectorAll({selector!r}).length > {number}")
        element = f"document.querySelectorAll({selector!r})[{number}]"
        self.page.value(f"{element}.scrollIntoView({{block: 'center'}})")
        time.sleep(0.3)
        box = self.page.value(f"(b => [b.x + b.width / 2, b.y + Math.min(b.height / 2, 12)])"
                              f"({element}.getBoundingClientRect())")  # fmt: skip
        self.page.click(*box)

    def run(self, number: int) -> None:
        """Run the code cell ``number``, counted from 0."""
        self.click(".jp-CodeCell .cm-content", number)
        self.page.enter(shift=True)

    def output(self, number: int) -> str:
        shown = f"document.querySelectorAll('.jp-CodeCell')[{number}].querySelector('.jp-Cell-outputArea').innerText"
        return self.page.value(shown) or ""

    def wait_for_output(self, number: int, text: str, seconds: float = 90) -> str:
        def found() -> str | None:
            output = self.output(number)
            return output if text in output else None

        return wait_for(found, seconds, f"{text!r} under cell {number}")


def look(page: Page, name: str) -> None:
    """Keep a picture of the page where MGCL_PICTURES names a folder."""
    if folder := os.environ.get("MGCL_PICTURES"):
        page.picture(Path(folder) / f"{name}.png")


def test_a_mistake_is_named_mended_and_an_interrupt_says_what_is_kept(address, project, tmp_path):
    (tmp_path / "browser").mkdir()
    with Page(tmp_path / "browser") as page:
        page.open(address)
        page.wait_until("document.querySelector('.jp-MarkdownViewer h1')?.innerText.startsWith('MGCL: start here')", 90)
        look(page, "start")
        notebook = Notebook(page)
        page.value(f"document.querySelector('.jp-MarkdownViewer a[href*=\"{NAME}\"]').click()")
        page.wait_until("document.querySelectorAll('.jp-CodeCell').length >= 3", 60)

        notebook.run(0)
        notebook.run(1)
        notebook.wait_for_output(1, "unknown parameter 'corpsu': did you mean 'corpus'?")
        look(page, "misspelt")

        notebook.click(".jp-CodeCell .cm-content", 0)
        page.value("document.execCommand('selectAll')")
        page.call("Input.insertText", text=PARAMETERS)
        notebook.run(0)
        notebook.run(1)
        assert "Error" not in notebook.wait_for_output(1, "'python'")

        notebook.run(2)
        notebook.wait_for_output(2, "of 6 runs", 120)
        page.wait_until("!!document.querySelector('.jp-OutputArea polyline')", 120)
        look(page, "training")
        notebook.click('[data-command="notebook:interrupt-kernel"], [data-command="kernelmenu:interrupt"]')
        said = notebook.wait_for_output(2, "runs are finished and kept", 60)
        look(page, "interrupted")
    assert "stopped: 0 of 6 runs" in said and "the same call or command continues" in said
    assert "Traceback" not in said and "KeyboardInterrupt" not in said
    assert list((project / "results").rglob("metrics.jsonl")) and not list((project / "results").rglob("done"))


def test_a_clips_card_shows_coloured_words_signals_and_six_heads(address, project, tmp_path):
    (tmp_path / "browser").mkdir()
    with Page(tmp_path / "browser") as page:
        page.open(address.replace("workspaces/mgcl", f"workspaces/card/tree/lab/{CARD}"))
        page.wait_until("document.querySelectorAll('.jp-CodeCell').length >= 4", 90)
        notebook = Notebook(page)
        for number in range(4):
            notebook.run(number)
        shown = "document.querySelectorAll('.jp-CodeCell')[3].querySelector('.jp-OutputArea')"
        page.wait_until(f"{shown}?.querySelector('img')?.naturalWidth > 400", 180)
        page.value(f"{shown}.scrollIntoView()")
        look(page, "card")
        colours = page.value(f"[...{shown}.querySelectorAll('span')].map(s => getComputedStyle(s).backgroundColor)")
    painted = {colour for colour in colours if colour.startswith("rgb(") or not colour.endswith(", 0)")}
    assert len(painted) > 1, colours
