"""Finished runs are believed as they were written: damage is an error that says what to do, or it is repaired."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.run_files import edit_record, seal

from mgcl_core import trainer
from mgcl_core.cli import main
from mgcl_core.data.text_model import text_model_sha256
from mgcl_core.experiments import stages
from mgcl_core.experiments.run_records import DONE
from mgcl_core.experiments.runs import load_run
from mgcl_core.experiments.study import Study
from mgcl_core.reporting.evaluation import results_of, scores
from mgcl_core.support.errors import DamagedFile, RunError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tiny_corpus, tiny_overrides, tmp_path_factory):
    """A folder with the finished runs of MGCL, and its study."""
    folder = tmp_path_factory.mktemp("finished")
    study = Study(tiny_corpus, "demo", seeds=[1], overrides=tiny_overrides, results=folder, device="cpu", workers=1)
    study.train()
    return folder


@pytest.fixture
def study(finished, tiny_corpus, tiny_overrides, tmp_path):
    """Function that opens a study of a copy of ``finished``."""
    copy = shutil.copytree(finished, tmp_path / "results")

    def build(**changes) -> Study:
        overrides = {**tiny_overrides, **changes.pop("overrides", {})}
        corpus = changes.pop("corpus", tiny_corpus)
        more = {"seeds": [1], "results": copy, "device": "cpu", "workers": 1, **changes}
        return Study(corpus, "demo", overrides=overrides, **more)

    return build


def flip(path: Path, place: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_done_lists_every_file_of_the_run_with_size_and_hash(study):
    run = study().trainings()[0]
    listed = json.loads((run.directory / DONE).read_text())["files"]
    assert set(listed) == {path.name for path in run.directory.iterdir()} - {DONE}
    assert {"weights.safetensors", "predictions-test.csv", "record.json", "metrics.jsonl", "config.json"} <= set(listed)
    content = (run.directory / "metrics.jsonl").read_bytes()
    assert listed["metrics.jsonl"] == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert run.verify() == []


@pytest.mark.parametrize(
    "file, read",
    [
        ("weights.safetensors", lambda study, run: study.build(run, trained=True)),
        ("predictions-valid.csv", lambda study, run: study.predictions(run, "valid")),
        ("predictions-test.csv", lambda study, run: scores(study, [run])),
        ("predictions-test.csv", lambda study, run: results_of(study, [run])),
        ("metrics.jsonl", lambda study, run: run.history),
        ("selection.json", lambda study, run: run.chosen_epoch),
        ("record.json", lambda study, run: run.record()),
    ],
)
def test_a_changed_bit_is_an_error_where_the_file_is_read(study, file, read):
    run = study().trainings()[0]
    flip(run.directory / file)
    with pytest.raises(DamagedFile, match="delete .* trained again|Delete it, and ask for the run again"):
        read(study(), run)
    assert any(file in problem for problem in run.verify())


@pytest.mark.parametrize("file", ["weights.safetensors", "predictions-valid.csv", "metrics.jsonl", "config.json"])
def test_a_missing_or_cut_file_of_a_training_is_an_error_that_names_it(study, file):
    run = study().trainings()[0]
    path = run.directory / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedFile, match=f"{file} is damaged"):
        study().train()
    path.unlink()
    with pytest.raises(DamagedFile, match=f"{file} is damaged: No such file"):
        study().train()
    shutil.rmtree(run.directory)  # what the error says helps
    assert study().train()[0].done


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run.directory / DONE).write_text(""),
        lambda run: (run.directory / DONE).write_text("{}"),
        lambda run: flip(run.directory / DONE, 30),
        lambda run: (run.directory / "predictions-test.csv").unlink(),
        lambda run: (run.directory / "predictions-test.csv").write_text("id,label,prediction\n"),
    ],
)
def test_test_predictions_that_are_gone_are_made_again(study, damage):
    run = study().trainings()[0]
    before = run.predictions()
    damage(run)
    assert not run.done
    (again,) = study().train()
    assert again.done and run.verify() == []
    pd.testing.assert_frame_equal(again.predictions(), before)


def test_predictions_replaced_by_labels_are_an_error(study):
    run = study().trainings()[0]
    path = run.directory / "predictions-test.csv"
    frame = pd.read_csv(path)
    frame.assign(prediction=frame["label"]).to_csv(path, index=False)
    assert not run.done and results_of(study(), [run]) == []
    size = json.loads((run.directory / DONE).read_text())["files"][path.name]["size"]
    path.write_text(path.read_text().ljust(size)[:size])
    with pytest.raises(DamagedFile, match="Delete it, and ask for the run again"):
        results_of(study(), [run])


def test_predictions_of_other_clips_or_labels_are_an_error(study, tiny_corpus):
    run = study().trainings()[0]
    for change in ({"ids": tiny_corpus.test.ids[::-1]}, {"labels": -tiny_corpus.test.labels}):
        other = study(corpus=dataclasses.replace(tiny_corpus, test=dataclasses.replace(tiny_corpus.test, **change)))
        with pytest.raises(RunError, match="of other clips or labels"):
            scores(other, [run])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: np.save(path, 0 * np.load(path)),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.unlink(),
        lambda path: flip(path.parent / "features-train.json", 40),
        lambda path: (path.parent / "features-train.json").write_text("{}"),
    ],
)
def test_damaged_features_are_computed_again(study, damage, caplog):
    run = study().trainings()[0]
    text = next(parent for parent in run.parents if parent.stage.name == "macro_T")
    path = text.directory / "features-train-macro_T.npy"
    before = np.load(path)
    damage(path)
    again = study(overrides={"beta": 0.5})
    assert np.array_equal(again.split("train", again.trainings()[0]).features["macro_T"], before)
    assert "are computed again" in caplog.text and np.array_equal(np.load(path), before)


def test_features_of_other_weights_are_computed_again(study, caplog):
    text = next(run for run in study().pretrainings() if run.stage.name == "macro_T")
    weights = text.directory / "weights.safetensors"
    flip(weights)
    seal(text.directory)
    study().split("train", study().trainings()[0])
    assert "come from other weights" in caplog.text


def test_a_copied_folder_keeps_its_features(study, tmp_path, monkeypatch):
    first = study()
    moved = shutil.copytree(first.directory, tmp_path / "moved" / "synthetic" / "demo")
    monkeypatch.setattr("mgcl_core.experiments.splits.encode_frozen", lambda *a: pytest.fail("encoded again"))
    other = study(results=moved.parents[1])
    other.split("train", other.trainings()[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: flip(path, path.stat().st_size // 2),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_none(study, monkeypatch, damage, caplog):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    whole = study().trainings()[0].predictions()
    stopped = study()
    run = stopped.trainings()[0]
    shutil.rmtree(run.directory)

    def stop(epoch: int, system: object) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.fit(run, run.directory, after_epoch=stop)
    damage(run.directory / "checkpoint.pt")
    (again,) = study().train()
    assert "training starts from the first epoch" in caplog.text
    pd.testing.assert_frame_equal(again.predictions(), whole)


def test_leftovers_of_a_killed_writer_are_cleared(study):
    run = study().trainings()[0]
    (run.directory / ".checkpoint-abcd1234.pt").write_bytes(b"x")
    (run.directory / DONE).unlink()
    study().train()
    assert [path.name for path in run.directory.iterdir() if path.name.startswith(".")] == []
    assert run.done


def test_another_text_model_at_the_same_path_is_another_run_and_a_moved_one_is_not(study, tiny_bert, tmp_path):
    from transformers import BertModel

    moved = shutil.copytree(tiny_bert, tmp_path / "moved")
    names = [run.name for run in study().trainings()]
    assert [run.name for run in study(overrides={"text_model": str(moved)}).trainings()] == names
    assert study().trainings()[0].record()["text_model"] == {"name": tiny_bert, "sha256": text_model_sha256(str(moved))}
    model = BertModel.from_pretrained(moved)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(moved)
    text_model_sha256.cache_clear()
    assert [run.name for run in study(overrides={"text_model": str(moved)}).trainings()] != names


def test_runs_are_found_without_their_text_model(study, tiny_bert, tmp_path, monkeypatch):
    names = [run.name for run in study().trainings()]
    edit_record(study().trainings()[0].directory, lambda record: record["text_model"].update(name="gone/away"))
    assert [run.name for run in study(overrides={"text_model": "gone/away"}).trainings()] == names


def test_reuse_is_said_and_other_sources_are_a_warning(study, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        study().train()
        assert "7 runs: 7 reused" in caplog.text and "0 to train" in caplog.text
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        study().train(["MGCL", "w/o CL"])
        assert "8 runs: 7 reused" in caplog.text and "1 to train" in caplog.text
    monkeypatch.setattr(stages, "source_digest", lambda *a, **k: "other")
    study().train()
    assert "7 of the 7 reused runs may come out otherwise today" in caplog.text and "again=True" in caplog.text
    before = study().trainings()[0].predictions()
    caplog.clear()
    study().train(again=True)
    pd.testing.assert_frame_equal(study().trainings()[0].predictions(), before)
    assert study().trainings()[0].record()["sources"] == "other"
    caplog.clear()
    study().train()
    assert "may come out otherwise" not in caplog.text


def test_other_weights_of_stage_one_are_a_warning(study, caplog):
    run = study().trainings()[0]
    edit_record(run.directory, lambda record: record["parent_weights"].update({run.parents[0].name: "0" * 64}))
    study().train()
    assert f"started from other weights of {run.parents[0].name}" in caplog.text


def test_a_record_of_stage_one_holds_no_setting_of_stage_two(study):
    run = study().trainings()[0]
    for parent in run.parents:
        assert not {"mgcl_lr", "alpha", "fusion", "text_lr" if parent.stage.encoder.modality != "T" else "width"} & set(
            parent.record()["config"]
        )
        assert load_run(parent.directory).stage.settings == parent.stage.settings
    assert {"mgcl_lr", "alpha", "width", "text_lr"} <= set(run.record()["config"])


def test_doctor_verifies_runs_features_and_caches(study, tmp_path, capsys):
    def verified() -> str:
        code = main(["doctor", "--verify", "--results", str(tmp_path / "results")])
        shown = capsys.readouterr()
        assert code in (0, 2)
        return shown.out + shown.err

    run = study().trainings()[0]
    whole = verified()
    assert "7 finished runs: as they were written" in whole and "kept features: as they were written" in whole
    flip(run.directory / "weights.safetensors")
    features = next(run.directory.parent.rglob("features-*.npy"))
    times = features.stat()
    flip(features)
    os.utime(features, ns=(times.st_atime_ns, times.st_mtime_ns))
    damaged = verified()
    assert f"{run.directory / 'weights.safetensors'} is damaged" in damaged.replace("~", str(Path.home()))
    assert "kept features: 1 problems" in damaged and features.name in damaged
