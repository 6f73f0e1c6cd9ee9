"""Exported folders: what they predict without the results around them, what they hold, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.run_files import edit_record, seal

from mgcl_core import explore, load_model
from mgcl_core.cli import main
from mgcl_core.experiments.distillation import STUDENT
from mgcl_core.experiments.export import CARD, export
from mgcl_core.experiments.model_card import estimates
from mgcl_core.experiments.run_records import RECORD, TEXT_MODEL
from mgcl_core.experiments.runs import load_run
from mgcl_core.support.errors import ConfigError, RunError
from mgcl_core.trainer import WEIGHTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(taught, tmp_path_factory):
    """Folders of a teacher and its students, far from their results."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return {name: export(load_run(run.directory), folder / name) for name, run in taught[1].items()}


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported["MGCL"], tmp_path / "model")


def test_a_folder_predicts_what_the_run_did_without_the_results_around_it(taught, exported, tiny_corpus, monkeypatch):
    study, runs = taught
    hidden = study.directory.with_name("hidden")
    study.directory.rename(hidden)
    try:
        for name, path in exported.items():
            found = load_model(path).predict(tiny_corpus.test)
            expected = load_run(hidden / "runs" / runs[name].name).predictions("test")
            for column in ("prediction", "T_macro", "A_micro"):
                np.testing.assert_allclose(found[column], expected[column], atol=1e-6)
            assert load_model(path).config.text_model == str(path / TEXT_MODEL)
    finally:
        hidden.rename(study.directory)


def test_a_sentence_a_card_and_the_command_line_are_answered(folder, capsys, tmp_path):
    model = load_model(folder)
    frame = model.predict(text=["a good film", "dull"])
    assert frame["note"].tolist() == ["no vision and no audio"] * 2 and frame["prediction"].nunique() == 2
    assert [word for word, _ in explore.card(model, text="a good film").words] == ["a", "good", "film"]
    clips = tmp_path / "none.pkl"
    assert main(["predict", str(folder), str(clips), "--out", str(tmp_path / "out.csv")]) == 2
    assert "none.pkl" in capsys.readouterr().err


def test_it_holds_no_label_no_path_of_this_machine_and_weights_once(taught, exported):
    study, runs = taught
    for name, path in exported.items():
        files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        assert files == {
            *(CARD, RECORD, WEIGHTS, "done", "config.json", "metrics.jsonl", "selection.json", "scaler.safetensors"),
            *(f"{TEXT_MODEL}/{file}" for file in ("config.json", "tokenizer.json", "tokenizer_config.json")),
            *([f"{TEXT_MODEL}/vocab.txt"] if (path / TEXT_MODEL / "vocab.txt").exists() else []),
        }
        for file in (path / name for name in files if not name.endswith("safetensors")):
            text = file.read_text(encoding="utf-8")
            assert str(study.directory.parents[1]) not in text and runs[name].config.text_model not in text, file
        assert load_run(path).verify() == []


def test_the_card_says_what_was_measured(taught, exported):
    run = taught[1]["MGCL"]
    text, found = (exported["MGCL"] / CARD).read_text(encoding="utf-8"), estimates(run)
    for metric, name in (("corr", "Corr"), ("mae", "MAE")):
        low, high = found[metric].interval()
        assert f"| {name} | {found[metric].value:.3f} | {low:.3f} to {high:.3f} |" in text
    parameters = run.record()["parameters"] + 2 * 2912  # of two text encoders of `tiny_bert`
    assert f"| parameters | {parameters:,}, of which text {2 * 2912:,} |" in text
    assert "synthetic" in text and "Regulation (EU) 2024/1689" in text and "{" not in text
    assert "which learned from the run `MGCL-7-" in (exported[STUDENT] / CARD).read_text(encoding="utf-8")


def test_what_cannot_be_exported_is_an_error(taught, exported, folder, tmp_path):
    study, runs = taught
    with pytest.raises(RunError, match="exists and is no empty folder"):
        export(runs["MGCL"], folder)
    for run in (runs["MGCL"].parents[0], load_model(folder)):
        with pytest.raises(RunError, match="nothing to export"):
            export(run, tmp_path / "new")
    with pytest.raises(RunError, match="is not finished"):
        export(study.with_overrides({"alpha": 0.5}).trainings()[0], tmp_path / "new")
    with pytest.raises(RunError, match="load_run reads it, mgcl export makes a model of it"):
        load_model(runs["MGCL"].directory)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", [WEIGHTS, "scaler.safetensors", f"{TEXT_MODEL}/config.json", f"{TEXT_MODEL}/tokenizer.json"]
)
def test_a_file_that_was_changed_is_an_error_that_names_it(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(RunError, match=name.split("/")[-1]):
        load_model(folder).predict(text="a good film")


def test_a_file_beside_the_tokeniser_is_an_error(folder):
    (folder / TEXT_MODEL / "added_tokens.json").write_text('{"good": 3}')
    with pytest.raises(RunError, match="added_tokens.json.*does not list it"):
        load_model(folder).predict(text="a good film")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda record: record.update(whole=False), "does not start from"),
        (lambda record: record.update(parents=["../MGCL"]), "not runs of the same folder"),
        (lambda record: record["config"].update(common_width=1 << 20), "are not of this MGCL"),
        (lambda record: record["config"].update(encoders="shared"), "are not of this MGCL"),
        (lambda record: record.update(stage="macro_T"), "is a run in a folder of results"),
    ],
)
def test_a_strangers_record_is_read_with_suspicion(folder, change, message):
    edit_record(folder, change)
    with pytest.raises(RunError, match=message):
        load_model(folder).predict(text="a good film")


def test_code_in_the_text_models_folder_is_never_run(folder, tmp_path):
    trap = tmp_path / "ran"
    path = folder / TEXT_MODEL / "config.json"
    settings = json.loads(path.read_text()) | {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    path.write_text(json.dumps(settings | {"model_type": "evil"}))
    (folder / TEXT_MODEL / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
    listed = json.loads((folder / RECORD).read_text())
    listed["files"][f"{TEXT_MODEL}/evil.py"] = {"size": 0, "sha256": ""}
    (folder / RECORD).write_text(json.dumps(listed))
    seal(folder)
    with pytest.raises((RunError, ConfigError)):
        load_model(folder).predict(text="a good film")
    assert not trap.exists()
