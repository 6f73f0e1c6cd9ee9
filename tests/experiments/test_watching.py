"""What the folder alone tells of a study: done, under way with host and epoch, stopped, missing."""

from __future__ import annotations

import os
import platform

import pytest

from mgcl_core.cli import main
from mgcl_core.experiments.claims import claim
from mgcl_core.experiments.study import Study
from mgcl_core.experiments.watching import page, pages
from mgcl_core.support import leases
from mgcl_core.support.files import write_json_lines
from mgcl_core.trainer import HISTORY


@pytest.fixture
def study(tiny_corpus, tiny_overrides, tmp_path):
    return Study(tiny_corpus, "demo", seeds=[1], overrides=tiny_overrides, results=tmp_path, device="cpu", workers=1)


def begun(run, epochs: int) -> None:
    rows = [{"epoch": epoch, "valid_mae": 0.5, "seconds": 1.0} for epoch in range(1, epochs + 1)]
    run.directory.mkdir(parents=True)
    write_json_lines(run.directory / HISTORY, rows)


def test_a_page_says_who_trains_what_where_and_what_is_missing(study):
    assert (
        page(study).splitlines()[0].startswith("synthetic, profile demo: 0 of 12 runs done, 0 under way, 12 missing (")
    )
    encoders, (mgcl,) = study.pretrainings(), study.trainings()
    study.finish(encoders[1])
    begun(mgcl, 2)
    begun(encoders[0], 1)
    with claim(mgcl.directory):
        head, stopped, running, missing = page(study).splitlines()
        assert "1 of 12 runs done, 1 under way, 10 missing" in head
        assert " ".join(stopped.split()) == "macro_T 1 epoch 1/1 stopped; it goes on when it is asked for"
        assert running.startswith("  MGCL 1")
        assert f"epoch 2/3      {platform.node()}, process {os.getpid()} of " in running
        assert running.endswith("last sign of life 1 s ago") and "1 × macro_T" in missing and "1 × w/o CL" in missing
        (file,) = mgcl.directory.parent.glob(f"{mgcl.name}.lease-*")
        before = file.stat().st_mtime - 2 * leases.LEASE_SECONDS
        os.utime(file, (before, before))
        assert page(study).splitlines()[2].endswith("last sign of life 4 min ago, taken over by the next who asks")


def test_it_ends_when_all_is_done(study, monkeypatch):
    watched = pages([study], seconds=0.0)
    assert "0 of 12 runs done" in next(watched)
    monkeypatch.setattr("mgcl_core.experiments.runs.Run.state", "finished")
    (last,) = watched
    assert last.startswith("synthetic, profile demo: 12 of 12 runs done, 0 under way, 0 missing (")


def test_the_command_shows_page_after_page(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("mgcl_core.experiments.watching.page", lambda study: f"page of {study.corpus.name}")
    monkeypatch.setattr("mgcl_core.experiments.runs.Run.state", "finished")
    assert main(["status", "--watch", "--corpus", "demo", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("page of demo\n")
