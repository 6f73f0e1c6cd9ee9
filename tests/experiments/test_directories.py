"""What is made of runs: the default study's in its folder, a changed study's in one of its own, runs together."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

from mgcl_core.experiments.directories import artifact_directory
from mgcl_core.experiments.study import SEEDS, Study
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.notebooks.runner import plan_notebooks, report_directory
from mgcl_core.reporting import page, tables

ALPHA = {"alpha": 0.2}


@pytest.fixture
def study(tiny_corpus, tmp_path):
    return lambda **changes: Study(tiny_corpus, "demo", results=tmp_path, **{"device": "cpu", **changes})


def test_a_study_that_changes_nothing_keeps_the_folder_of_its_runs(study, tmp_path):
    for plain in (study(), study(seeds=list(SEEDS), overrides={}, precision="fp32", system_overrides={})):
        assert plain.changes == {} and plain.artifacts == plain.directory == tmp_path / "synthetic" / "demo"


@pytest.mark.parametrize(
    "changes, said, name",
    [
        ({"overrides": ALPHA}, {"overrides": {"alpha": 0.2}}, "alpha"),
        ({"precision": "bf16"}, {"overrides": {"precision": "bf16"}}, "precision"),
        ({"seeds": [7]}, {"seeds": [7]}, "seeds"),
        ({"system_overrides": {"tfn": {"epochs": 2}}}, {"system_overrides": {"tfn": {"epochs": 2}}}, "tfn"),
        (
            {"overrides": {"window": 5, "components": ("C1",)}, "seeds": [7]},
            {"overrides": {"components": ["C1"], "window": 5}, "seeds": [7]},
            "components+window+seeds",
        ),
        (
            {"overrides": {"window": 5, "alpha": 1, "beta": 0.1}, "seeds": [7]},
            {"overrides": {"alpha": 1.0, "beta": 0.1, "window": 5}, "seeds": [7]},
            "4-settings",
        ),
    ],
)
def test_a_study_that_changes_something_has_a_folder_of_its_own(study, tmp_path, changes, said, name):
    changed = study(**changes)
    assert changed.changes == said
    label, _, digest = changed.artifacts.name.rpartition("-")
    assert changed.artifacts.parent == tmp_path / "synthetic" / "demo" / "changed"
    assert label == name and len(digest) == 10
    assert changed.directory == study().directory and changed.without_test().artifacts == changed.artifacts


def test_the_folder_depends_on_what_is_changed_and_not_on_its_order(study):
    folder = study(overrides={"alpha": 0.2, "beta": 0.1}).artifacts
    assert study(overrides={"beta": 0.1, "alpha": 0.2}).artifacts == folder
    assert study(overrides={"alpha": 0.2, "beta": 0.2}).artifacts != folder
    assert study(seeds=[1]).artifacts != study(seeds=[2]).artifacts


def test_runs_stay_where_they_are(study):
    default, changed, fewer = study(), study(overrides=ALPHA), study(seeds=[SEEDS[0]])
    assert [run.directory for run in fewer.trainings()] == [default.trainings()[0].directory]
    assert [r.directory for r in changed.pretrainings()] == [r.directory for r in default.pretrainings()]
    assert {run.directory.parent for run in changed.trainings()} == {default.directory / "runs"}


def test_figures_do_not_overwrite_each_other_and_a_note_says_what_is_changed(study):
    default, changed = study(), study(overrides=ALPHA)
    page.save_figure(Figure(), default, "03_curves")
    before = (default.directory / "figures" / "03_curves.png").read_bytes()
    page.save_figure(Figure(figsize=(2, 2)), changed, "03_curves")
    assert (default.directory / "figures" / "03_curves.png").read_bytes() == before
    assert (changed.artifacts / "figures" / "03_curves.png").read_bytes() != before
    assert json.loads((changed.artifacts / "overrides.json").read_text()) == {"overrides": ALPHA}
    assert not (default.directory / "overrides.json").exists()


def test_the_report_shows_the_own_figures_and_those_of_the_data(study, tmp_path):
    default, changed = study(), study(overrides=ALPHA)
    for owner, name in ((default, "01_labels"), (default, "03_curves"), (changed, "05_embeddings")):
        page.save_figure(Figure(figsize=(1, 1)), owner, name)
    for owner, shown in ((default, {"01_labels", "03_curves"}), (changed, {"01_labels", "05_embeddings"})):
        directory = report_directory([owner])
        text = page.write_page(directory / "report.html", [owner], [tables.table3([])], pd.DataFrame()).read_text()
        for name, (title, _) in page.FIGURES.items():
            assert (f"<figcaption><b>{title}.</b>" in text) == (name in shown), name
    assert not (report_directory([default]) / "overrides.json").exists()
    directory = report_directory([changed])
    assert directory == artifact_directory(tmp_path / "report" / "synthetic-demo", changed.changes)
    assert json.loads((directory / "overrides.json").read_text()) == {"overrides": ALPHA}


def test_the_notebooks_of_a_changed_study_are_planned_into_its_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "data"))
    results = tmp_path / "results"

    def copies(**given):
        planned = plan_notebooks(Parameters(corpora=["demo"], results=results, **given), ["1", "3", "9"])
        return [item.executed_copy.relative_to(results) for item in planned]

    assert [str(path) for path in copies()] == [
        "demo/demo/notebooks/01_data.ipynb",
        "demo/demo/notebooks/03_mgcl.ipynb",
        "report/demo-demo/09_tables.ipynb",
    ]
    data, mgcl, assembled = copies(overrides=ALPHA)
    assert str(data) == "demo/demo/notebooks/01_data.ipynb"
    own = artifact_directory(results, {"overrides": ALPHA}).name
    assert str(mgcl) == f"demo/demo/changed/{own}/notebooks/03_mgcl.ipynb"
    assert str(assembled) == f"report/demo-demo/changed/{own}/09_tables.ipynb"
    assert not results.exists()


def test_trials_reach_notebook_07_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "data"))
    parameters = Parameters(corpora=["demo"], results=tmp_path / "results", trials=3)
    search, audit = sorted(plan_notebooks(parameters, ["6", "7"]), key=lambda item: item.executed_copy, reverse=True)
    assert search.parameters["trials"] == 3 and "trials" not in audit.parameters
