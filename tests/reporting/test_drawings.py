"""Figures 1 and 2 of the paper, as drawings under docs/."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from mgcl_core.support.paths import project_root


@pytest.mark.parametrize("name", ["architecture.svg", "fusion.svg"])
def test_the_drawings_are_svg_and_notebook_03_shows_them(name):
    drawing = ElementTree.parse(project_root() / "docs" / name).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    cells = json.loads((project_root() / "notebooks" / "03_mgcl.ipynb").read_text(encoding="utf-8"))["cells"]
    assert sum(f'SVG(shipped("docs", "{name}"))' in "".join(cell["source"]) for cell in cells) == 1
    assert f"docs/{name}" in (project_root() / "README.md").read_text(encoding="utf-8")
