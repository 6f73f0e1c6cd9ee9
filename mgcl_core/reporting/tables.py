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
from ..statistics import MIN_SEEDS, MIN_VIDEOS
from .cells import REFERENCE, Block, Result, compute_cells, make_block, seed_rows
from .published import RESULT_TABLES, SCHEMES, paper_models, paper_table, paper_text
from .rendering import Table

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
    return results_table(3, results, ["sims"], _system)


def table4(results: Iterable[Result]) -> Table:
    """Table 4: all systems on CMU-MOSI and CMU-MOSEI, one block below the other."""
    return results_table(4, results, ["mosi", "mosei"], _system)


def table5(results: Iterable[Result], paper_dataset: str = "sims") -> Table:
    """Table 5: ablations of MGCL, and further variants that neither Table 5 nor Table 6 of the paper has.

    The paper's are on CH-SIMS only; ``paper_dataset`` "mosi" or "mosei" shows ours there without its numbers.
    """
    elsewhere = set(paper_models(6)) - set(paper_models(5))
    return results_table(5, results, [paper_dataset], lambda r: None if r.variant in elsewhere else _variant(r))


def table6(results: Iterable[Result], paper_dataset: str = "sims") -> Table:
    """Table 6: ablations of the intensity weights; ``paper_dataset`` as in `table5`."""
    printed = paper_models(6)
    return results_table(6, results, [paper_dataset], lambda r: _variant(r) if r.variant in printed else None)


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
    title = f"Table {number}. {SUBJECTS[number]}. " + " ".join(_heading(number, block) for block in blocks)
    footer = [line for block in blocks for line in _about(block, cells)] + _legend(blocks, cells)
    verdicts = tuple(_verdict(block) for block in blocks if block.results)
    return Table(number, title, frame, bold, tuple(footer), verdicts, cells, seed_rows(blocks))


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


def corpus_label(corpus: data.Corpus) -> str:
    return f"{corpus.name} (synthetic)" if corpus.synthetic else corpus.name


def _display(
    number: int, blocks: list[Block], cells: pd.DataFrame, metrics: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame of strings and which of its cells are bold; a model is two to six lines."""
    printed = paper_models(number)
    lines, labels, bold = [], [], []
    for block in blocks:
        for model in block.models:
            rows = cells[(cells["dataset"] == block.dataset) & (cells["model"] == model)]
            of_model = rows.set_index("metric").loc[list(metrics)].reset_index().to_dict("records")
            for label, texts in _lines(number, block, model, of_model):
                labels.append((block.dataset, printed.get(model, model), label))
                lines.append(texts)
                bold.append([label.startswith("ours (") and cell["bold"] for cell in of_model])
    index = pd.MultiIndex.from_tuples(labels, names=["Dataset", "Model", "Row"])
    names = [METRIC_NAMES[metric] for metric in metrics]
    frame, mask = (pd.DataFrame(values, index=index, columns=names) for values in (lines, bold))
    return (frame, mask) if len(blocks) > 1 else (frame.droplevel("Dataset"), mask.droplevel("Dataset"))


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
        (f"ours (n={len(results)}{synthetic})", [_mean(cell) for cell in of_model]),
        ("95 % CI", [_interval(cell, "ci_low", "ci_high") for cell in of_model]),
    ]
    if not block.no_verdict:
        lines.append(("ours − paper", [_beside_paper(cell) for cell in of_model]))
    if model == REFERENCE:
        return lines if block.paired else [*lines, ("detectable", [_detectable(cell) for cell in of_model])]
    if model not in block.paired:
        return [*lines, (f"− {REFERENCE} (paired)", ["no pair"] * len(of_model))]
    return [
        *lines,
        (f"− {REFERENCE} (paired)", [_paired(cell) for cell in of_model]),
        ("p (Holm)", ["–" if np.isnan(cell["p_holm"]) else _p(cell["p_holm"]) for cell in of_model]),
        ("detectable", [_detectable(cell) for cell in of_model]),
    ]


def _number(metric: str, value: float, sign: str = "") -> str:
    """As the paper prints it: accuracies and F1 in percent with two decimals, MAE and Corr with three."""
    if np.isnan(value):
        return "NaN"
    return f"{value:{sign}.3f}" if metric in ("mae", "corr") else f"{100 * value:{sign}.2f}"


def _mean(cell: dict) -> str:
    mean = _number(cell["metric"], cell["mean"])
    return mean if np.isnan(cell["sd"]) else f"{mean} ± {_number(cell['metric'], cell['sd'])}"


def _interval(cell: dict, low: str, high: str) -> str:
    if np.isnan(cell[low]):
        return "–"
    return f"[{_number(cell['metric'], cell[low])}, {_number(cell['metric'], cell[high])}]"


def _beside_paper(cell: dict) -> str:
    if np.isnan(cell["paper"]):
        return "–"
    inside = {True: " in", False: " out", None: ""}[cell["paper_inside"]]
    return _number(cell["metric"], cell["difference"], "+") + inside


def _paired(cell: dict) -> str:
    difference = _number(cell["metric"], cell["paired_difference"], "+")
    return (
        difference if np.isnan(cell["paired_low"]) else f"{difference} {_interval(cell, 'paired_low', 'paired_high')}"
    )


def _detectable(cell: dict) -> str:
    return "–" if np.isnan(cell["detectable"]) else _number(cell["metric"], cell["detectable"])


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _heading(number: int, block: Block) -> str:
    beside = f"{block.dataset}{'' if block.dataset in RESULT_TABLES[number] else ' (not in this table of the paper)'}"
    if not block.results:
        return f"{beside}: nothing of ours was run."
    first = block.results[0]
    oracle = "" if first.selection == "validation" else f", epoch chosen by {first.selection!r}"
    verdict = f" ({block.no_verdict}, no verdict)" if block.no_verdict else ""
    return f"{beside}: ours on {first.corpus!r}{verdict}{oracle}."


def _verdict(block: Block) -> str:
    what = f"{block.no_verdict}, no verdict on a replication" if block.no_verdict else "the paper's own feature file"
    return f"{block.results[0].corpus!r} beside {block.dataset}: {what}."


def _about(block: Block, cells: pd.DataFrame) -> list[str]:
    """What the block's numbers rest on."""
    if not block.results:
        return []
    first = block.results[0]
    seeds = sorted({result.seed for result in block.results})
    synthetic = "synthetic " if first.synthetic else ""
    changed = " with changed settings" if first.changed else ""
    lines = [
        f"{block.dataset} block, ours: {len(first.ids)} test clips of {len(set(block.videos))} videos of {synthetic}"
        f"{first.corpus!r}; {len(seeds)} seeds ({', '.join(map(str, seeds))}); profile {first.profile!r}{changed} in "
        f"{' and '.join(sorted({result.precision for result in block.results}))}; epoch chosen by {first.selection!r}."
    ]
    if not block.has_words:
        lines.append(
            "Text: features of the file, read by sequence encoders in place of a text model (text_source='features'). "
            "Needs words: a system that trains a text model of its own, which reads words."
        )
    if block.no_verdict:
        lines.append(
            f"No verdict on a replication ({block.no_verdict}): the paper's numbers are on {block.dataset}'s published "
            "feature file, known here by its hash, under the profile 'paper' unchanged."
        )
    else:
        lines.append(
            "ours − paper: in / out, the paper's number lies inside / outside of where the mean of its three runs is "
            "expected: the same clips, so mean ± t·s·√(1/S + 1/3) over our S seeds (95 %)."
        )
    return lines


def _legend(blocks: Sequence[Block], cells: pd.DataFrame) -> list[str]:
    lines = [
        "Acc and F1 in percent. Paper: as printed; –: a dash in the paper; not printed: no such cell there; "
        "*: replicated by the paper's authors; not run: no finished run of ours."
    ]
    if not cells["n"].any():
        return lines
    lines += [
        "Ours: mean ± sample standard deviation over n seeds; one seed has no deviation. NaN: undefined for at least "
        "one seed, such as Corr of constant predictions.",
        "95 % CI: of the mean, for other videos and other seeds (of one seed, for other videos only). The unit is the "
        "video: each is left out once, no clip is resampled. The variances of videos and seeds are added, with "
        f"Student's t on {_degrees(cells['ci_df'])} degrees of freedom (docs/statistics.md).",
        f"–: no interval and no p, with fewer than {MIN_SEEDS} (common) seeds or {MIN_VIDEOS:g} effective videos, "
        "where neither keeps its promise.",
        "Bold: the best of a column, only if its paired difference from every other system of ours has p < .05, "
        "Holm-corrected over all such comparisons of this table.",
    ]
    if cells["pairs"].any():
        lines.append(
            f"− {REFERENCE} (paired): the row's mean minus {REFERENCE}'s over the seeds both have and the same clips, "
            f"with its 95 % interval, t on {_degrees(cells['df'])} degrees of freedom; p: two-sided, with Cochran's "
            f"critical values, Holm-corrected over the {cells['p'].count()} comparisons of this table. Detectable: the "
            "smallest true difference that this test finds four times in five, at the level that Holm holds the row's "
            "p against."
        )
    if any(block.results and not block.paired for block in blocks):
        lines.append(
            "Detectable, where there is no pair: from the system's own standard error times the square root of 2, "
            "at 5 %."
        )
    return lines


def _degrees(df: pd.Series) -> str:
    low, high = df.min(), df.max()
    if np.isnan(low):
        return "no"
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"
