"""Runs on disk: named by their settings, finished once, resumed after any kill, never harmed by a second process."""

import dataclasses
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.run_files import edit_record, seal

from mgcl_core.data.corpus import EncoderName
from mgcl_core.experiments.frozen_features import encode_frozen
from mgcl_core.experiments.registry import config_for, paper_dataset
from mgcl_core.experiments.run_records import RECORD
from mgcl_core.experiments.runs import load_run, write_predictions
from mgcl_core.experiments.study import Study
from mgcl_core.metrics import regression_metrics
from mgcl_core.support.errors import ConfigError, CorpusError, MGCLError, RunError

pytestmark = pytest.mark.slow

TINY = {
    "check_vocabulary": False,
    "text_epochs": 3,
    "sequence_epochs": 3,
    "mgcl_epochs": 3,
    "width": 16,
    "feedforward": 16,
    "heads": 2,
    "common_width": 16,
    "fusion_heads": 2,
}
#: How many times the kill test kills; all twenty by `MGCL_KILLS=20 python -m pytest tests/test_runs.py -k kill`.
KILLS = int(os.environ.get("MGCL_KILLS", "4"))

WORKER = """
import pickle, sys
from mgcl_core import trainer
from mgcl_core.experiments.study import Study

trainer.SECONDS_BETWEEN_CHECKPOINTS = float(sys.argv[3])  # read again by each worker process, which imports this file

if __name__ == "__main__":
    corpus, overrides, results = pickle.loads(open(sys.argv[1], "rb").read())
    study = Study(corpus, "demo", seeds=[7], overrides=overrides, results=results, device="cpu",
                  workers=int(sys.argv[2]))
    print("ready", flush=True)
    study.train(["MGCL", "w/o fusion"])
"""


@pytest.fixture(scope="module")
def corpus(make_split, make_corpus):
    def split(name, clips, seed):
        ids = tuple(f"{name}{clip}$_$0" for clip in range(clips))
        return dataclasses.replace(make_split(clips, seed=seed), name=name, ids=ids)

    return make_corpus(split("train", 40, 1), split("valid", 12, 2), split("test", 15, 3))


@pytest.fixture
def study(corpus, tiny_bert, tmp_path):
    def build(**changes):
        overrides = {**TINY, "text_model": tiny_bert, **changes.pop("overrides", {})}
        return Study(
            corpus,
            "demo",
            overrides=overrides,
            **{"seeds": [1], "results": tmp_path, "device": "cpu", "workers": 1, **changes},
        )

    return build


def result_files(results: Path) -> dict[str, bytes]:
    """What two equal runs share to the last bit: weights, predictions, and metrics but for the seconds."""
    found = {}
    for path in sorted(results.rglob("*")):
        if path.suffix in (".safetensors", ".csv") or path.name in ("selection.json", "config.json"):
            found[str(path.relative_to(results))] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            kept = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
            found[str(path.relative_to(results))] = json.dumps(kept).encode()
    return found


def test_frozen_encoders_leave_their_features_behind_and_are_never_run_again(study, monkeypatch):
    made = study().pretrain()
    for run in made:
        kept = {path.name for path in run.directory.glob("features-*.npy")}
        names = {"macro_T": ["macro_T"], "micro_T": ["micro_T", "micro_T_mask"]}.get(run.stage.name, [])
        assert kept == {f"features-{split}-{name}.npy" for split in ("train", "valid", "test") for name in names}
    again = study()
    text = next(run for run in again.pretrainings() if run.stage.name == "micro_T")
    split = again.split("train", text)
    computed = encode_frozen(again.build(text, trained=True).encoder, EncoderName("micro", "T"), split, text.config)
    assert np.array_equal(np.load(text.directory / "features-train-micro_T.npy"), computed["micro_T"].numpy())
    monkeypatch.setattr("mgcl_core.experiments.splits.encode_frozen", lambda *a: pytest.fail("encoded again"))
    assert study().train()[0].done


def test_without_test_data_no_features_of_it_are_kept(study):
    blind = study().without_test()
    run = next(run for run in blind.pretrainings() if run.stage.name == "macro_T")
    blind.finish(run, test=False)
    assert sorted(path.name for path in run.directory.glob("features-*.npy")) == [
        "features-train-macro_T.npy",
        "features-valid-macro_T.npy",
    ]
    study().finish(run)
    assert (run.directory / "features-test-macro_T.npy").exists()


def test_a_finished_run_costs_nothing(study, monkeypatch):
    first = study().train()
    monkeypatch.setattr("mgcl_core.experiments.study.fit", lambda *a, **k: pytest.fail("trained again"))
    assert [run.directory for run in study().train()] == [run.directory for run in first]


def test_every_run_leaves_settings_history_predictions_weights_and_record(study):
    run = study().train()[0]
    assert run.done and len(run.history) == 3 and 1 <= run.chosen_epoch <= 3
    frame = run.predictions("test")
    assert list(frame["id"]) == [f"test{clip}$_$0" for clip in range(15)]
    assert list(frame.columns[3:]) == ["T_macro", "V_macro", "A_macro", "T_micro", "V_micro", "A_micro"]
    record = run.record()
    assert record["corpus"]["sha256"] == "0" * 64 and record["corpus"]["synthetic"] is True
    assert record["environment"]["packages"]["torch"] and record["trained_parameters"] > 0
    assert not (run.directory / "checkpoint.pt").exists()
    loaded = load_run(run.directory)
    assert loaded.config == run.config
    assert [parent.name for parent in loaded.parents] == [parent.name for parent in run.parents]


def test_micro_runs_are_scored_against_their_own_label(study, corpus):
    runs = {run.stage.name: run for run in study().pretrain()}
    np.testing.assert_allclose(runs["macro_V"].predictions()["label"], corpus.test.labels)
    for place, modality in enumerate("TVA"):
        np.testing.assert_allclose(runs[f"micro_{modality}"].predictions()["label"], corpus.test.unimodal_labels[place])


def test_variants_share_stage_one_and_other_settings_do_not_meet(study):
    plain, changed = study(), study(overrides={"alpha": 0.3})
    assert [run.directory for run in plain.pretrainings()] == [run.directory for run in changed.pretrainings()]
    assert plain.trainings()[0].directory != changed.trainings()[0].directory
    slower = study(overrides={"sequence_lr": 1e-4})
    same = {run.stage.name for run in plain.pretrainings()} & {
        run.stage.name for run in slower.pretrainings() if run.directory in {r.directory for r in plain.pretrainings()}
    }
    assert same == {"macro_T", "micro_T"}
    assert plain.trainings()[0].directory != slower.trainings()[0].directory


def test_label_schemes_do_not_meet(corpus, tiny_bert, tmp_path):
    def runs(scheme):
        other = Study(
            dataclasses.replace(corpus, scheme=scheme),
            "demo",
            seeds=[1],
            device="cpu",
            workers=1,
            overrides={**TINY, "text_model": tiny_bert},
            results=tmp_path,
        )
        assert [run.directory for run in other.trainings()] == [
            run.directory for run in other.without_test().trainings()
        ]
        return {run.directory for run in [*other.trainings(), *other.pretrainings()]}

    assert not runs("sims") & runs("mosi")


def test_all_variants_differ_in_exactly_one_setting(study):
    from mgcl_core.config import VARIANTS

    base = study().config(1).as_dict()
    for variant, changes in VARIANTS.items():
        settings = study().config(1, variant).as_dict()
        assert {name for name in settings if settings[name] != base[name]} == set(changes)


def test_test_data_is_refused_before_the_epoch_is_chosen(study):
    built = study()
    with pytest.raises(RunError, match="only after the epoch is chosen"):
        built.split("test", built.trainings()[0])


def test_the_trainer_meets_no_test_clip(study, monkeypatch):
    import mgcl_core.experiments.study as experiments

    seen, real = [], experiments.fit

    def spy(system, train, valid, *rest, **more):
        seen.append((len(train), len(valid)))
        return real(system, train, valid, *rest, **more)

    monkeypatch.setattr(experiments, "fit", spy)
    study().train()
    assert set(seen) == {(40, 12)}


@pytest.mark.parametrize(
    "changes",
    [
        {"encoders": "shared"},
        {"micro": "pooled"},
        {"trained_encoders": []},
        {"trained_encoders": ["T", "V", "A"]},
        {"scaling": "none"},
        {"precision": "bf16"},
    ],
)
def test_the_other_readings_of_the_paper_run(study, changes):
    run = study(overrides=changes).train()[0]
    assert np.isfinite(run.predictions()["prediction"]).all()


def test_the_readings_of_the_lineage_run_together_and_predict(study, corpus):
    changes = {"pair_weights": "clgsi", "unimodal_reduction": "mean", "temperature": 0.03, "selection": "acc2"}
    changes |= {"stage_one_target": "unimodal", "trained_text_layers": 1, "frozen_dropout": True}
    built = study(overrides=changes)
    run = built.train()[0]
    assert run.chosen_epoch == run.history["valid_acc2"].argmax() + 1
    again = load_run(run.directory).predict(corpus.valid)["prediction"]
    np.testing.assert_allclose(again, run.predictions("valid")["prediction"], atol=1e-5)
    # The text encoders that it held are those of stage one, which it did not train.
    text = run.parents[0]
    assert text.stage.name == "macro_T" and torch.equal(
        built.build(run, trained=True).encoders["macro_T"].bert.embeddings.word_embeddings.weight,
        built.build(text, trained=True).encoder.bert.embeddings.word_embeddings.weight,
    )


def test_mistakes_are_errors_before_anything_runs(study, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        study(overrides={"alhpa": 1.0})
    with pytest.raises(ConfigError, match="seeds"):
        study(seeds=[1, 1])
    with pytest.raises(ConfigError, match="did you mean 'w/o CL'"):
        study().trainings(["w/o CLL"])
    with pytest.raises(ConfigError, match="not available"):
        study(device="cuda:77")
    assert not list(tmp_path.iterdir())


def test_a_foreign_vocabulary_is_an_error(study):
    with pytest.raises(CorpusError, match="another vocabulary.*tokens='raw_text'"):
        study(overrides={"check_vocabulary": True}).train()
    run = study(overrides={"check_vocabulary": True, "tokens": "raw_text"}).train()[0]
    assert run.done


def test_an_unfinished_run_gives_no_numbers(study):
    run = study().trainings()[0]
    for read in (lambda: run.history, lambda: run.chosen_epoch, run.predictions, run.record):
        with pytest.raises(RunError, match="not finished"):
            read()
    with pytest.raises(RunError, match="no finished run"):
        load_run(run.directory)


def test_the_preset_follows_the_corpus(corpus):
    assert paper_dataset(corpus) == "sims" and paper_dataset(dataclasses.replace(corpus, scheme="mosi")) == "mosi"
    assert paper_dataset(dataclasses.replace(corpus, dataset="mosei", scheme="mosi")) == "mosei"
    assert paper_dataset(dataclasses.replace(corpus, name="CMU-MOSEI", scheme="mosi")) == "mosi"  # no name decides
    config = config_for(dataclasses.replace(corpus, dataset="mosei", scheme="mosi"), "paper")
    assert (config.layers, config.mgcl_batch_size, config.audio_dim, config.audio_steps) == (3, 8, 4, 9)


# Real processes


@pytest.fixture
def job(corpus, tiny_bert, tmp_path):
    """Function of a name: starts a process that trains both stages into that folder of tmp_path."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # so that several workers round as one does

    def start(name: str, workers: int = 1, between_checkpoints: float = 0.0) -> subprocess.Popen:
        arguments = tmp_path / f"{name}.pickle"
        overrides = {**TINY, "text_model": tiny_bert}
        arguments.write_bytes(pickle.dumps((corpus, overrides, tmp_path / name)))
        return subprocess.Popen(
            [sys.executable, str(script), str(arguments), str(workers), str(between_checkpoints)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    return start


def finished(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def test_kill_minus_nine_at_random_moments_changes_nothing(job, tmp_path):
    whole = job("whole")
    assert whole.stdout.readline() == "ready\n"
    started = time.monotonic()
    finished(whole)
    duration = time.monotonic() - started
    moments = random.Random(20)
    kills = 0
    while kills < KILLS:
        # With a checkpoint after each epoch, now and then, or never.
        process = job("killed", workers=1 + kills % 2, between_checkpoints=(0.0, 0.1, 300.0)[kills % 3])
        assert process.stdout.readline() == "ready\n"
        # Short enough that the job is still running, whatever it has done already.
        time.sleep(moments.uniform(0, max(duration / KILLS, 0.3)))
        if process.poll() is not None:  # it had too little left to do: begin again
            (tmp_path / "killed").rename(tmp_path / f"finished-{kills}-{time.monotonic_ns()}")
            continue
        process.kill()
        process.communicate()
        kills += 1
    finished(job("killed"))
    assert result_files(tmp_path / "killed") == result_files(tmp_path / "whole")
    left = [path for path in (tmp_path / "killed").rglob("*") if path.name.startswith(".")]
    assert len(left) <= kills  # a killed write leaves at most its temporary file, never a broken result


def test_runs_side_by_side_give_what_they_give_one_by_one(job, tmp_path):
    for process in (job("alone"), job("side-by-side", workers=2)):
        finished(process)
    assert result_files(tmp_path / "side-by-side") == result_files(tmp_path / "alone")


def test_two_processes_asked_for_the_same_runs_do_not_harm_each_other(job, tmp_path):
    first, second, alone = job("both"), job("both"), job("alone")
    for process in (first, second, alone):
        finished(process)
    assert result_files(tmp_path / "both") == result_files(tmp_path / "alone")


def test_a_full_disk_is_an_error_and_the_run_continues_afterwards(study, monkeypatch):
    import mgcl_core.trainer as trainer

    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    real, calls = trainer.torch.save, []

    def full(value, file):
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        real(value, file)

    monkeypatch.setattr(trainer.torch, "save", full)
    with pytest.raises(MGCLError, match="checkpoint.pt cannot be written: the disk is full"):
        study().train()
    monkeypatch.undo()
    built = study()
    run = built.train()[0]
    assert run.done and not [path for path in built.directory.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("name", ["confede", "sfttr"])
def test_what_a_system_trains_before_itself_is_on_its_device(study, monkeypatch, tmp_path, name):
    """On the device "meta", which computes nothing, so that a second device needs no hardware."""
    ours, devices = study(), {}
    (run,) = ours.comparisons([name])
    monkeypatch.setattr(Study, "split", lambda *_: None)
    monkeypatch.setattr(
        "mgcl_core.experiments.study.fit",
        lambda system, *_, label, **__: devices.update(
            {label.split()[-1]: {tensor.device.type for tensor in [*system.parameters(), *system.buffers()]}}
        ),
    )
    ours.device = torch.device("meta")
    ours.fit(run, tmp_path / "run")
    assert devices == {"pretrain_V": {"meta"}, "pretrain_A": {"meta"}, "1": {"meta"}}


ODD_IDS = (
    "carriage\rreturn",
    "line\nfeed",
    "both\r\n",
    'quo"te',
    "com,ma",
    "NaN",
    "",
    " space ",
    "video$_$clip",
    "\x00",
)


def test_predictions_come_back_as_they_were_written_whatever_the_ids(corpus, tiny_bert, tmp_path):
    test = dataclasses.replace(corpus.test, ids=(*ODD_IDS, *corpus.test.ids[len(ODD_IDS) :]))
    study = Study(
        dataclasses.replace(corpus, test=test),
        "demo",
        seeds=[1],
        results=tmp_path,
        device="cpu",
        workers=1,
        overrides={**TINY, "text_model": tiny_bert, "text_epochs": 1, "sequence_epochs": 1},
    )
    run = study.finish(study.pretrainings()[-1])
    assert tuple(run.predictions("test")["id"]) == test.ids


def test_labels_on_the_cuts_of_the_classes_fall_on_the_same_side_after_reading(study):
    labels = np.array([-0.7, -0.1, 0.1, 0.7], dtype=np.float32)
    predicted = np.array([-0.71, -0.3, 0.05, 0.6], dtype=np.float32)  # each on the lower side of its cut, as the labels
    run = study().pretrain()[1]
    path = run.directory / "predictions-test.csv"
    write_predictions(path, ["a", "b", "c", "d"], {"prediction": predicted}, labels=labels)
    seal(run.directory)
    frame = run.predictions("test")
    assert frame["label"].to_numpy().tobytes() == labels.tobytes()
    assert frame["prediction"].to_numpy().tobytes() == predicted.tobytes()
    metrics = regression_metrics(frame["label"].to_numpy(), frame["prediction"].to_numpy(), "sims")
    assert metrics["acc3"] == metrics["acc5"] == 1.0


def test_a_damaged_record_is_an_error(study):
    run = study(overrides={"text_epochs": 1, "sequence_epochs": 1, "mgcl_epochs": 1}).train()[0]
    whole = (run.directory / RECORD).read_text()
    for damaged in ("", "[]", "{}", whole[:-20], whole.replace('"seed": 1', '"seed": 2'), "[" * 100_000):
        (run.directory / RECORD).write_text(damaged)
        with pytest.raises(RunError, match="is damaged|of another version"):
            load_run(run.directory)
    (run.directory / RECORD).write_text(whole)
    for change, message in (
        (lambda record: record.pop("config"), "'config' is None"),
        (lambda record: record.update(parents=[run.name]), "is said to start from it"),
        (lambda record: record.update(parents=["../" + name for name in record["parents"]]), "not runs of the same"),
        (lambda record: record.update(parents=record["parents"][::-1]), "does not start from"),
        (lambda record: record.update(config={"alhpa": 1}), "did you mean 'alpha'"),
        (lambda record: record.update(seconds="1"), "'seconds' is 1"),
    ):
        edit_record(run.directory, change)
        with pytest.raises(MGCLError, match=message):
            load_run(run.directory)
        (run.directory / RECORD).write_text(whole)
    assert load_run(run.directory).config == run.config
