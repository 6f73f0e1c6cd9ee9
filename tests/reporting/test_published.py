"""The paper's tables as kept in data/paper, against the paper's text where it is available."""

from __future__ import annotations

import math

import pytest

from mgcl_core.metrics import METRICS
from mgcl_core.reporting.published import RESULT_TABLES, SCHEMES, paper_models, paper_table, paper_text, paper_value
from mgcl_core.support.errors import ConfigError, RunError


def printed_table(text: str, number: int) -> list[list[str]]:
    """The tab-separated lines above the caption of Table ``number``, header lines of Tables 3 and 4 made one."""
    lines = text.splitlines()
    last = next(i for i, line in enumerate(lines) if line.startswith(f"Table {number}. ")) - 1
    while not lines[last].strip():
        last -= 1
    first = last
    while "\t" in lines[first - 1]:
        first -= 1
    rows = [line.split("\t") for line in lines[first : last + 1]]
    if number not in (3, 4):
        return rows
    (_, *datasets), (_, *metrics), *body = rows
    for i, dataset in enumerate(datasets):
        datasets[i] = dataset or datasets[i - 1]
    names = [
        f"{dataset} {metric}" if number == 4 else metric for dataset, metric in zip(datasets, metrics, strict=True)
    ]
    return [["Model", *names], *body]


@pytest.mark.parametrize("number", range(1, 7))
def test_each_csv_is_the_table_of_the_paper(shared_data, number):
    paper = shared_data.parent / "paper.txt"
    if not paper.is_file():
        pytest.skip(f"the paper's text is absent ({paper})")
    header, *rows = printed_table(paper.read_text(encoding="utf-8"), number)
    frame = paper_table(number)
    assert list(frame.columns) == header
    assert frame.to_numpy().tolist() == rows


def test_values_of_the_paper():
    assert paper_value(3, "CH-SIMS", "MGCL", "acc2") == pytest.approx(0.8169)
    assert paper_value(3, "CH-SIMS", "Self-MM", "mae") == 0.411
    assert math.isnan(paper_value(3, "CH-SIMS", "MISA", "acc3"))
    assert paper_text(3, "CH-SIMS", "MISA", "acc3") == "-"
    assert paper_value(4, "CMU-MOSI", "MGCL", "acc2_nn") == pytest.approx(0.8304)
    assert paper_value(4, "CMU-MOSI", "MGCL", "acc2_np") == pytest.approx(0.8496)
    assert paper_text(4, "CMU-MOSI", "MFN", "f1_nn") == "77.3"
    assert math.isnan(paper_value(4, "CMU-MOSI", "MFN", "f1_np"))
    assert math.isnan(paper_value(4, "CMU-MOSI", "TFN", "acc2_nn"))
    assert paper_value(4, "CMU-MOSEI", "ConFEDE", "f1_np") == pytest.approx(0.8574)
    assert paper_value(6, "CH-SIMS", "w/o weight", "corr") == 0.652
    assert paper_text(4, "CMU-MOSI", "MGCL", "acc5") is None  # no such column
    assert paper_text(5, "CMU-MOSI", "MGCL", "mae") is None  # Table 5 is on CH-SIMS only


def test_every_printed_number_has_a_value():
    count = 0
    for number, datasets in RESULT_TABLES.items():
        for dataset in datasets:
            for model in paper_models(number):
                for metric in METRICS[SCHEMES[dataset]]:
                    text, value = (
                        paper_text(number, dataset, model, metric),
                        paper_value(number, dataset, model, metric),
                    )
                    assert math.isnan(value) == (text in (None, "-"))
                    assert math.isnan(value) or 0 < value < 1
                    count += not math.isnan(value)
    # Cells less dashes: Table 3 has MISA's two; Table 4's Acc-2 and F1 of MFN, LMF, TFN and MuT on MOSI are halves.
    assert count == (10 * 6 - 2) + (11 * 2 * 7 - 8) + 5 * 6 + 3 * 6


def test_paper_names_that_are_not_there():
    for number, dataset, model, metric, message in (
        (2, "CH-SIMS", "MGCL", "mae", "holds no results"),
        (3, "SIMS", "MGCL", "mae", "did you mean 'CH-SIMS'"),
        (3, "CH-SIMS", "MAG-BERT", "mae", "no model 'MAG-BERT'"),
        (3, "CH-SIMS", "MGCL", "acc7", "unknown metric"),
        (4, "CMU-MOSI", "MGCL", "acc2", "unknown metric"),
    ):
        with pytest.raises(ConfigError, match=message):
            paper_value(number, dataset, model, metric)
    with pytest.raises(ConfigError, match="Tables 1 to 6"):
        paper_table(7)


def test_paper_tables_are_copies_and_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = paper_table(1)
    frame.loc[0, "Dataset"] = "changed"
    assert paper_table(1).iloc[0, 0] == "CH-SIMS"
    monkeypatch.setenv("MGCL_ROOT", str(tmp_path))
    with pytest.raises(RunError, match="MGCL_ROOT"):
        paper_table(1)
