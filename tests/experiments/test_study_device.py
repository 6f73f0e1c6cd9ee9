"""What a study says about its device, and when it refuses to start on it."""

import functools
import logging

import pytest
import torch

from mgcl_core.config import VARIANTS
from mgcl_core.experiments.study import PAPER_HOURS, Study
from mgcl_core.reporting import records, tables
from mgcl_core.reporting.evaluation import results_of
from mgcl_core.support.errors import ConfigError


def test_device_and_precision_are_said_before_anything_runs(tiny_corpus, tiny_overrides, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        Study(tiny_corpus, "demo", overrides=tiny_overrides, device="cpu", workers=1, results=tmp_path)
    assert "synthetic, profile demo: cpu" in caplog.text and "fp32, 1 worker" in caplog.text


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_a_device_that_was_never_tried_is_refused_before_anything_is_written(tiny_corpus, tmp_path, name):
    with pytest.raises(ConfigError, match=f"device='{name}' is not supported"):
        Study(tiny_corpus, "demo", device=name, results=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("profile, precision", [("paper", "bf16"), ("small", "fp32"), ("demo", "fp32")])
def test_the_precision_is_the_profiles_on_every_machine(gpu, tiny_corpus, tiny_overrides, tmp_path, profile, precision):
    """A login node without a GPU finds the runs of the node that has one."""
    gpu(available=False, listed="")
    here = Study(tiny_corpus, profile, overrides=tiny_overrides, results=tmp_path)
    assert here.base.precision == precision and "precision" not in here.changes["overrides"]
    names = [run.name for run in [*here.pretrainings(), *here.trainings(), *here.comparisons()]]
    for device, native in (("cpu", False), ("cuda", True), ("cuda", False)):
        gpu(available=True, native=native)
        there = Study(tiny_corpus, profile, overrides=tiny_overrides, results=tmp_path, device="cpu")
        there.device = torch.device(device)
        assert [run.name for run in [*there.pretrainings(), *there.trainings(), *there.comparisons()]] == names
        if precision == "bf16" and device == "cuda" and not native:
            with pytest.raises(ConfigError, match="no bfloat16 of its own"):
                there.pretrain()


@pytest.mark.slow
def test_runs_in_another_precision_are_said_and_tables_name_the_precision(
    tiny_corpus, tiny_overrides, tmp_path, caplog
):
    short = {**tiny_overrides, "mgcl_epochs": 1}
    make = functools.partial(Study, tiny_corpus, "demo", seeds=[1], overrides=short, device="cpu", results=tmp_path)
    study = make(precision="bf16", workers=1)
    study.train()
    table = tables.table5(results_of(study, study.trainings()))
    assert " in bf16; epoch chosen" in " ".join(table.footer)
    assert set(records.provenance(study.trainings())["precision"]) == {"bf16"}
    with caplog.at_level(logging.INFO):
        assert not any(run.done for run in make().trainings())
    assert "7 runs" in caplog.text and "are in bf16; --precision bf16 shows those" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert all(run.done for run in make(precision="bf16").trainings())
    assert "shows those" not in caplog.text


def test_bf16_is_shown_as_a_difference_from_the_paper(tiny_corpus, tmp_path):
    differences = records.differences_from_paper(
        Study(tiny_corpus, "paper", dataset="sims", device="cpu", results=tmp_path)
    )
    assert differences.to_numpy().tolist() == [["precision", "fp32", "bf16"]]


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
