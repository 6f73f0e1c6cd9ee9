"""The command line, as a user types it."""

import json
import os
import subprocess
import sys

import pytest

from mgcl_core.cli import build_parser, main
from mgcl_core.commands import parameters_of
from mgcl_core.config import Config
from mgcl_core.notebooks.parameters import Parameters


def test_settings_lists_every_field_and_marks_what_is_not_table_2(capsys):
    assert main(["settings", "--dataset", "mosei"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("layers")] == [["layers=3", "*"]]
    (alpha,) = [line for line in lines if line.startswith("alpha")]
    assert alpha.split()[0] == "alpha=0.1" and "*" not in alpha and "weight of L_con in equation 22" in alpha
    assert len(lines) == len(Config().as_dict()) + 1


def test_power_says_what_a_design_could_show(capsys):
    assert main(["power", "--clips", "457", "--videos", "59", "--scheme", "sims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["Acc-2", "MAE", "Corr"]
    assert all(0 < float(value) < 1 for line in lines[1:] for value in line.split()[1:])
    assert main(["power", "--clips", "457", "--videos", "59", "--seeds", "2"]) == 0
    assert "no p is given" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["status", "--corpus", "dmeo"], "did you mean 'demo'"),
        (["status", "--set", "alfa=1"], "did you mean 'alpha'"),
        (["status", "--set", "alpha=high"], "must be of type float"),
        (["status", "--seeds", "1,x"], "seeds='x': must be of type int"),
        (["run", "--notebook", "99"], "no notebook has the number '99'"),
        (["run", "--notebook", "7", "--trials", "0"], "trials=0"),
        (["run", "--workers", "0"], "workers=0"),
        (["run", "--device", "cuda:77"], "not available"),
        (["predict", "nowhere", "demo", "--out", "x.csv"], "no finished run"),
        (["corpus", "nowhere.pkl"], "nowhere.pkl"),
        (["floors", "nowhere.csv"], "the table of labels cannot be read"),
        (["power", "--clips", "10", "--videos", "20"], "10 clips, 20 videos, 3 seeds"),
        (["power", "--clips", "100", "--videos", "20", "--comparisons", "0"], "comparisons=0"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    results = ["--results", str(tmp_path / "results")] if arguments[0] in ("run", "status") else []
    assert main([*arguments, *results]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mgcl: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_trials_of_run_are_those_of_the_notebooks_by_default():
    def trials(*arguments):
        return parameters_of(build_parser().parse_args(arguments)).trials

    assert trials("run") == trials("search") == trials("status") == Parameters().trials
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
    assert "demo, profile demo, fp32: 0 of 36 runs done, 0 of 30 of compared systems" in output
    assert "w/o weight   1111 missing   1112 missing   1113 missing" in output


def test_the_command_is_installed():
    shown = subprocess.run([sys.executable, "-m", "mgcl_core", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "predict" in shown.stdout


@pytest.mark.slow
def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path):
    command = f"{sys.executable} -m mgcl_core settings | head -n 1; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):  # whether the pipe is closed before or after the last line is the system's choice
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_list_settings_reach_the_notebook_from_the_command_line(tmp_path, tiny_bert):
    from mgcl_core.data.synthetic import write_corpus

    write_corpus("demo", tmp_path / "clips.pkl")
    short = {
        "text_model": tiny_bert,
        "tokens": "raw_text",
        "check_vocabulary": "false",
        "text_epochs": "1",
        "sequence_epochs": "1",
        "mgcl_epochs": "1",
        "components": "C1,C2",
        "trained_encoders": "",
        "predictor_hidden": "8,4",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mgcl_core",
            "run",
            "--quiet",
            "--notebook",
            "3",
            "--corpus",
            str(tmp_path / "clips.pkl"),
            "--profile",
            "demo",
            "--seeds",
            "1",
            "--device",
            "cpu",
            "--results",
            str(tmp_path / "results"),
            *(part for item in short.items() for part in ("--set", "=".join(item))),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "MGCL_DATA": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "results").glob("clips-*/demo/runs/MGCL-1-*/record.json")
    config = json.loads(record.read_text())["config"]
    assert (config["components"], config["trained_encoders"], config["predictor_hidden"]) == (["C1", "C2"], [], [8, 4])
