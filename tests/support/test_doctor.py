"""`mgcl doctor`: one page, whose problems are those that would end a command."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mgcl_core.cli import main
from mgcl_core.data.doctor import data_checks, text_model_checks
from mgcl_core.support.doctor import Check, attempt, machine_checks, page
from mgcl_core.support.errors import ConfigError


def checks_by_name(checks) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_one_page_says_what_a_bug_report_needs(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path / "data"))
    assert main(["doctor", "--results", str(tmp_path / "results")]) == 0
    output = capsys.readouterr().out
    names = {line[9:27].strip() for line in output.splitlines() if line[:1].strip()}
    assert names >= {"Python", "packages", "device", "memory", "disk of results", "writing data", "CH-SIMS", "minilm"}
    assert names >= {"notebooks", "kernels", "bert-base-chinese", "encoding", "mgcl-core"}
    assert "torch computes with" in output and sys.executable.replace(str(Path.home()), "~") in output
    assert len(output.splitlines()) < 60
    assert not list(tmp_path.iterdir())  # what the write test made is gone


def test_a_folder_that_takes_no_file_is_a_problem_and_exit_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MGCL_DATA", str(tmp_path))
    (tmp_path / "results").write_text("a file")
    assert main(["doctor", "--results", str(tmp_path / "results")]) == 2
    captured = capsys.readouterr()
    assert "problem  writing results" in captured.out
    assert captured.err.startswith("mgcl: 1 of ") and "writing results" in captured.err


def test_feature_files_are_known_by_their_hash(tmp_path):
    (tmp_path / "CMU-MOSI").mkdir()
    (tmp_path / "CMU-MOSI" / "unaligned_50.pkl").write_bytes(b"not it")
    found = checks_by_name(data_checks(tmp_path))
    assert found["CH-SIMS"].status == "note" and "not found" in found["CH-SIMS"].detail
    assert "another file than the published one" in found["CMU-MOSI"].detail
    assert hashlib.sha256(b"not it").hexdigest() in found["CMU-MOSI"].detail


def test_a_text_model_is_found_with_its_weights_or_not_at_all(tmp_path, tiny_bert):
    copy = tmp_path / "bert"
    shutil.copytree(tiny_bert, copy)
    assert [check.status for check in text_model_checks((str(copy), "minilm"))] == ["ok", "ok"]
    for weights in copy.glob("*.safetensors"):
        weights.unlink()
    (check,) = text_model_checks((str(copy),))
    assert check.status == "note"


def test_a_missing_package_and_one_of_another_version_are_problems(tmp_path, monkeypatch):
    import importlib.metadata

    wanted = ["torch>=2.6", "numpy>=99", "no-such-package>=1", 'no-such-extra>=1; extra == "search"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    packages = checks_by_name(machine_checks(tmp_path, tmp_path))["packages"]
    assert packages.status == "problem"
    lines = packages.detail.splitlines()
    assert any(line.startswith("numpy ") and "does not fit >=99" in line for line in lines)
    assert "no-such-package is missing (required)" in lines
    assert any(line.startswith("no-such-extra is missing (extra") for line in lines)


def test_an_error_in_a_check_is_its_finding():
    def fails():
        raise ConfigError("what is wrong")

    def breaks():
        raise KeyError("key")

    assert attempt("a", fails) == Check("a", "problem", "what is wrong")
    assert attempt("b", breaks) == Check("b", "problem", "KeyError: 'key'")


def test_the_page_names_no_home_folder():
    text = page([Check("a", "ok", f"{Path.home()}/results\nmore {Path.home()}")])
    assert text == f"ok       a                  ~/results\n{' ' * 28}more ~"


@pytest.mark.slow
def test_a_python3_of_another_interpreter_is_noted(tmp_path):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        '{"argv": ["/elsewhere/python", "-m", "x"], "display_name": "x", "language": "p"}'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mgcl_core", "doctor", "--results", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        env={**os.environ, "JUPYTER_PATH": str(tmp_path), "MGCL_DATA": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "python3: /elsewhere/python" in done.stdout and "note     kernels" in done.stdout
