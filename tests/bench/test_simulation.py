"""A small share of `make statistics`: the promise of intervals and tests, and what is known before a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mgcl_core.bench import paper_power, simulation
from mgcl_core.bench.simulation import (
    DESIGNS,
    KINDS,
    WITHHELD,
    Cell,
    Design,
    as_markdown,
    needed_quantiles,
    power,
    simulate,
    simulate_all,
)
from mgcl_core.reporting.published import paper_file


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: f"{design.clips}-{design.videos}-{design.seeds}")
@pytest.mark.parametrize(("kind", "metric", "ratio"), [(0, 2, 0.5), (1, 1, 0.0), (1, 0, 2.0), (2, 2, 8.0)])
def test_errors_are_those_promised(design, kind, metric, ratio):
    metric = simulation.METRICS[design.scheme][metric]
    row = simulate(Cell(design, KINDS[kind], metric, ratio), 1000, seed=7)
    assert row["given"] == 1
    assert 0.03 - 2 * 0.0054 <= row["error"] <= 0.07 + 2 * 0.0081  # two standard errors of 1,000 test sets


@pytest.mark.parametrize("design", WITHHELD)
def test_the_rule_gives_nothing_where_the_promise_is_not_kept(design):
    assert simulate(Cell(design, KINDS[1], "mae", 8.0), 20)["given"] == 0


@pytest.mark.slow
def test_two_seeds_would_reject_too_often():
    assert simulate(Cell(WITHHELD[0], KINDS[1], "mae", 8.0), 1000)["error"] > 0.08


def test_lengths_are_those_of_the_design():
    for design in DESIGNS:
        assert (len(design.lengths), design.lengths.sum()) == (design.videos, design.clips)
        assert design.lengths.min() >= 1


def test_the_table_has_every_cell(monkeypatch):
    monkeypatch.setattr(simulation, "RATIOS", (0.0,))
    monkeypatch.setattr(simulation, "KINDS", KINDS[:1])
    frame = pd.DataFrame([simulate(cell, 10) for cell in simulation.cells((DESIGNS[0], WITHHELD[1]))])
    lines = as_markdown(frame).splitlines()
    assert len(lines) == 2 + 6
    assert ["(" in line for line in lines[2:]] == [False] * 3 + [True] * 3


@pytest.mark.slow
def test_all_cells_in_processes():
    frame = simulate_all(2, 2, DESIGNS[:1])
    assert len(frame) == len(simulation.cells(DESIGNS[:1]))
    assert frame["metric"].tolist()[:5] == ["Acc-2 NP"] * 5


def test_power_grows_with_clips_and_falls_with_comparisons():
    small, large = (power("mosi", clips, videos, 3, data_sets=100) for clips, videos in ((180, 8), (686, 31)))
    assert (large < small).all(axis=None)
    assert (power("mosi", 686, 31, 3, comparisons=20, data_sets=100) > large).all(axis=None)
    assert np.isnan(power("mosi", 180, 8, 2, data_sets=10)).all(axis=None)


def test_labels_of_a_folder_are_drawn_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "CMU-MOSI").mkdir()
    pd.DataFrame({"label": [-1.5, 0.5, 2.25]}).to_csv(tmp_path / "CMU-MOSI" / "labels.csv", index=False)
    monkeypatch.setenv("MGCL_LABELS", str(tmp_path))
    assert simulation.label_quantiles("mosi")(np.array([0.1, 0.5, 0.99])).tolist() == [-1.5, 0.5, 2.25]
    monkeypatch.delenv("MGCL_LABELS")
    drawn = simulation.label_quantiles("sims")(np.linspace(0.001, 0.999, 999))
    assert set(np.round(drawn * 5)) == set(range(-5, 6))


def test_the_papers_power_is_of_its_three_test_sets(monkeypatch):
    """The file that is kept has the rows and columns that the code makes, and values that it makes too."""
    kept = paper_file("power")
    cell = Cell(Design("sims", 457, 59, 3), "pair, shared encoders", "acc2", paper_power.RATIO)
    (found,) = needed_quantiles(cell, [0.8], 100)
    row = kept.query("dataset == 'CH-SIMS' and pair == 'shared encoders' and metric == 'acc2'")
    assert float(row["0.8"].item()) == pytest.approx(found, rel=0.15)
    monkeypatch.setattr(paper_power, "needed_quantiles", lambda cell, levels, data_sets: np.zeros(len(levels)))
    made = paper_power.paper_power()
    assert made.columns.tolist() == kept.columns.tolist()
    assert (
        made[["dataset", "pair", "metric"]].to_numpy().tolist()
        == kept[["dataset", "pair", "metric"]].to_numpy().tolist()
    )
    levels = kept.drop(columns=["dataset", "pair", "metric"]).astype(float)
    assert (levels.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)
