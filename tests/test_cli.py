"""The command line, as a user types it."""

import subprocess
import sys

import pytest

from mgcl_core.cli import _parameters, _parser, main
from mgcl_core.notebook import DEFAULTS


def test_settings_lists_every_field_and_marks_what_is_not_table_2(capsys):
    assert main(["settings", "--dataset", "mosei"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "layers=3   (differs from the paper's CH-SIMS settings)" in lines
    assert "alpha=0.1" in lines


@pytest.mark.parametrize("arguments, message", [
    (["status", "--corpus", "dmeo"], "did you mean 'demo'"),
    (["status", "--set", "alfa=1"], "did you mean 'alpha'"),
    (["status", "--set", "alpha=high"], "must be of type float"),
    (["status", "--seeds", "1,x"], "list of int"),
    (["run", "--notebook", "99"], "no notebook has the number '99'"),
    (["run", "--notebook", "7", "--trials", "0"], "trials=0"),
    (["run", "--workers", "0"], "workers=0"),
    (["run", "--device", "cuda:77"], "not available"),
    (["predict", "nowhere", "demo", "--out", "x.csv"], "no finished run"),
    (["corpus", "nowhere.pkl"], "nowhere.pkl"),
])
def test_mistakes_exit_with_2_and_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    results = ["--results", str(tmp_path / "results")] if arguments[0] in ("run", "status") else []
    assert main([*arguments, *results]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mgcl: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_trials_of_run_are_those_of_the_notebooks_by_default():
    def trials(*arguments):
        return _parameters(_parser().parse_args(arguments)).trials

    assert trials("run") == trials("search") == trials("status") == DEFAULTS["trials"]
    assert trials("run", "--trials", "7") == trials("search", "--trials", "7") == 7


def test_corpus_prints_table_1_and_shapes(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    assert main(["corpus", "demo"]) == 0
    output = capsys.readouterr().out
    assert "scheme sims, unaligned" in output and "with y_T, y_V, y_A" in output


def test_status_lists_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    assert main(["status", "--corpus", "demo", "--results", str(tmp_path / "results")]) == 0
    output = capsys.readouterr().out
    assert "demo, profile demo: 0 of 36 runs done, 0 of 30 of compared systems" in output
    assert "w/o weight   1111 missing   1112 missing   1113 missing" in output


def test_the_command_is_installed():
    shown = subprocess.run([sys.executable, "-m", "mgcl_core", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "predict" in shown.stdout
