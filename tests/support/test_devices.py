"""The device and precision that are chosen, and what is said of them."""

import logging
import warnings
from contextlib import nullcontext

import pytest
import torch

from mgcl_core.config import VARIANTS
from mgcl_core.experiments.study import PAPER_HOURS, Study
from mgcl_core.support import devices
from mgcl_core.support.devices import choose_device, choose_precision
from mgcl_core.support.errors import ConfigError


@pytest.fixture
def gpu(monkeypatch):
    """Function that pretends a GPU: whether torch finds CUDA, whether bf16 is native, and what the driver lists."""

    def pretend(*, available: bool, native: bool = True, listed: str = "GPU 0: NVIDIA Example"):
        def is_available():
            if not available:
                warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2)
            return available

        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Example")
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
        )
        monkeypatch.setattr(devices, "_installed_gpus", lambda: listed)

    return pretend


def test_without_a_gpu_the_cpu_is_taken_without_a_warning(gpu, caplog):
    gpu(available=False, listed="")
    assert choose_device("auto") == torch.device("cpu") and not caplog.records


@pytest.mark.parametrize(
    "version, reason", [(None, "is a build for the CPU alone"), ("13.0", "driver on your system is too old")]
)
def test_a_gpu_that_torch_does_not_find_is_a_warning(gpu, caplog, monkeypatch, version, reason):
    gpu(available=False)
    monkeypatch.setattr(torch.version, "cuda", version)
    assert choose_device("auto") == torch.device("cpu")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and reason in record.message and "GPU 0: NVIDIA Example" in record.message


def test_a_gpu_on_which_the_first_operation_fails_is_a_warning(gpu, caplog, monkeypatch):
    gpu(available=True)

    def empty(*_, device=None):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "empty", empty)
    assert choose_device("auto") == torch.device("cpu")
    assert "no kernel image is available" in caplog.text and "more" not in caplog.text
    with pytest.raises(ConfigError, match="no kernel image is available"):
        choose_device("cuda")


def test_bf16_is_taken_where_the_hardware_has_it_and_never_emulated(gpu):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    gpu(available=True, native=True)
    assert [choose_precision(name, cuda) for name in ("auto", "bf16", "fp32")] == ["bf16", "bf16", "fp32"]
    gpu(available=True, native=False)
    assert choose_precision("auto", cuda) == "fp32"
    with pytest.raises(ConfigError, match="NVIDIA Example .* has no bfloat16 of its own"):
        choose_precision("bf16", cuda)
    assert [choose_precision(name, cpu) for name in ("auto", "bf16")] == ["fp32", "bf16"]


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
