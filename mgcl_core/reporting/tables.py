"""The paper's tables with ours beside them, from run records (`Result`) to what a reader sees (`Table`).

`table3` to `table6` are one `comparison` each; `table1` and `table2` set our rows under the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from ..metrics import METRICS
from ..statistics import RESAMPLES, SEED
from .cells import REFERENCE, Result, cells, make_block, seed_rows
from .published import SCHEMES, paper_models, paper_table
from .rendering import about, display, heading, legend
from .table import Table

__all__ = ["Result", "Table", "comparison", "table1", "table2", "table3", "table4", "table5", "table6"]

#: Columns of the paper's tables of results.
COLUMNS = {"sims": METRICS["sims"], "mosi": ("acc2_nn", "acc2_np", "f1_nn", "f1_np", "acc7", "mae", "corr")}
SUBJECTS = {
    3: "Comparison of systems",
    4: "Comparison of systems",
    5: "Ablation study",
    6: "Ablation study of sentiment-intensity-guided contrastive learning",
}


def table1(ours: pd.DataFrame, synthetic: Iterable[str] = ()) -> Table:
    """The paper's Table 1 and below it ours, as `mgcl_core.data.corpus.table1` counts them.

    ``synthetic`` names the corpora, among ours, that this package generated.
    """
    counts = ours.map(lambda value: f"{value:,}" if isinstance(value, (int, np.integer)) else str(value))
    synthetic = set(synthetic)
    counts["Dataset"] = [f"{name} (synthetic)" if name in synthetic else name for name in counts["Dataset"]]
    return _stacked(1, "Clips of each dataset and split", paper_table(1), counts)


def table2(ours: Sequence[dict]) -> Table:
    """The paper's Table 2 and below it the settings used, one dict a row with the paper's column names.

    Other keys become further columns, "not printed" in the paper's rows.
    """
    paper = paper_table(2)
    paper["Stage"] = paper["Stage"].where(paper["Stage"] != "").ffill()
    rows = pd.DataFrame([{name: str(value) for name, value in row.items()} for row in ours])
    return _stacked(2, "Settings and hyperparameters", paper, rows)


def table3(results: Iterable[Result], **bootstrap) -> Table:
    """Table 3: all systems on CH-SIMS, from the results whose role is "sims"."""
    return comparison(3, results, ["sims"], _system, **bootstrap)


def table4(results: Iterable[Result], **bootstrap) -> Table:
    """Table 4: all systems on CMU-MOSI and CMU-MOSEI, one block below the other."""
    return comparison(4, results, ["mosi", "mosei"], _system, **bootstrap)


def table5(results: Iterable[Result], role: str = "sims", **bootstrap) -> Table:
    """Table 5: ablations of MGCL, and further variants that neither Table 5 nor Table 6 of the paper has.

    The paper's are on CH-SIMS only; ``role`` "mosi" or "mosei" shows ours there without its numbers.
    """
    elsewhere = set(paper_models(6)) - set(paper_models(5))
    return comparison(5, results, [role], lambda r: None if r.variant in elsewhere else _variant(r), **bootstrap)


def table6(results: Iterable[Result], role: str = "sims", **bootstrap) -> Table:
    """Table 6: ablations of the intensity weights; ``role`` as in `table5`."""
    own = paper_models(6)
    return comparison(6, results, [role], lambda r: _variant(r) if r.variant in own else None, **bootstrap)


def comparison(
    number: int,
    results: Iterable[Result],
    roles: Sequence[str],
    model_of: Callable[[Result], str | None],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Table:
    """Table ``number`` (3 to 6): for each role a block of models, for each model the paper's numbers and ours.

    ``model_of`` names a result's row (None leaves it out). Intervals and p-values rest on ``resamples``
    bootstrap resamples drawn from ``seed``. Raises what `make_block` and `regression_metrics` raise.
    """
    results = list(results)
    blocks = [make_block(number, results, role, model_of) for role in roles]
    metrics = COLUMNS[SCHEMES[blocks[0].dataset]]
    numbers = cells(number, blocks, metrics, resamples=resamples, seed=seed)
    frame, bold = display(number, blocks, numbers, metrics)
    title = f"Table {number}. {SUBJECTS[number]}. " + " ".join(heading(number, block) for block in blocks)
    footer = [line for block in blocks for line in about(number, block, numbers)] + legend(numbers, resamples)
    return Table(number, title, frame, bold, tuple(footer), numbers, seed_rows(blocks))


def _system(result: Result) -> str | None:
    """A row of Tables 3 and 4: a system, not MGCL's ablations."""
    ablation = result.system == REFERENCE and result.variant != REFERENCE
    return None if ablation else result.system


def _variant(result: Result) -> str | None:
    return result.variant if result.system == REFERENCE else None


def _stacked(number: int, subject: str, paper: pd.DataFrame, ours: pd.DataFrame) -> Table:
    """The paper's rows above ours, under one header that has every column of either."""
    columns = [*paper.columns, *(name for name in ours.columns if name not in paper.columns)]
    paper = paper.reindex(columns=columns, fill_value="not printed").assign(Source="paper")
    ours = ours.reindex(columns=columns, fill_value="not given").fillna("not given").assign(Source="ours")
    frame = pd.concat([paper, ours], ignore_index=True)[["Source", *columns]]
    bold = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    return Table(number, f"Table {number}. {subject}: the paper's and ours.", frame, bold)
