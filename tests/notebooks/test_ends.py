"""How a headless notebook ends: one sentence and exit code 2, a copy that shows it, and no folder of this machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import corpus_files

from mgcl_core.cli import main
from mgcl_core.notebooks.runner import ordered_notebooks
from mgcl_core.support.paths import project_root

BEGIN = "from mgcl_core.notebooks import begin\nparameters = begin(globals(), 'corpus', 'profile', 'results')"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Function of a cell's source: a checkout whose notebook 01 runs it; gives what runs that notebook."""
    corpus = corpus_files.write(tmp_path / "clips.pkl", corpus_files.make_content())
    root = tmp_path / "checkout"
    shutil.copytree(project_root() / "notebooks", root / "notebooks")
    monkeypatch.setenv("MGCL_ROOT", str(root))
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def make(source: str) -> list[str]:
        cells = [
            nbformat.v4.new_code_cell(text) for text in ("corpus = ''\nprofile = 'demo'\nresults = None", BEGIN, source)
        ]
        cells[0].metadata["tags"] = ["parameters"]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), root / "notebooks" / "01_data.ipynb")
        return ["run", "--quiet", "--notebook", "1", "--corpus", str(corpus), "--profile", "demo"]

    return make


def outputs(tmp_path: Path, name: str) -> list[dict]:
    (path,) = (tmp_path / "checkout" / "results").glob(f"clips-*/demo/notebooks/{name}")
    return [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_a_killed_kernel_is_one_sentence(checkout, tmp_path, capsys):
    assert main(checkout("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")) == 2
    error = capsys.readouterr().err
    assert error.startswith("mgcl: 01_data (") and "its kernel was killed" in error and error.count("\n") == 1
    assert outputs(tmp_path, "01_data.failed.ipynb") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, sentence, shown",
    [
        ("import os\nraise OSError(28, os.strerror(28), 'x')", "in cell 4: the disk is full (x): make room", None),
        (
            "from mgcl_core.support.errors import ConfigError\nraise ConfigError('say it once')",
            "in cell 4: say it once (see ",
            ["ConfigError: say it once"],
        ),
        ("{}['key']", "in cell 4: KeyError: 'key' (see ", None),
    ],
)
def test_an_error_in_a_cell_is_one_sentence(checkout, tmp_path, capsys, source, sentence, shown):
    assert main(checkout(source)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    (output,) = [output for output in outputs(tmp_path, "01_data.failed.ipynb") if output["output_type"] == "error"]
    assert shown in (None, output["traceback"])


@pytest.mark.slow
def test_debug_shows_where(checkout, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MGCL_DEBUG", "")  # what --debug sets is undone after the test
    source = "from mgcl_core.support.errors import ConfigError\nraise ConfigError('say it once')"
    assert main([*checkout(source), "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error and error.splitlines()[-1].startswith("mgcl: 01_data")
    (output,) = [output for output in outputs(tmp_path, "01_data.failed.ipynb") if output["output_type"] == "error"]
    assert "Traceback" in "".join(output["traceback"])


@pytest.mark.slow
def test_the_kernel_is_this_interpreter_whatever_python3_is_and_the_copy_names_no_folder(
    checkout, tmp_path, capsys, monkeypatch
):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "wrong", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    source = "import sys, os\nprint(sys.prefix, os.getcwd(), parameters.results, corpus)\nos.path.abspath(corpus)"
    assert main(checkout(source)) == 0, capsys.readouterr().err
    printed, shown = outputs(tmp_path, "01_data.ipynb")[-2:]
    assert "".join(printed["text"]).split() == ["python", ".", "results", "./clips.pkl"]
    (path,) = (tmp_path / "checkout" / "results").glob("clips-*/demo/notebooks/*.ipynb")
    for folder in (tmp_path, Path(sys.prefix), Path.home(), Path(sys.base_prefix)):
        assert str(folder) not in path.read_text()
    nbformat.validate(nbformat.read(path, 4))


def test_a_missing_and_a_broken_notebook_are_one_sentence(checkout, tmp_path, capsys):
    arguments = checkout("1")
    (tmp_path / "checkout" / "notebooks" / "01_data.ipynb").write_text("{")
    assert main(arguments) == 2
    assert "01_data.ipynb cannot be read" in capsys.readouterr().err
    (tmp_path / "checkout" / "notebooks" / "09_tables.ipynb").unlink()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "notebooks are missing" in error and ": 09" in error and error.count("\n") == 1


def test_every_notebook_of_the_checkout_is_found():
    assert {"01", "09"} <= set(ordered_notebooks()) and "MGCL_ROOT" not in os.environ
