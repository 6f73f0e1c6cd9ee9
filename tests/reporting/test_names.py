"""`$`, braces, control characters, Chinese and emoji in names reach figures, LaTeX, HTML and CSV unharmed."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import warnings

import pandas as pd
import pytest
from helpers import corpus_files
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mgcl_core import load_corpus
from mgcl_core.experiments.directories import corpus_folder, report_folder
from mgcl_core.experiments.runs import write_predictions
from mgcl_core.experiments.study import Study
from mgcl_core.reporting import figures, tables
from mgcl_core.reporting.rendering import Table
from mgcl_core.support.names import printable

LETTERS = "$\\{}_%&#~^<>\"'`,;:|*?! \r\n\t\x00\x07\x1b\x7f\u2028\u202e中文语\u3042\ud55c😀👩é-+.0aZ"
NAMES = st.text(st.sampled_from(LETTERS), min_size=1, max_size=24)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(NAMES)
@example("a$\\x$b")
@example("cost$_$x {0} {name}")
@example("情感😀")
def test_figures_and_tables_take_any_name(make_split, make_corpus, name):
    splits = [
        dataclasses.replace(make_split(4, seed=i), name=split) for i, split in enumerate(("train", "valid", "test"))
    ]
    corpus = dataclasses.replace(make_corpus(*splits), name=printable(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is said once, in a sentence
        figures.label_distributions(corpus).savefig(io.BytesIO())
    table = tables.table1([corpus])
    label = f"{printable(name)} (synthetic)"
    shown = pd.read_csv(io.StringIO(table.frame.to_csv(index=False)), dtype=str, keep_default_na=False)
    assert list(shown["Dataset"])[-1].strip() == label.strip()
    lines = table.to_latex().splitlines()
    (row,) = [line for line in lines if "(synthetic)" in line]
    assert _without_escapes(row.split(" & ")[1]) == label
    assert "\x00" not in table.to_html() and "<b><" not in table.to_html()


def _without_escapes(cell: str) -> str:
    named = {"textbackslash{}": "\\", "textasciitilde{}": "~", "textasciicircum{}": "^"}
    text = re.sub(r"\$([<>+-])\$", r"\1", cell)
    return re.sub(
        r"\\(textbackslash\{\}|textasciitilde\{\}|textasciicircum\{\}|[&%$#_{}])",
        lambda found: named.get(found[1], found[1]),
        text,
    ).strip()


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5, unique=True))
@example(["\r", "\n", "\x00", '"', "nan", "", "1e5", "\ufeffx", " ", "中$_${}"])
def test_ids_of_clips_come_back_from_the_predictions(tmp_path, ids):
    path = tmp_path / "predictions.csv"
    write_predictions(path, ids, {"prediction": [0.0] * len(ids)})
    assert list(pd.read_csv(path, dtype=str, keep_default_na=False)["id"]) == ids
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ids


@pytest.mark.parametrize(
    "name", ["...pkl", "a$\\x$b {y}.pkl", "情感 😀.pkl", "a\rb\n.pkl", "x" * 240 + ".pkl", "-rf.pkl"]
)
def test_results_stay_inside_and_the_corpus_is_cached(tmp_path, name):
    corpus_files.write(tmp_path / name, corpus_files.make_content())
    results = tmp_path / "inner" / "results"
    corpus = load_corpus(tmp_path / name, cache_dir=tmp_path / "cache")
    study = Study(corpus, "demo", results=results, device="cpu")
    assert study.directory.resolve().is_relative_to(results.resolve()) and len(study.directory.parents) > len(
        results.parents
    )
    assert study.directory.relative_to(results).parts == (corpus_folder(corpus), "demo")
    study.directory.mkdir(parents=True)
    (results / report_folder([corpus, corpus], "demo")).mkdir()
    assert list((tmp_path / "cache").glob("*/*/index.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cache", "inner", name])


def test_two_files_of_one_name_share_nothing(tmp_path):
    corpora = []
    for seed, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        corpus_files.write(tmp_path / folder / "clips.pkl", corpus_files.make_content(seed=seed))
        corpora.append(load_corpus(tmp_path / folder / "clips.pkl", cache_dir=tmp_path / "cache"))
    one, other = (Study(corpus, "demo", results=tmp_path / "results", device="cpu") for corpus in corpora)
    assert one.corpus.name == other.corpus.name == "clips" and one.directory != other.directory
    assert report_folder([corpora[0]], "demo") != report_folder([corpora[1]], "demo")


def test_a_script_that_pdflatex_has_no_fonts_for_is_named_in_the_file(tiny_corpus):
    assert "XeLaTeX" not in tables.table1([tiny_corpus]).to_latex()
    table: Table = tables.table1([dataclasses.replace(tiny_corpus, name="情感")])
    assert table.to_latex().startswith("% XeLaTeX") and "情感" in table.to_latex()


def test_letters_without_a_font_are_said_once(tiny_corpus, caplog):
    corpus = dataclasses.replace(tiny_corpus, name="\U0001f9ff\U0001f9ff")
    with caplog.at_level("WARNING", "mgcl_core"):
        for _ in range(2):
            figures.label_distributions(corpus).savefig(io.BytesIO())
    assert len([record for record in caplog.records if "no font here shows" in record.message]) <= 1
