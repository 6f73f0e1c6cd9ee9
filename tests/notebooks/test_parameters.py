"""Parameters are checked by name and type before anything runs."""

import typing
from pathlib import Path

import pandas as pd
import papermill
import pytest
import torch

from mgcl_core.config import Config, parse
from mgcl_core.notebooks.parameters import Parameters, begin, resolve_profile, versions
from mgcl_core.reporting import tables
from mgcl_core.support.errors import ConfigError
from mgcl_core.support.parallel import choose_workers

ROOT = Path(__file__).parents[2]
CELLS = ["", 'corpus = "demo"\nseeds = [1, 2]', "from mgcl_core import notebook\nsettings = notebook.begin(globals())"]


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


def test_a_cell_of_the_readers_own_before_the_first_begin_is_no_parameters_cell():
    assert begin(namespace("mine = 3", mine=3), "corpus", "seeds").corpus == "demo"


def run_again(cell: str, **values):
    """The parameters cell run a second time, after a whole first pass, and then the cell that calls `begin`."""
    space = namespace(**values)
    space["In"] += ["study = settings.study()\nruns = [1]", cell, CELLS[2]]
    return space


@pytest.mark.parametrize("cell", ['corpsu = "sims"\nseeds = [1, 2]', 'corpus: str = "sims"\nseed = [1]'])
def test_a_misspelt_parameter_is_an_error_when_the_cell_is_run_again(cell):
    with pytest.raises(ConfigError, match="unknown parameter"):
        begin(run_again(cell), "corpus", "seeds")


def test_cells_between_are_no_parameters_cells_and_a_mended_one_is_believed():
    assert begin(run_again('corpus = "sims"\nseeds = [1, 2]', corpus="sims"), "corpus", "seeds").corpus == "sims"
    space = run_again('corpsu = "sims"\nseeds = [1, 2]')  # refused, mended, and run once more
    space["In"] += ['corpus = "sims"\nseeds = [1, 2]', CELLS[2]]
    assert begin({**space, "corpus": "sims"}, "corpus", "seeds").corpus == "sims"
    names = ("corpus", "profile", "seeds", "device", "workers")  # one of five does not make a parameters cell
    values = {name: getattr(Parameters(), name) for name in names}
    assert begin({**values, "In": ["", CELLS[2], "seeds = [3]\nmine = 2", CELLS[2]]}, *names).corpus == "demo"


#: One setting of each declared type, as Python gives it, as text, and as the setting.
TYPES = [
    ("weighted", False, "false", False),
    ("mgcl_epochs", 3, "3", 3),
    ("alpha", 0.2, "2e-1", 0.2),
    ("alpha", 1, "1", 1.0),
    ("text_model", "minilm", "minilm", "minilm"),
    ("micro", "pooled", "pooled", "pooled"),
    ("patience", None, "None", None),
    ("patience", 4, "4", 4),
    ("components", ("C1", "C2"), "C1,C2", ("C1", "C2")),
    ("trained_encoders", (), "", ()),
    ("predictor_hidden", (64, 32), "64,32", (64, 32)),
]


def kind(hint) -> tuple:
    """A declared type, of lists with what kind of items they hold, whatever the choices of a Literal are."""
    return typing.get_origin(hint) or hint, *(
        typing.get_origin(item) or item for item in typing.get_args(hint) if not isinstance(item, str)
    )


def test_every_declared_type_of_a_setting_has_a_case():
    hints = typing.get_type_hints(Config)
    assert {kind(hints[name]) for name, *_ in TYPES} == {kind(hint) for hint in hints.values()}


@pytest.mark.parametrize("name, given, text, expected", TYPES)
def test_every_type_of_setting_passes_through_papermill(name, given, text, expected, tmp_path):
    """From the command line's text and from Python, through the cell that papermill injects, to the settings."""
    for overrides in (dict([parse(f"{name}={text}")]), {name: given}):
        prepared = papermill.execute_notebook(
            str(ROOT / "notebooks" / "03_mgcl.ipynb"), str(tmp_path / "out.ipynb"), prepare_only=True,
            parameters={"overrides": Parameters(overrides=overrides).overrides})  # fmt: skip
        (injected,) = (cell.source for cell in prepared.cells if "injected-parameters" in cell.metadata.get("tags", []))
        space = {}
        exec(injected, space)
        assert getattr(Config().override(Parameters(overrides=space["overrides"]).overrides), name) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{alpha: 0.2, components: [C1, C3]}",
        '{"alpha": 0.2, "components": ["C1", "C3"]}',
        "alpha: 0.2\ncomponents: C1,C3",
    ],
)
def test_overrides_may_be_yaml_or_json_text(text):
    assert Parameters(overrides=text).overrides == {"alpha": 0.2, "components": ["C1", "C3"]}


@pytest.mark.parametrize(
    "given, message",
    [({"alhpa": 1}, "did you mean 'alpha'"), ({"alpha": "much"}, "type float"), ({1: 2}, "unknown setting 1")],
)
def test_overrides_are_checked_by_name_and_type(given, message):
    with pytest.raises(ConfigError, match=message):
        Parameters(overrides=given)


def test_frames_that_a_notebook_shows_are_kept_from_mathjax():
    with pd.option_context("display.html.use_mathjax", True, "styler.html.mathjax", True):
        begin(namespace(), "corpus", "seeds")
        frame = pd.DataFrame({"id": ["video$_$clip", "video$_$other"]})
        for shown in (frame._repr_html_(), frame.style._repr_html_()):
            assert "tex2jax_ignore" in shown and "mathjax_ignore" in shown
    assert "mathjax_ignore" in tables.table2([])._repr_html_()


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"seeds": "1111,1112"}, (1111, 1112)),
        ({"seeds": "[1, 2]"}, (1, 2)),
        ({"seeds": 7}, (7,)),
        ({"seeds": [3]}, (3,)),
    ],
)
def test_seeds_in_every_form_papermill_may_give(given, expected):
    assert Parameters(**given).seeds == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": "a,b"}, "must be of type int"),
        ({"seeds": [1.5]}, "must be of type int"),
        ({"seeds": [True]}, "must be of type int"),
        ({"corpus": 3}, "must be of type str"),
        ({"corpus": ""}, "must be of type str"),
        ({"profile": "papr"}, "did you mean 'paper'"),
        ({"precision": "fp16"}, "precision"),
        ({"overrides": "{alpha"}, "JSON or YAML"),
        ({"overrides": [1]}, "dictionary"),
        ({"results": 3}, "must be of type Path"),
        ({"corpora": []}, "corpora is empty"),
    ],
)
def test_wrong_values_are_errors(given, message):
    with pytest.raises(ConfigError, match=message):
        Parameters(**given)


def test_overrides_may_be_json_text_and_results_a_folder(tmp_path):
    parameters = Parameters(overrides='{"alpha": 0.2}', results=str(tmp_path))
    assert parameters.overrides == {"alpha": 0.2} and parameters.results == Path(tmp_path)


@pytest.mark.parametrize("given, expected", [({}, "auto"), ({"workers": 3}, 3), ({"workers": "3"}, 3)])
def test_workers_reach_the_study_as_a_number(given, expected, tmp_path):
    parameters = Parameters(**given, results=str(tmp_path))
    assert parameters.workers == expected
    assert parameters.study("demo").workers == choose_workers(expected, torch.device("cpu"), "demo")


@pytest.mark.parametrize("workers", ["many", 0, 1.5])
def test_a_wrong_number_of_workers_is_an_error_before_anything_runs(workers, tmp_path):
    with pytest.raises(ConfigError, match="workers"):
        Parameters(workers=workers, results=str(tmp_path), device="cpu").study()
    assert not list(tmp_path.iterdir())


def test_profiles_follow_the_corpus():
    assert resolve_profile("auto", "demo") == resolve_profile("auto", "demo-mosi") == "demo"
    assert resolve_profile("auto", "Demo") == resolve_profile("auto", "DEMO-MOSI") == "demo"  # as corpora are named
    assert resolve_profile("auto", "sims") == "paper" and resolve_profile("small", "demo") == "small"


def test_defaults_are_valid_and_versions_name_what_decides_a_result():
    assert Parameters().corpora == ("demo", "demo-mosi")
    assert {"python", "torch", "transformers", "numpy"} <= set(versions())
