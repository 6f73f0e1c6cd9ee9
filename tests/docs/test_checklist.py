"""Every file that the documentation points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_checklist_has_twenty_rows():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "reproducibility.md").read_text(), re.M)
    assert rows == [str(number) for number in range(1, 21)]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/reproducibility.md",
        "docs/decisions.md",
        "docs/speed.md",
        "docs/robustness.md",
        "docs/statistics.md",
        "docs/features.md",
        "data/README.md",
    ],
)
def test_every_file_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    folders = "mgcl_core|tests|docs|data/paper|notebooks|results/demo/reference"
    named = set(re.findall(rf"`((?:{folders})/[\w/.]+\.\w+)`", text))
    named |= set(re.findall(r"\]\((?!http)([\w/.-]+\.\w+)\)", text))
    named |= {f"notebooks/{name}.ipynb" for name in re.findall(r"`(\d\d_\w+)`", text)}
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_setting_named_in_the_decisions_exists():
    from mgcl_core.config import Config

    rows = [
        line.split("|")
        for line in (ROOT / "docs" / "decisions.md").read_text().splitlines()
        if re.match(r"\| \d+ \|", line)
    ]
    assert len(rows) == 22
    known = Config().as_dict()
    for row in rows:
        assert not [name for name in re.findall(r"`(\w+)`", row[4]) if name not in known]
        assert any(source in row[5] for source in ("paper", "lineage", "ours", "deviation"))
