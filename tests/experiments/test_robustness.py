"""Finished runs under missing modalities, training under dropout, and the tables of both."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from helpers.corpus_files import make_content, write

from mgcl_core.cli import main
from mgcl_core.data.absence import PROTOCOLS, conditions, uniform
from mgcl_core.data.corpus import Split
from mgcl_core.experiments import robustness as module
from mgcl_core.experiments.robustness import Robustness, evaluate, evaluated_runs, title_of
from mgcl_core.experiments.study import Study
from mgcl_core.metrics import regression_metrics
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.notebooks.runner import plan_notebooks, run_notebooks
from mgcl_core.reporting.robustness import robustness_cells, robustness_figure, robustness_table
from mgcl_core.statistics import LeaveOneOut
from mgcl_core.support.errors import ConfigError, RunError

pytestmark = pytest.mark.slow

#: One of each way in which a system reads text: frozen embeddings, a text model of its own, stage one's.
SYSTEMS = ("lf_dnn", "misa", "sfttr")


@pytest.fixture(scope="module")
def study(tiny_corpus, tiny_overrides, tmp_path_factory) -> Study:
    made = Study(
        tiny_corpus,
        "demo",
        seeds=[1],
        overrides={**tiny_overrides, "scaling": "none"},  # what is zero in a clip is then zero for the system
        device="cpu",
        workers=1,
        results=tmp_path_factory.mktemp("results"),
        system_overrides={name: {"epochs": 1} for name in SYSTEMS},
    )
    made.train()
    made.compare(SYSTEMS)
    made.with_overrides({"regime": "dropout"}).train()
    return made


@pytest.fixture(scope="module")
def found(study) -> dict[str, Robustness]:
    return {protocol: evaluate(study, evaluated_runs(study), protocol) for protocol in PROTOCOLS}


def predictions(found: Robustness, title: str) -> dict[tuple, np.ndarray]:
    position = [title_of(run) for run in found.runs].index(title)
    keys = [(condition.level, condition.draw) for condition in found.conditions]
    return dict(zip(keys, found.predictions[position], strict=True))


def test_every_system_that_was_run_is_there_and_complete_clips_have_its_own_predictions(study, found):
    titles = ["text alone", "LF-DNN", "MISA", "SFTTR", "MGCL", "MGCL (dropout)"]
    for of_protocol in found.values():
        assert [title_of(run) for run in of_protocol.runs] == titles
        assert np.isfinite(of_protocol.predictions).all()
        complete = [condition.complete for condition in of_protocol.conditions].index(True)
        for run, values in zip(of_protocol.runs, of_protocol.predictions, strict=True):
            np.testing.assert_array_equal(values[complete], run.predictions("test")["prediction"])


def lossy_split(split: Split, origin: str, rate: float, draw: int) -> Split:
    """The protocol's definition, step by step."""
    audio, vision, text = np.array(split.audio), np.array(split.vision), np.array(split.text_bert)
    for m, steps in (("A", audio), ("V", vision), ("T", text.transpose(0, 2, 1))):
        numbers = uniform(origin, "test", split.ids, m, steps.shape[1], draw)
        for clip, step in np.ndindex(numbers.shape):
            if numbers[clip, step] <= rate and m != "T":
                steps[clip, step] = 0
            elif numbers[clip, step] <= rate and steps[clip, step, 0] not in (0, 2, 3):
                steps[clip, step, 0] = 1
    masks = {"audio_mask": split.audio_mask & audio.any((1, 2))[:, None],
             "vision_mask": split.vision_mask & vision.any((1, 2))[:, None]}  # fmt: skip
    return dataclasses.replace(split, audio=audio, vision=vision, text_bert=text, **masks)


@pytest.mark.parametrize(("rate", "draw"), [(0.5, 3), (1.0, -1)])
def test_lost_steps_are_read_as_clips_that_never_had_them(study, found, rate, draw):
    """Text too, which is encoded again by the frozen encoders."""
    (run,) = study.trainings()
    clips = lossy_split(study.corpus.test, study.corpus.sha256, rate, draw)
    expected = run.predict(clips)["prediction"]
    got = predictions(found["random-steps"], "MGCL")[rate, draw]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(got - run.predictions("test")["prediction"]).max() > 1e-4


def test_text_alone_predicts_nothing_where_there_is_none_and_ignores_the_rest(found):
    of_sets = predictions(found["sets"], "text alone")
    assert not of_sets["VA", -1].any()
    np.testing.assert_allclose(of_sets["T", -1], of_sets["TVA", -1], atol=1e-6)


def test_frozen_embeddings_of_lost_words_are_those_of_unknown_ones(found):
    """All that is left of text is its length, so clips of one length are predicted equally."""
    nothing = predictions(found["random-steps"], "LF-DNN")[1.0, -1]
    complete = predictions(found["random-steps"], "LF-DNN")[0.0, -1]
    assert len(np.unique(nothing.round(5))) < len(np.unique(complete.round(5)))


def test_a_second_evaluation_costs_nothing_and_other_masks_are_predicted_again(study, found, monkeypatch):
    runs = study.trainings()
    with monkeypatch.context() as patched:
        patched.setattr(module, "predict", lambda *a, **k: pytest.fail("predicted again"))
        again = evaluate(study, runs, "sets")
    np.testing.assert_array_equal(again.predictions[0], predictions_of(found["sets"], runs[0]))
    assert again.masks == found["sets"].masks
    monkeypatch.setattr(module, "FORMAT", -1)
    np.testing.assert_allclose(evaluate(study, runs, "sets").predictions, again.predictions, atol=1e-6)


def predictions_of(found: Robustness, run) -> np.ndarray:
    return found.predictions[[other.name for other in found.runs].index(run.name)]


def test_what_cannot_be_evaluated_is_an_error(study, tiny_corpus, tiny_overrides, tmp_path):
    with pytest.raises(ConfigError, match="random-sets"):
        evaluate(study, study.trainings(), "random-set")
    other = Study(tiny_corpus, "demo", seeds=[2], overrides=tiny_overrides, device="cpu", results=tmp_path)
    with pytest.raises(RunError, match="none of the runs is finished"):
        evaluate(other, evaluated_runs(other), "sets")


def test_runs_on_complete_clips_keep_their_names_and_dropout_shares_stage_one(study):
    (run,), (dropout,) = study.trainings(), study.with_overrides({"regime": "dropout"}).trainings()
    assert not {"regime", "epoch_on"} & run.stage.settings.keys()
    assert dropout.stage.settings["regime"] == "dropout" and dropout.name != run.name
    assert [parent.name for parent in dropout.parents] == [parent.name for parent in run.parents]
    (compared,) = study.comparisons(["lf_dnn"])
    assert not {"regime", "epoch_on"} & compared.stage.settings.keys()


def test_dropout_trains_otherwise_repeats_to_the_bit_and_may_choose_on_a_mask(study):
    complete, dropout = (s.trainings()[0].history for s in (study, study.with_overrides({"regime": "dropout"})))
    assert (complete["train_pred"] != dropout["train_pred"]).all()
    changed = study.with_overrides({"regime": "dropout"})
    before = changed.trainings()[0].weights_sha256
    assert changed.train(again=True)[0].weights_sha256 == before
    masked = study.with_overrides({"regime": "dropout", "epoch_on": "masked"}).train()[0].history
    np.testing.assert_array_equal(masked["train_pred"], dropout["train_pred"])
    assert (masked["valid_mae"] != dropout["valid_mae"]).any()


@pytest.mark.parametrize("system", ["misa", "sfttr"])
def test_compared_systems_train_under_dropout_too(study, system):
    (run,) = study.with_overrides({"regime": "dropout"}).compare([system])
    assert title_of(run).endswith("(dropout)") and np.isfinite(run.predictions()["prediction"]).all()


def line(cells: pd.DataFrame, name: str, system: str = "MGCL") -> pd.Series:
    return cells[(cells["line"] == name) & (cells["system"] == system)].set_index("metric")["mean"]


def test_means_pooled_scores_and_areas_are_what_they_say(study, found):
    y = study.corpus.test.labels
    of_sets, cells = predictions(found["sets"], "MGCL"), robustness_cells(study, found["sets"])
    six = [values for (level, _), values in of_sets.items() if level != "TVA"]
    each = pd.DataFrame([regression_metrics(y, values, "sims") for values in six])
    assert line(cells, "mean of the six").to_dict() == pytest.approx(each.mean().to_dict())
    pooled = regression_metrics(np.tile(y, 6), np.concatenate(six), "sims")
    assert line(cells, "pooled over the six").to_dict() == pytest.approx(pooled)
    constant = np.full(len(y), np.median(study.corpus.train.labels), np.float32)
    floor = line(cells, "V", "constant")
    assert floor.to_dict() == pytest.approx(regression_metrics(y, constant, "sims"), nan_ok=True)

    cells = robustness_cells(study, found["random-steps"])
    rates = [step / 10 for step in range(11)]
    curve = np.array([
        np.mean([regression_metrics(y, values, "sims")["mae"]
                 for (level, _), values in predictions(found["random-steps"], "MGCL").items() if level == rate])
        for rate in rates
    ])  # fmt: skip
    assert [line(cells, f"{rate:.2g}")["mae"] for rate in rates] == pytest.approx(curve)
    assert line(cells, "mean 0 to 0.9")["mae"] == pytest.approx(curve[:10].mean())
    assert line(cells, "AUILC 0 to 1")["mae"] == pytest.approx(np.trapezoid(curve, rates))
    assert line(cells, "AUILC 0 to 0.5")["mae"] == pytest.approx(np.trapezoid(curve[:6], rates[:6]))


def test_the_notebook_runs_on_a_file_of_ones_own_and_the_command_shows_its_tables(tiny_overrides, tmp_path, capsys):
    """As `mgcl run --notebook 12` does; the tables and figures of all protocols are saved."""
    content = make_content(sizes=(24, 8, 12), text=False)
    for split in content.values():
        del split["text_bert"]
    path = write(tmp_path / "own.pkl", content)
    parameters = Parameters(
        corpora=[str(path)], profile="demo", seeds=[1], results=tmp_path / "results", overrides=tiny_overrides,
        device="cpu", workers=1,
    )  # fmt: skip
    run_notebooks(plan_notebooks(parameters, ["12"]), verbose=False)
    folder = parameters.study(str(path)).artifacts
    for protocol in PROTOCOLS:
        assert (folder / "figures" / f"12_{protocol}.png").stat().st_size > 10_000
        text = (folder / "tables" / f"robustness-{protocol}.csv").read_text()
        assert "MGCL" in text and "text alone" in text and "constant" in text
    given = {"corpus": path, "profile": "demo", "seeds": 1, "results": tmp_path / "results", "device": "cpu"}
    changed = [f"--set={name}={value}" for name, value in tiny_overrides.items()]
    assert (
        main(["robustness", "--protocol=sets", *(f"--{name}={value}" for name, value in given.items()), *changed]) == 0
    )
    shown = capsys.readouterr().out
    assert "fixed sets" in shown and "mean of the six" in shown and str(folder) in shown and "random" not in shown


def test_with_three_seeds_every_line_has_an_interval_and_a_paired_test(tiny_corpus, tiny_overrides, tmp_path):
    planned = Study(tiny_corpus, "demo", seeds=[1, 2, 3], overrides=tiny_overrides, device="cpu", results=tmp_path)
    runs, masks = module.text_alone(planned) + planned.trainings(), conditions("random-sets")
    y, random = tiny_corpus.test.labels, np.random.default_rng(0)
    noise = random.normal(size=(len(runs), len(masks), len(y))) * np.repeat([0.5, 0.1], 3)[:, None, None]
    found = Robustness("random-sets", "test", masks, "ab" * 32, tuple(runs), (y + noise).astype(np.float32))
    cells = robustness_cells(planned, found)
    mae = cells[cells["metric"] == "mae"].set_index(["line", "system"])
    assert mae.loc[("0.3", "MGCL"), "ci_low"] < mae.loc[("0.3", "MGCL"), "mean"] < mae.loc[("0.3", "MGCL"), "ci_high"]
    one = LeaveOneOut.of(y, np.stack([found.predictions[:, c] for c in range(11, 16)]), "sims", range(len(y)))
    expected = (one.take([0, 1, 2]) - one.take([3, 4, 5])).weighted([0.2] * 5).estimate("mae")
    got = mae.loc[("0.3", "text alone")]
    assert got["paired_difference"] == pytest.approx(expected.value) and got["p"] == pytest.approx(expected.p)
    assert got["p"] <= got["p_holm"] and got["paired_low"] > 0 and got["detectable"] > 0
    tested = cells.loc[cells["system"] == "text alone"]
    assert tested["p_holm"].count() == tested["p"].count() == cells["p"].count() > 0


def test_a_table_says_what_it_rests_on(study, found):
    table = robustness_table(study, found["random-steps"])
    assert "synthetic" in table.title and found["random-steps"].masks[:12] in "\n".join(table.footer)
    assert "MGCL (dropout)" in table.frame.index.get_level_values("System")
    assert "NaN" in table.frame.to_string() and any("NaN:" in sentence for sentence in table.footer)
    figure = robustness_figure(study, table)
    assert [text.get_text().partition(" (")[0] for text in figure.legends[0].get_texts()] == [
        "constant", "text alone", "LF-DNN", "MISA", "SFTTR", "MGCL", "MGCL",
    ]  # fmt: skip
