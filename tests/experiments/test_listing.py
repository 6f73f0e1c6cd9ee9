"""What was tried in a folder of results, and removing what nobody needs."""

import json
import math
import os

import pytest

from mgcl_core.cli import main
from mgcl_core.config import VARIANTS, preset
from mgcl_core.experiments.claims import claim
from mgcl_core.experiments.cleaning import removable, remove
from mgcl_core.experiments.listing import experiments, list_runs
from mgcl_core.experiments.run_records import DONE, RECORD, RUN_FORMAT
from mgcl_core.support.errors import RunError
from mgcl_core.trainer import SELECTION


def make_run(folder, name, stage="mgcl", *, variant="MGCL", mae=0.5, age=0.0, parents=(), done=True, **changes):
    """A run directory as a finished run leaves it, without its weights."""
    path = folder / name
    path.mkdir(parents=True)
    variant = variant if stage == "mgcl" else ""
    config = preset("sims", "demo").override({**VARIANTS.get(variant, {}), "audio_dim": 7, **changes})
    record = {"format": RUN_FORMAT, "stage": stage, "variant": variant, "profile": "demo", "config": config.as_dict()}
    record |= {"corpus": {"name": "demo", "scheme": "sims"}, "parents": list(parents), "system": None}
    (path / RECORD).write_text(json.dumps(record))
    (path / SELECTION).write_text(json.dumps({"epoch": 1, "valid_mae": mae}))
    if done:
        (path / DONE).touch()
    os.utime(path / RECORD, (1e9 - age, 1e9 - age))
    return path


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "demo" / "demo" / "runs"
    make_run(folder, "macro_A-1", "macro_A", seed=1, alpha=0.7, age=9)  # alpha is no setting of an encoder
    make_run(folder, "MGCL-1", seed=1, mae=0.4, age=5, parents=["macro_A-1"])
    make_run(folder, "MGCL-2", seed=2, mae=0.6, age=5)
    make_run(folder, "changed-1", seed=1, alpha=0.3, age=1, done=False)
    make_run(folder, "without-CL-1", variant="w/o CL", seed=1, age=7)
    (folder / "stopped").mkdir()
    (folder / "stopped" / "metrics.jsonl").write_text("{}")
    make_run(folder, "old")
    (folder / "old" / RECORD).write_text('{"format": 0}')
    make_run(folder, "broken")
    (folder / "broken" / RECORD).write_text("{")
    return folder


def test_every_run_is_listed_with_its_state(runs):
    states = list_runs(runs).set_index("run")["state"].to_dict()
    assert states.pop("changed-1") == "trained" and states.pop("stopped") == "unfinished"
    assert states.pop("old") == "other version" and states.pop("broken") == "damaged"
    assert set(states.values()) == {"done"}


def test_experiments_are_runs_of_one_setting_and_the_newest_come_first(runs):
    frame = experiments(runs)
    known = frame[frame["experiment"].str.startswith(("MGCL", "w/o", "stage"))]
    assert list(zip(known["experiment"], known["changed"], strict=True)) == [
        ("MGCL", "alpha=0.3"), ("MGCL", ""), ("w/o CL", ""), ("stage one", ""),
    ]  # fmt: skip
    row = known.iloc[1]
    assert (row["seeds"], row["runs"], row["done"]) == ("1, 2", 2, 2)
    assert row["valid MAE"] == pytest.approx(0.5) and row["sd"] == pytest.approx(math.sqrt(0.02))
    assert math.isnan(known.iloc[3]["valid MAE"]) and (frame["corpus"] == "demo").all()
    assert frame["runs"].sum() == 8


def test_the_command_lists_them_all(runs, capsys):
    assert main(["runs", "--results", str(runs.parents[2])]) == 0
    shown = capsys.readouterr().out
    assert "alpha=0.3" in shown and "stage one" in shown
    assert main(["runs", "--results", str(runs / "nothing")]) == 0
    assert "nothing was tried" in capsys.readouterr().out


def names(items):
    return {item.path.name for item in items}


def test_only_useless_runs_go_unless_more_is_asked_for(runs):
    results = runs.parents[2]
    (runs / "MGCL-1" / "features-valid.json").touch()
    assert names(removable(results)) == {"old", "broken"}
    assert names(removable(results, unfinished=True)) == {"old", "broken", "stopped"}
    assert names(removable(results, features=True)) == {"old", "broken", "features-valid.json"}
    assert names(removable(results, runs=["MGCL-*"])) == {"old", "broken", "MGCL-1", "MGCL-2"}


def test_what_other_runs_start_from_stays(runs):
    results = runs.parents[2]
    with pytest.raises(RunError, match="MGCL-1 starts from macro_A-1"):
        removable(results, runs=["macro_A-1"])
    assert names(removable(results, runs=["macro_A-1", "MGCL-1"])) >= {"macro_A-1", "MGCL-1"}
    with pytest.raises(RunError, match="no run in .* is called 'MGLC"):
        removable(results, runs=["MGLC-*"])


def test_what_a_process_works_on_stays(runs):
    with claim(runs / "stopped"):
        gone, kept = remove(removable(runs.parents[2], unfinished=True))
    assert names(gone) == {"old", "broken"} and names(kept) == {"stopped"}
    assert not (runs / "old").exists() and not (runs / "broken").exists() and (runs / "stopped").exists()


def test_a_link_is_never_followed(runs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (runs / "link").symlink_to(outside)
    (runs / "old" / "link").symlink_to(outside)
    remove(removable(runs.parents[2], unfinished=True, features=True))
    assert (outside / "precious").exists() and (runs / "link").is_symlink()


def test_the_command_removes_only_with_yes(runs, capsys):
    arguments = ["clean", "--results", str(runs.parents[2])]
    assert main(arguments) == 0 and "would go" in capsys.readouterr().out and (runs / "old").exists()
    assert main([*arguments, "--yes"]) == 0 and "removed" in capsys.readouterr().out and not (runs / "old").exists()
    assert (runs / "MGCL-1").exists()
