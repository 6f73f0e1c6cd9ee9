"""A wheel without a checkout is whole, or refuses by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("notebooks/*.ipynb", "data/paper/*", "data/README.md", "docs/*.svg", "results/demo/reference/*.csv")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since setuptools leaves a folder beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    for name in ("mgcl_core", "notebooks", "docs", "data/paper", "results/demo/reference"):
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "data/README.md"):
        shutil.copy(ROOT / name, folder / "copy" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "copy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_everything_that_the_package_reads_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.partition("/share/mgcl-core/")[2] for name in names} - {""}
    assert shipped == {str(path.relative_to(ROOT)) for pattern in SHIPPED for path in ROOT.glob(pattern)}
    read = (path for path in (ROOT / "mgcl_core").rglob("*.*") if path.suffix not in (".pyc", ".md"))
    assert {str(path.relative_to(ROOT)) for path in read} == {name for name in names if name.startswith("mgcl_core/")}


def test_it_runs_from_an_empty_folder_and_refuses_by_name_what_is_gone(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(command, check=True, capture_output=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # their own .pth files are not read
    (tmp_path / "empty" / "notebooks").mkdir(parents=True)  # of another project

    def status() -> subprocess.CompletedProcess:
        return subprocess.run(
            [environment / "bin" / "mgcl", "run", "--notebook", "99", "--results", "x"],
            cwd=tmp_path / "empty",
            env={name: value for name, value in os.environ.items() if not name.startswith("MGCL_")},
            capture_output=True,
            text=True,
        )

    assert "no notebook has the number '99'" in status().stderr  # so it knows those that there are
    shutil.rmtree(environment / "share" / "mgcl-core" / "notebooks")
    done = status()
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "notebooks of this project is not in" in done.stderr and "MGCL_ROOT" in done.stderr
