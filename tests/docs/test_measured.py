"""Numbers of README and docs/measured.md that the repository holds: tables of the demo, tests, what a design shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.demo_ceiling import best_correlations

from mgcl_core.data.synthetic import DEMOS
from mgcl_core.metrics import METRIC_NAMES
from mgcl_core.reporting.paper_claims import printed_comparisons, read_claims
from mgcl_core.reporting.published import paper_value
from mgcl_core.reporting.wording import mean_text

ROOT = Path(__file__).parents[2]
PAGES = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/measured.md"))
REFERENCE = ROOT / "results" / "demo" / "reference"


def table(first_cell: str) -> pd.DataFrame:
    """A page's table whose header begins so, by its first column."""
    lines = iter(PAGES[PAGES.index(f"| {first_cell}") :].splitlines())
    header = [cell.strip() for cell in next(lines).strip("|").split("|")]
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return pd.DataFrame(rows, columns=header).set_index(header[0])


def reference(*numbers: int) -> pd.DataFrame:
    return pd.concat([pd.read_csv(REFERENCE / f"table{number}_cells.csv") for number in numbers], ignore_index=True)


@pytest.mark.parametrize(
    "first_cell, numbers", [("synthetic `demo` (like CH-SIMS)", (5, 6)), ("synthetic `demo-mosi`", (4,))]
)
def test_the_demos_tables_are_the_references(first_cell, numbers):
    shown, cells = table(first_cell), reference(*numbers).dropna(subset=["mean"])
    assert set(shown.index) == set(cells["model"])
    for cell in cells.to_dict("records"):
        assert shown.loc[cell["model"], METRIC_NAMES[cell["metric"]]] == mean_text(cell), (
            cell["model"],
            cell["metric"],
        )


def test_what_is_said_of_the_demos_differences():
    tested = reference(5, 6).dropna(subset=["p_holm"]).sort_values("p_holm")
    said = re.search(
        r"Corr is higher by \.(\d+) \(p \.(\d+); it is one of (\d+) differences.*?p of \.(\d+) or more", PAGES, re.S
    )
    higher, p, count, others = said.groups()
    first = tested.iloc[0]
    assert (first["model"], first["metric"]) == ("w/o weight", "corr") and len(tested) == int(count)
    assert f"{first['paired_difference']:.3f}" == f"0.{higher}" and f"{first['p_holm']:.3f}" == f"0.{p}"
    assert (tested["p_holm"] < 0.05).sum() == 1 and tested["p_holm"].iloc[1] >= float(f"0.{others}")


def test_the_generators_own_best_predictors():
    said = re.search(r"Corr of (\.\d+) on the test clips of `demo` and (\.\d+) on those of `demo-mosi`", PAGES)
    found = [f"{best_correlations(DEMOS[name])['all']:.3f}".removeprefix("0") for name in ("demo", "demo-mosi")]
    assert list(said.groups()) == found


def test_what_the_small_real_test_set_can_show_is_what_the_page_of_statistics_says():
    shows = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    least = float(re.search(r"\| mosi \| 180 \| 8 \| 3 \|.*\| ([\d.]+) \|$", shows, re.M)[1])
    assert PAGES.count(f"from {least:.3f}".replace("0.", ".")) == 2
    corr = table("test")["Corr"].str.extract(r"(\.\d+)")[0].astype(float)
    assert f"{corr.iloc[1:].max() - corr.iloc[1:].min():.3f}" == "0.022"


def test_the_floors_are_set_beside_the_numbers_that_the_paper_prints():
    first = [paper_value(4, "CMU-MOSI", model, "corr") for model in ("LF-DNN", "MFN", "LMF", "TFN", "MuT")]
    trained = [
        paper_value(4, "CMU-MOSI", m, "corr") for m in ("MISA", "MAG-BERT", "Self-MM", "ConFEDE", "SFTTR", "MGCL")
    ]
    for low, high in ((min(first), max(first)), (min(trained), max(trained))):
        assert f"{low:.3f} to {high:.3f}".replace("0.", ".") in PAGES
    floor = table("CMU-MOSI, real, words alone").loc["frozen MiniLM, ridge", "Corr"]
    value, low, high = map(float, re.findall(r"[\d.]+", floor))
    assert low < np.mean(first) < high < min(trained) and low < value < high


def test_the_largest_power_of_the_ablations_is_what_the_page_of_statistics_says():
    printed = printed_comparisons(read_claims())
    ablations = printed[printed["claim"].isin(["8", "13", "14"])]
    said = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    largest, of_c3 = re.search(r"power of at most \.(\d+)\s+each, those of C3 \.(\d+)", said).groups()
    assert f"{ablations['paper_power'].max():.2f}" == f"0.{largest}"
    assert f"{ablations[ablations['worse'] == 'w/o C3']['paper_power'].max():.2f}" == f"0.{of_c3}"
