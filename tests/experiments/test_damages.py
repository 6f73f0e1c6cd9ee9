"""Damaged results: each ends in an error of this package, is repaired, or changes nothing that anybody reads.

A small share runs with the tests, 300 by ``make mutations``.
"""

import json
import shutil
from collections import Counter
from random import Random

import numpy as np
import pytest
from helpers.corpus_files import make_content, write
from helpers.mutations import damage, share
from hypothesis import given
from hypothesis import strategies as st

from mgcl_core import trainer
from mgcl_core.data import load_corpus
from mgcl_core.experiments.search import run_search
from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import MGCLError

pytestmark = pytest.mark.slow

OUTCOMES: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def report():
    OUTCOMES.clear()
    yield
    print(dict(OUTCOMES))


@pytest.fixture(scope="module")
def folder(tiny_corpus, tiny_overrides, tmp_path_factory):
    """Runs that are finished, one that was stopped with a checkpoint, and a search."""
    folder = tmp_path_factory.mktemp("results")
    study = open_study(tiny_corpus, tiny_overrides, folder)
    study.train()
    stopped = study.trainings(["w/o CL"])[0]

    def stop(epoch, system):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            study.fit(stopped, stopped.directory, after_epoch=stop)
    searched(tiny_corpus, tiny_overrides, folder)
    return folder


def open_study(corpus, overrides, folder) -> Study:
    return Study(corpus, "demo", seeds=[1], overrides=overrides, results=folder, device="cpu", workers=1)


def searched(corpus, overrides, folder) -> str:
    fixed = {"micro": "sequence", "trained_encoders": ("V", "A"), "dropout": 0.1, "mgcl_epochs": 1}
    return run_search(open_study(corpus, {**overrides, **fixed}, folder), 2).trials.drop(columns="seconds").to_csv()


def everything(corpus, overrides, folder) -> str:
    """All that somebody reads of results, finished where it is not: as text, to the last digit."""
    study = open_study(corpus, overrides, folder)
    lines = []
    for run in [*study.train(["MGCL", "w/o CL"]), *study.pretrainings()]:
        for split in ("valid", "test"):
            lines.append(study.predictions(run, split).to_csv())
        lines.append(run.history.drop(columns="seconds").to_csv())
        record = run.record()
        lines.append(f"{run.chosen_epoch} {record['config']} {record['seed']} {record['parameters']}")
        system = study.build(run, trained=True)
        lines += [f"{name} {values.double().sum().item()!r}" for name, values in system.state_dict().items()]
    for key, values in study.split("train", run=study.trainings()[0]).features.items():
        lines.append(f"{key} {values.double().sum().item()!r}")
    lines.append(searched(corpus, overrides, folder))
    return "\n".join(lines)


def test_results(folder, tiny_corpus, tiny_overrides, tmp_path):
    whole = shutil.copytree(folder, tmp_path / "whole")
    expected = everything(tiny_corpus, tiny_overrides, whole)
    files = sorted(
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and ".lease-" not in path.name
    )

    @share(25, seconds=60)
    @given(st.integers(0, 2**32))
    def check(seed):
        random = Random(seed)
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        file = random.choice(files)
        kind = damage(copy / file, random)
        try:
            seen = everything(tiny_corpus, tiny_overrides, copy)
        except MGCLError as error:
            assert str(copy) in str(error), (file, kind, error)  # it names the file or its folder
            OUTCOMES["own error"] += 1
            return
        assert seen == expected, (file, kind)
        OUTCOMES["repaired or read as it was"] += 1

    check()


def test_caches(tmp_path):
    path = write(tmp_path / "file.pkl", make_content())
    load_corpus(path, cache_dir=tmp_path / "cache")
    files = sorted(file for file in (tmp_path / "cache").rglob("*") if file.is_file() and ".lease-" not in file.name)
    shutil.copytree(tmp_path / "cache", tmp_path / "whole")

    def read():
        corpus = load_corpus(path, cache_dir=tmp_path / "cache")
        arrays = [getattr(split, name) for split in corpus.splits for name in ("audio", "vision", "labels")]
        texts = [(split.ids, split.raw_text) for split in corpus.splits]
        return [array.tobytes() for array in arrays], json.dumps(texts)

    expected = read()

    @share(15, seconds=20)
    @given(st.integers(0, 2**32))
    def check(seed):
        random = Random(seed)
        shutil.rmtree(tmp_path / "cache")
        shutil.copytree(tmp_path / "whole", tmp_path / "cache")
        file = random.choice(files)
        kind = damage(file, random)
        assert read() == expected, (file, kind)
        OUTCOMES["cache built again or read as it was"] += 1

    check()
    assert np.isfinite(load_corpus(path, cache_dir=tmp_path / "cache").train.audio).all()
