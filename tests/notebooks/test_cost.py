"""Notebook 13 on a small file: students, their cost, the figure and the exported folder."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.corpus_files import make_content, write

from mgcl_core import load_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_the_notebook_trains_students_measures_them_and_exports_one(tmp_path, tiny_bert, tiny_overrides):
    corpus = write(tmp_path / "clips.pkl", make_content(sizes=(24, 10, 16)))
    overrides = {**tiny_overrides, "text_model": tiny_bert, "tokens": "raw_text", "mgcl_epochs": 1}
    given = {"corpus": str(corpus), "profile": "demo", "seeds": [5], "overrides": overrides, "device": "cpu",
             "workers": 1, "results": str(tmp_path / "results")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "papermill", ROOT / "notebooks" / "13_cost.ipynb", tmp_path / "13.ipynb",
         "--no-progress-bar", "-y", yaml.safe_dump(given)],
        capture_output=True, text=True, timeout=600, cwd=tmp_path, env={**os.environ, "MGCL_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (own,) = (tmp_path / "results").glob("*/demo/changed/*")
    table = pd.read_csv(own / "tables" / "costs.csv").set_index("system")
    assert table.loc[["MGCL", "student", "student w/o teacher"], "corr"].notna().all()
    assert table.loc["student", "gflop"] < table.loc["MGCL", "gflop"] and "LF-DNN" not in table.index
    assert (own / "figures" / "13_pareto.svg").exists()
    (model,) = (own / "models").iterdir()
    assert load_model(model).predict(text="a good film")["prediction"].notna().all()
