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
from mgcl_core.statistics import holm, holm_levels, mean_estimates, paired_differences, prediction_interval
from mgcl_core.support.errors import RunError

GOLDEN = Path(__file__).parent / "golden" / "table5.tex"
SEEDS = (1111, 1112, 1113)


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
        ids = tuple(f"video{clip % 12}$_${clip}" for clip in range(clips))
        result = Result("fake", paper_dataset, scheme, True, system, variant, seed, ids, y_true, y_pred,
                        f"{system}-{variant}-{seed}".replace("/", ""), "demo")  # fmt: skip
        results.append(dataclasses.replace(result, **changes))
    return results


def cell(table, model, metric):
    return table.cells.query("model == @model and metric == @metric").iloc[0]


# --- numbers -----------------------------------------------------------------------------------------------------


def test_cells_hold_the_statistics_of_the_runs():
    full, without = fake(noise=0.3), fake(variant="w/o CL", noise=0.5)
    table = table5(full + without)
    y_true, videos = full[0].y_true, np.arange(60) % 12
    a, b = (np.stack([r.y_pred for r in results]) for results in (without, full))
    means = mean_estimates(y_true, a, "sims", videos)
    paired = paired_differences(y_true, a, b, "sims", videos)
    levels = dict(zip(METRICS["sims"], holm_levels([paired[m].p_to_correct for m in METRICS["sims"]]), strict=True))
    for metric in METRICS["sims"]:
        values = [regression_metrics(y_true, row, "sims")[metric] for row in a]
        row = cell(table, "w/o CL", metric)
        assert (row["mean"], row["sd"], row["n"]) == pytest.approx((np.mean(values), np.std(values, ddof=1), 3))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(means[metric].interval())
        assert row["paired_difference"] == pytest.approx(paired[metric].value)
        assert (row["paired_low"], row["paired_high"]) == pytest.approx(paired[metric].interval())
        assert (row["p"], row["df"], row["ci_df"]) == pytest.approx(
            (paired[metric].p, paired[metric].df, means[metric].df)
        )
        assert row["detectable"] == pytest.approx(paired[metric].detectable(levels[metric]))
        assert row["runs"] == "MGCL-wo CL-1111;MGCL-wo CL-1112;MGCL-wo CL-1113"
    corrected = dict(zip(METRICS["sims"], holm([paired[m].p_to_correct for m in METRICS["sims"]]), strict=True))
    assert all(cell(table, "w/o CL", m)["p_holm"] == pytest.approx(corrected[m]) for m in METRICS["sims"])
    assert cell(table, "MGCL", "mae")[["pairs", "p"]].isna().tolist() == [False, True]


OWN_FILE = {"synthetic": False, "corpus": "CH-SIMS", "known_file": True, "profile": "paper"}


def test_the_verdict_is_by_the_seeds_on_the_papers_own_file():
    table = table5(fake(**OWN_FILE))
    for metric in METRICS["sims"]:
        row = cell(table, "MGCL", metric)
        low, high = prediction_interval([regression_metrics(r.y_true, r.y_pred, "sims")[metric] for r in fake()])
        assert (row["paper_low"], row["paper_high"]) == pytest.approx((low, high))
        assert row["difference"] == pytest.approx(row["mean"] - row["paper"])
        assert row["paper_inside"] == (low <= row["paper"] <= high)
    shown = table.frame.loc[("MGCL", "ours − paper")]
    assert shown.str.fullmatch(r"[+-][\d.]+ (in|out)").all()
    assert "no verdict" not in table.title
    one = table5(fake(seeds=(1111,), **OWN_FILE)).frame.loc[("MGCL", "ours − paper")]
    assert not one.str.contains("in|out").any()  # one seed says nothing about seeds


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"synthetic": True}, "synthetic"),
        ({"known_file": False}, "other data"),  # also a file of the same name and size
        ({"profile": "small"}, "other settings"),
        ({"changed": True}, "other settings"),
        ({"selection": "oracle"}, "other settings"),
    ],
)
def test_anywhere_else_there_is_no_verdict_and_no_difference(changes, why):
    table = table3(fake(**{**OWN_FILE, **changes}))
    assert f"({why}, no verdict)" in table.title
    assert any(line.startswith(f"No verdict on a replication ({why})") for line in table.footer)
    assert table.cells[["difference", "paper_low", "paper_high", "paper_inside"]].isna().all(axis=None)
    assert not any("ours − paper" in row for row in table.frame.index.get_level_values("Row"))


def test_every_seed_has_its_row():
    full = fake()
    rows = table3(full).seed_rows
    assert rows["seed"].tolist() == list(SEEDS)
    assert rows["run"].tolist() == [r.run for r in full]
    assert rows["synthetic"].all()
    for (_, row), result in zip(rows.iterrows(), full, strict=True):
        expected = regression_metrics(result.y_true, result.y_pred, "sims")
        assert {name: row[name] for name in expected} == expected


def test_pairs_are_of_common_seeds_only():
    table = table5(fake() + fake(variant="w/o CL", seeds=(1112, 2000)))
    row = cell(table, "w/o CL", "mae")
    assert row["pairs"] == 1
    assert row[["p", "paired_low", "detectable"]].isna().all()  # one common seed says nothing about systems
    assert (table.frame.loc[("w/o CL", "p (Holm)")] == "–").all()
    other = table5(fake() + fake(variant="w/o CL", seeds=(2000,)))
    assert cell(other, "w/o CL", "mae")["pairs"] == 0
    assert (other.frame.loc[("w/o CL", "− MGCL (paired)")] == "no pair").all()


def bold(table):
    return {(row["model"], row["metric"]) for _, row in table.cells.iterrows() if row["bold"]}


def test_bold_is_the_best_beyond_noise_against_every_other():
    clear = table5(fake(noise=0.1) + fake(variant="w/o CL", noise=0.8))
    assert {("MGCL", "mae"), ("MGCL", "corr")} <= bold(clear)
    assert all(model == "MGCL" for model, _ in bold(clear))
    better_without = table5(fake(noise=0.8) + fake(variant="w/o CL", noise=0.1))
    assert ("w/o CL", "mae") in bold(better_without)
    # A third system inside the noise of the best takes all bold away.
    crowded = table5(fake(noise=0.1) + fake(variant="w/o CL", noise=0.8) + fake(variant="w/o C3", noise=0.101))
    assert bold(crowded) == set()
    assert bold(table5(fake(noise=0.1))) == set()  # nothing to compare with
    one_seed = fake(noise=0.1, seeds=(1111,)) + fake(variant="w/o CL", noise=0.8, seeds=(1111,))
    assert bold(table5(one_seed)) == set()
    constant = fake(noise=0.1) + fake(variant="w/o CL", constant=True)
    assert ("MGCL", "corr") not in bold(table5(constant))  # no difference from an undefined Corr


def test_bold_cells_are_those_displayed_bold():
    table = table5(fake(noise=0.1) + fake(variant="w/o CL", noise=0.8))
    count = len(bold(table))
    assert count > 0
    assert table.bold.to_numpy().sum() == count
    assert table.to_latex().count(r"\textbf") == table.to_html().count("<b>") == count


def test_rows_follow_the_paper_and_others_come_after():
    table = table3(fake() + fake("text only", "text only") + fake("Self-MM", "Self-MM"))
    models = list(dict.fromkeys(table.frame.index.get_level_values("Model")))
    assert models == [*paper_table(3)["Model"], "text only"]
    frame = table.frame.drop(columns="Tuned")
    assert (frame.loc[("text only", "paper")] == "not printed").all()
    assert (frame.loc[("LF-DNN", "ours")] == "not run").all()
    assert table.frame.loc[("MISA", "paper"), "Acc-3"] == "–"


def test_systems_side_by_side_say_which_were_tuned():
    tuned = [dataclasses.replace(result, tuned=20) for result in fake("Self-MM", "Self-MM")]
    table = table3(fake() + tuned)
    ours = table.frame.xs("ours (n=3, synthetic)", level="Row")["Tuned"]
    assert ours.to_dict() == {"Self-MM*": "20 trials", "MGCL": "no"}
    assert (table.frame.drop("ours (n=3, synthetic)", level="Row")["Tuned"] == "").all()
    assert table.compact.frame["Tuned"].to_dict() == {"Self-MM": "20 trials", "MGCL": "no"}
    for each in (table, table.compact):
        assert any(line.startswith("Tuned: ") for line in each.footer)
    assert "Tuned" not in table3(fake()).frame and "Tuned" not in table5(tuned + fake()).frame  # nothing to compare


def test_ablations_go_to_their_own_tables():
    results = [r for variant in ("MGCL", "w/o CL", "w/o weight", "micro=pooled") for r in fake(variant=variant)]
    results += fake("Self-MM", "Self-MM")
    ran = {n: t.cells.query("n > 0")["model"].unique().tolist() for n, t in
           ((3, table3(results)), (5, table5(results)), (6, table6(results)))}  # fmt: skip
    assert ran == {3: ["Self-MM", "MGCL"], 5: ["w/o CL", "MGCL", "micro=pooled"], 6: ["w/o CL", "w/o weight", "MGCL"]}


def test_table4_has_two_blocks_and_both_partitions():
    table = table4(fake(paper_dataset="mosi") + fake(paper_dataset="mosei", clips=40, corpus="other", synthetic=False))
    assert list(table.frame.columns) == ["Acc-2 NN", "Acc-2 NP", "F1 NN", "F1 NP", "Acc-7", "MAE", "Corr"]
    assert list(dict.fromkeys(table.frame.index.get_level_values("Dataset"))) == ["CMU-MOSI", "CMU-MOSEI"]
    assert table.frame.loc[("CMU-MOSI", "MFN", "paper")].tolist()[:4] == ["77.4", "–", "77.3", "–"]
    assert table.frame.loc[("CMU-MOSI", "MGCL", "ours (n=3, synthetic)")].str.contains("±").all()
    assert table.frame.loc[("CMU-MOSEI", "MGCL", "ours (n=3)")].str.contains("±").all()
    assert "CMU-MOSI: ours on 'fake' (synthetic, no verdict)" in table.title
    assert "acc5" in table.seed_rows


def test_ablations_beside_a_dataset_that_the_paper_has_none_on():
    table = table5(fake(paper_dataset="mosi") + fake(variant="w/o CL", paper_dataset="mosi"), paper_dataset="mosi")
    assert "CMU-MOSI (not in this table of the paper)" in table.title
    assert (table.frame.xs("paper", level="Row") == "not printed").all(axis=None)


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
        table5(fake() + fake(**{"variant": "w/o CL", **other}))


def test_unknown_role():
    with pytest.raises(RunError, match="did you mean 'mosi'"):
        table5([], paper_dataset="mosy")


def test_detectable_without_a_pair_is_from_the_own_error():
    block = make_block(5, fake(), "sims", lambda r: r.variant)
    table = table5(fake())
    pred = np.stack([r.y_pred for r in block.results])
    own = mean_estimates(block.results[0].y_true, pred, "sims", np.arange(60) % 12)["mae"]
    frame = compute_cells(5, [block], ["mae"]).set_index("model")
    assert frame.loc["MGCL", "detectable"] == pytest.approx(math.sqrt(2) * own.detectable())
    assert table.frame.loc[("MGCL", "detectable"), "MAE"] == f"{frame.loc['MGCL', 'detectable']:.3f}"


def test_the_footer_names_units_and_degrees_of_freedom():
    text = " ".join(table5(fake() + fake(variant="w/o CL", noise=0.5)).footer)
    assert "60 test clips of 12 videos" in text and "3 seeds (1111, 1112, 1113)" in text
    assert re.search(r"t on \d+\.\d to \d+\.\d degrees of freedom", text)
    assert "each is left out once" in text


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
        + fake(variant="w/o uni", constant=True)
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
    names = ["table5.csv", "table5.tex"]
    names += [f"table5_{what}" for what in ("cells.csv", "compact.tex", "notes.txt", "seeds.csv")]
    folder = tmp_path / "tables"
    assert sorted(path.name for path in folder.iterdir()) == names
    with (folder / "table5.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["Model", "Row", "Acc-2", "F1", "Acc-3", "Acc-5", "MAE", "Corr"]
    assert (folder / "table5.tex").read_text(encoding="utf-8") == table.to_latex()

    body = [line[: -len(r" \\")].split(" & ") for line in table.to_latex().splitlines() if line.endswith(r" \\")]
    latex = [[from_latex(text) for text in line[1:]] for line in body[1:]]
    hyphen = [[text.replace("−", "-") for text in row[1:]] for row in rows]
    assert [[text.replace("$-$", "-") for text in row] for row in latex] == hyphen

    columns = len(header) - 1
    assert [row[-columns:] for row in Rows(table.to_html()).rows] == [row[1:] for row in rows]
    notes = (folder / "table5_notes.txt").read_text(encoding="utf-8").splitlines()
    assert notes == [table.title, *table.footer]
    for sentence in table.footer:
        assert html.escape(sentence) in table.to_html()


def test_the_compact_table_holds_what_was_run_and_a_footnote_for_each_mark_in_it():
    compact = golden_table().compact
    assert list(compact.frame.index) == ["w/o CL", "w/o C3", "w/o uni", "MGCL"]
    assert compact.frame.loc["w/o CL", "MAE"].endswith("†") and "±" in compact.frame.loc["MGCL", "Acc-2"]
    notes = " ".join(compact.footer)
    assert "†: differs from MGCL" in notes and "NaN: undefined" in notes and "Not run: w/o fusion." in notes
    assert "*:" not in notes and "Bold" not in notes and "not printed" not in notes  # none of them stands there
    alone = table5(fake()).compact
    assert list(alone.frame.index) == ["MGCL"] and "†" not in " ".join(alone.footer)
    assert table5([]).compact.frame.empty and "Not run: w/o CL" in table5([]).compact.footer[-1]


def test_the_compact_table_has_the_papers_row_where_the_two_can_be_compared():
    table = table5(fake(**OWN_FILE) + fake(variant="w/o CL", noise=0.5, **OWN_FILE))
    assert list(table.compact.frame.index) == ["w/o CL", "w/o CL, paper", "MGCL", "MGCL, paper"]
    assert table.compact.frame.loc["MGCL, paper"].tolist() == table.frame.loc[("MGCL", "paper")].tolist()
    blocks = table4(fake(paper_dataset="mosi") + fake("MAG-BERT", "MAG-BERT", paper_dataset="mosi")).compact
    assert list(blocks.frame.index) == [("CMU-MOSI", "MAG-BERT"), ("CMU-MOSI", "MGCL")]
    assert any(line.startswith("Not run on CMU-MOSEI: ") for line in blocks.footer)


def test_a_verdict_counts_the_papers_numbers_that_lie_where_ours_expect_them():
    (verdict,) = table5(fake(**OWN_FILE)).verdicts
    inside = table5(fake(**OWN_FILE)).cells.query("model == 'MGCL'")["paper_inside"]
    assert f"{int(inside.sum())} of the paper's 6 numbers of MGCL lie" in verdict
    assert "too few seeds of MGCL for a verdict" in table5(fake(seeds=(1111,), **OWN_FILE)).verdicts[0]
    assert "synthetic, no verdict" in table5(fake()).verdicts[0]


def test_a_notebook_shows_the_compact_table_and_folds_the_whole():
    page = golden_table()._repr_html_()
    short, folded = page.split("<details>")
    assert "95 % CI" not in short and "95 % CI" in folded and '<span class="sd">± ' in short
    assert len(Rows(short).rows) == 4


def test_footnotes_are_of_marks_that_stand_in_the_table():
    assert "*:" not in golden_table().footer[2] and "*: replicated" in table3(fake()).footer[2]
    assert "not given: ours have no such value." in table2([{"Stage": "Unimodal"}]).footer


def test_what_looks_like_markup_is_shown_as_it_is():
    name = r"a$b_c & <i>50 %</i> #{x}~^\ ±"
    table = table3(fake(system=name, variant=name))
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
    assert frame.loc[("w/o uni", "95 % CI"), "Corr"] == "–"
    assert frame.loc[("w/o uni", "− MGCL (paired)"), "Corr"] == "NaN"
    assert frame.loc[("w/o uni", "p (Holm)"), "Corr"] == "–"
    assert frame.loc[("w/o C3", "p (Holm)"), "Corr"] == "–"  # one seed
    assert (frame.loc[("w/o fusion", "ours")] == "not run").all()
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", frame.loc[("MGCL", "ours (n=3, synthetic)"), "MAE"])


def test_synthetic_is_in_title_rows_and_footer():
    table = golden_table()
    assert "synthetic" in table.title
    assert "synthetic" in table.footer[0]
    assert sum("synthetic" in label for label in table.frame.index.get_level_values("Row")) == 4
    real = table3(fake(synthetic=False))
    assert "synthetic" not in real.title + "".join(real.footer) + real.to_latex()
