"""The paper's claims: their words, what its own tables say, and verdicts on fake results with a known truth."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from mgcl_core.metrics import METRICS
from mgcl_core.reporting import paper_claims
from mgcl_core.reporting.cells import Result
from mgcl_core.reporting.paper_claims import CONTRADICTED, HOLDS, UNDECIDED, judge, read_claims, verdict
from mgcl_core.reporting.published import RESULT_TABLES, SCHEMES, paper_models
from mgcl_core.reporting.tables import table5

SEEDS = (1111, 1112, 1113, 1114, 1115)
CLAIMS = {claim.name: claim for claim in read_claims()}


def results(noise: dict[str, float], *, seeds=SEEDS, paper_dataset="sims", system="MGCL") -> list[Result]:
    """Fake results of MGCL's variants (or of systems): labels plus noise of a deviation each, 24 videos of 20 clips."""
    bound = 1 if paper_dataset == "sims" else 3
    y_true = np.random.default_rng(0).integers(-5, 6, 480) / 5 * bound
    made = []
    for name, deviation in noise.items():
        for seed in seeds:
            random = np.random.default_rng([seed, len(name)])
            y_pred = y_true + random.normal(0, deviation * bound, 480)
            who = (system, name) if system == "MGCL" else (name, name)
            scheme = "sims" if paper_dataset == "sims" else "mosi"
            made.append(
                Result(
                    "fake",
                    paper_dataset,
                    scheme,
                    True,
                    *who,
                    seed,
                    tuple(f"v{c % 24}$_${c}" for c in range(480)),
                    y_true,
                    y_pred,
                    f"{name}-{seed}".replace("/", ""),
                    "demo",
                )  # fmt: skip
            )
    return made


VARIANTS = {"MGCL": 0.1, "w/o CL": 1.5, "w/o C3": 0.1, "w/o uni": 1.5, "w/o fusion": 1.5, "w/o weight": 1.5}


@pytest.fixture(scope="module")
def judged():
    """All claims on results of every variant, where w/o C3 is as good as MGCL and all others are worse."""
    return judge(list(CLAIMS.values()), results(VARIANTS))


def squeezed(text: str) -> str:
    """Without spaces and hyphens, which the ends of lines add."""
    return re.sub(r"[-\s]", "", text)


def test_the_claims_name_rows_and_columns_of_their_table():
    for claim in CLAIMS.values():
        assert claim.dataset in RESULT_TABLES[claim.table]
        assert {*claim.better, *claim.worse} <= paper_models(claim.table).keys()
        assert set(claim.metrics) <= set(METRICS[SCHEMES[claim.dataset]])
        assert claim.rule in ("every", "most") and len(claim.points) in (0, len(claim.metrics))
        assert len(set(claim.comparisons)) == len(claim.comparisons)


def test_the_quotes_are_the_papers_words(shared_data):
    paper = shared_data.parent / "paper.txt"
    if not paper.is_file():
        pytest.skip(f"the paper's text is absent ({paper})")
    text = squeezed(paper.read_text(encoding="utf-8"))
    for claim in CLAIMS.values():
        for part in re.sub(r"\[.*?\]", "", claim.quote).split("…"):
            assert squeezed(part) in text, (claim.name, part)


def test_what_the_papers_own_tables_say_of_its_text():
    printed = paper_claims.printed_comparisons(list(CLAIMS.values()))
    wrong = printed[printed["stated_agrees"].eq(False)]
    assert wrong[["claim", "worse", "metric"]].to_numpy().tolist() == [["9a", "w/o fusion", "acc2"]]  # 1.33, not 2.33
    assert printed["stated_agrees"].eq(True).sum() == 4  # of claim 2
    assert wrong["effect"].item() == pytest.approx(0.0233)
    against = printed[printed["agrees"].eq(False)].groupby("claim").size()
    assert against.to_dict() == {"1": 4, "5": 4, "6": 1, "9c": 7}
    c3 = printed[(printed["claim"] == "11a") & (printed["metric"] == "acc2")]
    assert round(c3["predictions"].item()) == 4  # of 1,371
    assert printed["effect"].isna().sum() == sum(printed["agrees"].isna()) > 0  # dashes


def test_power_grows_with_the_printed_difference_and_is_never_left_out():
    printed = paper_claims.printed_comparisons(list(CLAIMS.values())).dropna(subset=["effect"])
    assert printed["paper_power"].between(0.05, 0.95).all()
    for _, rows in printed.groupby(["table", "dataset", "metric"]):
        ordered = rows.assign(size=rows["effect"].abs()).sort_values("size")["paper_power"]
        assert ordered.is_monotonic_increasing


def test_a_claim_holds_is_contradicted_or_stays_open(judged):
    decided = {name: verdict(claim, judged)[0] for name, claim in CLAIMS.items() if claim.table in (5, 6)}
    assert decided == {"8": UNDECIDED, "9a": HOLDS, "9b": UNDECIDED, "9c": UNDECIDED, "10": HOLDS, "11a": UNDECIDED,
                       "11b": HOLDS, "12": HOLDS, "13": HOLDS, "14": HOLDS}  # fmt: skip
    turned = judge([CLAIMS["8"], CLAIMS["10"]], results(VARIANTS | {"MGCL": 1.5, "w/o CL": 0.1}))
    assert verdict(CLAIMS["8"], turned)[0] == verdict(CLAIMS["10"], turned)[0] == CONTRADICTED


def test_most_of_a_claim(judged):
    most = dataclasses.replace(CLAIMS["8"], rule="most")
    assert verdict(most, judged)[0] == HOLDS  # three of four rows, so 18 of 24 comparisons
    bad = judge([most], results(VARIANTS | {"MGCL": 1.5, "w/o CL": 0.1, "w/o uni": 0.1}))
    assert verdict(most, bad)[0] == CONTRADICTED
    assert verdict(most, bad)[1].startswith("0 of 24 found, ")


def test_the_differences_are_those_of_the_tables():
    runs = results(VARIANTS)
    judged = judge([CLAIMS["8"]], runs).set_index(["worse", "metric"])
    cells = table5(runs).cells.set_index(["model", "metric"])
    for key, row in judged.iterrows():
        sign = 1 if key[1] == "mae" else -1  # the table's is the row's minus MGCL's
        assert row["difference"] == pytest.approx(sign * cells.loc[key, "paired_difference"])
        assert row["p_holm"] == pytest.approx(cells.loc[key, "p_holm"])
        assert row["detectable"] == pytest.approx(cells.loc[key, "detectable"])
        assert row["low"] <= row["difference"] <= row["high"]


def test_what_was_not_run_or_too_seldom_is_not_decided():
    claims, pair = [CLAIMS["8"], CLAIMS["10"]], {"MGCL": 0.1, "w/o CL": 1.5}
    some = judge(claims, results(pair))
    assert verdict(CLAIMS["10"], some)[0] == HOLDS
    assert verdict(CLAIMS["8"], some) == (UNDECIDED, "6 of 24 found, 0 the other way, 18 not run")
    two = judge(claims, results(pair, seeds=SEEDS[:2]))
    assert verdict(CLAIMS["10"], two) == (UNDECIDED, "0 of 6 found, 0 the other way; too few seeds or videos for a p")
    none = judge(list(CLAIMS.values()), [])
    assert none.empty and verdict(CLAIMS["4"], none) == (UNDECIDED, "a claim about CMU-MOSI")


def test_a_corpus_of_the_other_scheme_decides_table_4():
    claims = list(CLAIMS.values())
    rows = {"TFN": 1.5, "LMF": 1.5, "MGCL": 0.1}
    judged = judge(claims, [
        *results({name: noise for name, noise in rows.items() if name != "MGCL"}, paper_dataset="mosi", system="x"),
        *results({"MGCL": 0.1}, paper_dataset="mosi"),
    ])  # fmt: skip
    run = judged.dropna(subset=["difference"])
    assert set(run["claim"]) == {"4", "5", "7b"} and set(run["worse"]) == {"TFN", "LMF"}
    assert verdict(CLAIMS["7b"], judged) == (UNDECIDED, "2 of 10 found, 0 the other way, 8 not run")
    assert verdict(CLAIMS["6"], judged) == (UNDECIDED, "a claim about CMU-MOSEI")


def test_ablations_are_judged_on_labels_up_to_3_too():
    judged = judge([CLAIMS["10"], CLAIMS["2"]], results({"MGCL": 0.1, "w/o CL": 1.5}, paper_dataset="mosi"))
    assert judged["metric"].tolist() == ["acc2_np", "f1_np", "acc5", "mae", "corr"]  # and no Acc-3
    assert verdict(CLAIMS["10"], judged) == (HOLDS, "5 of 5 found, 0 the other way")
    mae = judged.set_index("metric").loc["mae"]
    narrow = judge([CLAIMS["10"]], results({"MGCL": 0.1, "w/o CL": 1.5})).set_index("metric").loc["mae"]
    assert mae["difference"] > 2.5 * narrow["difference"] and mae["power"] == pytest.approx(narrow["power"], abs=0.05)


def test_the_summary_has_a_row_a_claim_and_says_where_text_and_table_differ(judged):
    claims = list(CLAIMS.values())
    summary = paper_claims.summarise(claims, paper_claims.printed_comparisons(claims), judged)
    assert summary.index.tolist() == list(CLAIMS)
    assert summary.loc["9a", "as printed"] == "1 of 1; text 1.33, table 2.33"
    assert "F1 NP: MGCL 85.66, ConFEDE 85.74" in summary.loc["6", "as printed"]
    assert summary.loc["4", "power (here)"] == "–" and summary.loc["10", "power (here)"] != "–"
    assert all(claim.rule in ("every", "most") for claim in claims) and HOLDS in paper_claims.criterion("every")
