"""Every file that the documentation points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_checklist_has_all_its_rows():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "reproducibility.md").read_text(), re.M)
    assert rows == [str(number) for number in range(1, 23)]


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    folders = "mgcl_core|tests|docs|data/paper|notebooks|results/demo/reference"
    named = {ROOT / name for name in re.findall(rf"`((?:{folders})/[\w/.]+\.\w+)`", text)}
    named |= {(ROOT / page).parent / name for name in re.findall(r"\]\((?!http)([\w/.-]+\.\w+)\)", text)}
    named |= {ROOT / "notebooks" / f"{name}.ipynb" for name in re.findall(r"`(\d\d_\w+)`", text)}
    assert not [path for path in named if not path.exists()]


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


def test_every_other_reading_is_a_setting_that_can_be_asked_for():
    from mgcl_core.config import Config, parse

    section = (ROOT / "docs" / "decisions.md").read_text().partition("## Other readings\n")[2]
    rows = [line.split("|") for line in section.splitlines() if re.match(r"\| rows? \d", line)]
    assert len(rows) == 10
    for row in rows:
        asked = re.findall(r"`(\w+=\S+)`", row[3])
        assert asked and any(source in row[4] for source in ("paper", "lineage", "ours"))
        for text in asked:
            name, value = parse(text)
            changed = Config().override({name: value})
            assert changed != Config(), text
