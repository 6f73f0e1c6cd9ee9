"""The paper's Tables 1 to 6 as printed (``data/paper/table1.csv`` to ``table6.csv``), and their numbers.

Beside them lie what belongs to the tables: the paper's test sets, its claims, and its numbers printed elsewhere.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd

from ..metrics import METRIC_NAMES, METRICS
from ..support.errors import ConfigError, nearest
from ..support.paths import shipped

#: The paper's name of each dataset and the scheme of its metrics.
DATASETS = {"sims": "CH-SIMS", "mosi": "CMU-MOSI", "mosei": "CMU-MOSEI"}
SCHEMES = {"CH-SIMS": "sims", "CMU-MOSI": "mosi", "CMU-MOSEI": "mosi"}
#: Datasets of each table of results.
RESULT_TABLES = {3: ("CH-SIMS",), 4: ("CMU-MOSI", "CMU-MOSEI"), 5: ("CH-SIMS",), 6: ("CH-SIMS",)}


def paper_table(number: int) -> pd.DataFrame:
    """Table ``number`` (1 to 6) of the paper: strings as printed, dashes and asterisks kept.

    Table 4's two header lines are one here ("CMU-MOSI Acc-2"); its Acc-2 and F1 cells hold "NN/NP".

    Raises:
        ConfigError: another number.
        RunError: the file is missing.
    """
    return _read(_path(number)).copy()


def paper_models(number: int) -> dict[str, str]:
    """Rows of Table ``number`` (3 to 6) in the paper's order: name to name as printed ("Self-MM*")."""
    return {model: row["Model"] for model, row in _rows(number).items()}


def paper_text(number: int, dataset: str, model: str, metric: str) -> str | None:
    """One number as printed, "-" for a dash, None where there is no such cell.

    Args:
        number: of the table, 3 to 6.
        dataset: a key of `SCHEMES`.
        model: one of `paper_models`.
        metric: a key of `regression_metrics` on that dataset.

    Raises:
        ConfigError: a name that is none of them.
    """
    rows = _rows(number)
    if dataset not in SCHEMES:
        raise ConfigError(f"unknown dataset {dataset!r}: {nearest(dataset, SCHEMES)}")
    if metric not in METRICS[SCHEMES[dataset]]:
        raise ConfigError(f"unknown metric {metric!r} on {dataset}: {nearest(metric, METRICS[SCHEMES[dataset]])}")
    if model not in rows:
        raise ConfigError(f"no model {model!r} in the paper's Table {number}: {nearest(model, rows)}")

    name, _, side = METRIC_NAMES[metric].partition(" ")  # "Acc-2 NN" is the left half of an "Acc-2" cell
    column = f"{dataset} {name}" if len(RESULT_TABLES[number]) > 1 else name
    if dataset not in RESULT_TABLES[number] or column not in rows[model]:
        return None
    text = rows[model][column]
    return text.split("/")[("NN", "NP").index(side)] if side else text


def paper_value(number: int, dataset: str, model: str, metric: str) -> float:
    """The number of `paper_text` in the units of `regression_metrics` (81.69 % is 0.8169), NaN where none."""
    text = paper_text(number, dataset, model, metric)
    if text is None or text == "-":
        return float("nan")
    return float(text) if metric in ("mae", "corr") else float(text) / 100


def paper_file(name: str) -> pd.DataFrame:
    """``data/paper/NAME.csv``, all cells as text: such as "test_sets", "claims" or "sources".

    Raises:
        RunError: the file is missing.
    """
    return _read(shipped("data", "paper", f"{name}.csv")).copy()


def paper_notes() -> list[str]:
    """Where the paper disagrees with itself, from ``data/paper/notes.md``."""
    lines = shipped("data", "paper", "notes.md").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def _path(number: int) -> Path:
    if number not in range(1, 7):
        raise ConfigError(f"unknown table {number!r}: the paper has Tables 1 to 6")
    return shipped("data", "paper", f"table{number}.csv")


def _rows(number: int) -> dict[str, dict[str, str]]:
    """Table ``number``, one of `RESULT_TABLES`: model without its asterisk to its cells by column."""
    if number not in RESULT_TABLES:
        raise ConfigError(f"Table {number!r} holds no results: expected 3, 4, 5 or 6")
    return _by_model(_path(number))


@functools.cache
def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@functools.cache
def _by_model(path: Path) -> dict[str, dict[str, str]]:
    return {row["Model"].rstrip("*"): row for row in _read(path).to_dict("records")}
