"""Keeping freed memory is asked of glibc alone; another system's malloc is left as it is."""

import ctypes

import pytest

from mgcl_core.support.memory import keep_freed_memory


@pytest.fixture(autouse=True)
def forgotten_answer():
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


def test_another_systems_malloc_is_left_as_it_is(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("answers, expected", [((1, 1), True), ((1, 0), False), ((0, 1), False)])
def test_both_settings_must_be_taken(monkeypatch, answers, expected):
    calls = iter(answers)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: type("C", (), {"mallopt": staticmethod(lambda *_: next(calls))}))
    assert keep_freed_memory() is expected
