"""The table of costs, its figure, and what is said of a student."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mgcl_core.experiments.distillation import ALONE, STUDENT
from mgcl_core.reporting import costs, figures
from mgcl_core.statistics import Estimate

COMPARED = "MGCL, shared encoders"


def difference(value: float, error: float, *, seeds: int = 3, videos: float = 40.0) -> Estimate:
    return Estimate(*(np.float64(number) for number in (value, error, 30.0, 0.2)), seeds, videos)


@pytest.mark.parametrize(
    "found, words",
    [
        (None, "unknown"),
        (difference(-0.03, 0.001, seeds=1), "no verdict"),
        (difference(-0.03, 0.001, videos=3.0), "no verdict"),
        (difference(-0.002, 0.01), "no verdict, since only a difference of 0.0"),
        (difference(-0.03, 0.005), ": lower"),
        (difference(0.03, 0.005), ": higher and not lower by 0.01 or more"),
        (difference(-0.001, 0.003), ": not lower by 0.01 or more"),
        (difference(-0.005, 0.001), ": lower and not lower by 0.01 or more"),
    ],
)
def test_no_verdict_below_what_could_be_detected(found, words):
    assert words in costs.in_words(found)


@pytest.mark.parametrize(
    "found, words",
    [
        (None, None),
        (difference(-0.03, 0.001, seeds=1), None),
        (difference(-0.03, 0.005), None),  # there is something to distil
        (difference(-0.002, 0.003), "Nothing to distil"),
        (difference(-0.01, 0.01), "Whether there is anything to distil is open"),
    ],
)
def test_where_there_is_nothing_to_distil_it_is_said(found, words):
    lines = costs.anything_to_distil(found, "MGCL")
    assert lines == [] if words is None else lines[0].startswith(words)


@pytest.fixture(scope="module")
def table(taught):
    study, runs = taught
    shared = study.with_overrides({"encoders": "shared"}).trainings()
    rows = {**{name: [run] for name, run in runs.items()}, COMPARED: shared}
    return costs.cost_table(study, rows).set_index("system")


@pytest.mark.slow
def test_a_row_holds_what_it_costs_and_what_was_reached(taught, table):
    study, runs = taught
    teacher, student, shared = (table.loc[name] for name in ("MGCL", STUDENT, COMPARED))
    assert student["gflop"] < shared["gflop"] < teacher["gflop"]
    assert student["parameters"] == runs[STUDENT].record()["parameters"]
    seconds = sum(run.record()["seconds"] for run in (runs["MGCL"], *runs["MGCL"].parents))
    assert teacher["hours"] == pytest.approx(seconds / 3600)
    assert student["hours"] == pytest.approx(teacher["hours"] + runs[STUDENT].record()["seconds"] / 3600)
    frame = study.predictions(runs[STUDENT])
    corr = np.corrcoef(frame["label"], frame["prediction"])[0, 1]
    assert student["corr"] == pytest.approx(corr) and student["corr_low"] < corr < student["corr_high"]
    assert student["difference"] == pytest.approx(corr - teacher["corr"])
    assert np.isnan(student[["difference_low", "detectable"]].astype(float)).all()  # one seed
    assert shared["seeds"] == 0 and np.isnan(shared[["corr", "mae", "hours"]].astype(float)).all()


@pytest.mark.slow
def test_the_table_is_readable_and_says_what_was_not_trained(taught, table):
    study, runs = taught
    shown = costs.readable(table.reset_index())
    assert shown.loc[COMPARED, "Corr"] == "–" and shown.loc[COMPARED, ""] == "not trained"
    assert shown.loc[STUDENT, ""] == "" and "[" in shown.loc[STUDENT, "MAE"]
    assert "synthetic" in costs.about(study)
    lines = costs.distillation_lines(study, {name: [run] for name, run in runs.items()}, table.reset_index())
    assert len(lines) == 3 and all("no verdict" in line for line in lines)
    assert lines[1].startswith(ALONE)


@pytest.mark.slow
def test_every_row_has_a_run_whose_settings_say_what_it_is(taught):
    study, _ = taught
    rows = costs.cost_rows(study)
    configs = {name: runs[0].config for name, runs in rows.items()}
    assert configs[COMPARED].encoders == "shared" and configs["MGCL, pooled micro"].micro == "pooled"
    assert configs["MGCL, all frozen"].trained_encoders == () and configs["MGCL, bf16"].precision == "bf16"
    assert {"LF-DNN", "SFTTR", STUDENT, ALONE} <= rows.keys() and len(rows) == 17
    assert len({runs[0].name for runs in rows.values()}) == 17


def test_the_line_of_the_figure_joins_what_nothing_cheaper_reaches():
    frame = pd.DataFrame(
        [("a", 1.0, 0.5), ("b", 2.0, 0.4), ("MGCL", 3.0, 0.7), ("untrained $_$", 0.5, np.nan)],
        columns=["system", "gflop", "corr"],
    )
    frame = frame.assign(corr_low=frame["corr"] - 0.1, corr_high=[0.6, 0.5, np.nan, np.nan])
    figure = figures.pareto(frame, synthetic=True)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "the best at this cost or less")
    assert list(line.get_xydata().tolist()) == [[1.0, 0.5], [3.0, 0.7]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][1:] == [
        "1  untrained $_$ (not trained)", "2  a", "3  b", "4  MGCL",
    ]  # fmt: skip
    figure.draw_without_rendering()
