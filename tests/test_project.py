"""The project's files agree with each other."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}


def requirement(text: str) -> tuple[str, frozenset[str]]:
    name, bounds = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", text.replace(" ", "")).groups()
    return name.lower(), frozenset(bounds.split(",")) - {""}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared(project) -> dict[str, frozenset[str]]:
    extras = [item for group in project["optional-dependencies"].values() for item in group]
    return dict(map(requirement, [*project["dependencies"], *extras]))


def test_environment_yml_agrees_with_pyproject(project):
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    conda = dict(requirement(entry) for entry in entries if isinstance(entry, str))
    conda.update(requirement(entry) for entry in pip if not entry.startswith("--"))
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in declared(project).items()}
    wanted["python"] = frozenset(project["requires-python"].split(","))
    wanted["pip"] = frozenset()
    assert conda == wanted


def test_constraints_pin_every_dependency_within_its_bounds(project):
    from packaging.specifiers import SpecifierSet

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(
        re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line).groups() for line in lines if line and not line.startswith("#")
    )
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for name, bounds in declared(project).items():
        assert pinned[name] in SpecifierSet(",".join(bounds)), name


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub("[._]", "-", name.lower()): version for name, version in pins}


def test_the_lock_has_the_pins_of_the_constraints_and_the_requirements_of_the_project(project):
    from packaging.requirements import Requirement

    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    versions = {}
    for package in lock["package"]:
        versions.setdefault(package["name"], set()).add(package["version"])
    assert {name: versions.get(name) for name in pinned_versions()} == {
        name: {version} for name, version in pinned_versions().items()
    }
    (own,) = (package for package in lock["package"] if package["name"] == project["name"])
    assert own["version"] == project["version"] and own["source"] == {"editable": "."}
    locked = {
        (
            entry["name"],
            frozenset(entry.get("specifier", "").split(",")),
            entry.get("marker", "").partition("'")[2][:-1],
        )
        for entry in own["metadata"]["requires-dist"]
    }
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    wanted = [(Requirement(text), extra) for extra, texts in groups.items() for text in texts]
    assert locked == {(found.name, frozenset(str(found.specifier).split(",")), extra) for found, extra in wanted}


def test_the_lock_names_the_public_index_alone():
    text = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"https?://[^/\"]+", text)) == {"https://pypi.org", "https://files.pythonhosted.org"}
    assert set(re.findall(r"registry = \"([^\"]+)", text)) == {"https://pypi.org/simple"}
    files = re.findall(r"\{ url = [^}]+\}", text)
    assert files and all(re.search(r'hash = "sha256:[0-9a-f]{64}"', file) for file in files)


def test_every_pin_can_be_installed_on_the_oldest_python_that_is_said_to_do(project):
    from importlib.metadata import distributions

    from packaging.specifiers import SpecifierSet

    oldest = next(str(bound.version) for bound in SpecifierSet(project["requires-python"]) if bound.operator == ">=")
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for found in distributions():
        wanted = found.metadata.get("Requires-Python")  # by importlib_metadata, [...] may raise
        if found.metadata["Name"].lower().replace("_", "-") in pinned and wanted:
            needed = SpecifierSet(wanted)
            assert f"{oldest}.0" in needed, f"{found.metadata['Name']} {found.version} needs Python {needed}"


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 13, 0), (2, 7, 18)])
def test_make_names_the_python_that_it_was_given_where_it_is_not_supported(tmp_path, version, project):
    """A stand-in for the interpreter: this one, which says that it is another version."""
    from packaging.specifiers import SpecifierSet

    assert ".".join(map(str, version)) not in SpecifierSet(project["requires-python"])
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\nimport sys\nsys.version_info = {version}\nexec(sys.argv[2])\n")
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={stand_in}", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and f"is {'.'.join(map(str, version))}: make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_notebooks_are_stripped_and_declare_their_parameters_as_literals():
    import ast

    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert paths
    for path in paths:
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), path.name
        tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
        assert len(tagged) == 1, path.name
        names = []
        for statement in ast.parse("".join(tagged[0]["source"])).body:
            ast.literal_eval(statement.value)  # a derived value would go stale when papermill injects another
            names.append(statement.targets[0].id)
        begin = next("".join(cell["source"]) for cell in code if "begin(globals(), " in "".join(cell["source"]))
        assert re.findall(r'"(\w+)"', re.search(r"begin\(globals\(\), (.*?)\)", begin, re.S)[1]) == names, path.name
        assert cells[0]["cell_type"] == "markdown", path.name
        for cell in code:
            ast.parse("".join(cell["source"]))
            if path.name.startswith("00"):
                continue  # to play with: its cells may define functions
            assert len(cell["source"]) <= 12 and not any(line.startswith("def ") for line in cell["source"]), path.name


def test_no_data_of_others_is_tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in tracked if name.endswith((".pkl", ".pickle"))]
    assert not [
        name
        for name in tracked
        if name.startswith("data/") and not (name == "data/README.md" or name.startswith("data/paper/"))
    ]
