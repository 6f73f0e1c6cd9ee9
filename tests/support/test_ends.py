"""One sentence for what the machine does to a command, however a library says it."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import corpus_files
from safetensors.numpy import save_file

from mgcl_core.support.ends import explain
from mgcl_core.support.errors import ConfigError, MachineError
from mgcl_core.support.files import atomic, write_json
from mgcl_core.support.parallel import run_parallel


def caught(function) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 60), lambda: np.empty(1 << 50)], ids=["torch", "numpy"])
def test_memory_that_is_not_there(allocate):
    sentence = explain(caught(allocate))
    assert sentence.startswith("memory ran out") and "--workers 1" in sentence


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "the disk is full (/x/y): make room"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission (/x/y)"),
        (errno.EMFILE, "too many files"),
        (errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)),
    ],
)
def test_every_error_of_the_system_is_a_sentence(number, words):
    error = OSError(number, os.strerror(number), "/x/y")
    assert words in explain(error) and "\n" not in explain(error)


def test_a_cause_that_a_library_hides_is_found():
    def hides():
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error

    assert explain(caught(hides)).startswith("the disk is full")


def test_a_fault_of_the_package_is_not_explained_away():
    assert explain(KeyError("x")) is None and explain(RuntimeError("shape [3]")) is None
    assert explain(ConfigError("what it says")) == "what it says"


def writers(folder):
    yield lambda file: file.write_bytes(bytes(1 << 22))
    yield lambda file: save_file({"x": np.zeros(1 << 20, np.float32)}, file)

    def checkpoint(file):
        with file.open("wb") as handle:
            torch.save({"x": torch.zeros(1 << 20)}, handle)

    yield checkpoint


@pytest.mark.parametrize("number", range(3), ids=["bytes", "safetensors", "torch"])
def test_a_file_that_the_machine_does_not_take_is_one_error_and_leaves_nothing(tmp_path, number, small_disk):
    path = small_disk(1 << 20) / "file"
    write = list(writers(tmp_path))[number]

    def save():
        with atomic(path) as temporary:
            write(temporary)

    error = caught(save)
    assert type(error) is MachineError and isinstance(error, OSError)
    assert "disk is full" in str(error) or "may not become so large" in str(error)
    assert str(path) in str(error) and not list(path.parent.iterdir())


def test_a_folder_that_is_a_file_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    error = caught(lambda: write_json(tmp_path / "file" / "x.json", {}))
    assert type(error) is MachineError and str(tmp_path / "file") in str(error)


def test_an_error_of_whoever_writes_stays_its_own(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "x"):
        print(1 / 0)
    assert not list(tmp_path.iterdir())


def kill_if_zero():
    return lambda number: number or os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence():
    error = caught(lambda: list(run_parallel(kill_if_zero, [0, 1], 2)))
    assert type(error) is MachineError and "a worker process was killed" in str(error) and "continues" in str(error)


def mgcl(*arguments, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mgcl_core", *arguments], stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.slow
def test_a_full_disk_under_the_output_is_one_sentence():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = mgcl("settings", stdout=full)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mgcl: the disk is full")


def without_roots_rights():
    """In a child of root: its files' modes count for it too."""
    import ctypes

    for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH leave with the next program
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_folder_without_permission_is_one_sentence(tmp_path):
    corpus = corpus_files.write(tmp_path / "clips.pkl", corpus_files.make_content())
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    done = mgcl(
        "run", "--quiet", "--notebook", "1", "--corpus", str(corpus), "--profile", "demo", "--results", str(locked),
        env={**os.environ, "MGCL_DATA": str(tmp_path / "data")}, stdout=subprocess.DEVNULL,
        preexec_fn=without_roots_rights,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("mgcl: no permission"), done.stderr
    assert str(locked) in done.stderr and done.stderr.count("\n") == 1
