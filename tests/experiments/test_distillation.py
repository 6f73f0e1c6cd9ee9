"""Students: what they learn, how their runs are named, and that they are runs like any other."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from mgcl_core import trainer
from mgcl_core.encoders import TextEncoder
from mgcl_core.experiments.distillation import ALONE, CHEAPER, STUDENT, student_run, student_settings, study_of
from mgcl_core.experiments.runs import load_run
from mgcl_core.experiments.stages import shapes_of
from mgcl_core.experiments.student import FEATURES, PREDICTION, Student, StudentSettings
from mgcl_core.model import MGCL
from mgcl_core.reporting import tables
from mgcl_core.reporting.evaluation import results_of
from mgcl_core.support.errors import ConfigError, RunError

OWN = StudentSettings("MGCL-1111-0", text_layers=1, epochs=2, prediction_weight=0.5, feature_weight=3.0)


@pytest.fixture
def cheap(tiny_config):
    return tiny_config.override(CHEAPER)


def student(config, own):
    shapes = shapes_of(config, bound=1.0, clips=12, text_dim=16, text_steps=10)
    torch.manual_seed(0)
    return Student(config, shapes, own).eval()


def test_a_student_learns_the_distance_to_the_teachers_prediction_and_features(cheap, split):
    batch, model = split.batch(), student(cheap, OWN)
    teacher = {PREDICTION: torch.randn(12), FEATURES: torch.randn(12, 6, cheap.common_width)}
    output = model(dataclasses.replace(batch, features=teacher))
    detached = {name: term.detach() for name, term in output.losses.items()}
    predicted, six = output.prediction.detach(), torch.cat([output.macro, output.micro]).detach()  # (B,), (6, B, d)
    naive_prediction = sum(float(predicted[i] - teacher[PREDICTION][i]) ** 2 for i in range(12)) / 12
    naive_features = 0.0
    for row in range(12):
        for place in range(6):
            distance = (six[place, row] - teacher[FEATURES][row, place]) ** 2
            naive_features += float(distance.sum()) / (12 * 6 * cheap.common_width)
    assert float(detached["teacher_pred"]) == pytest.approx(0.5 * naive_prediction, rel=1e-5)
    assert float(detached["teacher_features"]) == pytest.approx(3 * naive_features, rel=1e-5)
    own = MGCL.losses(model, output, batch)
    assert detached.keys() == own.keys() | {"teacher_pred", "teacher_features"}
    assert all(torch.equal(detached[name], term) for name, term in own.items())
    output.losses["teacher_features"].backward()
    assert model.encoders["shared_T"].bert.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0


def test_without_a_teacher_it_is_the_same_student_with_the_terms_of_mgcl(cheap, split):
    alone = dataclasses.replace(OWN, teacher=None, prediction_weight=0.0, feature_weight=0.0)
    with_teacher, without = student(cheap, OWN).state_dict(), student(cheap, alone)
    assert all(torch.equal(values, with_teacher[name]) for name, values in without.state_dict().items())
    assert set(without(split.batch()).losses) == {"pred", "con", "uni"}


def test_layers_that_are_not_kept_are_gone_and_change_nothing_before_them(tiny_bert, split):
    encoder, batch = TextEncoder(tiny_bert), split.batch()
    first = encoder.bert.encoder.layer[0]
    whole = encoder(batch)[0]
    encoder.bert.encoder.layer.append(torch.nn.Sequential())  # a second, which must not be asked
    encoder.keep_layers(1)
    assert list(encoder.bert.encoder.layer) == [first]
    assert torch.equal(encoder(batch)[0], whole)
    for count in (0, 2):
        with pytest.raises(ConfigError, match=f"text_layers={count}: the text model has 1 layers"):
            encoder.keep_layers(count)


def test_settings_of_a_student_are_checked_and_have_defaults_that_follow_the_teacher(tiny_config):
    found = student_settings(tiny_config, "MGCL-1", {"feature_weight": "0.25"})
    epochs = tiny_config.sequence_epochs + tiny_config.mgcl_epochs
    assert found == StudentSettings("MGCL-1", 1, epochs, prediction_weight=1.0, feature_weight=0.25)
    for changes, message in (
        ({"text_layer": 2}, "unknown setting of a student 'text_layer': did you mean 'text_layers'"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"prediction_weight": -1}, "prediction_weight=-1.0: must be at least 0"),
        ({"feature_weight": float("nan")}, "feature_weight=nan"),
    ):
        with pytest.raises(ConfigError, match=message):
            student_settings(tiny_config, "MGCL-1", changes)


@pytest.mark.slow
def test_a_weight_names_another_student_and_the_same_one_without_a_teacher(taught):
    study, runs = taught
    names = {student_run(study, runs["MGCL"], {"feature_weight": w}).name for w in (0.0, 1.0, 2.0)}
    assert len(names) == 3 and runs[STUDENT].name in names
    assert student_run(study, runs["MGCL"], {"feature_weight": 2.0}, alone=True).name == runs[ALONE].name
    assert student_run(study, runs["MGCL"], {"epochs": 1}, alone=True).name != runs[ALONE].name


@pytest.mark.slow
def test_a_student_is_a_run_that_needs_neither_teacher_nor_stage_one_to_predict(taught, tiny_corpus, tmp_path):
    study, runs = taught
    run = runs[STUDENT]
    assert {"train_teacher_pred", "train_teacher_features"} <= set(run.history.columns)
    assert not {"train_teacher_pred", "train_teacher_features"} & set(runs[ALONE].history.columns)
    own = load_run(shutil.copytree(run.directory, tmp_path / run.name))
    assert own.stage == run.stage and own.parents == () and own.stage.teacher == runs["MGCL"].name
    np.testing.assert_allclose(
        own.predict(tiny_corpus.test)["prediction"], run.predictions("test")["prediction"], atol=1e-6
    )
    assert run.predictor("cpu").explain(own.predictor("cpu").prepare(tiny_corpus.valid)[0]).attention
    listed = study.experiments().set_index("experiment")
    assert listed.loc[[STUDENT, ALONE], "done"].tolist() == [1, 1]


@pytest.mark.slow
def test_a_student_is_a_row_of_the_tables(taught):
    study, runs = taught
    frame = tables.table5(results_of(study, runs.values())).compact.frame
    assert [name for name in frame.index if "paper" not in name] == ["MGCL", STUDENT, ALONE]


@pytest.mark.slow
def test_a_student_that_was_stopped_goes_on_to_the_same_bits(taught, tmp_path, monkeypatch):
    study, runs = taught
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    def stop(epoch, system):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.fit(runs[STUDENT], tmp_path, after_epoch=stop)
    assert (tmp_path / trainer.CHECKPOINT).exists()
    _, resumed = study.fit(runs[STUDENT], tmp_path)
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    expected = runs[STUDENT].history.drop(columns="seconds").to_dict("records")
    assert timeless == expected


@pytest.mark.slow
def test_a_teacher_that_is_not_finished_teaches_nobody(taught):
    study, runs = taught
    other = study.with_overrides({"alpha": 0.5})
    run = student_run(other, other.trainings()[0])
    with pytest.raises(RunError, match="holds no finished run"):
        other.finish(run)


@pytest.mark.slow
def test_a_run_that_is_not_of_the_corpus_or_is_no_teacher_is_an_error(taught):
    _, runs = taught
    with pytest.raises(RunError, match="does not belong to the study of MGCL-7.* on demo"):
        study_of([runs["MGCL"].directory], corpus="demo", device="cpu")
    for run in (runs[STUDENT], runs["MGCL"].parents[0]):
        with pytest.raises(RunError, match="a teacher is a run of MGCL in the results"):
            study_of([run.directory])
