"""Copies of the notebooks for JupyterLab, and its start page."""

from __future__ import annotations

import json

import pytest

from mgcl_core.notebooks import lab, runner
from mgcl_core.notebooks.lab import make_copies, write_start_page
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.support.paths import find


def notebook(*texts: str) -> str:
    return json.dumps({"cells": [{"cell_type": "markdown", "source": [text]} for text in texts]})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks."""
    monkeypatch.setenv("MGCL_ROOT", str(tmp_path / "project"))
    monkeypatch.setattr(runner, "NUMBERS", ("01", "02"))
    folder = tmp_path / "project" / "notebooks"
    folder.mkdir(parents=True)
    (folder / "01_data.ipynb").write_text(notebook("# 1 · The data\n\nText."))
    (folder / "02_train.ipynb").write_text(notebook("# 2 · Train | all"))
    return tmp_path / "project"


def test_a_copy_follows_its_original_until_someone_changes_it(project):
    originals, copies = project / "notebooks", project / "lab"
    assert make_copies(copies) == {"01_data.ipynb": "new", "02_train.ipynb": "new"}
    assert make_copies(copies) == dict.fromkeys(("01_data.ipynb", "02_train.ipynb"), "as it was")
    (copies / "01_data.ipynb").write_text("mine")
    for name in ("01_data.ipynb", "02_train.ipynb"):
        (originals / name).write_text(notebook("# changed"))
    assert make_copies(copies) == {"01_data.ipynb": "yours", "02_train.ipynb": "updated"}
    assert (copies / "01_data.ipynb").read_text() == "mine"
    assert (copies / "02_train.ipynb").read_text() == notebook("# changed")
    (copies / "01_data.ipynb").unlink()
    assert make_copies(copies)["01_data.ipynb"] == "new"


def test_without_a_record_of_copies_every_changed_one_is_its_users(project):
    make_copies(project / "lab")
    (project / "lab" / lab.COPIED).write_text("{")
    (project / "notebooks" / "01_data.ipynb").write_text(notebook("# changed"))
    assert make_copies(project / "lab") == {"01_data.ipynb": "yours", "02_train.ipynb": "as it was"}


def test_the_start_page_lists_notebooks_and_reports(project):
    states = make_copies(project / "lab") | {"02_train.ipynb": "yours"}
    assert "None yet" in write_start_page(project / "lab", states).read_text()
    report = project / "results" / "report" / "demo-demo" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    page = write_start_page(project / "lab", states).read_text()
    assert "| [01_data.ipynb](01_data.ipynb) | 1 · The data |  |" in page
    assert "| [02_train.ipynb](02_train.ipynb) | 2 · Train \\| all | you changed it |" in page
    assert "- [demo-demo](../results/report/demo-demo/report.html)" in page and '{"alpha": 0.2}' in page


def test_git_ignores_the_copies():
    assert "/lab/" in (runner.ordered_notebooks()["01"].parents[1] / ".gitignore").read_text().splitlines()


def test_a_relative_path_is_looked_up_here_and_in_the_project(project, tmp_path, monkeypatch):
    (project / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("mine") == project / "mine" == Parameters(results="mine").results
    assert str(find("nowhere")) == "nowhere"
    (tmp_path / "mine").mkdir()
    assert str(find("mine")) == "mine"


def test_the_profile_that_auto_stands_for_is_said(tmp_path, caplog):
    with caplog.at_level("INFO", "mgcl_core"):
        Parameters(results=tmp_path).study()
    assert any("profile 'auto' is 'demo' for demo: made to run in minutes" in line for line in caplog.messages)
