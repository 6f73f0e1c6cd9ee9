"""Predicting another feature file with a finished run."""

import logging
import pickle
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers.run_files import edit_record, seal
from safetensors.numpy import load_file, save_file

from mgcl_core.cli import main
from mgcl_core.data import load_corpus
from mgcl_core.data.synthetic import write_corpus
from mgcl_core.data.text_model import tokenize
from mgcl_core.experiments.distillation import study_of
from mgcl_core.experiments.prediction import predict_file
from mgcl_core.experiments.run_records import SCALER
from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import ConfigError, CorpusError, RunError
from mgcl_core.trainer import WEIGHTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory):
    """The demo corpus with sentences of words that the tiny text model knows."""
    path = tmp_path_factory.mktemp("demo") / "demo.pkl"
    write_corpus("demo", path)
    contents, words = pickle.loads(path.read_bytes()), ["good", "bad", "film", "plot", "a", "the", "very", "dull"]
    random = np.random.default_rng(0)
    for split in contents.values():
        split["raw_text"] = [" ".join(random.choice(words, random.integers(3, 12))) for _ in split["raw_text"]]
    path.write_bytes(pickle.dumps(contents, protocol=4))
    return path


@pytest.fixture(scope="module")
def run(demo_file, tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    corpus = load_corpus(demo_file, cache_dir=folder / "cache")
    settings = {
        "text_model": tiny_bert,
        "tokens": "raw_text",
        "text_epochs": 1,
        "sequence_epochs": 1,
        "mgcl_epochs": 1,
        "text_batch_size": 100,
    }
    return Study(corpus, "demo", seeds=[5], overrides=settings, results=folder, device="cpu", workers=1).train()[0]


@pytest.fixture
def contents(demo_file):
    return pickle.loads(demo_file.read_bytes())  # written by this package


def written(tmp_path, contents):
    path = tmp_path / "clips.pkl"
    path.write_bytes(pickle.dumps(contents, protocol=4))
    return path


def test_the_run_s_own_file_gives_the_run_s_own_predictions(run, demo_file, tmp_path):
    frame = predict_file(run.directory, demo_file, out=tmp_path / "out.csv", device="cpu")
    assert list(frame.columns) == [
        "split",
        "id",
        "prediction",
        "T_macro",
        "V_macro",
        "A_macro",
        "T_micro",
        "V_micro",
        "A_micro",
        "note",
    ]
    assert (frame["note"] == "").all()
    for split in ("valid", "test"):
        ours, own = frame[frame["split"] == split], run.predictions(split)
        assert list(ours["id"]) == list(own["id"])
        for column in frame.columns[2:-1]:
            np.testing.assert_allclose(ours[column], own[column], atol=1e-6)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out.csv", keep_default_na=False), frame, check_dtype=False, check_exact=False
    )


def test_the_study_of_a_run_is_found_again(run, demo_file, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    study, variant = study_of([run.directory], corpus=demo_file, device="cpu", workers=1)
    assert variant == "MGCL" and study.trainings() == [run] and study.seeds == (5,)
    assert study.overrides["text_batch_size"] == 100 and "seed" not in study.overrides


def test_a_split_and_a_dict_give_what_the_file_gives(run, demo_file, contents):
    valid = load_corpus(demo_file, cache_dir=run.directory.parents[3] / "cache").valid
    own = run.predictions("valid")["prediction"]
    np.testing.assert_allclose(run.predict(valid)["prediction"], own, atol=1e-6)
    part = {
        key: contents["valid"][key] for key in ("id", "raw_text", "audio", "audio_lengths", "vision", "vision_lengths")
    }
    for given in (part, {"valid": part}):
        np.testing.assert_allclose(run.predict(given)["prediction"], own, atol=1e-6)


def test_sentences_and_arrays_are_predicted_and_what_is_absent_is_noted(run, contents):
    valid = contents["valid"]
    lengths = valid["audio_lengths"][:3]
    audio = [valid["audio"][row, : lengths[row]] for row in range(3)]
    vision = [valid["vision"][row, : valid["vision_lengths"][row]] for row in range(3)]
    frame = run.predict(text=valid["raw_text"][:3], audio=audio, vision=vision)
    np.testing.assert_allclose(frame["prediction"], run.predictions("valid")["prediction"][:3], atol=1e-6)
    assert list(frame["note"]) == [""] * 3
    assert run.predict(text="a good film")["note"].item() == "no vision and no audio"
    assert run.predict(audio=audio[0])["note"].item() == "no text and no vision"
    assert run.predict(text=["good", ""], audio=[None, audio[0]])["note"].tolist() == [
        "no vision and no audio", "no text and no vision",
    ]  # fmt: skip
    assert np.isfinite(run.predict(vision=vision[0])["prediction"]).all()


def test_a_longer_clip_is_its_first_steps_and_says_so(run, contents):
    audio = np.concatenate([contents["valid"]["audio"][0][:10]] * 5)
    most = run.config.audio_steps
    long, short = run.predict(audio=audio), run.predict(audio=audio[:most])
    assert long["note"].item() == f"no text and no vision; audio cut to its first {most} of 50 steps"
    assert long["prediction"].item() == pytest.approx(short["prediction"].item(), abs=1e-6)


def test_features_of_another_scale_are_a_warning_that_names_dimensions(run, contents, caplog):
    audio = contents["valid"]["audio"][:8, :8]
    run.predict(audio=audio)
    assert "not the features" not in caplog.text
    run.predict(audio=np.where(np.arange(12) == 4, audio * 1e6, audio).astype(np.float32))
    assert re.search(r"not the features that MGCL.* was trained on: audio: 1 of 12 dimensions .from 0: 4", caplog.text)


def test_questions_that_cannot_be_answered_are_errors(run):
    with pytest.raises(ConfigError, match="clips, or text, audio and vision"):
        run.predict()
    with pytest.raises(ConfigError, match="clips, or text, audio and vision"):
        run.predict("file.pkl", text="a good film")
    with pytest.raises(CorpusError, match="another width"):
        run.predict(audio=np.ones((5, 3), np.float32))


def test_one_split_without_labels_is_enough_and_labels_do_not_matter(run, contents, tmp_path):
    test = {key: value for key, value in contents["test"].items() if not key.startswith("regression_labels")}
    frame = predict_file(run.directory, written(tmp_path, {"test": test}), out=tmp_path / "a.csv", device="cpu")
    np.testing.assert_allclose(frame["prediction"], run.predictions("test")["prediction"], atol=1e-6)


def test_a_file_of_another_width_is_an_error_that_names_it(run, contents, tmp_path):
    contents["test"]["vision"] = contents["test"]["vision"][:, :, :3]
    with pytest.raises(CorpusError, match="another width.*'test'.*'vision'.*expected 10 values"):
        predict_file(run.directory, written(tmp_path, contents), out=tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_mistakes_are_named(run, demo_file, tmp_path):
    with pytest.raises(CorpusError, match="no split 'tset': did you mean 'test'"):
        predict_file(run.directory, demo_file, out=tmp_path / "a.csv", splits=["tset"])
    with pytest.raises(RunError, match="need a run of MGCL"):
        predict_file(run.parents[0].directory, demo_file, out=tmp_path / "a.csv")
    with pytest.raises(CorpusError, match="at least one of the splits"):
        predict_file(run.directory, written(tmp_path, {"other": {}}), out=tmp_path / "a.csv")


def test_the_command_writes_the_same(run, demo_file, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert (
        main(["predict", str(run.directory), str(demo_file), "--split", "test", "--out", str(out), "--device", "cpu"])
        == 0
    )
    assert "480 clips predicted" in capsys.readouterr().out
    assert len(pd.read_csv(out)) == 480


def predict_changed(run, contents, tmp_path, **changes):
    return predict_file(run.directory, written(tmp_path, contents), out=tmp_path / "a.csv", device="cpu", **changes)


@pytest.fixture
def own_ids(contents, run):
    """The demo's clips with token ids of the run's own vocabulary."""
    for split in contents.values():
        split["text_bert"] = tokenize(run.config.text_model, split["raw_text"], split["text_bert"].shape[2])
    return contents


def test_token_ids_are_checked_as_in_training(run, own_ids, tmp_path):
    def predicted(tokens):
        return predict_changed(run, own_ids, tmp_path, tokens=tokens, splits=["test"])

    ids = own_ids["test"]["text_bert"][:, 0]
    assert len(predicted("file")) == 480
    right, ids[3, 1] = ids[3, 1], 15
    with pytest.raises(CorpusError, match="id 15, beyond its 15 entries"):
        predicted("file")
    ids[3, 1] = right
    own_ids["test"]["text_bert"][:, 0] = np.random.default_rng(0).permuted(ids, axis=1)
    with pytest.raises(CorpusError, match="tokenise otherwise"):
        predicted("file")
    assert len(predicted("raw_text")) == 480


def test_a_key_that_is_no_text_is_an_error(run, contents, tmp_path):
    contents["test"][5] = 1
    with pytest.raises(CorpusError, match="a key is not text.*'test'.*'5'"):
        predict_changed(run, contents, tmp_path)


def copied(run, tmp_path):
    """The run and those it starts from, to be damaged."""
    folder = shutil.copytree(run.directory.parent, tmp_path / "runs")
    return folder / run.name


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda values: {name: value * np.nan for name, value in values.items()}, "by which nothing can be scaled"),
        (lambda values: {name: value * 0 for name, value in values.items()}, "by which nothing can be scaled"),
        (lambda values: {"audio_center": values["audio_center"]}, "holds"),
        (lambda values: None, "scaler.safetensors is damaged: No such file"),
    ],
)
def test_a_damaged_scaler_is_an_error(run, demo_file, tmp_path, damage, message):
    directory = copied(run, tmp_path)
    values = damage(load_file(directory / SCALER))
    (directory / SCALER).unlink()
    if values is not None:
        save_file(values, directory / SCALER)
        seal(directory)
    with pytest.raises(RunError, match=message):
        predict_file(directory, demo_file, out=tmp_path / "a.csv", device="cpu")
    assert not (tmp_path / "a.csv").exists()


def test_a_prediction_that_is_not_finite_is_an_error(run, demo_file, tmp_path):
    directory = copied(run, tmp_path)
    weights = load_file(directory / WEIGHTS)
    save_file(
        {name: np.full_like(value, 3e38) if name.startswith("predictor") else value for name, value in weights.items()},
        directory / WEIGHTS,
    )
    seal(directory)
    with pytest.raises(RunError, match="have a prediction that is not finite, the first"):
        predict_file(directory, demo_file, out=tmp_path / "a.csv", device="cpu")
    assert not (tmp_path / "a.csv").exists()


def test_the_text_model_is_named_and_never_fetched_unasked(run, demo_file, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        predict_file(run.directory, demo_file, out=tmp_path / "a.csv", device="cpu", splits=["test"])
    assert f"text model: the folder {run.config.text_model}" in caplog.text
    directory = copied(run, tmp_path)
    edit_record(directory, lambda record: record["config"].update(text_model="someone/no-such-model"))
    with pytest.raises(ConfigError, match="not on this machine, and nothing is fetched unless asked for"):
        predict_file(directory, demo_file, out=tmp_path / "b.csv", device="cpu")
