"""What a study says about its device, and when it refuses to start on it."""

import logging

import pytest

from mgcl_core.config import VARIANTS
from mgcl_core.experiments.study import PAPER_HOURS, Study
from mgcl_core.support.errors import ConfigError


def test_device_and_precision_are_said_before_anything_runs(tiny_corpus, tiny_overrides, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        Study(tiny_corpus, "demo", overrides=tiny_overrides, device="cpu", workers=1, results=tmp_path)
    assert "synthetic, profile demo: cpu" in caplog.text and "fp32, 1 worker" in caplog.text


def test_profile_paper_on_a_cpu_that_nobody_asked_for_says_what_it_takes(gpu, tiny_corpus, tiny_overrides, tmp_path):
    gpu(available=False, listed="")
    study = Study(tiny_corpus, "paper", overrides=tiny_overrides, results=tmp_path)
    hours, clips = PAPER_HOURS["sims"]
    expected = max(1, round(hours * len(tiny_corpus.train) / clips))
    for start in (study.pretrain, lambda: study.train(list(VARIANTS)), lambda: study.finish(study.trainings()[0])):
        with pytest.raises(ConfigError, match=f"about {expected} hours.*--device cpu.*--profile small"):
            start()
    assert not (tmp_path / tiny_corpus.name / "paper" / "runs").exists()


def test_profile_paper_runs_on_a_cpu_that_was_asked_for(tiny_corpus, tiny_overrides, tmp_path):
    study = Study(
        tiny_corpus, "paper", seeds=[1], overrides={**tiny_overrides, "mgcl_epochs": 1}, device="cpu", results=tmp_path
    )
    assert study.finish(study.pretrainings()[-1]).done
