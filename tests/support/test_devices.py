"""The device and precision that are chosen, and what is logged about them."""

import logging

import pytest
import torch

from mgcl_core.support.devices import choose_device, choose_precision
from mgcl_core.support.errors import ConfigError


def test_without_a_gpu_the_cpu_is_taken_without_a_warning(gpu, caplog):
    gpu(available=False, listed="")
    assert choose_device("auto") == torch.device("cpu") and not caplog.records


@pytest.mark.parametrize(
    "version, reason", [(None, "is a build for the CPU only"), ("13.0", "driver on your system is too old")]
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
