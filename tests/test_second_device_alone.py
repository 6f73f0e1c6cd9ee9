"""The tests of the second device, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_second_device_in_a_process_of_its_own():
    """torch's autograd takes no device that is registered after the first backward pass of a process."""
    file = Path(__file__).with_name("test_second_device.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "MGCL_SECOND_DEVICE": "1"}
    done = subprocess.run(command, env=environment, cwd=file.parents[1], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
