"""Parameters are checked by name and type before anything runs."""

from pathlib import Path

import pytest
import torch

from mgcl_core.errors import ConfigError
from mgcl_core.notebook import DEFAULTS, begin, check, resolve_profile, versions
from mgcl_core.parallel import choose_workers

CELLS = ['', 'corpus = "demo"\nseeds = [1, 2]', "from mgcl_core import notebook\nsettings = notebook.begin(globals())"]


def namespace(*injected: str, **values):
    return {"In": [CELLS[0], CELLS[1], *injected, CELLS[2]], "corpus": "demo", "seeds": [1, 2], **values}


def test_declared_parameters_pass():
    parameters = begin(namespace(), "corpus", "seeds")
    assert (parameters.corpus, parameters.seeds, parameters.profile) == ("demo", (1, 2), "auto")


def test_a_misspelt_injected_parameter_is_an_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown parameter 'corpsu'.*'corpus'"):
        begin(namespace('# Parameters\ncorpsu = "sims"', corpsu="sims"), "corpus", "seeds")


def test_a_cell_can_be_run_again_after_later_cells_made_names():
    space = namespace()
    space["In"] += ["study = settings.study()\nruns = [1]", CELLS[2]]
    space["runs"] = [1]
    assert begin(space, "corpus", "seeds").corpus == "demo"


def test_a_parameter_that_the_cell_no_longer_assigns_is_an_error():
    space = namespace()
    del space["seeds"]
    with pytest.raises(ConfigError, match="does not assign 'seeds'"):
        begin(space, "corpus", "seeds")


@pytest.mark.parametrize("given, expected", [
    ({"seeds": "1111,1112"}, (1111, 1112)), ({"seeds": "[1, 2]"}, (1, 2)), ({"seeds": 7}, (7,)), ({"seeds": [3]}, (3,)),
])
def test_seeds_in_every_form_papermill_may_give(given, expected):
    assert check(given).seeds == expected


@pytest.mark.parametrize("given, message", [
    ({"seeds": []}, "not empty"), ({"seeds": "a,b"}, "list of int"), ({"seeds": [1.5]}, "list of int"),
    ({"seeds": [True]}, "list of int"), ({"corpus": 3}, "must be text"), ({"corpus": ""}, "must be text"),
    ({"profile": "papr"}, "did you mean 'paper'"), ({"precision": "fp16"}, "precision"),
    ({"overrides": "{alpha"}, "JSON"), ({"overrides": [1]}, "dictionary"), ({"results": 3}, "folder"),
    ({"corpora": []}, "not empty"),
])
def test_wrong_values_are_errors(given, message):
    with pytest.raises(ConfigError, match=message):
        check(given)


def test_overrides_may_be_json_text_and_results_a_folder(tmp_path):
    parameters = check({"overrides": '{"alpha": 0.2}', "results": str(tmp_path)})
    assert parameters.overrides == {"alpha": 0.2} and parameters.results == Path(tmp_path)


@pytest.mark.parametrize("given, expected", [({}, "auto"), ({"workers": 3}, 3), ({"workers": "3"}, 3)])
def test_workers_reach_the_study_as_a_number(given, expected, tmp_path):
    parameters = check({**given, "results": str(tmp_path)})
    assert parameters.workers == expected
    assert parameters.study("demo").workers == choose_workers(expected, torch.device("cpu"), "demo")


@pytest.mark.parametrize("workers", ["many", 0, 1.5])
def test_a_wrong_number_of_workers_is_an_error_before_anything_runs(workers, tmp_path):
    with pytest.raises(ConfigError, match="workers"):
        check({"workers": workers, "results": str(tmp_path), "device": "cpu"}).study()
    assert not list(tmp_path.iterdir())


def test_profiles_follow_the_corpus():
    assert resolve_profile("auto", "demo") == resolve_profile("auto", "demo-mosi") == "demo"
    assert resolve_profile("auto", "sims") == "paper" and resolve_profile("small", "demo") == "small"


def test_defaults_are_valid_and_versions_name_what_decides_a_result():
    assert check(DEFAULTS).corpora == ("demo", "demo-mosi")
    assert {"python", "torch", "transformers", "numpy"} <= set(versions())
