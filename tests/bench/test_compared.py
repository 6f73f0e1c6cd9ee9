"""The table of speed against mmsa, with a process in mmsa's place that answers with fixed seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from mgcl_core.baselines import COMPARED_SYSTEMS
from mgcl_core.bench.compared import BERT, CLIPS, MMSA_NAMES, compare_with_mmsa
from mgcl_core.support.errors import RunError

pytestmark = pytest.mark.slow

#: Ignores `-P` and the script's path; the first answer is of the warm-up.
ANSWERS = """
import sys
for seconds in ("99", "4", "1", "2"):
    print(seconds, flush=True)
    if not sys.stdin.readline():
        break
"""


@pytest.fixture
def interpreter(tmp_path):
    """Function of a few lines of Python: what stands in for mmsa's interpreter and runs them."""

    def write(code: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return path

    return write


def test_a_row_has_the_medians_of_both_sides(interpreter, tiny_corpus):
    threads = torch.get_num_threads()
    table = pd.DataFrame(compare_with_mmsa(interpreter(ANSWERS), systems=["lf_dnn", "lmf"], corpus=tiny_corpus))
    assert list(table["system"]) == ["lf_dnn", "lmf"]
    assert (table["clips"] == len(tiny_corpus.train)).all()
    assert list(table["batch_size"]) == [
        COMPARED_SYSTEMS[name].published["sims"].batch_size for name in table["system"]
    ]
    assert (table[["mmsa_seconds", "mmsa_low", "mmsa_high"]] == [2, 1, 4]).all(axis=None)  # not the warm-up's 99
    assert (table["ours_low"] > 0).all()
    assert ((table["ours_low"] <= table["ours_seconds"]) & (table["ours_seconds"] <= table["ours_high"])).all()
    assert table["ratio"].tolist() == pytest.approx((2 / table["ours_seconds"]).tolist())
    assert torch.get_num_threads() == threads


def test_the_interpreter_may_be_named_from_where_one_is(interpreter, tiny_corpus, monkeypatch):
    path = interpreter(ANSWERS)
    monkeypatch.chdir(path.parent)
    assert len(list(compare_with_mmsa(Path(path.name), systems=["lf_dnn"], repeats=1, corpus=tiny_corpus))) == 1


def test_both_sides_are_given_the_same_clips_and_threads(interpreter, tiny_corpus, tmp_path, monkeypatch):
    """The other process sees its name of the system, our clips, and the text encoder under the name it asks for."""
    monkeypatch.setitem(CLIPS, "self_mm", 10)
    seen = f"""
import pathlib, shutil, sys
pathlib.Path({str(tmp_path / "arguments")!r}).write_text(" ".join(sys.argv[2:]))
shutil.copy(sys.argv[4], {str(tmp_path / "copy")!r})
assert pathlib.Path({BERT!r}, "vocab.txt").is_file()
"""
    python = interpreter(seen + ANSWERS)
    (row,) = compare_with_mmsa(python, systems=["self_mm"], repeats=1, corpus=tiny_corpus, threads=1)
    script, *arguments = (tmp_path / "arguments").read_text().split()
    assert Path(script).name == "mmsa_side.py"
    assert arguments == ["self_mm", "clips.safetensors", "--clips", "10", "--threads", "1"]
    assert row["clips"] == 10
    with safe_open(tmp_path / "copy", "np") as file:
        train = tiny_corpus.train
        assert (file.get_tensor("tokens") == train.text_bert).all()
        assert (file.get_tensor("audio") == train.audio).all()
        assert (file.get_tensor("vision_lengths") == train.vision_mask.sum(1)).all()
        assert file.get_tensor("text").shape == (len(train), train.text_bert.shape[2], 768)


BROKEN = """raise ModuleNotFoundError("No module named 'MMSA'")"""


@pytest.mark.parametrize(
    "code",
    [BROKEN, f"import sys\nprint(1, flush=True)\nsys.stdin.readline()\n{BROKEN}"],
    ids=["before the warm-up", "after it"],
)
def test_a_process_that_ends_is_an_error_with_its_last_words(interpreter, tiny_corpus, code):
    with pytest.raises(RunError, match="ended with code 1: ModuleNotFoundError: No module named 'MMSA'"):
        list(compare_with_mmsa(interpreter(code), systems=["lf_dnn"], corpus=tiny_corpus))


def test_no_interpreter(tmp_path, tiny_corpus):
    with pytest.raises(RunError, match="cannot be started.*missing"):
        list(compare_with_mmsa(tmp_path / "missing", systems=["lf_dnn"], corpus=tiny_corpus))


def test_an_unknown_system(tmp_path, tiny_corpus):
    with pytest.raises(RunError, match="'confede'"):
        list(compare_with_mmsa(tmp_path / "missing", systems=["confede"], corpus=tiny_corpus))
    assert set(MMSA_NAMES) < set(COMPARED_SYSTEMS)
