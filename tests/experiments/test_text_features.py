"""A file whose text is features alone goes through both stages, prediction and tables; what needs words is named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mgcl_core.data import load_corpus
from mgcl_core.data.text_model import tokenize
from mgcl_core.encoders import SequenceEncoder
from mgcl_core.experiments.prediction import predict_file
from mgcl_core.experiments.registry import compared_systems
from mgcl_core.experiments.study import Study
from mgcl_core.reporting import evaluation, figures, records, tables
from mgcl_core.support.errors import ConfigError, CorpusError
from mgcl_core.system import System

SMALL = {
    "width": 16, "feedforward": 16, "heads": 2, "common_width": 16, "fusion_heads": 2, "fusion_feedforward": 16,
    "micro_hidden": 16, "predictor_hidden": (8,), "head_hidden": 8, "sequence_epochs": 15, "sequence_lr": 5e-3,
    "mgcl_epochs": 2, "text_epochs": 1,
}  # fmt: skip
NEED_WORDS = {"misa", "mag_bert", "self_mm"}


def contents(*, words: bool = False) -> dict:
    """MulT's form, padded in front; the mean of a dimension of the text is the label."""
    random, content = np.random.default_rng(0), {}
    for name, count in {"train": 60, "valid": 20, "test": 25}.items():
        labels = np.round(np.clip(random.normal(size=count), -3, 3), 1)
        split = content[name] = {"labels": labels[:, None, None]}
        split["id"] = np.array([[f"{name}{row}", "0", str(row)] for row in range(count)])
        for key, steps, width in (("audio", 9, 4), ("vision", 7, 3), ("text", 10, 6)):
            lengths = random.integers(1, steps + 1, count)
            values = random.normal(size=(count, steps, width))
            if key == "text":
                values[:, :, 2] = labels[:, None]
            split[key] = values * (np.arange(steps) >= steps - lengths[:, None])[:, :, None]
        if words:
            split["raw_text"] = ["a good film"] * count
    return content


def written(path, content):
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("features") / "mosi_data_noalign.pkl", contents())


def make_study(file, results, seeds=(1,), **overrides) -> Study:
    corpus = load_corpus(file, cache_dir=results / "cache")
    return Study(
        corpus, "demo", seeds=seeds, overrides={**SMALL, **overrides}, results=results, device="cpu", workers=1
    )


@pytest.fixture(scope="module")
def study(file, tmp_path_factory):
    study = make_study(file, tmp_path_factory.mktemp("results"))
    study.train()
    return study


def test_both_stages_train_encoders_of_the_features(study):
    config = study.base
    assert (config.text_source, config.text_dim, config.text_steps) == ("features", 6, 10)
    run = study.trainings()[0]
    assert run.done and [parent.stage.name for parent in run.frozen_parents] == ["macro_T", "micro_T"]
    for parent in run.parents:
        encoder = study.build(parent, trained=True).encoder
        assert isinstance(encoder, SequenceEncoder)
        assert parent.stage.schedule.epochs == 15  # of the sequence encoders, text too
    settings = run.parents[0].stage.settings
    assert settings["text_source"] == "features" and "text_model" not in settings and "audio_dim" not in settings
    scores = evaluation.stage_one_scores(study, "test").set_index("encoder")["corr"]
    assert scores["macro_T"] > 0.8 and abs(scores["macro_A"]) < 0.5  # the signal is in the text
    assert list(run.predictions("test")["id"][:2]) == ["test0$_$0-0", "test1$_$0-1"]


@pytest.mark.slow
def test_a_stopped_run_continues_where_it_was(study, file, tmp_path, monkeypatch):
    again = make_study(file, tmp_path)
    calls = iter(range(2))

    def stop(self, epoch):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(System, "begin_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        again.pretrain()
    monkeypatch.undo()
    again.train()
    for before, after in zip(study.trainings(), again.trainings(), strict=True):
        assert before.name == after.name
        np.testing.assert_array_equal(before.predictions()["prediction"], after.predictions()["prediction"])


@pytest.mark.slow
def test_a_run_predicts_clips_with_features_of_the_text(study, file, tmp_path, caplog):
    run = study.trainings()[0]
    frame = predict_file(run.directory, file, out=tmp_path / "all.csv", device="cpu", splits=["test"])
    np.testing.assert_allclose(frame["prediction"], run.predictions("test")["prediction"], atol=1e-6)
    content = contents()
    clip = {key: content["test"][key][0] for key in ("audio", "vision", "text")}
    single = predict_file(run.directory, written(tmp_path / "one.pkl", clip), out=tmp_path / "a.csv", device="cpu")
    np.testing.assert_allclose(single["prediction"], frame["prediction"][:1], atol=1e-5)
    with caplog.at_level("INFO", "mgcl_core"):
        long = {key: np.concatenate([values[(values != 0).any(1)]] * 12) for key, values in clip.items()}
        predict_file(run.directory, written(tmp_path / "long.pkl", long), out=tmp_path / "b.csv", device="cpu")
    assert "text: 1 clips are longer than the model takes" in caplog.text
    clip["text"] = clip["text"][:, :3]
    with pytest.raises(CorpusError, match="features of another width.*'text'.*expected 6 values"):
        predict_file(run.directory, written(tmp_path / "two.pkl", clip), out=tmp_path / "c.csv", device="cpu")


@pytest.mark.slow
def test_systems_that_need_words_are_left_out_and_said(study, caplog):
    systems = {run.stage.name for run in study.comparisons()}
    assert systems == set(compared_systems()) - NEED_WORDS
    for name in sorted(NEED_WORDS):
        with pytest.raises(ConfigError, match=f"{name} needs words"):
            study.comparisons([name])
    changes = {name: {"epochs": 1} for name in systems}
    changes |= {name: {"epochs": 1, "pretrain_epochs": 1} for name in ("confede", "sfttr")}
    compared = Study(study.corpus, "demo", seeds=[1], overrides=SMALL, results=study.directory.parents[1], device="cpu",
                     workers=1, system_overrides=changes)  # fmt: skip
    with caplog.at_level("INFO", "mgcl_core"):
        runs = compared.train() + compared.compare()
    assert "misa, mag_bert, self_mm need words and are left out" in caplog.text
    table = tables.table4(evaluation.results_of(compared, runs))
    shown = table.frame.drop(columns="Tuned").xs("CMU-MOSI", level="Dataset").reset_index()
    rows = shown[shown["Row"].str.startswith("ours") & ~shown["Row"].str.contains("−")]
    ours = {model: cells[-1] for model, cells in zip(rows["Model"], rows.iloc[:, 2:].to_numpy(), strict=True)}
    assert {model for model, cell in ours.items() if cell == "needs words"} == {"MISA", "Self-MM*", "MAG-BERT"}
    assert all(cell[0] in "-0123456789N" for model, cell in ours.items() if cell not in ("needs words", "not run"))
    assert "Text: features of the file" in "\n".join(table.footer)
    assert records.cost(compared, runs).set_index("system").loc["lf_dnn", "parameters"] < 1_000_000
    assert "T: features" in str(records.settings_used([compared]))


def test_words_or_features_that_a_file_lacks_are_named(file, tmp_path):
    with pytest.raises(ConfigError, match="text_source='words'.*has none"):
        make_study(file, tmp_path, text_source="words")
    content = contents(words=True)
    for split in content.values():
        del split["text"]
    with pytest.raises(ConfigError, match="text_source='features'.*no features of the text"):
        make_study(written(tmp_path / "words.pkl", content), tmp_path, text_source="features")


@pytest.mark.slow
def test_a_file_with_words_and_features_trains_on_either(tiny_bert, tmp_path):
    file = written(tmp_path / "both.pkl", contents(words=True))
    words = make_study(file, tmp_path, text_model=tiny_bert)
    assert words.base.text_source == "words"
    # Features without tokens have steps of their own, so that compared systems read the text model's states instead.
    run = words.compare(["lf_dnn"])[0]
    assert words.build(run).vectors.text.lstm.input_size == 16
    features = make_study(file, tmp_path, text_source="features", trained_encoders=("T", "V", "A"))
    assert features.changes["overrides"]["text_source"] == "features"
    assert features.train()[0].done
    rates = features.build(features.trainings()[0]).learning_rates()
    assert rates == {"": features.base.mgcl_lr}


@pytest.mark.slow
def test_tokens_beside_the_features_say_which_steps_are_there(tiny_bert, tmp_path):
    content = contents(words=True)
    for split in content.values():
        split["text_bert"] = tokenize(tiny_bert, split["raw_text"], 10)
        split["regression_labels"], split["id"] = split.pop("labels"), split["id"][:, 0]
        split["text"][:] = np.random.default_rng(0).normal(size=split["text"].shape)  # at padding too
    study = make_study(written(tmp_path / "mmsa.pkl", content), tmp_path, text_source="features", text_model=tiny_bert)
    run = study.trainings()[0]
    study.train()
    assert study.split("test", run).batch().text_mask.sum(1).tolist() == [5] * 25  # [CLS] a good film [SEP]


def test_a_file_without_text_trains_on_the_rest(tmp_path):
    content = contents()
    for split in content.values():
        del split["text"]
    study = make_study(written(tmp_path / "silent.pkl", content), tmp_path, sequence_epochs=1, mgcl_epochs=1)
    run = study.train()[0]
    frame = run.predictions("test")
    assert np.isfinite(frame["prediction"]).all() and not frame["T_macro"].any()
    assert study.corpus.notes["text_clips_absent"] == 105
    assert figures.length_distributions(study.corpus) is not None
