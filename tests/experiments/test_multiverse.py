"""The multiverse trains each combination of readings once, and says of each claim how often it holds."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest

from mgcl_core.cli import main
from mgcl_core.experiments import multiverse
from mgcl_core.experiments.multiverse import GRID, TABLE5, runs_of, specifications
from mgcl_core.experiments.study import Study
from mgcl_core.metrics import HIGHER_IS_BETTER, METRICS, regression_metrics
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.reporting.figures import specification_curve
from mgcl_core.reporting.multiverse import CLAIMS, judge, run_multiverse
from mgcl_core.reporting.published import paper_value
from mgcl_core.support.paths import shipped
from mgcl_core.trainer import CHECKPOINT, HISTORY, SELECTION, WEIGHTS

#: What leaves two readings of the weights and two of the epoch.
FIXED = {"temperature": 0.03, "unimodal_reduction": "mean", "micro": "sequence"}


@pytest.fixture(scope="module")
def build(tiny_corpus, tiny_overrides):
    def make(results, fixed=FIXED, **changes) -> Study:
        return Study(tiny_corpus, "demo", seeds=[1], overrides={**tiny_overrides, **fixed, **changes}, device="cpu",
                     workers=1, results=results)  # fmt: skip

    return make


def test_the_grid_is_every_combination_and_what_a_variant_switches_off_is_shared(build, tmp_path):
    assert len(specifications(build(tmp_path))) == 4
    study = build(tmp_path, fixed={})
    grid = specifications(study)
    assert len(grid) == 32 and len({tuple(one.items()) for one in grid}) == 32
    names = {variant: {runs_of(study, variant, one)[0].name for one in grid} for variant in TABLE5}
    # Of 32, w/o CL reads neither weights nor temperature, w/o uni not how L_uni is reduced.
    assert {variant: len(found) for variant, found in names.items()} == {
        "w/o CL": 8, "w/o C3": 32, "w/o uni": 16, "w/o fusion": 32, "MGCL": 32,
    }  # fmt: skip
    assert set(GRID) == set(grid[0])


@pytest.fixture(scope="module")
def trained(build, tmp_path_factory):
    """A multiverse of two rules of selection: its study, what it leaves, and each training that it took."""
    study, fits, fit = build(tmp_path_factory.mktemp("multiverse"), pair_weights="clgsi"), [], Study.fit
    study.train(["MGCL"])  # without the weights of its other epochs

    def spy(self, run, directory, **more):
        fits.append((run.variant, run.config.selection, (directory / CHECKPOINT).exists()))
        return fit(self, run, directory, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Study, "fit", spy)
        return study, run_multiverse(study), fits


def runs_by_rule(study) -> list[dict]:
    """The run of each variant, by MAE and by Acc-2."""
    return [{variant: runs_of(study, variant, one)[0] for variant in TABLE5} for one in specifications(study)]


@pytest.mark.slow
def test_one_training_gives_the_epochs_of_both_rules(trained, tmp_path):
    study, _, fits = trained
    by_mae, by_acc2 = runs_by_rule(study)
    differ = [variant for variant in TABLE5 if by_mae[variant].chosen_epoch != by_acc2[variant].chosen_epoch]
    # Each is trained once, and handed over; but the one that was there before, whose other epoch is gone, again.
    again = {variant: variant != "MGCL" or variant not in differ for variant in TABLE5}
    expected = [(variant, "mae", False) for variant in TABLE5 if variant != "MGCL"]
    assert sorted(fits) == sorted([*expected, *((variant, "acc2", again[variant]) for variant in TABLE5)])
    # Trained by itself, it is the same to the last bit.
    run = by_acc2[next(variant for variant in differ if variant != "MGCL")]
    kept = run.directory.rename(tmp_path / "handed over")
    study.finish(run)
    for file in (WEIGHTS, SELECTION, "predictions-valid.csv", "predictions-test.csv"):
        assert run.file(file).read_bytes() == (kept / file).read_bytes()
    histories = [pd.read_json(folder / HISTORY, lines=True) for folder in (run.directory, kept)]
    pd.testing.assert_frame_equal(*(history.drop(columns="seconds") for history in histories))
    assert run.chosen_epoch == histories[0]["valid_acc2"].argmax() + 1


@pytest.mark.slow
def test_its_claims_are_those_of_its_predictions(trained):
    study, result, _ = trained
    by_mae, _ = runs_by_rule(study)
    asked = "better == 'MGCL' and worse == 'w/o CL' and metric == 'mae' and selection == 'mae'"
    (difference,) = result.table.query(asked)["difference"]
    predicted = {v: study.predictions(by_mae[v])["prediction"] for v in ("w/o CL", "MGCL")}
    scores = {v: regression_metrics(study.corpus.test.labels, values, "sims")["mae"] for v, values in predicted.items()}
    assert difference == pytest.approx(scores["w/o CL"] - scores["MGCL"])
    assert (result.path.parent / "summary.csv").exists() and len(result.summary) == len(result.table) / 2


@pytest.mark.slow
def test_the_notebook_shows_it_and_trains_nothing_again(trained, monkeypatch):
    """Its cells run here, on a study that is small and finished."""
    study, result, _ = trained
    monkeypatch.setattr(Parameters, "study", lambda self: study)
    monkeypatch.setattr(Study, "fit", lambda *a, **k: pytest.fail("trained again"))
    log = logging.getLogger("mgcl_core")
    for name in ("handlers", "propagate", "level"):  # `begin` sets them; given back afterwards
        monkeypatch.setattr(log, name, getattr(log, name))
    cells = json.loads(shipped("notebooks/14_multiverse.ipynb").read_text())["cells"]
    shown = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), shown)
    pd.testing.assert_frame_equal(shown["result"].table, result.table)
    figures = {path.stem for path in (study.artifacts / "figures").glob("*.png")}
    assert figures == {"14_multiverse", "14_multiverse_mae"}


@pytest.mark.slow
def test_the_command_prints_how_often_each_claim_holds(trained, monkeypatch, capsys):
    study, result, _ = trained
    asked = []
    monkeypatch.setattr(Parameters, "study", lambda self, corpus=None: asked.append(corpus) or study)
    assert main(["multiverse", "--corpus", "clips.pkl"]) == 0 and asked == ["clips.pkl"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == str(result.path)
    assert sum("w/o fusion" in line for line in shown) == len(METRICS["sims"]) + 3


def synthetic(better: float) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Labels, predictions of three seeds by variant, and videos; MGCL's errors are ``better`` times as large."""
    random = np.random.default_rng(0)
    labels = random.integers(-5, 6, 240) / 5
    videos = [f"v{clip // 8}" for clip in range(240)]
    noise = {variant: random.normal(size=(3, 240)) * 0.15 for variant in TABLE5}
    noise["MGCL"] = noise["w/o CL"] * better
    return labels, {variant: labels + values for variant, values in noise.items()}, videos


def test_a_claim_is_shown_where_it_is_true_and_its_contrary_where_that_is():
    for factor, column in ((0.3, "shown"), (3.0, "contrary")):
        labels, predicted, videos = synthetic(factor)
        found = judge(labels, predicted, "sims", videos)
        of_mae = found[(found["better"] == "MGCL") & (found["metric"] == "mae")].set_index("worse")
        assert of_mae[column].all() and len(of_mae) == 4
        assert (of_mae["agrees"] == (factor < 1)).all()
        assert ((of_mae["low"] < of_mae["difference"]) & (of_mae["difference"] < of_mae["high"])).all()
    labels, predicted, videos = synthetic(1.0)
    found = judge(labels, predicted, "sims", videos)
    equal = found[(found["better"] == "MGCL") & (found["worse"] == "w/o CL")]
    assert not equal[["agrees", "shown", "contrary"]].any(axis=None)


@pytest.mark.parametrize("scheme", METRICS)
def test_every_metric_of_the_scheme_is_judged(scheme):
    labels, predicted, videos = synthetic(0.5)
    found = judge(labels, predicted, scheme, videos)
    acc2 = [metric for metric in METRICS[scheme] if metric.startswith("acc2")]
    for claim in CLAIMS:
        of_claim = found[(found["better"] == claim.better) & (found["worse"] == claim.worse)]
        assert list(of_claim["metric"]) == (acc2 if claim.acc2_alone else list(METRICS[scheme]))


def test_the_claims_agree_with_the_printed_table():
    """What is asked under other readings is what Table 5 itself shows."""
    for claim in CLAIMS:
        for metric in ["acc2"] if claim.acc2_alone else METRICS["sims"]:
            better, worse = (paper_value(5, "CH-SIMS", model, metric) for model in (claim.better, claim.worse))
            assert better != worse and (better > worse) == HIGHER_IS_BETTER[metric], (claim, metric)


def test_the_curve_has_a_point_a_specification_and_a_mark_for_each_choice():
    labels, predicted, videos = synthetic(0.3)
    judged = [judge(labels, {**predicted, "MGCL": predicted["MGCL"] * scale}, "sims", videos) for scale in (1, 0.2)]
    table = pd.concat([frame.assign(micro=value) for frame, value in zip(judged, "ab", strict=True)])
    figure = specification_curve(table, ["micro"], "mae", synthetic=True)
    above, below = figure.axes[: len(figure.axes) // 2], figure.axes[len(figure.axes) // 2 :]
    assert [ax.get_title() for ax in above] == [
        f"{claim.better} better than\n{claim.worse}" for claim in CLAIMS if not claim.acc2_alone
    ]
    assert all(len([line for line in ax.lines if line.get_marker() == "o"]) == 2 for ax in above)
    assert [text.get_text() for text in below[0].get_yticklabels()] == ["micro a", "micro b"]
    assert [list(line.get_xdata()) for line in below[0].lines] == [[1], [0]]  # b, where MGCL is worse, comes first
    assert "synthetic" in figure.get_suptitle()
    assert multiverse.UNUSED.keys() <= set(TABLE5)
