"""How a table of results reads: its lines, its numbers as the paper prints them, its heading and footer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..metrics import METRIC_NAMES
from .cells import REFERENCE, Block
from .published import RESULT_TABLES, paper_models, paper_table, paper_text


def display(
    number: int, blocks: list[Block], numbers: pd.DataFrame, metrics: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame of strings and which of its cells are bold; a model is two to six lines."""
    printed = paper_models(number)
    lines, labels, bold = [], [], []
    for block in blocks:
        mark = "†" if _differences_in_kind(number, block) else ""
        for model in block.models:
            own = numbers[(numbers["dataset"] == block.dataset) & (numbers["model"] == model)]
            of_model = own.set_index("metric").loc[list(metrics)].reset_index().to_dict("records")
            for label, texts in _lines(number, block, model, of_model, mark):
                labels.append((block.dataset, printed.get(model, model), label))
                lines.append(texts)
                bold.append([label.startswith("ours (") and cell["bold"] for cell in of_model])
    index = pd.MultiIndex.from_tuples(labels, names=["Dataset", "Model", "Row"])
    names = [METRIC_NAMES[metric] for metric in metrics]
    frame, mask = (pd.DataFrame(values, index=index, columns=names) for values in (lines, bold))
    return (frame, mask) if len(blocks) > 1 else (frame.droplevel("Dataset"), mask.droplevel("Dataset"))


def _lines(number: int, block: Block, model: str, of_model: list[dict], mark: str) -> list[tuple[str, list[str]]]:
    printed = [
        paper_text(number, block.dataset, model, cell["metric"]) if model in paper_models(number) else None
        for cell in of_model
    ]
    lines = [("paper", ["not printed" if text is None else text.replace("-", "–") for text in printed])]
    results = block.models[model]
    if not results:
        return [*lines, ("ours", ["not run"] * len(of_model))]
    synthetic = ", synthetic" if results[0].synthetic else ""
    lines += [
        (f"ours (n={len(results)}{synthetic})", [_mean(cell) for cell in of_model]),
        ("95 % CI", [_interval(cell, "ci_low", "ci_high") for cell in of_model]),
        (f"ours − paper{mark}", [_beside_paper(cell) for cell in of_model]),
    ]
    if model == REFERENCE:
        return lines
    if model not in block.paired:
        return [*lines, (f"− {REFERENCE} (paired)", ["no pair"] * len(of_model))]
    return [
        *lines,
        (f"− {REFERENCE} (paired)", [_paired(cell) for cell in of_model]),
        ("p (Holm)", ["NaN" if np.isnan(cell["p_holm"]) else _p(cell["p_holm"]) for cell in of_model]),
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
    return f"[{_number(cell['metric'], cell[low])}, {_number(cell['metric'], cell[high])}]"


def _beside_paper(cell: dict) -> str:
    if np.isnan(cell["paper"]):
        return "–"
    inside = {True: " in", False: " out", None: ""}[cell["paper_in_interval"]]
    return _number(cell["metric"], cell["difference"], "+") + inside


def _paired(cell: dict) -> str:
    difference = _number(cell["metric"], cell["paired_difference"], "+")
    return difference if difference == "NaN" else f"{difference} {_interval(cell, 'paired_low', 'paired_high')}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def heading(number: int, block: Block) -> str:
    beside = f"{block.dataset}{'' if block.dataset in RESULT_TABLES[number] else ' (not in this table of the paper)'}"
    if not block.results:
        return f"{beside}: nothing of ours was run."
    first = block.results[0]
    oracle = "" if first.selection == "validation" else f", epoch chosen by {first.selection!r}"
    return f"{beside}: ours on {'synthetic ' if first.synthetic else ''}{first.corpus!r}{oracle}."


def _differences_in_kind(number: int, block: Block) -> list[str]:
    """Why our numbers in this block are no replication of the paper's, if they are not."""
    if not block.results or block.dataset not in RESULT_TABLES[number]:
        return []
    first, reasons = block.results[0], []
    if first.synthetic:
        reasons.append(f"{first.corpus!r} is synthetic")
    elif first.corpus.lower() not in (first.role, block.dataset.lower()):
        reasons.append(f"{first.corpus!r} is not {block.dataset}")
    sizes = paper_table(1).set_index("Dataset")["#Test"].str.replace(",", "").astype(int)
    if len(first.ids) != sizes[block.dataset]:
        reasons.append(f"it has {len(first.ids)} test clips, {block.dataset} {sizes[block.dataset]}")
    if first.profile != "paper":
        reasons.append(f"profile {first.profile!r} is not the paper's Table 2")
    if first.selection != "validation":
        reasons.append(f"selection {first.selection!r} is not by validation")
    return reasons


def about(number: int, block: Block, numbers: pd.DataFrame) -> list[str]:
    """What the block's numbers rest on."""
    if not block.results:
        return []
    first = block.results[0]
    seeds = sorted({result.seed for result in block.results})
    lines = [
        f"{block.dataset} block, ours: {len(first.ids)} test clips of {'synthetic ' if first.synthetic else ''}"
        f"{first.corpus!r}; seeds {', '.join(map(str, seeds))}; profile {first.profile!r}; epoch chosen by "
        f"{first.selection!r}."
    ]
    if reasons := _differences_in_kind(number, block):
        lines.append(
            f"† Not a replication, the paper's numbers are on {block.dataset} by its settings: {'; '.join(reasons)}."
        )
    own = numbers[numbers["dataset"] == block.dataset]
    smallest = own.groupby("metric", sort=False)["detectable"].max()
    source = (
        f"the largest over the paired differences from {REFERENCE}"
        if block.paired
        else "from a system's own standard error times the square root of 2, for want of a pair"
    )
    figures = ", ".join(f"{METRIC_NAMES[metric]} {_number(metric, value)}" for metric, value in smallest.items())
    return [*lines, f"Smallest difference this test set could detect (80 % power, 5 % two-sided; {source}): {figures}."]


def legend(numbers: pd.DataFrame, resamples: int) -> list[str]:
    lines = [
        "Acc and F1 in percent. Paper: as printed; –: a dash in the paper; not printed: no such cell there; "
        "*: replicated by the paper's authors; not run: no finished run of ours."
    ]
    if not numbers["n"].any():
        return lines
    lines += [
        "Ours: mean ± sample standard deviation over n seeds; one seed has no deviation, and its interval "
        "covers the choice of clips only. NaN: undefined for at least one seed, such as Corr of constant predictions.",
        f"95 % CI: percentile bootstrap of the mean, {resamples} resamples of seeds and clips together. "
        "in / out: the paper's value lies inside / outside of it.",
        "Bold: the best of a column, only if it shares two seeds or more with every other system of ours and its "
        "paired difference from each has p < .05, Holm-corrected over all such comparisons of this table.",
    ]
    if comparisons := numbers["p"].count():
        lines.append(
            f"− {REFERENCE} (paired): the row's mean minus {REFERENCE}'s over the seeds both have and the same clips, "
            "with its 95 % bootstrap interval; p: two-sided bootstrap test, Holm-corrected over the "
            f"{comparisons} comparisons of this table."
        )
    return lines
