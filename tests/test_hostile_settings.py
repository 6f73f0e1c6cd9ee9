"""Presets, parameters and settings of any kind: each is refused by a ConfigError or gives settings that read back.

A small share runs with the tests, 3,000 by ``make mutations``.
"""

import json
from random import Random

import pytest
from helpers.mutations import share
from hypothesis import given
from hypothesis import strategies as st

from mgcl_core.config import Config, parse
from mgcl_core.experiments.presets import read_preset
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.support.errors import ConfigError

SETTINGS, PARAMETERS = Config().as_dict(), ("corpus", "profile", "seeds", "overrides", "device", "workers", "trials")
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1e-4", "true", "C1,C2", "C1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(st.sampled_from(sorted(SETTINGS)) | st.text(max_size=12), ODD, max_size=4)


def read_back(config: Config) -> None:
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@share(150, seconds=5)
@given(CHANGES)
def test_settings(changes):
    try:
        config = Config().override(changes)
    except ConfigError as error:
        assert str(error)
        return
    read_back(config)


@share(50, seconds=5)
@given(st.sampled_from(sorted(SETTINGS)) | st.text(max_size=10), st.text(max_size=20))
def test_settings_of_the_command_line(name, value):
    try:
        config = Config().override(dict([parse(f"{name}={value}")]))
    except ConfigError:
        return
    read_back(config)


@share(50, seconds=5)
@given(st.dictionaries(st.sampled_from(PARAMETERS), ODD, max_size=4))
def test_parameters_of_a_notebook(given):
    try:
        parameters = Parameters(**given)
    except ConfigError:
        return
    assert parameters.seeds and parameters.trials >= 1


def test_presets(tmp_path):
    path = tmp_path / "preset.json"

    @share(50, seconds=5)
    @given(CHANGES, st.integers(0, 2**32))
    def check(changes, seed):
        random = Random(seed)
        content = bytearray(json.dumps({"overrides": changes, "from": {}}).encode())
        if random.random() < 0.5:
            content[random.randrange(len(content))] = random.randrange(256)
        if random.random() < 0.2:
            del content[random.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            overrides = read_preset(path)
        except ConfigError as error:
            assert str(path) in str(error)
            return
        assert set(overrides) <= set(SETTINGS)

    check()


def test_a_preset_that_is_a_folder_or_missing_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_preset(path)
