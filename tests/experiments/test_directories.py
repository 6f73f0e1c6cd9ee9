"""What is made of runs: the default study's in its folder, a changed study's in one of its own, runs together."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

from mgcl_core.experiments.directories import own_folder
from mgcl_core.experiments.study import SEEDS, Study
from mgcl_core.notebooks import runner as chain
from mgcl_core.notebooks.parameters import check
from mgcl_core.reporting import report, tables

ALPHA = {"alpha": 0.2}


@pytest.fixture
def study(tiny_corpus, tmp_path):
    return lambda **changes: Study(tiny_corpus, "demo", results=tmp_path, **{"device": "cpu", **changes})


def test_a_study_that_changes_nothing_keeps_the_folder_of_its_runs(study, tmp_path):
    for plain in (study(), study(seeds=list(SEEDS), overrides={}, precision="fp32", system_overrides={})):
        assert plain.changes == {} and plain.output == plain.directory == tmp_path / "synthetic" / "demo"


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
    label, _, digest = changed.output.name.rpartition("-")
    assert changed.output.parent == tmp_path / "synthetic" / "demo" / "changed"
    assert label == name and len(digest) == 10
    assert changed.directory == study().directory and changed.without_test().output == changed.output


def test_the_folder_depends_on_what_is_changed_and_not_on_its_order(study):
    folder = study(overrides={"alpha": 0.2, "beta": 0.1}).output
    assert study(overrides={"beta": 0.1, "alpha": 0.2}).output == folder
    assert study(overrides={"alpha": 0.2, "beta": 0.2}).output != folder
    assert study(seeds=[1]).output != study(seeds=[2]).output


def test_runs_stay_where_they_are(study):
    default, changed, fewer = study(), study(overrides=ALPHA), study(seeds=[SEEDS[0]])
    assert [run.directory for run in fewer.trainings()] == [default.trainings()[0].directory]
    assert [r.directory for r in changed.pretrainings()] == [r.directory for r in default.pretrainings()]
    assert {run.directory.parent for run in changed.trainings()} == {default.directory / "runs"}


def test_figures_do_not_overwrite_each_other_and_a_note_says_what_is_changed(study):
    default, changed = study(), study(overrides=ALPHA)
    report.save_figure(Figure(), default, "03_curves")
    before = (default.directory / "figures" / "03_curves.png").read_bytes()
    report.save_figure(Figure(figsize=(2, 2)), changed, "03_curves")
    assert (default.directory / "figures" / "03_curves.png").read_bytes() == before
    assert (changed.output / "figures" / "03_curves.png").read_bytes() != before
    assert json.loads((changed.output / "overrides.json").read_text()) == {"overrides": ALPHA}
    assert not (default.directory / "overrides.json").exists()


def test_the_report_shows_the_own_figures_and_those_of_the_data(study, tmp_path):
    default, changed = study(), study(overrides=ALPHA)
    for owner, name in ((default, "01_labels"), (default, "03_curves"), (changed, "05_embeddings")):
        report.save_figure(Figure(figsize=(1, 1)), owner, name)
    for owner, shown in ((default, {"01_labels", "03_curves"}), (changed, {"01_labels", "05_embeddings"})):
        directory = chain.report_directory([owner])
        page = report.write_report(directory / "report.html", [owner], [tables.table3([])], pd.DataFrame()).read_text()
        for name, caption in report.FIGURES.items():
            assert (f"<figcaption>{caption}</figcaption>" in page) == (name in shown), name
    assert not (chain.report_directory([default]) / "overrides.json").exists()
    directory = chain.report_directory([changed])
    assert directory == own_folder(tmp_path / "report" / "synthetic-demo", changed.changes)
    assert json.loads((directory / "overrides.json").read_text()) == {"overrides": ALPHA}


def test_the_notebooks_of_a_changed_study_are_planned_into_its_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "data"))
    results = tmp_path / "results"

    def outputs(**given):
        steps = chain.plan(check({"corpora": ["demo"], "results": results, **given}), ["1", "3", "9"])
        return [step.output.relative_to(results) for step in steps]

    assert [str(path) for path in outputs()] == [
        "demo/demo/notebooks/01_data.ipynb",
        "demo/demo/notebooks/03_mgcl.ipynb",
        "report/demo-demo/09_tables.ipynb",
    ]
    data, mgcl, assembled = outputs(overrides=ALPHA)
    assert str(data) == "demo/demo/notebooks/01_data.ipynb"
    own = own_folder(results, {"overrides": ALPHA}).name
    assert str(mgcl) == f"demo/demo/changed/{own}/notebooks/03_mgcl.ipynb"
    assert str(assembled) == f"report/demo-demo/changed/{own}/09_tables.ipynb"
    assert not results.exists()


def test_trials_reach_notebook_07_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "data"))
    parameters = check({"corpora": ["demo"], "results": tmp_path / "results", "trials": 3})
    search, audit = sorted(chain.plan(parameters, ["6", "7"]), key=lambda step: step.output, reverse=True)
    assert search.parameters["trials"] == 3 and "trials" not in audit.parameters
