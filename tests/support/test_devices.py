"""The device and precision that are chosen, and what is logged about them."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mgcl_core.support.devices import check_precision, choose_device
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


def test_bf16_is_never_emulated_on_a_gpu(gpu):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    gpu(available=True, native=True)
    check_precision("bf16", cuda)
    gpu(available=True, native=False)
    check_precision("fp32", cuda)
    check_precision("bf16", cpu)
    with pytest.raises(ConfigError, match="NVIDIA Example .* has no bfloat16 of its own.*--precision fp32"):
        check_precision("bf16", cuda)


@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1", "meta"])
def test_devices_that_were_never_tried_are_refused(name):
    with pytest.raises(ConfigError, match=f"device='{name}' is not supported: 'auto', 'cpu' or 'cuda'"):
        choose_device(name)


def matmul_settings() -> tuple:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="since torch 2.9")
@pytest.mark.parametrize(
    "setting",
    ["torch.backends.fp32_precision = 'tf32'", "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
     "torch.set_float32_matmul_precision('high')", "torch.backends.cudnn.allow_tf32 = False", "pass"],
)  # fmt: skip
def test_a_users_own_precision_of_float32_comes_back(setting):
    """In a process of its own: torch refuses to mix the older names with the newer."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.test_devices import matmul_settings
from mgcl_core.support.runtime import matrix_precision
{setting}
before = matmul_settings()
for precision, expected in (("bf16", "tf32"), ("fp32", "ieee")):
    with matrix_precision(torch.device("cuda"), precision):
        assert matmul_settings() == (expected,) * 3
    assert matmul_settings() == before, (before, matmul_settings())
if "set_float32" in {setting!r}:
    assert torch.get_float32_matmul_precision() == "high"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
