"""Where a result comes from: the commit of this package only, and what a system cannot tell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mgcl_core
from mgcl_core.support.provenance import git_state

pytestmark = pytest.mark.slow

PACKAGE = Path(mgcl_core.__file__).parent
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def state_of(checkout: Path, **environment: str) -> dict:
    """`git_state` as a copy of the package in ``checkout`` gives it."""
    code = "import json; from mgcl_core.support.provenance import git_state; print(json.dumps(git_state()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(checkout), **environment},
    )
    return json.loads(done.stdout)


@pytest.fixture
def repository(tmp_path):
    """A repository of something else, with a commit."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "thesis")
    return tmp_path


def copy_to(folder: Path, *files: str) -> Path:
    shutil.copytree(PACKAGE, folder / "mgcl_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in files:
        shutil.copy(PACKAGE.parent / name, folder)
    return folder


def test_the_commit_of_another_repository_around_is_not_ours(repository):
    inside = repository / "tools"
    inside.mkdir()
    nothing = {"commit": None, "dirty": None}
    assert state_of(copy_to(inside, "pyproject.toml")) == nothing
    assert state_of(copy_to(repository)) == nothing  # at its top, without our project file
    (repository / "pyproject.toml").write_text('[project]\nname = "thesis"\n')
    assert state_of(repository) == nothing


def test_a_checkout_of_this_package_tells_its_commit_and_what_differs(tmp_path, repository):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(copy_to(checkout, "pyproject.toml"), "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    # The hooks of a repository set GIT_DIR for all they call.
    assert state_of(checkout, GIT_DIR=str(repository / ".git")) == {"commit": commit, "dirty": False}
    (checkout / "mgcl_core" / "support" / "errors.py").open("a").write("# changed\n")
    assert state_of(checkout) == {"commit": commit, "dirty": True}


def test_a_system_without_the_module_resource_trains_and_knows_no_peak():
    code = (
        "import sys; sys.modules['resource'] = None; import torch; "
        "import mgcl_core.cli, mgcl_core.experiments.study; "
        "from mgcl_core.support.provenance import peak_memory; print(peak_memory(torch.device('cpu'))['process_gib'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "nan", done.stderr


def test_this_checkout():
    state = git_state()
    if (PACKAGE.parent / ".git").exists():
        assert len(state["commit"]) == 40 and state["dirty"] in (True, False)
    else:
        assert state == {"commit": None, "dirty": None}
