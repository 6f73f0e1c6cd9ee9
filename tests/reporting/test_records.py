"""What runs cost: each system with all that it starts from, and everything that was trained."""

import dataclasses
import json

import pandas as pd
import pytest

from mgcl_core.encoders import TextEncoder
from mgcl_core.experiments.run_records import AUDIT, RECORD
from mgcl_core.experiments.study import Study
from mgcl_core.reporting import records
from mgcl_core.support.integrity import write_sealed
from mgcl_core.trainer import CHECKPOINT, HISTORY

pytestmark = pytest.mark.slow

TINY = {"check_vocabulary": False, "text_epochs": 1, "sequence_epochs": 1, "mgcl_epochs": 2, "width": 16, "heads": 2,
        "feedforward": 16, "common_width": 16, "fusion_heads": 2}  # fmt: skip


@pytest.fixture(scope="module")
def study(make_split, make_corpus, tiny_bert, tmp_path_factory):
    def split(name, clips, seed):
        ids = tuple(f"{name}{clip}$_$0" for clip in range(clips))
        return dataclasses.replace(make_split(clips, seed=seed), name=name, ids=ids)

    corpus = make_corpus(split("train", 12, 1), split("valid", 6, 2), split("test", 5, 3))
    results = tmp_path_factory.mktemp("results")
    study = Study(corpus, "demo", seeds=[1, 2], overrides={**TINY, "text_model": tiny_bert}, results=results,
                  device="cpu", workers=1)  # fmt: skip
    study.train(["MGCL"])
    study.compare(["lf_dnn"])
    return study


def size(module):
    return sum(values.numel() for values in module.parameters())


def test_a_system_counts_all_that_it_starts_from(study):
    runs = [*study.trainings(), *study.comparisons(["lf_dnn"])]
    cost = records.cost(study, runs).set_index("system")
    of_seeds = [[run.record()["seconds"], *(parent.record()["seconds"] for parent in run.parents)] for run in runs[:2]]
    mgcl, compared = cost.loc["MGCL"], cost.loc["lf_dnn"]
    assert (mgcl["stage-one runs"], compared["stage-one runs"]) == (6, 0)
    assert mgcl["seconds"] == pytest.approx(sum(map(sum, of_seeds)) / 2, abs=0.006)
    assert mgcl["own seconds"] == pytest.approx(sum(seconds[0] for seconds in of_seeds) / 2, abs=0.006)
    # MGCL needs two frozen text encoders, LF-DNN the text model that its embeddings come from.
    encoder = TextEncoder(study.base.text_model)
    assert mgcl["parameters"] == runs[0].record()["parameters"] + 2 * size(encoder)
    assert compared["parameters"] == runs[2].record()["parameters"] + size(encoder.bert)


def test_time_before_a_resume_is_counted(study):
    run = study.trainings()[0]
    before, rows = run.record()["seconds"], (run.directory / HISTORY).read_text().splitlines()
    (run.directory / "done").unlink()
    (run.directory / RECORD).unlink()
    spent = [json.loads(row) | {"seconds": 1000.0} for row in rows]  # of a process that was stopped
    (run.directory / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in spent))
    assert not (run.directory / CHECKPOINT).exists()
    study.finish(run)
    assert run.record()["seconds"] > 2000.0 > before


def test_total_compute_counts_what_was_stopped_and_searched(study):
    failed = study.directory / "runs" / "failed-1"
    failed.mkdir()
    (failed / HISTORY).write_text('{"epoch": 1, "seconds": 7200.0}\n')
    search = study.directory / "search"
    search.mkdir()
    pd.DataFrame({"state": ["complete", "pruned"], "seconds": [1800.0, 900.0]}).to_csv(search / "trials.csv")
    audits = [run.directory / AUDIT for run in study.trainings()]
    write_sealed(audits[0], {"seconds": 360.0})
    audits[1].write_text("{}")  # damaged, which is said where it is read
    total = records.total_compute([study]).set_index("what")
    for audit in audits:
        audit.unlink(missing_ok=True)
    runs = {"stage one": 12, "systems": 4, "search": 2, "audit": 1, "stopped or failed": 1, "total": 20}
    assert total["runs"].to_dict() == runs
    assert total.loc[["search", "audit", "stopped or failed"], "hours"].tolist() == [0.75, 0.1, 2.0]
    assert total.loc["total", "hours"] == pytest.approx(total["hours"].iloc[:-1].sum(), abs=0.005)
