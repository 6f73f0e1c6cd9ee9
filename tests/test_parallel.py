"""Runs side by side give what they give one by one."""

import functools
import operator

import pytest

from mgcl_core.parallel import side_by_side


def add(number: int):
    return functools.partial(operator.add, number)


def broken():
    return functools.partial(operator.truediv, 1)


def test_every_task_is_done_once():
    assert sorted(side_by_side(functools.partial(add, 10), [1, 2, 3], 2)) == [11, 12, 13]


def test_an_error_in_a_process_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(broken, [0, 1], 2))
