"""The compared systems under the study: one loop, one selection rule, the text that each expects."""

import dataclasses

import numpy as np
import pytest

from mgcl_core import SYSTEMS
from mgcl_core.experiments.registry import system_settings
from mgcl_core.experiments.runs import load_run
from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import ConfigError

pytestmark = pytest.mark.slow

TINY = {"check_vocabulary": False, "text_epochs": 1, "sequence_epochs": 1, "mgcl_epochs": 1}
QUICK = {"epochs": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def study(make_split, make_corpus, tiny_bert, tmp_path_factory):
    def split(name, clips, seed):
        ids = tuple(f"{name}{clip}$_$0" for clip in range(clips))
        return dataclasses.replace(make_split(clips, seed=seed), name=name, ids=ids)

    corpus = make_corpus(split("train", 30, 1), split("valid", 12, 2), split("test", 15, 3))
    changes = {name: dict(QUICK) for name in SYSTEMS if name != "mgcl"}
    for name in ("confede", "sfttr"):
        changes[name].update(pretrain_epochs=1, pretrain_batch_size=16, width=16)
    return Study(
        corpus,
        "demo",
        seeds=[4],
        overrides={**TINY, "text_model": tiny_bert},
        workers=1,
        device="cpu",
        results=tmp_path_factory.mktemp("results"),
        system_overrides=changes,
    )


def test_the_mapping_names_every_system_of_tables_3_and_4():
    assert list(SYSTEMS) == [
        "lf_dnn",
        "mfn",
        "lmf",
        "tfn",
        "mult",
        "misa",
        "mag_bert",
        "self_mm",
        "confede",
        "sfttr",
        "mgcl",
    ]


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "mgcl"])
def test_every_system_is_trained_chosen_on_validation_and_tested_once(study, name):
    run = study.compare([name])[0]
    assert run.done and run.name.startswith(name) and len(run.history) == 2
    frame = run.predictions("test")
    assert len(frame) == 15 and np.isfinite(frame["prediction"]).all()
    assert [parent.stage.name for parent in run.parents] == (
        ["macro_T", "micro_T"] if SYSTEMS[name].text == "pretrained" else []
    )
    loaded = load_run(run.directory)
    assert loaded.stage == run.stage and loaded.stage.system_settings.epochs == 2
    rebuilt = study.build(loaded, trained=True)
    assert sum(p.numel() for p in rebuilt.parameters()) == run.record()["parameters"]
    assert not list(run.directory.rglob("checkpoint.pt"))


@pytest.mark.parametrize("name", ["lf_dnn", "mult", "confede", "sfttr"])
def test_systems_on_frozen_text_read_it_in_half_precision(study, name, tmp_path):
    half = Study(
        study.corpus,
        "demo",
        seeds=[4],
        overrides={**study.overrides, "feature_cache": "fp16"},
        results=tmp_path,
        workers=1,
        device="cpu",
        system_overrides=study.system_overrides,
    )
    assert np.isfinite(half.compare([name])[0].predictions()["prediction"]).all()


def test_frozen_text_of_a_clip_without_words_is_no_noise(study, tmp_path):
    text_bert = study.corpus.train.text_bert.copy()
    text_bert[3, 1] = 0
    corpus = dataclasses.replace(study.corpus, train=dataclasses.replace(study.corpus.train, text_bert=text_bert))
    empty = Study(
        corpus,
        "demo",
        seeds=[4],
        overrides=study.overrides,
        results=tmp_path,
        workers=1,
        device="cpu",
        system_overrides=study.system_overrides,
    )
    text = empty.split("train", empty.comparisons(["lf_dnn"])[0]).text
    assert (text[3] == 0).all() and (text[2] != 0).any()


def test_a_changed_setting_is_another_run(study):
    other = Study(
        study.corpus,
        "demo",
        seeds=[4],
        overrides=study.overrides,
        results=study.directory.parents[1],
        workers=1,
        device="cpu",
        system_overrides={"tfn": {"epochs": 3}},
    )
    assert other.comparisons(["tfn"])[0].directory != study.comparisons(["tfn"])[0].directory
    assert other.comparisons(["tfn"])[0].stage.system_settings.epochs == 3


def test_unknown_names_are_errors():
    with pytest.raises(ConfigError, match="did you mean 'self_mm'"):
        system_settings("selfmm", "sims", "paper")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        system_settings("tfn", "sims", "paper", {"epoch": 3})


def test_the_paper_profile_is_what_was_published():
    for name, spec in SYSTEMS.items():
        if name != "mgcl":
            assert system_settings(name, "mosi", "paper") == spec.published["mosi"]
