"""The paper's Tables 1 to 6 with ours beside them, from results (`Result`) to what a reader sees (`Table`).

`table3` to `table6` are one `results_table` each: a model is two to six lines of text, numbers as the paper prints
them, with what they rest on in the title and the footer. `table1` and `table2` set our rows under the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import data
from ..experiments.registry import SYSTEMS, needs_words
from ..metrics import METRIC_NAMES, METRICS
from .cells import ALPHA, REFERENCE, Block, Result, compute_cells, make_block, seed_rows
from .published import SCHEMES, paper_models, paper_table, paper_text
from .rendering import Table
from .wording import (
    BOLD,
    TUNED,
    TUNED_NOTE,
    about,
    beside_paper,
    compact_marks,
    detectable_text,
    heading,
    interval_text,
    legend,
    mean_text,
    p_text,
    paired_text,
    shows,
    tuned_text,
    verdict,
)

#: Columns of the paper's tables of results.
COLUMNS = {"sims": METRICS["sims"], "mosi": ("acc2_nn", "acc2_np", "f1_nn", "f1_np", "acc7", "mae", "corr")}
SUBJECTS = {
    3: "Comparison of systems",
    4: "Comparison of systems",
    5: "Ablation study",
    6: "Ablation study of sentiment-intensity-guided contrastive learning",
}


#: Rows of systems that cannot run on features of the text alone.
_NEED_WORDS = {entry.title for name, entry in SYSTEMS.items() if needs_words(name)}


def table1(corpora: Sequence[data.Corpus]) -> Table:
    """The paper's Table 1 and below it the clips of ``corpora``."""
    counts = data.table1(list(corpora)).map(lambda value: f"{value:,}" if isinstance(value, int) else value)
    counts["Dataset"] = [corpus_label(corpus) for corpus in corpora]
    return _stacked(1, "Clips of each dataset and split", paper_table(1), counts)


def table2(settings: Sequence[Mapping[str, Any]]) -> Table:
    """The paper's Table 2 and below it the settings used.

    Args:
        settings: a row each, by the paper's column names; other keys become further columns, "not printed" in the
            paper's rows.
    """
    paper = paper_table(2)
    paper["Stage"] = paper["Stage"].where(paper["Stage"] != "").ffill()
    rows = pd.DataFrame([{name: str(value) for name, value in row.items()} for row in settings])
    return _stacked(2, "Settings and hyperparameters", paper, rows)


def table3(results: Iterable[Result]) -> Table:
    """Table 3: all systems on CH-SIMS, from the results that stand beside "sims"."""
    return results_table(3, results, ["sims"], system_row)


def table4(results: Iterable[Result]) -> Table:
    """Table 4: all systems on CMU-MOSI and CMU-MOSEI, one block below the other."""
    return results_table(4, results, ["mosi", "mosei"], system_row)


def table5(results: Iterable[Result], paper_dataset: str = "sims") -> Table:
    """Table 5: ablations of MGCL, and further variants that neither Table 5 nor Table 6 of the paper has.

    The paper's are on CH-SIMS only; ``paper_dataset`` "mosi" or "mosei" shows ours there without its numbers.
    """
    elsewhere = set(paper_models(6)) - set(paper_models(5))
    return results_table(5, results, [paper_dataset], lambda r: None if r.variant in elsewhere else variant_row(r))


def table6(results: Iterable[Result], paper_dataset: str = "sims") -> Table:
    """Table 6: ablations of the intensity weights; ``paper_dataset`` as in `table5`."""
    printed = paper_models(6)
    return results_table(6, results, [paper_dataset], lambda r: variant_row(r) if r.variant in printed else None)


def results_table(
    number: int, results: Iterable[Result], paper_datasets: Sequence[str], model_of: Callable[[Result], str | None]
) -> Table:
    """Table ``number``: for each dataset of the paper a block of models, for each model the paper's numbers and ours.

    Args:
        number: 3 to 6.
        results: of any dataset; those of others are left out.
        paper_datasets: the datasets of the paper that the blocks stand beside.
        model_of: names a result's row; None leaves the result out.

    Raises:
        RunError: what `make_block` and `regression_metrics` refuse.
    """
    results = list(results)
    blocks = [make_block(number, results, paper_dataset, model_of) for paper_dataset in paper_datasets]
    metrics = COLUMNS[SCHEMES[blocks[0].dataset]]
    cells = compute_cells(number, blocks, metrics)
    frame, bold = _display(number, blocks, cells, metrics)
    title = f"Table {number}. {SUBJECTS[number]}. " + " ".join(heading(number, block) for block in blocks)
    footer = [line for block in blocks for line in about(block)] + legend(blocks, cells, frame)
    verdicts = tuple(verdict(block, cells) for block in blocks if block.results)
    compact = _compact(number, title, blocks, cells, metrics)
    return Table(number, title, frame, bold, tuple(footer), verdicts, compact=compact, cells=cells,
                 seed_rows=seed_rows(blocks))  # fmt: skip


def system_row(result: Result) -> str | None:
    """A row of Tables 3 and 4: a system, not MGCL's ablations."""
    ablation = result.system == REFERENCE and result.variant != REFERENCE
    return None if ablation else result.system


def variant_row(result: Result) -> str | None:
    """A row of Tables 5 and 6: a variant of MGCL."""
    return result.variant if result.system == REFERENCE else None


def _stacked(number: int, subject: str, paper: pd.DataFrame, ours: pd.DataFrame) -> Table:
    """The paper's rows above ours, under one header that has every column of either."""
    columns = [*paper.columns, *(name for name in ours.columns if name not in paper.columns)]
    paper = paper.reindex(columns=columns, fill_value="not printed").assign(Source="paper")
    ours = ours.reindex(columns=columns, fill_value="not given").fillna("not given").assign(Source="ours")
    frame = pd.concat([paper, ours], ignore_index=True)[["Source", *columns]]
    bold = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    marks = {"not printed": "the paper has no such column", "not given": "ours have no such value"}
    footer = [f"{mark}: {meaning}." for mark, meaning in marks.items() if (frame == mark).any(axis=None)]
    return Table(number, f"Table {number}. {subject}: the paper's and ours.", frame, bold, tuple(footer))


def corpus_label(corpus: data.Corpus) -> str:
    return f"{corpus.name} (synthetic)" if corpus.synthetic else corpus.name


def _display(
    number: int, blocks: list[Block], cells: pd.DataFrame, metrics: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame of strings and which of its cells are bold; a model is two to six lines."""
    printed = paper_models(number)
    lines, labels, bold, tuned = [], [], [], []
    for block in blocks:
        for model in block.models:
            rows = cells[(cells["dataset"] == block.dataset) & (cells["model"] == model)]
            of_model = rows.set_index("metric").loc[list(metrics)].reset_index().to_dict("records")
            for label, texts in _lines(number, block, model, of_model):
                labels.append((block.dataset, printed.get(model, model), label))
                lines.append(texts)
                bold.append([label.startswith("ours (") and cell["bold"] for cell in of_model])
                tuned.append(tuned_text(block, model) if label.startswith("ours (n=") else "")
    index = pd.MultiIndex.from_tuples(labels, names=["Dataset", "Model", "Row"])
    names = [METRIC_NAMES[metric] for metric in metrics]
    frame, mask = (pd.DataFrame(values, index=index, columns=names) for values in (lines, bold))
    if compares_systems(number, blocks):
        frame[TUNED], mask[TUNED] = tuned, False
    return (frame, mask) if len(blocks) > 1 else (frame.droplevel("Dataset"), mask.droplevel("Dataset"))


def _compact(number: int, title: str, blocks: list[Block], cells: pd.DataFrame, metrics: Sequence[str]) -> Table:
    """One row per model that was run, mean ± deviation, and a footnote for each mark in it.

    The paper's row stands below ours where the two can be compared (`Block.no_verdict`).
    """
    several, rows, bold, tuned, footer = len(blocks) > 1, {}, [], [], []
    for block in blocks:
        printed = paper_models(number)
        for model, results in block.models.items():
            if not results:
                continue
            label = (block.dataset, model) if several else model
            of_model = cells[(cells["dataset"] == block.dataset) & (cells["model"] == model)].set_index("metric")
            of_model = of_model.loc[list(metrics)].reset_index().to_dict("records")
            rows[label] = [mean_text(cell) + ("†" if cell["p_holm"] < ALPHA else "") for cell in of_model]
            bold.append([cell["bold"] for cell in of_model])
            tuned.append(tuned_text(block, model))
            if model in printed and not block.no_verdict:
                texts = [paper_text(number, block.dataset, model, cell["metric"]) for cell in of_model]
                name = f"{printed[model]}, paper"
                rows[(block.dataset, name) if several else name] = [text or "not printed" for text in texts]
                bold.append([False] * len(metrics))
                tuned.append("")
        footer += about(block)[:1]
    names = [METRIC_NAMES[metric] for metric in metrics]
    index = pd.MultiIndex.from_tuples(rows, names=["Dataset", "Model"]) if several else pd.Index(rows, name="Model")
    frame = pd.DataFrame(list(rows.values()), index=index, columns=names, dtype=object)
    footer += [meaning for mark, meaning in compact_marks(cells).items() if shows(frame, mark)]
    if any(map(any, bold)):
        footer.append(BOLD)
    for block in blocks:
        missing = [model for model, results in block.models.items() if not results]
        if missing:
            footer.append(f"Not run{f' on {block.dataset}' if several else ''}: {', '.join(missing)}.")
    mask = pd.DataFrame(bold, index=index, columns=names, dtype=bool)
    if compares_systems(number, blocks):
        frame[TUNED], mask[TUNED] = tuned, False
        footer.append(TUNED_NOTE)
    return Table(number, title, frame, mask, tuple(footer), suffix="-compact")


def compares_systems(number: int, blocks: Sequence[Block]) -> bool:
    """Whether it is a table of systems, and more than one was run: then it says which were tuned."""
    return number in (3, 4) and any(len([results for results in b.models.values() if results]) > 1 for b in blocks)


def _lines(number: int, block: Block, model: str, of_model: list[dict]) -> list[tuple[str, list[str]]]:
    printed = [
        paper_text(number, block.dataset, model, cell["metric"]) if model in paper_models(number) else None
        for cell in of_model
    ]
    lines = [("paper", ["not printed" if text is None else text.replace("-", "–") for text in printed])]
    results = block.models[model]
    if not results:
        why = "needs words" if not block.has_words and model in _NEED_WORDS else "not run"
        return [*lines, ("ours", [why] * len(of_model))]
    synthetic = ", synthetic" if results[0].synthetic else ""
    lines += [
        (f"ours (n={len(results)}{synthetic})", [mean_text(cell) for cell in of_model]),
        ("95 % CI", [interval_text(cell, "ci_low", "ci_high") for cell in of_model]),
    ]
    if not block.no_verdict:
        lines.append(("ours − paper", [beside_paper(cell) for cell in of_model]))
    if model == REFERENCE:
        return lines if block.paired else [*lines, ("detectable", [detectable_text(cell) for cell in of_model])]
    if model not in block.paired:
        return [*lines, (f"− {REFERENCE} (paired)", ["no pair"] * len(of_model))]
    return [
        *lines,
        (f"− {REFERENCE} (paired)", [paired_text(cell) for cell in of_model]),
        ("p (Holm)", ["–" if np.isnan(cell["p_holm"]) else p_text(cell["p_holm"]) for cell in of_model]),
        ("detectable", [detectable_text(cell) for cell in of_model]),
    ]
