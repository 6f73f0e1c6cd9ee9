"""Tables of results from fake, synthetic predictions of a fixed seed."""

from __future__ import annotations

import csv
import dataclasses
import html
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mgcl_core.metrics import METRICS, regression_metrics
from mgcl_core.reporting.cells import Result, compute_cells, make_block
from mgcl_core.reporting.published import paper_table
from mgcl_core.reporting.tables import table1, table2, table3, table4, table5, table6
from mgcl_core.statistics import bootstrap_interval, holm, paired_difference
from mgcl_core.support.errors import RunError

GOLDEN = Path(__file__).parent / "golden" / "table5.tex"
SEEDS = (1111, 1112, 1113)
FAST = {"resamples": 400, "seed": 0}


def fake(
    system="MGCL", variant="MGCL", *, noise=0.3, seeds=SEEDS, paper_dataset="sims", clips=60, constant=False, **changes
):
    """Results of fake predictions: synthetic labels plus noise, the same for the same arguments."""
    bound = 1 if paper_dataset == "sims" else 3
    y_true = np.random.default_rng(0).integers(-5, 6, clips) / 5 * bound
    results = []
    for seed in seeds:
        random = np.random.default_rng([seed, int(1000 * noise), len(system + variant)])
        y_pred = np.full(clips, 0.1) if constant else y_true + random.normal(0, noise * bound, clips)
        scheme = "sims" if paper_dataset == "sims" else "mosi"
        ids = tuple(f"video$_${clip}" for clip in range(clips))
        result = Result("fake", paper_dataset, scheme, True, system, variant, seed, ids, y_true, y_pred,
                        f"{system}-{variant}-{seed}".replace("/", ""), "demo")  # fmt: skip
        results.append(dataclasses.replace(result, **changes))
    return results


def cell(table, model, metric):
    return table.cells.query("model == @model and metric == @metric").iloc[0]


# --- numbers -----------------------------------------------------------------------------------------------------


def test_cells_hold_the_statistics_of_the_runs():
    full, without = fake(noise=0.3), fake(variant="w/o CL", noise=0.5)
    table = table5(full + without, **FAST)
    y_true = full[0].y_true
    a, b = (np.stack([r.y_pred for r in results]) for results in (without, full))
    interval = bootstrap_interval(y_true, a, "sims", **FAST)
    paired = paired_difference(y_true, a, b, "sims", **FAST)
    for metric in METRICS["sims"]:
        values = [regression_metrics(y_true, row, "sims")[metric] for row in a]
        row = cell(table, "w/o CL", metric)
        assert (row["mean"], row["sd"], row["n"]) == pytest.approx((np.mean(values), np.std(values, ddof=1), 3))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval[metric].low, interval[metric].high))
        assert row["difference"] == pytest.approx(np.mean(values) - row["paper"])
        assert row["paper_in_interval"] == (interval[metric].low <= row["paper"] <= interval[metric].high)
        assert row["paired_difference"] == pytest.approx(paired[metric].estimate)
        assert (row["paired_low"], row["paired_high"]) == pytest.approx((paired[metric].low, paired[metric].high))
        assert row["p"] == paired[metric].p
        assert row["detectable"] == pytest.approx(2.801585 * paired[metric].standard_error, rel=1e-5)
        assert row["runs"] == "MGCL-wo CL-1111;MGCL-wo CL-1112;MGCL-wo CL-1113"
    np.testing.assert_allclose(table.cells["p_holm"], holm(table.cells["p"]))
    assert cell(table, "MGCL", "mae")[["pairs", "p"]].isna().tolist() == [False, True]


def test_every_seed_has_its_row():
    full = fake()
    rows = table3(full, **FAST).seed_rows
    assert rows["seed"].tolist() == list(SEEDS)
    assert rows["run"].tolist() == [r.run for r in full]
    assert rows["synthetic"].all()
    for (_, row), result in zip(rows.iterrows(), full, strict=True):
        expected = regression_metrics(result.y_true, result.y_pred, "sims")
        assert {name: row[name] for name in expected} == expected


def test_pairs_are_of_common_seeds_only():
    table = table5(fake() + fake(variant="w/o CL", seeds=(1112, 2000)), **FAST)
    assert cell(table, "w/o CL", "mae")["pairs"] == 1
    other = table5(fake() + fake(variant="w/o CL", seeds=(2000,)), **FAST)
    assert cell(other, "w/o CL", "mae")["pairs"] == 0
    assert (other.frame.loc[("w/o CL", "− MGCL (paired)")] == "no pair").all()


def bold(table):
    return {(row["model"], row["metric"]) for _, row in table.cells.iterrows() if row["bold"]}


def test_bold_is_the_best_beyond_noise_against_every_other():
    clear = table5(fake(noise=0.1) + fake(variant="w/o CL", noise=0.8), **FAST)
    assert {("MGCL", "mae"), ("MGCL", "corr")} <= bold(clear)
    assert all(model == "MGCL" for model, _ in bold(clear))
    better_without = table5(fake(noise=0.8) + fake(variant="w/o CL", noise=0.1), **FAST)
    assert ("w/o CL", "mae") in bold(better_without)
    # A third system inside the noise of the best takes all bold away.
    crowded = table5(fake(noise=0.1) + fake(variant="w/o CL", noise=0.8) + fake(variant="w/o C3", noise=0.101), **FAST)
    assert bold(crowded) == set()
    assert bold(table5(fake(noise=0.1), **FAST)) == set()  # nothing to compare with
    one_seed = fake(noise=0.1, seeds=(1111,)) + fake(variant="w/o CL", noise=0.8, seeds=(1111,))
    assert bold(table5(one_seed, **FAST)) == set()
    constant = fake(noise=0.1) + fake(variant="w/o CL", constant=True)
    assert ("MGCL", "corr") not in bold(table5(constant, **FAST))  # no difference from an undefined Corr


def test_bold_cells_are_those_displayed_bold():
    table = table5(fake(noise=0.1) + fake(variant="w/o CL", noise=0.8), **FAST)
    count = len(bold(table))
    assert count > 0
    assert table.bold.to_numpy().sum() == count
    assert table.to_latex().count(r"\textbf") == table.to_html().count("<b>") == count


def test_rows_follow_the_paper_and_others_come_after():
    table = table3(fake() + fake("text only", "text only") + fake("Self-MM", "Self-MM"), **FAST)
    models = list(dict.fromkeys(table.frame.index.get_level_values("Model")))
    assert models == [*paper_table(3)["Model"], "text only"]
    assert (table.frame.loc[("text only", "paper")] == "not printed").all()
    assert (table.frame.loc[("LF-DNN", "ours")] == "not run").all()
    assert table.frame.loc[("MISA", "paper"), "Acc-3"] == "–"


def test_ablations_go_to_their_own_tables():
    results = [r for variant in ("MGCL", "w/o CL", "w/o weight", "micro=pooled") for r in fake(variant=variant)]
    results += fake("Self-MM", "Self-MM")
    ran = {n: t.cells.query("n > 0")["model"].unique().tolist() for n, t in
           ((3, table3(results, **FAST)), (5, table5(results, **FAST)), (6, table6(results, **FAST)))}  # fmt: skip
    assert ran == {3: ["Self-MM", "MGCL"], 5: ["w/o CL", "MGCL", "micro=pooled"], 6: ["w/o CL", "w/o weight", "MGCL"]}


def test_table4_has_two_blocks_and_both_partitions():
    table = table4(
        fake(paper_dataset="mosi") + fake(paper_dataset="mosei", clips=40, corpus="other", synthetic=False), **FAST
    )
    assert list(table.frame.columns) == ["Acc-2 NN", "Acc-2 NP", "F1 NN", "F1 NP", "Acc-7", "MAE", "Corr"]
    assert list(dict.fromkeys(table.frame.index.get_level_values("Dataset"))) == ["CMU-MOSI", "CMU-MOSEI"]
    assert table.frame.loc[("CMU-MOSI", "MFN", "paper")].tolist()[:4] == ["77.4", "–", "77.3", "–"]
    assert table.frame.loc[("CMU-MOSI", "MGCL", "ours (n=3, synthetic)")].str.contains("±").all()
    assert table.frame.loc[("CMU-MOSEI", "MGCL", "ours (n=3)")].str.contains("±").all()
    assert "CMU-MOSI: ours on synthetic 'fake'" in table.title
    assert "acc5" in table.seed_rows


def test_ablations_beside_a_dataset_that_the_paper_has_none_on():
    table = table5(
        fake(paper_dataset="mosi") + fake(variant="w/o CL", paper_dataset="mosi"), paper_dataset="mosi", **FAST
    )
    assert "CMU-MOSI (not in this table of the paper)" in table.title
    assert (table.frame.xs("paper", level="Row") == "not printed").all(axis=None)
    assert not any("†" in text for text in (*table.frame.index.get_level_values("Row"), *table.footer))


def test_what_is_no_replication_says_so():
    def note(**changes):
        table = table3(fake(**changes), **FAST)
        lines = [line for line in table.footer if line.startswith("†")]
        marked = ("MGCL", "ours − paper†") in table.frame.index
        assert marked == bool(lines)
        return " ".join(lines)

    assert "'fake' is synthetic" in note()
    assert "'context_8' is not CH-SIMS" in note(synthetic=False, corpus="context_8")
    assert "60 test clips, CH-SIMS 457" in note(synthetic=False, corpus="sims")
    assert "profile 'demo'" in note(synthetic=False, corpus="sims", clips=457)
    assert "'oracle' is not by validation" in note(synthetic=False, corpus="sims", clips=457, profile="paper",
                                                   selection="oracle")  # fmt: skip
    assert note(synthetic=False, corpus="CH-SIMS", clips=457, profile="paper") == ""
    assert "epoch chosen by 'oracle'" in table3(fake(selection="oracle"), **FAST).title


def test_nothing_run_is_a_table_all_the_same():
    for table in (table3([]), table4([]), table5([]), table6([])):
        assert "nothing of ours was run" in table.title
        assert (table.frame.xs("ours", level="Row") == "not run").all(axis=None)
        assert not table.bold.any(axis=None)
        assert len(table.seed_rows) == 0
        assert len(table.footer) == 1
        assert table.to_latex().count(" & paper & ") == len(table.frame) / 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"corpus": "else"}, "one corpus"),
        ({"profile": "paper"}, "one profile"),
        ({"selection": "oracle"}, "one selection"),
        ({"synthetic": False}, "one synthetic"),
        ({"ids": tuple(map(str, range(60)))}, "same test clips"),
        ({"y_true": np.zeros(60)}, "same test clips"),
        ({"y_pred": np.zeros(59)}, "59 predictions"),
        ({"scheme": "mosi"}, "needs scheme 'sims'"),
        ({"variant": "MGCL"}, "two runs of 'MGCL' with seed 1111"),
    ],
)
def test_results_that_cannot_stand_in_one_block(other, message):
    with pytest.raises(RunError, match=message):
        table5(fake() + fake(**{"variant": "w/o CL", **other}), **FAST)


def test_unknown_role():
    with pytest.raises(RunError, match="did you mean 'mosi'"):
        table5([], paper_dataset="mosy")


def test_detectable_without_a_pair_is_from_the_own_error():
    block = make_block(5, fake(), "sims", lambda r: r.variant)
    frame = compute_cells(5, [block], ["mae"], **FAST).set_index("model")
    own = bootstrap_interval(block.results[0].y_true, np.stack([r.y_pred for r in block.results]), "sims", **FAST)
    assert frame.loc["MGCL", "detectable"] == pytest.approx(2.801585 * math.sqrt(2) * own["mae"].standard_error)


# --- Tables 1 and 2 ----------------------------------------------------------------------------------------------


def test_table1_sets_ours_below_the_papers(tiny_corpus):
    corpus = dataclasses.replace(tiny_corpus, name="a$b", synthetic=True, language="English")
    table = table1([corpus])
    sizes = [str(len(split)) for split in corpus.splits]
    assert table.frame.iloc[-1].tolist() == ["ours", "a$b (synthetic)", *sizes, str(sum(map(int, sizes))), "English"]
    assert table.frame.iloc[0].tolist() == ["paper", *paper_table(1).iloc[0]]
    assert r"\#Train" in table.to_latex() and r"a\$b (synthetic)" in table.to_latex()


def test_table2_sets_ours_below_the_papers():
    row = {"Stage": "Multimodal", "Dataset": "demo", "Model / Encoder": "MGCL", "Epochs": 3, "Seeds": "1111"}
    table = table2([row, {**row, "Epochs": 4, "Batch Size": 8}])
    assert table.frame["Stage"].tolist()[:9] == ["Unimodal"] * 6 + ["Multimodal"] * 3
    last = table.frame.iloc[-2]
    assert (last["Source"], last["Epochs"], last["Batch Size"], last["Seeds"]) == ("ours", "3", "not given", "1111")
    assert (table.frame.iloc[:9]["Seeds"] == "not printed").all()


# --- rendering ---------------------------------------------------------------------------------------------------


def golden_table():
    """Table 5 of fake predictions: three seeds, one seed, constant predictions (Corr NaN), one variant not run."""
    return table5(
        fake(noise=0.1)
        + fake(variant="w/o CL", noise=0.8)
        + fake(variant="w/o C3", noise=0.12, seeds=(1111,))
        + fake(variant="w/o uni", constant=True),
        **FAST,
    )


def test_golden_latex():
    text = golden_table().to_latex()
    if os.environ.get("MGCL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def from_latex(text: str) -> str:
    text = re.sub(r"\\textbf\{(.*)\}$", r"\1", text)
    for latex, plain in ((r"$\pm$", "±"), (r"$^\dagger$", "†"), (r"\%", "%"), (r"$<$", "<"), ("$+$", "+"), ("--", "–")):
        text = text.replace(latex, plain)
    return text


class Rows(HTMLParser):
    """The cells' texts of each row of the body of an HTML table."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text.split("<tbody>")[1].split("</tbody>")[0])

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self.inside = self.inside or tag in ("td", "th")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1].append(data)


def test_latex_html_and_csv_say_the_same(tmp_path):
    table = golden_table()
    assert table.save(tmp_path) is table
    names = ["table5.csv", "table5.tex", "table5_cells.csv", "table5_notes.txt", "table5_seeds.csv"]
    folder = tmp_path / "tables"
    assert sorted(path.name for path in folder.iterdir()) == names
    with (folder / "table5.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["Model", "Row", "Acc-2", "F1", "Acc-3", "Acc-5", "MAE", "Corr"]
    assert (folder / "table5.tex").read_text(encoding="utf-8") == table.to_latex()

    body = [line[: -len(r" \\")].split(" & ") for line in table.to_latex().splitlines() if line.endswith(r" \\")]
    latex = [[from_latex(text) for text in line[1:]] for line in body[2:]]
    hyphen = [[text.replace("−", "-") for text in row[1:]] for row in rows]
    assert [[text.replace("$-$", "-") for text in row] for row in latex] == hyphen

    columns = len(header) - 1
    assert [row[-columns:] for row in Rows(table.to_html()).rows] == [row[1:] for row in rows]
    notes = (folder / "table5_notes.txt").read_text(encoding="utf-8").splitlines()
    assert notes == [table.title, *table.footer]
    for sentence in table.footer:
        assert html.escape(sentence) in table.to_html()


def test_what_looks_like_markup_is_shown_as_it_is():
    name = r"a$b_c & <i>50 %</i> #{x}~^\ ±"
    table = table3(fake(system=name, variant=name), **FAST)
    escaped = r"a\$b\_c \& $<$i$>$50 \%$<$/i$>$ \#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    assert escaped in table.to_latex() and name not in table.to_latex()
    assert html.escape(name) in table.to_html() and "<i>" not in table.to_html()
    assert name in table.rows_of(name).index.get_level_values("Model")


def test_csv_of_cells_reads_back(tmp_path):
    table = golden_table()
    table.save(tmp_path)
    back = pd.read_csv(tmp_path / "tables" / "table5_cells.csv")
    for name in ("paper", "mean", "sd", "ci_low", "ci_high", "paired_difference", "p", "p_holm"):
        np.testing.assert_allclose(back[name], table.cells[name])
    assert len(pd.read_csv(tmp_path / "tables" / "table5_seeds.csv")) == len(table.seed_rows) == 10


def test_display_of_one_seed_and_of_an_undefined_metric():
    frame = golden_table().frame
    assert re.fullmatch(r"\d\d\.\d\d", frame.loc[("w/o C3", "ours (n=1, synthetic)"), "Acc-2"])
    assert frame.loc[("w/o uni", "ours (n=3, synthetic)"), "Corr"] == "NaN"
    assert frame.loc[("w/o uni", "95 % CI"), "Corr"] == "[NaN, NaN]"
    assert frame.loc[("w/o uni", "− MGCL (paired)"), "Corr"] == "NaN"
    assert frame.loc[("w/o uni", "p (Holm)"), "Corr"] == "NaN"
    assert (frame.loc[("w/o fusion", "ours")] == "not run").all()
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", frame.loc[("MGCL", "ours (n=3, synthetic)"), "MAE"])


def test_synthetic_is_in_title_rows_and_footer():
    table = golden_table()
    assert "synthetic" in table.title
    assert "synthetic" in table.footer[0]
    assert sum("synthetic" in label for label in table.frame.index.get_level_values("Row")) == 4
    real = table3(fake(synthetic=False), **FAST)
    assert "synthetic" not in real.title + "".join(real.footer) + real.to_latex()
