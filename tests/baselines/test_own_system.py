"""The system of a user's own in docs/own_system.md: a new file and its name in a list, run and shown beside MGCL."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mgcl_core import baselines
from mgcl_core.experiments.registry import SYSTEMS
from mgcl_core.experiments.runs import load_run
from mgcl_core.experiments.study import Study
from mgcl_core.reporting import evaluation, figures, tables
from mgcl_core.support.errors import ConfigError

pytestmark = pytest.mark.slow

NAME = "mean_fusion"
PAGE = (Path(__file__).parents[2] / "docs" / "own_system.md").read_text(encoding="utf-8")
EXAMPLE, CALL = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """The example as a file of the folder ``baselines``, and registered."""
    folder = tmp_path / "baselines"
    folder.mkdir()
    (folder / f"{NAME}.py").write_text(EXAMPLE)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(folder)])
    module = importlib.import_module(f"{baselines.__name__}.{NAME}")
    monkeypatch.setitem(SYSTEMS, NAME, module.ENTRY)
    yield module.ENTRY
    del sys.modules[module.__name__]
    delattr(baselines, NAME)


@pytest.fixture
def study(tiny_corpus, tiny_overrides, tmp_path):
    return Study(
        tiny_corpus,
        "demo",
        seeds=[4, 5],
        overrides=tiny_overrides,
        results=tmp_path / "results",
        device="cpu",
        workers=1,
        system_overrides={NAME: {"epochs": 2}} if NAME in SYSTEMS else None,
    )


def test_the_example_is_short_and_its_name_registers_it(entry):
    assert f"`{NAME}.py`" in PAGE and len(EXAMPLE.splitlines()) <= 30
    source = Path(baselines.__file__).read_text()
    last = '"sfttr")'
    assert source.count(last) == 1
    space = {"__name__": baselines.__name__, "__package__": baselines.__name__}
    exec(compile(source.replace(last, f'"sfttr", "{NAME}")'), "__init__.py", "exec"), space)
    assert space["COMPARED_SYSTEMS"] == {**baselines.COMPARED_SYSTEMS, NAME: entry}


def test_it_runs_beside_mgcl_is_found_again_and_has_its_row(entry, study):
    space = {"study": study}
    exec(CALL.replace("table4", "table3"), space)  # the corpus of the tests has labels in [-1, 1]
    runs, table = study.comparisons([NAME]), space["table"]
    assert [run.done for run in runs] == [True, True] and study.comparisons()[-2:] == runs
    assert all(np.isfinite(run.predictions("test")["prediction"]).all() for run in runs)
    loaded = load_run(runs[0].directory)
    assert loaded.stage == runs[0].stage
    assert loaded.stage.system_settings == dataclasses.replace(entry.published["sims"], epochs=2)
    rebuilt = study.build(loaded, trained=True)
    assert sum(p.numel() for p in rebuilt.parameters()) == runs[0].record()["parameters"]

    rows = table.rows_of("Mean fusion")
    assert list(rows.index.get_level_values("Row")) == [
        "paper",
        "ours (n=2, synthetic)",
        "95 % CI",
        "− MGCL (paired)",
        "p (Holm)",
        "detectable",
    ]
    assert set(rows.iloc[0].drop("Tuned")) == {"not printed"}
    cells = table.cells.query("model == 'Mean fusion'")
    assert cells["paper"].isna().all() and cells["mean"].notna().all() and (cells["pairs"] == 2).all()
    assert list(dict.fromkeys(table.cells["model"]))[-1] == "Mean fusion"  # below the rows of the paper
    assert "Mean fusion" in table.to_latex() and "Mean fusion" in table.to_html()
    labels = figures.score_intervals(table.cells, synthetic=True).axes[0].get_yticklabels()
    assert labels[-1].get_text() == "Mean fusion"


def test_it_has_a_row_of_its_own_in_table_4_too(entry, study):
    runs = study.train(["MGCL"]) + study.compare([NAME])
    results = [dataclasses.replace(r, paper_dataset="mosi", scheme="mosi") for r in evaluation.results_of(study, runs)]
    table = tables.table4(results)
    assert set(table.rows_of("Mean fusion").loc["CMU-MOSI"].iloc[0].drop("Tuned")) == {"not printed"}
    cells = table.cells.query("model == 'Mean fusion'")
    assert set(cells["dataset"]) == {"CMU-MOSI"} and cells["mean"].notna().all()


def test_it_learns(entry, make_split):
    """Its loss on one batch falls, so that the example is more than something that runs."""
    from mgcl_core.data.batches import DeviceSplit
    from mgcl_core.system import Shapes

    batch = DeviceSplit(make_split(12), torch.device("cpu")).batch()
    batch.text = torch.randn(12, batch.tokens.shape[2], 6, generator=torch.Generator().manual_seed(0))
    system = entry.build(entry.published["sims"], Shapes(6, 10, 4, 9, 3, 7, 1.0, 12, "minilm"))
    assert system.learning_rates() == {"": 1e-3}
    optimiser, losses = torch.optim.Adam(system.parameters(), lr=0.05), []
    for _ in range(50):
        loss = system(batch).losses["pred"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    batch.labels = None
    assert system(batch).losses == {} and system(batch).prediction.shape == (12,)


def test_unless_listed_its_name_is_unknown(study):
    with pytest.raises(ConfigError, match="unknown system 'mean_fusion'"):
        study.compare([NAME])
