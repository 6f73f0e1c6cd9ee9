"""The package's layers: a module imports only from rooms below its own, and nothing imports itself in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mgcl_core"
#: Rooms from the top down; those of one layer do not import each other.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"notebooks", "bench"},
    {"explore"},
    {"reporting"},
    {"experiments"},
    {"stage_one", "trainer", "baselines"},
    {"model"},
    {"encoders", "fusion", "system"},
    {"losses", "metrics", "statistics", "config", "reference", "shortcuts"},
    {"data"},
    {"support"},
)
WITHIN_A_LAYER = {("statistics", "metrics")}  # a bootstrap resample of metrics is made of their sums


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """Modules of the package that ``name`` imports, anywhere in its file."""
    path, imported = MODULES[name], set()
    tree = ast.parse(path.read_text())
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split("."))]
            for alias in node.names:
                longer, shorter = ".".join([*base, alias.name]), ".".join(base)
                imported.add(longer if longer in MODULES else shorter)
    return imported - {""}


@pytest.mark.parametrize("name", sorted(filter(None, MODULES)))
def test_a_module_imports_only_from_below(name):
    rank = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    room = name.split(".")[0]
    for other in imports(name):
        below = other.split(".")[0]
        allowed = below == room or rank[below] > rank[room] or (room, below) in WITHIN_A_LAYER
        assert allowed, f"{name} imports {other}, which does not lie below it"


def test_no_module_imports_itself_in_a_circle():
    try:
        TopologicalSorter({name: imports(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")


def test_imports_within_the_package_are_relative():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [found for found in names if found.split(".")[0] == "mgcl_core"], name


def test_every_gradient_of_the_science_is_torchs_own():
    for name, path in MODULES.items():
        assert "autograd.Function" not in path.read_text(), name
