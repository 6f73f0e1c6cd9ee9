"""One tiny study with a teacher and its students, trained once for all tests about them."""

from __future__ import annotations

import pytest

from mgcl_core.experiments.distillation import distil
from mgcl_core.experiments.study import Study


@pytest.fixture(scope="session")
def taught(tiny_corpus, tiny_overrides, tmp_path_factory):
    """The study, and by row the run of its only seed: "MGCL", "student", "student w/o teacher"."""
    folder = tmp_path_factory.mktemp("taught")
    study = Study(tiny_corpus, "demo", seeds=[7], overrides=tiny_overrides, results=folder, device="cpu", workers=1)
    return study, {name: run for name, (run,) in distil(study).items()}
