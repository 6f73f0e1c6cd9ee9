"""The paper's claims: the cells that decide each, what the paper's own numbers say, and what finished runs say.

``data/paper/claims.csv`` holds them: rows of a table that should be better, rows that should be worse, metrics, and a
rule. Every (better, worse, metric) is a comparison. The criterion is the same for all and was fixed before a run was
looked at (`criterion`). The intervals and tests are those of the tables (`cells.compare`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data.corpus import BOUNDS
from ..metrics import HIGHER_IS_BETTER, METRIC_NAMES, METRICS
from ..statistics import holm, holm_levels
from .cells import ALPHA, Result, compare, make_block
from .published import DATASETS, SCHEMES, paper_file, paper_text, paper_value
from .tables import system_row, variant_row

HOLDS, CONTRADICTED, UNDECIDED = "holds here", "contradicted here", "not decided here"
#: Runs that a number of the paper is the mean of (section 4.1).
PAPER_RUNS = 3
#: The columns of the paper's ablations, which are on CH-SIMS, where labels lie in [-3, 3]; Acc-3 has none.
ELSEWHERE = {"acc2": "acc2_np", "f1": "f1_np", "acc5": "acc5", "mae": "mae", "corr": "corr"}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    - ``name``: its number; ``section``, ``quote``: where it stands, and its words; […] is ours
    - ``table``, ``dataset``: of the cells that decide it
    - ``better``, ``worse``: rows; ``metrics``: columns, keys of `regression_metrics`
    - ``points``: the differences that the text gives, one a metric (of one pair), in percent; or none
    - ``rule``: "every" comparison has to hold, or "most" of them
    """

    name: str
    section: str
    quote: str
    table: int
    dataset: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    metrics: tuple[str, ...]
    points: tuple[float, ...]
    rule: str

    @property
    def comparisons(self) -> list[tuple[str, str, str]]:
        """Every (better, worse, metric)."""
        return [(a, b, metric) for a in self.better for b in self.worse for metric in self.metrics]


def read_claims() -> list[Claim]:
    """All claims, in the paper's order."""

    def parts(text: str) -> tuple[str, ...]:
        return tuple(filter(None, text.split(";")))

    return [
        Claim(
            row.claim, row.section, row.quote, int(row.table), row.dataset, parts(row.better), parts(row.worse),
            parts(row.metrics), tuple(map(float, parts(row.points))), row.rule,
        )
        for row in paper_file("claims").itertuples()
    ]  # fmt: skip


def criterion(rule: str) -> str:
    """When a claim holds, is contradicted or stays undecided, in words."""
    enough, against = {
        "every": ("every comparison goes the claim's way", "one"),
        "most": ("more than half of the comparisons go the claim's way", "half"),
    }[rule]
    return (
        f"{HOLDS}: {enough} with p < {ALPHA:g}; {CONTRADICTED}: {against} or more of them go the other way with p < "
        f"{ALPHA:g}; else {UNDECIDED}. Seeds and clips are paired, p is Holm-corrected over all comparisons that the "
        "claims of one table make."
    )


def printed_comparisons(claims: Sequence[Claim]) -> pd.DataFrame:
    """What the paper's own numbers say of each comparison, before any run of ours.

    Returns:
        One row per comparison: ``claim``, ``table``, ``dataset``, ``better``, ``worse``, ``metric``; ``effect``, the
        difference of the printed numbers in the claim's direction (units of `regression_metrics`, NaN for a dash);
        ``predictions``, the same as a number of the predictions that an accuracy rests on (`PAPER_RUNS` times the
        clips), NaN for other metrics; ``agrees``, whether it lies in the claim's direction, None for a dash;
        ``stated`` and ``stated_agrees``: the difference that the text gives, and whether it is the tables';
        ``paper_power``: how often one comparison at 5 % on a test set like the paper's, with three seeds, finds a
        true difference of that size (``data/paper/power.csv``, simulated; .05 stands for .05 or less, .95 for more).
    """
    rows, designs = [], paper_file("power").set_index(["dataset", "pair", "metric"])
    levels = designs.columns.astype(float)
    for claim in claims:
        for a, b, metric in claim.comparisons:
            effect = _towards(metric, *(paper_value(claim.table, claim.dataset, model, metric) for model in (a, b)))
            row = {"claim": claim.name, "table": claim.table, "dataset": claim.dataset, "better": a, "worse": b}
            predicted = effect * PAPER_RUNS * clips_of(claim.dataset, metric) if metric.startswith("acc") else np.nan
            row |= {"metric": metric, "effect": effect, "predictions": predicted}
            row["agrees"] = None if np.isnan(effect) else bool(effect > 0)
            stated = claim.points[claim.metrics.index(metric)] / 100 if claim.points else np.nan
            decimals = 4 if metric not in ("mae", "corr") else 3
            row |= {"stated": stated, "stated_agrees": None}
            if not np.isnan(stated):
                row["stated_agrees"] = bool(round(effect, decimals) == round(stated, decimals))
            pair = "shared encoders" if claim.table in (5, 6) else "own encoders"
            needed = designs.loc[(claim.dataset, pair, metric)].astype(float)
            row["paper_power"] = float(np.interp(abs(effect), needed, levels))
            rows.append(row)
    return pd.DataFrame(rows)


def judge(claims: Sequence[Claim], results: Iterable[Result]) -> pd.DataFrame:
    """What finished runs say of each comparison.

    Args:
        claims: of the paper.
        results: of one corpus, of any system and variant. Claims of Tables 3 and 4 are asked of the corpus that stands
            beside their dataset; those of the ablations of any corpus, with labels in [-3, 3] by `ELSEWHERE`.

    Returns:
        One row per comparison that the corpus is asked for: ``claim``, ``better``, ``worse``, ``metric``;
        ``difference`` in the claim's direction with ``low`` and ``high``, ``p_holm``, ``detectable``, and ``power``:
        the probability that this test would have found the paper's difference. NaN where a row was not run.
    """
    results, rows = list(results), []
    paper = printed_comparisons(claims).set_index(["claim", "better", "worse", "metric"])["effect"]
    for (table, dataset), group in _by_table(claims).items():
        ablations = table in (5, 6)
        matching = [result for result in results if ablations or DATASETS[result.paper_dataset] == dataset]
        if not matching:
            continue
        scheme = matching[0].scheme
        here = {metric: metric for metric in METRICS[scheme]} if scheme == SCHEMES[dataset] else ELSEWHERE
        scale = BOUNDS[scheme] / BOUNDS[SCHEMES[dataset]]  # of MAE
        block = make_block(table, matching, matching[0].paper_dataset, variant_row if ablations else system_row)
        asked = dict.fromkeys((a, b, here[m]) for claim in group for a, b, m in claim.comparisons if m in here)
        found = compare(block, dict.fromkeys((a, b) for a, b, _ in asked), METRICS[scheme])
        estimates = {item: found[item] for item in asked if item in found}
        p_values = [estimate.p_to_correct for estimate in estimates.values()]
        corrected = dict(zip(estimates, zip(holm(p_values), holm_levels(p_values), strict=True), strict=True))
        for claim in group:
            for a, b, printed in claim.comparisons:
                if (metric := here.get(printed)) is None:
                    continue
                row = {"claim": claim.name, "better": a, "worse": b, "metric": metric}
                if (estimate := estimates.get((a, b, metric))) is not None:
                    p, level = corrected[a, b, metric]
                    ends = sorted(_towards(metric, float(end), 0) for end in estimate.interval())
                    effect = paper[claim.name, a, b, printed] * (scale if metric == "mae" else 1)
                    row |= {"difference": _towards(metric, float(estimate.value), 0), "low": ends[0], "high": ends[1]}
                    row |= {"p_holm": p, "detectable": float(estimate.detectable(level))}
                    row["power"] = float(estimate.power(effect, level))
                rows.append(row)
    columns = ["claim", "better", "worse", "metric", "difference", "low", "high", "p_holm", "detectable", "power"]
    return pd.DataFrame(rows, columns=columns)


def verdict(claim: Claim, judged: pd.DataFrame) -> tuple[str, str]:
    """The verdict on one claim by `criterion`, and why.

    Args:
        claim: of the paper.
        judged: of `judge`; rows of other claims are left out.
    """
    rows = judged[judged["claim"] == claim.name]
    if rows.empty:
        return UNDECIDED, f"a claim about {claim.dataset}"
    total, sure = len(rows), rows["p_holm"] < ALPHA
    towards, against = (int((sure & side).sum()) for side in (rows["difference"] > 0, rows["difference"] < 0))
    wanted, refuted = (total, 1) if claim.rule == "every" else (total // 2 + 1, (total + 1) // 2)
    why = f"{towards} of {total} found, {against} the other way"
    if missing := int(rows["difference"].isna().sum()):
        why += f", {missing} not run"
    elif rows["p_holm"].isna().all():
        why += "; too few seeds or videos for a p"
    if against >= refuted:
        return CONTRADICTED, why
    return (HOLDS if towards >= wanted else UNDECIDED), why


def summarise(claims: Sequence[Claim], printed: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: its words, its cells, what the tables print, the power, and the verdict.

    Args:
        claims: of the paper.
        printed: of `printed_comparisons`.
        judged: of `judge`.
    """
    rows = []
    for claim in claims:
        own, ours = printed[printed["claim"] == claim.name], judged[judged["claim"] == claim.name]
        known = own.dropna(subset=["effect"])
        said = f"{int(known['agrees'].astype(bool).sum())} of {len(known)}"
        if len(against := known[~known["agrees"].astype(bool)]):
            said += f"; not {', '.join(_short(claim, row) for row in against.itertuples())}"
        for row in own[own["stated_agrees"].eq(False)].itertuples():
            said += f"; text {100 * row.stated:g}, table {100 * row.effect:.2f}"
        decided, why = verdict(claim, judged)
        rows.append(
            {"claim": claim.name, "section": claim.section, "the paper says": claim.quote}
            | {"cells": _cells(claim), "rule": claim.rule, "as printed": said}
            | {"power (paper)": _range(known["paper_power"]), "power (here)": _range(ours["power"])}
            | {"verdict": decided, "why": why}
        )
    return pd.DataFrame(rows).set_index("claim")


def clips_of(dataset: str, metric: str) -> int:
    """Test clips that ``metric`` is computed on: NP leaves out the neutral ones."""
    row = paper_file("test_sets").set_index("dataset").loc[dataset].astype(int)
    return int(row["clips"] - (row["zero"] if metric.endswith("_np") else 0))


def _towards(metric: str, better: float, worse: float) -> float:
    """A difference in the direction in which the first is the better one."""
    return better - worse if HIGHER_IS_BETTER[metric] else worse - better


def _by_table(claims: Sequence[Claim]) -> dict[tuple[int, str], list[Claim]]:
    groups: dict[tuple[int, str], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.table, claim.dataset), []).append(claim)
    return groups


def _short(claim: Claim, row: tuple) -> str:
    texts = [paper_text(claim.table, claim.dataset, model, row.metric) for model in (row.better, row.worse)]
    return f"{METRIC_NAMES[row.metric]}: {row.better} {texts[0]}, {row.worse} {texts[1]}"


def _cells(claim: Claim) -> str:
    worse = "all others" if len(claim.worse) > 4 else ", ".join(claim.worse)
    names = ", ".join(METRIC_NAMES[metric] for metric in claim.metrics)
    return f"Table {claim.table}, {claim.dataset}: {', '.join(claim.better)} above {worse} in {names}"


def _range(power: pd.Series) -> str:
    values = power.dropna()
    if values.empty:
        return "–"
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"
