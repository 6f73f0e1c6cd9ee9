"""The tests of the second device and of fake tensors, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_devices_in_python_in_a_process_of_their_own():
    """torch's autograd takes no device that is registered after the first backward pass of a process."""
    here = Path(__file__).parent
    files = [str(here / f"test_{name}.py") for name in ("second_device", "fake_device")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "MGCL_SECOND_DEVICE": "1"}
    done = subprocess.run(command, env=environment, cwd=here.parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
