"""The words of the tables of results: numbers as the paper prints them, titles, verdicts and footnotes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..statistics import MIN_SEEDS, MIN_VIDEOS
from .cells import REFERENCE, Block
from .published import RESULT_TABLES

NAN_NOTE = "NaN: undefined for at least one seed, such as Corr of constant predictions."
STARRED = "*: replicated by the paper's authors."
TUNED = "Tuned"
TUNED_NOTE = (
    "Tuned: trials of the search, on validation, that chose the system's settings (`mgcl search --system NAME`, "
    "docs/baselines.md); no: published settings, or given by hand. Only rows with equal trials had the same chance."
)
BOLD = (
    "Bold: the best of a column, only if its paired difference from every other system of ours has p < .05, "
    "Holm-corrected over all such comparisons of this table."
)


def number_text(metric: str, value: float, sign: str = "") -> str:
    """As the paper prints it: accuracies and F1 in percent with two decimals, MAE and Corr with three."""
    if np.isnan(value):
        return "NaN"
    return f"{value:{sign}.3f}" if metric in ("mae", "corr") else f"{100 * value:{sign}.2f}"


def mean_text(cell: dict) -> str:
    mean = number_text(cell["metric"], cell["mean"])
    return mean if np.isnan(cell["sd"]) else f"{mean} ± {number_text(cell['metric'], cell['sd'])}"


def interval_text(cell: dict, low: str, high: str) -> str:
    if np.isnan(cell[low]):
        return "–"
    return f"[{number_text(cell['metric'], cell[low])}, {number_text(cell['metric'], cell[high])}]"


def beside_paper(cell: dict) -> str:
    if np.isnan(cell["paper"]):
        return "–"
    inside = {True: " in", False: " out", None: ""}[cell["paper_inside"]]
    return number_text(cell["metric"], cell["difference"], "+") + inside


def paired_text(cell: dict) -> str:
    difference = number_text(cell["metric"], cell["paired_difference"], "+")
    return (
        difference
        if np.isnan(cell["paired_low"])
        else f"{difference} {interval_text(cell, 'paired_low', 'paired_high')}"
    )


def detectable_text(cell: dict) -> str:
    return "–" if np.isnan(cell["detectable"]) else number_text(cell["metric"], cell["detectable"])


def tuned_text(block: Block, model: str) -> str:
    """Whether a search chose the settings of a model that was run: by how many trials, or "no"."""
    trials = {result.tuned for result in block.models[model]}
    return " and ".join(f"{count} trials" if count else "no" for count in sorted(trials))


def p_text(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def heading(number: int, block: Block) -> str:
    beside = f"{block.dataset}{'' if block.dataset in RESULT_TABLES[number] else ' (not in this table of the paper)'}"
    if not block.results:
        return f"{beside}: nothing of ours was run."
    first = block.results[0]
    oracle = "" if first.selection == "validation" else f", epoch chosen by {first.selection!r}"
    verdict = f" ({block.no_verdict}, no verdict)" if block.no_verdict else ""
    return f"{beside}: ours on {first.corpus!r}{verdict}{oracle}."


def verdict(block: Block, cells: pd.DataFrame) -> str:
    """Whether the block says anything about a replication of the paper, and what."""
    beside = f"{block.results[0].corpus!r} beside {block.dataset}"
    if block.no_verdict:
        return f"{beside}: {block.no_verdict}, no verdict on a replication."
    inside = cells[(cells["dataset"] == block.dataset) & (cells["model"] == REFERENCE)]["paper_inside"].dropna()
    if inside.empty:
        return f"{beside}: the paper's own feature file, too few seeds of {REFERENCE} for a verdict."
    return (
        f"{beside}: the paper's own feature file; {int(inside.sum())} of the paper's {len(inside)} numbers of "
        f"{REFERENCE} lie where the mean of its three runs is expected, judged by ours."
    )


def about(block: Block) -> list[str]:
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


def legend(blocks: Sequence[Block], cells: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """A sentence for each mark that stands in the table."""
    paper = frame.xs("paper", level="Row")
    ours = frame.drop("paper", level="Row")
    marks = {
        "–": "–: a dash in the paper" if shows(paper, "–") else "",
        "not printed": "not printed: no such cell there" if shows(paper, "not printed") else "",
        "*": STARRED.removesuffix(".") if shows(frame, "*") else "",
        "not run": "not run: no finished run of ours" if shows(frame, "not run") else "",
    }
    lines = [f"Acc and F1 in percent. {'; '.join(['Paper: as printed', *filter(None, marks.values())])}."]
    if not cells["n"].any():
        return lines
    lines += [
        "Ours: mean ± sample standard deviation over n seeds; one seed has no deviation.",
        "95 % CI: of the mean, for other videos and other seeds (of one seed, for other videos only). The unit is the "
        "video: each is left out once, no clip is resampled. The variances of videos and seeds are added, with "
        f"Student's t on {_degrees(cells['ci_df'])} degrees of freedom (docs/statistics.md).",
    ]
    if TUNED in frame:
        lines.append(TUNED_NOTE)
    if shows(ours, "NaN"):
        lines.append(NAN_NOTE)
    if shows(ours, "–"):
        lines.append(
            f"–: no interval and no p, with fewer than {MIN_SEEDS} (common) seeds or {MIN_VIDEOS:g} effective videos, "
            "where neither keeps its promise."
        )
    if shows(ours, "no pair"):
        lines.append(f"no pair: no seed that {REFERENCE} has too.")
    if cells["bold"].any():
        lines.append(BOLD)
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


def compact_marks(cells: pd.DataFrame) -> dict[str, str]:
    return {
        "±": "Mean ± sample standard deviation over seeds; Acc and F1 in percent.",
        "†": f"†: differs from {REFERENCE} over the same seeds and clips with p < .05, Holm-corrected over the "
        f"{cells['p'].count()} comparisons of this table.",
        "NaN": NAN_NOTE,
        "*": STARRED,
        "not printed": "not printed: the paper has no such cell.",
    }


def shows(frame: pd.DataFrame, mark: str) -> bool:
    """Whether a mark stands in a cell of a table or in the name of a row."""
    in_cells = frame.map(lambda text: mark in text).any(axis=None)
    return bool(in_cells) or any(mark in str(label) for labels in frame.index for label in np.atleast_1d(labels))
