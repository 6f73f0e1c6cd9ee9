"""The main job whole: all notebooks in order on the synthetic demo corpora, as `make reproduce` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.demo_ceiling import best_correlations

from mgcl_core.data.synthetic import DEMOS
from mgcl_core.reporting.agreement import agreement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "demo" / "reference"


def run(*arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=1800, **more)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of `mgcl run`, run here; MGCL_RESULTS names a folder that holds them already."""
    if os.environ.get("MGCL_RESULTS"):
        return Path(os.environ["MGCL_RESULTS"])
    folder = tmp_path_factory.mktemp("results")
    done = run("mgcl_core", "run", "--quiet", "--results", str(folder), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def report(results):
    return results / "report" / "demo+demo-mosi-demo"


def cells(report: Path, number: int) -> pd.DataFrame:
    return pd.read_csv(report / "tables" / f"table{number}_cells.csv")


def test_every_notebook_was_executed_without_an_error(results, report):
    executed = [*results.glob("demo*/demo/notebooks/*.ipynb"), *report.glob("*.ipynb")]
    names = sorted(path.name[:2] for path in executed)
    assert names == ["01", "01", "02", "02", "03", "03", "04", "05", "05", "09"]
    for path in executed:
        for cell in json.loads(path.read_text())["cells"]:
            assert not [o for o in cell.get("outputs", []) if o["output_type"] == "error"], path


def test_every_table_is_there_as_csv_and_latex_and_says_synthetic(report):
    for number in range(1, 7):
        latex = (report / "tables" / f"table{number}.tex").read_text()
        assert "synthetic" in (report / "tables" / f"table{number}.csv").read_text() and "synthetic" in latex
        assert r"\toprule" in latex


def test_the_figures_and_the_report_are_there(results, report):
    for corpus in ("demo", "demo-mosi"):
        figures = {path.stem for path in (results / corpus / "demo" / "figures").glob("0*.png")}
        wanted = {
            "01_labels",
            "01_lengths",
            "01_agreement",
            "01_signals",
            "02_curves",
            "02_scores",
            "03_curves",
            "03_predicted",
            "05_embeddings",
        } | ({"04_ablations"} if corpus == "demo" else set())
        assert figures == wanted
    page = (report / "report.html").read_text()
    assert "synthetic" in page and page.count("data:image/png") == 19 and "Notes on the paper" in page


@pytest.mark.parametrize("corpus, number", [("demo", 3), ("demo-mosi", 4)])
def test_mgcl_reaches_the_planted_ceiling_and_beats_every_single_encoder(results, report, corpus, number):
    frame = cells(report, number)
    mgcl = frame[(frame["model"] == "MGCL") & (frame["metric"] == "corr") & frame["mean"].notna()]["mean"].item()
    assert mgcl >= 0.8 * best_correlations(DEMOS[corpus])["all"]
    single = {}
    for path in (results / corpus / "demo" / "runs").glob("macro_*/predictions-test.csv"):
        macro = pd.read_csv(path)
        y = dict(zip(macro["id"], macro["label"], strict=True))
        single.setdefault(path.parent.name[:7], []).append(macro["prediction"].corr(macro["label"]))
    for path in (results / corpus / "demo" / "runs").glob("micro_*/predictions-test.csv"):
        micro = pd.read_csv(path)
        single.setdefault(path.parent.name[:7], []).append(micro["prediction"].corr(micro["id"].map(y)))
    assert len(single) == 6 and all(len(values) == 3 for values in single.values())
    assert mgcl > max(sum(values) / 3 for values in single.values())


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_the_tables_agree_with_the_reference(report, number):
    ours, reference = (
        frame.set_index(["dataset", "model", "metric"])
        for frame in (cells(report, number), pd.read_csv(REFERENCE / f"table{number}_cells.csv"))
    )
    assert list(ours.index) == list(reference.index)
    assert (ours["mean"].isna() == reference["mean"].isna()).all()
    pd.testing.assert_series_equal(ours["paper"], reference["paper"])
    compared = agreement(report / "tables", REFERENCE).query("table == @number")
    assert compared["inside"].all(), compared[~compared["inside"]].to_string()


def test_the_audit_and_the_search_run_as_notebooks(tmp_path):
    quick = [
        "-p",
        "results",
        str(tmp_path),
        "-y",
        "seeds: [1111]",
        "-y",
        "overrides: {text_epochs: 1, sequence_epochs: 1, mgcl_epochs: 2, micro: sequence}",
    ]
    for name, more in (("06_selection_audit", []), ("07_search", ["-p", "trials", "2"])):
        done = run(
            "papermill",
            str(ROOT / "notebooks" / f"{name}.ipynb"),
            str(tmp_path / f"{name}.ipynb"),
            "--no-progress-bar",
            *quick,
            *more,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "demo" / "demo").iterdir()} == {"runs", "changed"}
    (own,) = (tmp_path / "demo" / "demo" / "changed").iterdir()
    assert {path.stem for path in own.glob("figures/*.png")} == {"06_audit", "07_search"}
    assert (own / "search" / "preset.json").exists() and (own / "overrides.json").exists()


def test_status_says_that_all_is_done(results):
    shown = run("mgcl_core", "status", "--results", str(results))
    assert "36 of 36 runs done" in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "corpsu", "demo"], "unknown parameter 'corpsu'"),
        (["-p", "profile", "papr"], "did you mean 'paper'"),
        (["-y", "overrides: {alhpa: 0.5}"], "did you mean 'alpha'"),
    ],
)
def test_plain_papermill_from_another_folder_stops_before_anything_runs(tmp_path, arguments, message):
    done = run(
        "papermill",
        str(ROOT / "notebooks" / "03_mgcl.ipynb"),
        "out.ipynb",
        "-p",
        "results",
        str(tmp_path / "results"),
        "--no-progress-bar",
        *arguments,
        cwd=tmp_path,
    )
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["00_paper", "10_claims", "11_explore"])
def test_the_notebooks_to_play_with_run_on_the_results(results, tmp_path, name):
    """After the main job: what is trained there is not trained again. `explore.vary` trains two further values."""
    executed = tmp_path / f"{name}.ipynb"
    done = run(
        "papermill", str(ROOT / "notebooks" / executed.name), str(executed), "--no-progress-bar",
        "--execution-timeout", "300", "-p", "results", str(results), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if name == "10_claims":
        made = {path.stem for path in (results / "demo" / "demo" / "claims").glob("*.csv")}
        assert made == {"summary", "printed", "judged", "accuracies", "f1", "origins", "equal"}
        summary = pd.read_csv(results / "demo" / "demo" / "claims" / "summary.csv", index_col="claim")
        assert summary.loc["1", "verdict"] == "not decided here" and "54 not run" in summary.loc["1", "why"]
        assert not summary.loc["8":"14", "why"].str.contains("not run").any()
    if name == "11_explore":
        made = (results / "demo" / "demo" / "figures").glob("11_*")
        figures = {path.name for path in made if path.suffix in (".png", ".html")}  # beside them PDF and SVG
        assert figures == {"11_map.html", *(f"11_{of}.png" for of in ("attention", "errors", "compare", "alpha"))}
