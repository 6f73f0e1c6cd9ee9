"""Predicting another feature file with a finished run."""

import pickle

import numpy as np
import pandas as pd
import pytest

from mgcl_core.cli import main
from mgcl_core.corpus import load_corpus
from mgcl_core.corpus.demo import write
from mgcl_core.errors import CorpusError, RunError
from mgcl_core.experiments import Study
from mgcl_core.prediction import predict_file


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.pkl"
    write("demo", path)
    return path


@pytest.fixture(scope="module")
def run(demo_file, tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    corpus = load_corpus(demo_file, cache_dir=folder / "cache")
    settings = {"text_model": tiny_bert, "tokens": "raw_text", "text_epochs": 1, "sequence_epochs": 1, "mgcl_epochs": 1,
                "text_batch_size": 100}
    return Study(corpus, "demo", seeds=[5], overrides=settings, results=folder, device="cpu",
                 workers=1).train()[0]


@pytest.fixture
def contents(demo_file):
    return pickle.loads(demo_file.read_bytes())  # written by this package


def written(tmp_path, contents):
    path = tmp_path / "clips.pkl"
    path.write_bytes(pickle.dumps(contents, protocol=4))
    return path


def test_the_run_s_own_file_gives_the_run_s_own_predictions(run, demo_file, tmp_path):
    frame = predict_file(run.directory, demo_file, out=tmp_path / "out.csv", device="cpu")
    assert list(frame.columns) == ["split", "id", "prediction", "T_macro", "V_macro", "A_macro", "T_micro", "V_micro",
                                   "A_micro"]
    for split in ("valid", "test"):
        ours, own = frame[frame["split"] == split], run.predictions(split)
        assert list(ours["id"]) == list(own["id"])
        for column in frame.columns[2:]:
            np.testing.assert_allclose(ours[column], own[column], atol=1e-6)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out.csv"), frame, check_dtype=False, check_exact=False)


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
    with pytest.raises(RunError, match="no split 'tset': did you mean 'test'"):
        predict_file(run.directory, demo_file, out=tmp_path / "a.csv", splits=["tset"])
    with pytest.raises(RunError, match="need a run of MGCL"):
        predict_file(run.parents[0].directory, demo_file, out=tmp_path / "a.csv")
    with pytest.raises(CorpusError, match="at least one of the splits"):
        predict_file(run.directory, written(tmp_path, {"other": {}}), out=tmp_path / "a.csv")


def test_the_command_writes_the_same(run, demo_file, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["predict", str(run.directory), str(demo_file), "--split", "test", "--out", str(out),
                 "--device", "cpu"]) == 0
    assert "240 clips predicted" in capsys.readouterr().out
    assert len(pd.read_csv(out)) == 240
