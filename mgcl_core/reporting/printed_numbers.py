"""What the paper's printed numbers alone say: which can be, where else they are printed, and which are equal.

An accuracy on n clips is a count over n, and the mean of R runs a count over R·n: on CH-SIMS's 457 test clips one part
in 1,371, seven times as coarse as the two decimals that are printed. Most numbers of two decimals are therefore no
mean of three runs (the GRIM test: Brown and Heathers, Social Psychological and Personality Science 8, 2017). The
same counts bound the weighted F1 that an accuracy can go with.

A number that cannot be says that something differs from what is stated: the number of runs, the clips, the rounding, or
a digit. It does not say what.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import ConvexHull

from ..metrics import METRIC_NAMES, METRICS, weighted_f1
from .paper_claims import PAPER_RUNS, clips_of
from .published import RESULT_TABLES, SCHEMES, paper_file, paper_models, paper_text

#: Slack for decimal fractions in binary.
_TINY = 1e-9


@dataclass(frozen=True)
class PrintedCell:
    """One printed number: ``text`` as it stands, ``model`` with its asterisk; ``table`` is the first that has it."""

    table: int
    dataset: str
    model: str
    metric: str
    text: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def unit(self) -> float:
        """Of its last digit."""
        return 10.0 ** -len(self.text.partition(".")[2])


def printed_cells() -> Iterator[PrintedCell]:
    """Every number of Tables 3 to 6, dashes left out; what Tables 5 and 6 print again is given once."""
    seen = set()
    for table, datasets in RESULT_TABLES.items():
        for dataset in datasets:
            for name, model in paper_models(table).items():
                for metric in METRICS[SCHEMES[dataset]]:
                    text = paper_text(table, dataset, name, metric)
                    if text not in (None, "-") and (dataset, model, metric, text) not in seen:
                        seen.add((dataset, model, metric, text))
                        yield PrintedCell(table, dataset, model, metric, text)


def accuracies(runs: int = PAPER_RUNS) -> pd.DataFrame:
    """Which printed accuracies can be the mean of ``runs`` runs on the paper's test clips.

    Returns:
        One row per cell: ``table``, ``dataset``, ``model``, ``metric``, ``printed`` (percent), ``clips``; ``nearest``:
        the nearest mean that there is; ``apart``: its distance; ``can_be``: "yes" (rounded to the nearest), "rounded
        otherwise" (cut off, rounded up, or a mean of runs that were rounded first: within one unit of the last digit)
        or "no"; ``chance`` and ``chance_otherwise``: the share of all numbers of as many decimals that would be "yes",
        and that would not be "no"; ``other_runs``: numbers of runs up to 10 for which it is "yes".
    """
    rows = []
    for cell in printed_cells():
        if cell.metric.startswith("acc"):
            clips = clips_of(cell.dataset, cell.metric)
            nearest = _nearest(cell.value, runs * clips)
            apart = abs(float(nearest) - cell.value)
            can_be = "yes" if _fits(apart, cell.unit / 2) else "rounded otherwise" if _fits(apart, cell.unit) else "no"
            others = [
                r for r in range(1, 11) if _fits(abs(_nearest(cell.value, r * clips) - cell.value), cell.unit / 2)
            ]
            rows.append(
                {"table": cell.table, "dataset": cell.dataset, "model": cell.model, "metric": METRIC_NAMES[cell.metric]}
                | {"printed": cell.text, "clips": clips, "nearest": float(nearest), "apart": apart, "can_be": can_be}
                | {"chance": _share(runs * clips, cell.unit, cell.unit / 2)}
                | {"chance_otherwise": _share(runs * clips, cell.unit, cell.unit)}
                | {"other_runs": ", ".join(map(str, others))}
            )
    return pd.DataFrame(rows)


def accuracy_counts(cells: pd.DataFrame) -> pd.DataFrame:
    """`accuracies` by dataset and row, where the test can fail at all: how many of each kind.

    Cells that any number would pass (``chance`` 1: large test sets, one decimal) are left out. ``runs that fit all``:
    numbers of runs up to 10 for which every cell of the row is "yes"; the larger, the more passes by chance.
    """
    telling = cells[cells["chance"] < 1 - _TINY]
    counts = telling.pivot_table(index=["dataset", "model"], columns="can_be", aggfunc="size", fill_value=0, sort=False)
    counts = counts.reindex(columns=["yes", "rounded otherwise", "no"], fill_value=0)
    expected = telling.groupby(["dataset", "model"], sort=False)["chance"].sum()
    fitting = telling.groupby(["dataset", "model"], sort=False)["other_runs"].agg(
        lambda texts: ", ".join(sorted(set.intersection(*(set(text.split(", ")) for text in texts)), key=_as_number))
    )
    return counts.assign(**{"yes, by chance": expected.round(1), "runs that fit all": fitting})


def f1_range(accuracy: float, negative: int, positive: int, *, swapped: bool = False) -> tuple[float, float]:
    """Smallest and largest mean weighted F1 of any number of runs whose mean accuracy is ``accuracy``.

    Args:
        accuracy: a fraction.
        negative, positive: test clips of each class.
        swapped: of F1 with labels and predictions in each other's place, which weighs the classes as predicted.
    """
    low, high = (np.interp(accuracy, *chain) for chain in _f1_hull(negative, positive, swapped))
    return float(low), float(high)


def weighted_f1s(datasets: Sequence[str] = tuple(SCHEMES)) -> pd.DataFrame:
    """Which printed F1 can go with the accuracy beside it, weighted by the labels as the paper says, and swapped.

    Args:
        datasets: of the paper; CMU-MOSEI takes the longest, some seconds.

    Returns:
        One row per cell: ``table``, ``dataset``, ``model``, ``metric``, ``accuracy`` and ``f1`` as printed; ``low`` and
        ``high``, percent, over all accuracies within a unit of the last digit; ``can_be``; the same ``…_swapped``.
    """
    sets = paper_file("test_sets").set_index("dataset").astype(int)
    cells = {(cell.dataset, cell.model, cell.metric): cell for cell in printed_cells()}
    rows = []
    for (dataset, model, metric), cell in cells.items():
        beside = cells.get((dataset, model, metric.replace("f1", "acc2")))
        if not metric.startswith("f1") or beside is None or dataset not in datasets:
            continue
        counts = sets.loc[dataset]
        negative = int(counts["negative"] + (counts["zero"] if metric == "f1" else 0))  # CH-SIMS: y <= 0
        positive = int(counts["positive"] + (counts["zero"] if metric == "f1_nn" else 0))
        row = {"table": cell.table, "dataset": dataset, "model": model, "metric": METRIC_NAMES[metric]}
        row |= {"accuracy": beside.text, "f1": cell.text}
        for swapped, name in ((False, ""), (True, "_swapped")):
            ends = [
                f1_range((beside.value + change) / 100, negative, positive, swapped=swapped)
                for change in (-beside.unit, 0, beside.unit)
            ]
            low, high = 100 * min(low for low, _ in ends), 100 * max(high for _, high in ends)
            row |= {f"low{name}": low, f"high{name}": high}
            row[f"can_be{name}"] = bool(low - cell.unit <= cell.value <= high + cell.unit)
        rows.append(row)
    return pd.DataFrame(rows)


def origins() -> pd.DataFrame:
    """Where else each number is printed (``data/paper/elsewhere.csv``), to the digit that the paper prints.

    Returns:
        One row per cell: ``table``, ``dataset``, ``model``, ``metric``, ``printed``; ``equal``: the sources that print
        it (keys of ``data/paper/sources.csv``); ``different``: those that print another number for this cell, with it;
        ``stated``: what the paper says of the row ("own": MGCL and its ablations; "replicated": an asterisk; else
        "papers or repositories"); ``origin``: "equal", "different", "not found" in what was read, or "own".
    """
    elsewhere = paper_file("elsewhere")
    rows = []
    for cell in printed_cells():
        name = cell.model.rstrip("*")
        same_cell = (elsewhere[["dataset", "model", "metric"]] == [cell.dataset, name, cell.metric]).all(axis=1)
        equal, different = [], []
        for row in elsewhere[same_cell].itertuples():
            if _fits(abs(float(row.value) - cell.value), cell.unit / 2):
                equal.append(row.source)
            else:
                different.append(f"{row.source}: {row.value}")
        own = name == "MGCL" or name.startswith("w/o")
        stated = "own" if own else "replicated" if cell.model.endswith("*") else "papers or repositories"
        origin = "own" if own else "equal" if equal else "different" if different else "not found"
        rows.append(
            {"table": cell.table, "dataset": cell.dataset, "model": cell.model, "metric": METRIC_NAMES[cell.metric]}
            | {
                "printed": cell.text,
                "stated": stated,
                "equal": ", ".join(equal),
                "different": "; ".join(different),
                "origin": origin,
            }
        )
    return pd.DataFrame(rows)


def origin_counts(cells: pd.DataFrame) -> pd.DataFrame:
    """`origins` by dataset and row: how many cells of each kind, and the sources that print equal ones."""
    by_row = cells.groupby(["dataset", "model"], sort=False)
    counts = by_row["origin"].value_counts().unstack(fill_value=0).reindex(by_row.size().index)
    counts = counts.reindex(columns=["equal", "different", "not found", "own"], fill_value=0)
    sources = by_row["equal"].agg(lambda texts: ", ".join(sorted({s for t in texts for s in t.split(", ") if s})))
    return counts.assign(sources=sources)


def equal_cells() -> pd.DataFrame:
    """Numbers that two rows of one column share, systems (Tables 3, 4) and MGCL's ablations (Tables 5, 6) apart.

    Returns:
        One row per number: ``dataset``, ``rows`` ("systems" or "ablations"), ``metric``, ``printed``, ``models``;
        ``in_column``: pairs of equal numbers in its column, and ``by_chance``: those expected of numbers from a normal
        distribution with the column's deviation.
    """
    columns: dict[tuple[str, str, str], list[PrintedCell]] = {}
    for cell in printed_cells():
        rows = "systems" if cell.table in (3, 4) else "ablations"
        columns.setdefault((cell.dataset, rows, cell.metric), []).append(cell)
        if cell.model == "MGCL" and cell.dataset == "CH-SIMS":  # stands in Tables 5 and 6 too
            columns.setdefault((cell.dataset, "ablations", cell.metric), []).append(cell)
    found = []
    for (dataset, rows, metric), cells in columns.items():
        values, unit = np.array([cell.value for cell in cells]), min(cell.unit for cell in cells)
        pairs = len(values) * (len(values) - 1) / 2
        # Two draws of N(m, s²) differ by N(0, 2s²), whose density at 0 is 1/(2s√π).
        expected = min(pairs, pairs * unit / (2 * np.sqrt(np.pi) * values.std(ddof=1)))
        groups = [[c for c in cells if c.value == value] for value in dict.fromkeys(values)]
        groups = [group for group in groups if len(group) > 1]
        count = sum(len(group) * (len(group) - 1) // 2 for group in groups)
        found += [
            {"dataset": dataset, "rows": rows, "metric": METRIC_NAMES[metric], "printed": group[0].text}
            | {"models": ", ".join(c.model for c in group), "in_column": count, "by_chance": expected}
            for group in groups
        ]
    return pd.DataFrame(found)


def _as_number(text: str) -> int:
    return int(text or 0)


def _fits(apart: float, reach: float) -> bool:
    return bool(apart <= reach + _TINY)


def _nearest(percent: float | np.ndarray, steps: int) -> np.ndarray:
    """The multiple of 100 / steps that lies nearest."""
    return np.round(np.asarray(percent) / 100 * steps) / steps * 100


@functools.cache
def _share(steps: int, unit: float, reach: float) -> float:
    """Share of 0, unit, 2·unit … 100 that lies within ``reach`` of a multiple of 100 / steps."""
    numbers = np.arange(round(100 / unit) + 1) * unit
    return float((np.abs(_nearest(numbers, steps) - numbers) <= reach + _TINY).mean())


@functools.cache
def _f1_hull(negative: int, positive: int, swapped: bool) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Lower and upper chain, as (accuracies, F1s), of the convex hull of what single runs can have.

    A mean of runs lies in it, whatever the runs are.
    """
    clips, ends = negative + positive, []
    for errors in range(clips + 1):  # of each accuracy, only the smallest and the largest F1 matter
        fn = np.arange(max(0, errors - negative), min(positive, errors) + 1)
        fp = errors - fn
        cells = {"tp": positive - fn, "tn": negative - fp} | ({"fn": fp, "fp": fn} if swapped else {"fn": fn, "fp": fp})
        f1 = weighted_f1({f"f1_{name}": values for name, values in cells.items()}, "f1")
        ends += [(1 - errors / clips, f1.min()), (1 - errors / clips, f1.max())]
    points = np.array(ends)
    corners = points[ConvexHull(points).vertices]
    corners = corners[np.lexsort((corners[:, 1], corners[:, 0]))]
    first, last = corners[0], corners[-1]
    on_line = first[1] + (corners[:, 0] - first[0]) / (last[0] - first[0]) * (last[1] - first[1])
    below, above = corners[corners[:, 1] <= on_line + _TINY], corners[corners[:, 1] >= on_line - _TINY]
    return tuple((chain[:, 0], chain[:, 1]) for chain in (below, above))


def sources(names: Sequence[str] = ()) -> pd.DataFrame:
    """What was read to find where numbers come from: one row per source of ``data/paper/sources.csv``."""
    frame = paper_file("sources").set_index("source")
    return frame.loc[list(names)] if names else frame
