"""Every task is run once, and an error in a process is an error here."""

import functools
import operator
import os
import subprocess
import sys

import pytest

from mgcl_core.support.parallel import run_parallel, workers_that_fit


def add(number: int):
    return functools.partial(operator.add, number)


def broken():
    return functools.partial(operator.truediv, 1)


def test_every_task_is_done_once():
    assert sorted(run_parallel(functools.partial(add, 10), [1, 2, 3], 2)) == [11, 12, 13]


def test_an_error_in_a_process_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(run_parallel(broken, [0, 1], 2))


def test_threads_wait_as_the_user_says_else_for_a_moment():
    code = "import os, mgcl_core; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for given, expected in (({}, "PASSIVE 1000"), ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_workers_are_bounded_by_free_memory(caplog):
    assert workers_that_fit(2, 0) >= 1
    with caplog.at_level("WARNING", "mgcl_core"):
        assert workers_that_fit(4, 1 << 60) == 1
    assert "1 workers, not 4: free memory is" in caplog.text
