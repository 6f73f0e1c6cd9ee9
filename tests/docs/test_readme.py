"""What the README and the pages of docs/ tell a newcomer to type is what the package takes."""

from __future__ import annotations

import pickle
import re
import shlex
from pathlib import Path

import pytest
from helpers.corpus_files import make_content

from mgcl_core.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every ``mgcl …`` in backticks or in a block of shell, without comments."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = (block.replace("\\\n", "") for block in re.findall(r"```sh\n(.*?)```", text, re.S))
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        found |= dict.fromkeys(line.partition("#")[0].strip() for line in lines if line.startswith("mgcl "))
    return list(found)


def test_the_readme_is_short():
    assert len(README.split()) <= 1500


@pytest.mark.parametrize("command", commands())
def test_a_command_that_is_written_somewhere_is_one(command):
    _, name, *arguments = shlex.split(command)
    if arguments:
        assert build_parser().parse_args([name, *arguments]).command
    else:  # only named
        with pytest.raises(SystemExit, match="^0$"):
            build_parser().parse_args([name, "--help"])


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)\b`", page.read_text(encoding="utf-8"))}
    assert {"reproduce", "test", "lab"} <= named <= targets


def test_the_contents_of_docs_name_every_page():
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} == {
        name for name in re.findall(r"\]\(([\w.]+)\)", contents)
    }


@pytest.mark.slow
def test_the_five_lines_of_the_readme_run(tiny_overrides, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"## Your own feature file in five lines\n.*?```python\n(.*?)```", README, re.S)
    assert len(code.splitlines()) == 5
    (tmp_path / "my_features.pkl").write_bytes(pickle.dumps(make_content(sizes=(20, 6, 6))))
    monkeypatch.chdir(tmp_path)
    overrides = tiny_overrides | {"tokens": "raw_text"}
    small = f'profile="demo", overrides={overrides!r}, seeds=[1], results="results", workers=1, device="cpu"'
    exec(code.replace('profile="small"', small), {})
    shown = capsys.readouterr().out
    assert "prediction" in shown and "Traceback" not in shown
