"""What printed numbers alone say: counts that give them, F1 beside an accuracy, sources, equal cells."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from mgcl_core.metrics import METRIC_NAMES
from mgcl_core.reporting import printed_numbers
from mgcl_core.reporting.published import SCHEMES, paper_file, paper_models, paper_text


@pytest.fixture(scope="module")
def accuracies():
    return printed_numbers.accuracies()


def test_an_accuracy_can_be_where_a_count_gives_it(accuracies):
    """Against every count there is, for every printed accuracy."""
    for row in accuracies.itertuples():
        unit = 10.0 ** -len(row.printed.partition(".")[2])
        means = np.arange(3 * row.clips + 1) / (3 * row.clips) * 100
        apart = np.abs(means - float(row.printed)).min()
        expected = "yes" if apart < unit / 2 + 1e-7 else "rounded otherwise" if apart < unit + 1e-7 else "no"
        assert (row.can_be, row.apart) == (expected, pytest.approx(apart, abs=1e-9))


def test_w_o_weight_of_table_6_is_no_mean_of_three_runs_and_mgcl_is(accuracies):
    own = accuracies[(accuracies["model"] == "w/o weight")].set_index("metric")
    assert own.loc[["Acc-2", "Acc-5"], "can_be"].tolist() == ["no", "no"]
    assert own["printed"].to_dict() == {"Acc-2": "80.63", "Acc-3": "69.52", "Acc-5": "42.56"}
    assert (accuracies[accuracies["model"] == "MGCL"]["can_be"] == "yes").all()
    starred = accuracies[accuracies["model"].str.endswith("*") & (accuracies["can_be"] == "no")]
    assert set(starred["model"]) == {"Self-MM*", "ConFEDE*", "SFTTR*"} and len(starred) == 10  # data/paper/notes.md


def test_means_of_runs_that_were_rounded_first_are_never_ruled_out():
    random, clips, other = np.random.default_rng(0), 457, set()
    for _ in range(300):
        runs = np.round(random.integers(0, clips + 1, 3) / clips * 100, 2)
        printed = round(float(runs.mean()), 2)
        nearest = np.round(printed / 100 * 3 * clips) / (3 * clips) * 100
        assert abs(nearest - printed) <= 0.01 + 1e-9
        other.add(bool(abs(nearest - printed) > 0.005 + 1e-9))
    assert other == {True, False}  # and some of them need more than rounding to the nearest


def test_the_chance_is_the_share_of_all_numbers_of_two_decimals(accuracies):
    sims = accuracies[accuracies["dataset"] == "CH-SIMS"].iloc[0]
    means = np.arange(1372) / 1371 * 100
    hit = [np.abs(means - number / 100).min() <= 0.005 + 1e-9 for number in range(10001)]
    assert sims["chance"] == pytest.approx(np.mean(hit)) and 0.13 < sims["chance"] < 0.14
    assert 0.27 < sims["chance_otherwise"] < 0.28
    mosei = accuracies[accuracies["dataset"] == "CMU-MOSEI"]
    assert (mosei["chance"] == 1).all() and (mosei["can_be"] == "yes").all()  # 13,977 predictions: every number is one
    counts = printed_numbers.accuracy_counts(accuracies)
    assert "CMU-MOSEI" not in counts.index.get_level_values("dataset")
    assert counts.loc[("CH-SIMS", "w/o weight"), ["yes", "rounded otherwise", "no"]].tolist() == [0, 1, 2]
    assert "5" in counts.loc[("CH-SIMS", "TFN"), "runs that fit all"].split(", ")  # MMSA's means are of five runs


@pytest.mark.parametrize("swapped", [False, True])
def test_the_range_of_f1_holds_what_runs_can_have(swapped):
    negative, positive = 7, 4
    true = np.array([0] * negative + [1] * positive)
    found: dict[float, list[float]] = {}
    for fp, fn in itertools.product(range(negative + 1), range(positive + 1)):
        predicted = true.copy()
        predicted[:fp] = 1
        predicted[negative : negative + fn] = 0
        pair = (predicted, true) if swapped else (true, predicted)
        score = f1_score(*pair, average="weighted", zero_division=0)
        found.setdefault(float((true == predicted).mean()), []).append(score)
    for accuracy, scores in found.items():
        low, high = printed_numbers.f1_range(accuracy, negative, positive, swapped=swapped)
        assert low <= min(scores) + 1e-9 and max(scores) <= high + 1e-9
    runs = [(accuracy, score) for accuracy, scores in found.items() for score in (min(scores), max(scores))]
    for three in itertools.islice(itertools.combinations(runs, 3), 0, None, 7):  # a mean of runs lies within too
        accuracy, score = np.mean(three, axis=0)
        low, high = printed_numbers.f1_range(accuracy, negative, positive, swapped=swapped)
        assert low - 1e-9 <= score <= high + 1e-9
    assert printed_numbers.f1_range(1.0, negative, positive, swapped=swapped) == pytest.approx((1, 1))


def test_two_f1_of_table_3_fit_their_accuracy_with_swapped_arguments_alone():
    cells = printed_numbers.weighted_f1s(["CH-SIMS"])
    outside = cells[~cells["can_be"]]
    assert outside["model"].tolist() == ["LF-DNN", "MuT"] and outside["can_be_swapped"].all()
    assert cells[cells["model"].str.startswith(("MGCL", "w/o"))]["can_be"].all()


def test_origins_compare_to_the_printed_digit():
    cells = printed_numbers.origins()
    assert len(cells) == 252 - 3 * 6  # of all printed numbers; MGCL's row stands in Tables 3, 5 and 6, w/o CL's in two
    one = cells.set_index(["dataset", "model", "metric"]).sort_index()
    tfn = one.loc[("CH-SIMS", "TFN", "Acc-5")]
    assert (tfn["printed"], tfn["origin"], tfn["equal"]) == ("39.30", "equal", "mmsa, almt")
    mult = one.loc[("CH-SIMS", "MuT", "Corr")]
    assert (mult["origin"], mult["different"]) == ("different", "mmsa: 0.5641; almt: 0.564")
    assert (one.loc[("CH-SIMS", "SFTTR*"), "origin"] == "not found").all()
    assert (one.loc[("CMU-MOSI", "MGCL"), "stated"] == "own").all()
    starred = one.loc[("CMU-MOSEI", "Self-MM*")]
    assert (starred["stated"] == "replicated").all() and (starred["equal"] == "almt").all()
    pd.testing.assert_frame_equal(paper_file("origins"), cells.astype(str))  # CONTRIBUTING.md says how it is made
    of_mmsa = one.loc[("CH-SIMS", ["MFN", "LMF", "TFN", "MuT"]), :]["equal"].str.contains("mmsa")
    assert (len(of_mmsa), of_mmsa.sum()) == (24, 23)  # data/paper/notes.md: all but one
    counts = printed_numbers.origin_counts(cells)
    assert counts[["equal", "different", "not found", "own"]].to_numpy().sum() == len(cells)
    assert set(cells["equal"].str.split(", ").explode()) - {""} <= set(printed_numbers.sources().index)


def test_what_is_printed_elsewhere_names_sources_rows_and_columns_that_there_are():
    elsewhere, sources = paper_file("elsewhere"), paper_file("sources")
    assert set(elsewhere["source"]) == set(sources["source"])
    assert not elsewhere.duplicated(["source", "dataset", "model", "metric"]).any()
    for row in elsewhere.itertuples():
        table = 3 if SCHEMES[row.dataset] == "sims" else 4
        assert row.model in paper_models(table) and paper_text(table, row.dataset, row.model, row.metric) is not None
        assert (float(row.value) < 1) == (row.metric in ("mae", "corr"))


def test_equal_cells_are_equal_and_all_there_are():
    equal = printed_numbers.equal_cells()
    shared = equal[(equal["dataset"] == "CMU-MOSI") & (equal["models"] == "Self-MM*, SFTTR*")]
    assert shared[["metric", "printed"]].to_numpy().tolist() == [["Acc-7", "45.79"], ["MAE", "0.712"]]
    ablations = equal[equal["rows"] == "ablations"].set_index("metric")
    assert ablations["models"].to_dict() == {"Acc-2": "w/o C3, w/o uni", "Acc-3": "w/o CL, w/o uni"}
    assert (equal["by_chance"] > 0).all() and (equal["in_column"] >= 1).all()


@pytest.mark.parametrize("name", ["CH-SIMS", "CMU-MOSI", "CMU-MOSEI"])
def test_the_test_sets_are_those_of_the_official_labels(shared_data, name):
    labels = pd.read_csv(shared_data / name / "labels.csv", dtype={"video_id": str})
    test = labels[labels["mode"] == "test"]
    sign = np.sign(test["label"])
    counted = [len(test), test["video_id"].nunique(), *((sign == s).sum() for s in (-1, 0, 1))]
    assert paper_file("test_sets").set_index("dataset").loc[name].astype(int).tolist() == counted


def test_metric_names_are_the_tables_columns(accuracies):
    assert set(accuracies["metric"]) <= set(METRIC_NAMES.values())
