"""Seconds until a corpus stands ready: the first time, when its file is read and checked, and every time after."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..data import load_corpus
from .measure import peak, row, seconds_of


def startup(name: str, device: torch.device, *, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Reading ``name`` with an empty cache, and again from its memory-mapped cache; the file itself is made before."""
    load_corpus(name)
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        corpus = load_corpus(name, cache_dir=cache)
        cold = time.perf_counter() - started
        size = Path(corpus.path).stat().st_size / 2**30
        yield row("read and check a feature file", [cold], corpus=corpus.name, file_gib=size)
        again = seconds_of(lambda: load_corpus(name, cache_dir=cache), repeats, device)
        yield row("read it again from the cache", again, corpus=corpus.name, **peak(device))


def imports(repeats: int = 3) -> Iterator[dict[str, Any]]:
    """A new process until the package's main modules are there."""
    for what, code in (
        ("import mgcl_core.Study", "from mgcl_core import Study"),
        ("import what a notebook does", "from mgcl_core import notebook, plots, report, tables"),
    ):
        seconds = seconds_of(
            lambda code=code: subprocess.run([sys.executable, "-c", code], check=True), repeats, torch.device("cpu")
        )
        yield row(what, seconds)
