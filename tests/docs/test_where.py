"""docs/where.md says where each equation and each decision is; every entry is followed to the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "where.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def places(cell: str) -> list[tuple[str, str]]:
    """File and function of each ``file.py: function`` of a cell."""
    return re.findall(r"`([\w/]+\.py): ([\w.]+)`", cell)


def source_of(file: str, name: str) -> str:
    """The source of a function, class, method or module-level constant."""
    text = (ROOT / "mgcl_core" / file).read_text()
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next(
            child
            for child in ast.iter_child_nodes(node)
            if getattr(child, "name", None) == part
            or part in [getattr(target, "id", None) for target in getattr(child, "targets", [])]
            or getattr(getattr(child, "target", None), "id", None) == part
        )
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])  # comments at the ends of lines too


def equations_named(source: str) -> set[int]:
    """Numbers of the equations that docstrings and comments name: "eq. 2", "eqs 4, 5", "equations 13-16"."""
    named = set()
    for mention in re.findall(r"\beq(?:s|\.|uations?)?\.?\s*(\d[\d,\s\-–and]*)", source):
        for first, last in re.findall(r"(\d+)(?:\s*[-–]\s*(\d+))?", mention):
            named |= set(range(int(first), int(last or first) + 1))
    return named


def numbers(cell: str) -> list[int]:
    first, _, last = cell.partition("–")
    return list(range(int(first), int(last or first) + 1))


def test_all_equations_and_decisions_are_there():
    assert [n for row in rows("Equations") for n in numbers(row[0])] == list(range(1, 23))
    assert [int(row[0]) for row in rows("Decisions")] == list(range(1, 23))


@pytest.mark.parametrize("row", rows("Equations"), ids=lambda row: row[0])
def test_an_equation_is_named_where_the_table_says(row):
    entries = places(row[-1])
    assert entries
    named = set().union(*(equations_named(source_of(*entry)) for entry in entries))
    assert set(numbers(row[0])) <= named, f"{entries} name equations {sorted(named)}"


@pytest.mark.parametrize("row", rows("Decisions"), ids=lambda row: row[0])
def test_a_decision_is_where_the_table_says(row):
    assert places(row[-1])
    for entry in places(row[-1]):
        assert source_of(*entry)


def test_the_first_screen_of_the_readme_links_here():
    assert "docs/where.md" in "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
