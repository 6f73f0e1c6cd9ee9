"""Run folders of a stranger: predicting with one runs nothing in it, fetches nothing, never hangs, and takes no memory.

Each ends in an error of this package, or in the predictions of the run as it was; where the stranger changed numbers
and sealed the run again, in finite predictions. A small share runs with the tests, 1,000 by ``make mutations``.
"""

import contextlib
import copy
import json
import os
import shutil
import socket
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from helpers.corpus_files import make_content, write
from helpers.mutations import damage, share
from helpers.run_files import seal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mgcl_core.data import load_corpus
from mgcl_core.data.text_model import load_tokenizer, text_config, text_model_sha256
from mgcl_core.experiments.prediction import predict_file
from mgcl_core.experiments.runs import load_run
from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import MGCLError
from mgcl_core.support.integrity import write_sealed

pytestmark = pytest.mark.slow

OUTCOMES: Counter[str] = Counter()
VALUES = [
    None, True, -1, 0, 1, 3, 10**6, 2**31, 10**15, 10**40, -0.5, 1e300, "", "x", "../..", "/dev/zero", "minilm",
    "$(id)", "a" * 5000, [], [[]], {}, {"a": 1}, ["macro_T-1"], [1] * 1000, "NaN", "\ud800", "\0",
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    content = make_content("sims", (12, 4, 4))
    for split in content.values():
        split["raw_text"] = ["a good film"] * len(split["raw_text"])
    return write(tmp_path_factory.mktemp("clips") / "clips.pkl", content)


@pytest.fixture(scope="module")
def run(file, tiny_overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    corpus = load_corpus(file, cache_dir=folder / "cache")
    overrides = {**tiny_overrides, "tokens": "raw_text", "mgcl_epochs": 1}
    return Study(corpus, "demo", seeds=[1], overrides=overrides, results=folder, device="cpu", workers=1).train()[0]


def change_record(directory: Path, random: Random, tiny_bert: str) -> None:
    """Put something odd somewhere in the record, and seal it."""
    path = directory / "record.json"
    record = json.loads(path.read_text())
    record.pop("checksum")
    place, key = record, random.choice(sorted(record))
    while isinstance(place[key], dict) and place[key] and random.random() < 0.8:
        place = place[key]
        key = random.choice(sorted(place))
    choice = random.random()
    if choice < 0.1:
        del place[key]
    elif choice < 0.2:
        place[random.choice(["unknown", "__class__", "config"])] = place.pop(key)
    else:
        place[key] = copy.deepcopy(random.choice(VALUES))
    write_sealed(path, record)
    if random.random() < 0.9:
        with contextlib.suppress(KeyError, TypeError, OSError, AttributeError, ValueError):
            seal(directory)  # where the record still lists files


def change_arrays(directory: Path, random: Random, tiny_bert: str) -> None:
    """Other numbers or shapes in weights or scaler."""
    path = directory / random.choice(["weights.safetensors", "scaler.safetensors"])
    arrays = load_file(path)
    name = random.choice(sorted(arrays))
    values = arrays[name]
    arrays[name] = random.choice(
        [
            np.full_like(values, np.nan), np.full_like(values, np.inf), np.zeros((0,), values.dtype),
            values.astype(np.float64), values.astype(np.int8), values[..., None], values.ravel()[:1],
        ]
    )  # fmt: skip
    if random.random() < 0.2:
        del arrays[name]
    save_file(arrays, path)
    seal(directory)


def change_files(directory: Path, random: Random, tiny_bert: str) -> None:
    """Damage, pipes and links in the place of files."""
    file = random.choice(sorted(path for path in directory.iterdir() if path.is_file()))
    choice = random.random()
    if choice < 0.6:
        damage(file, random)
    else:
        file.unlink()
        target = random.choice(["/dev/zero", "/dev/random", directory / "nowhere", directory, file, Path("/proc/kmsg")])
        file.symlink_to(target)
    sealed = (directory / "record.json", directory / "done")  # links would be followed, which may never end
    if random.random() < 0.3 and all(path.is_file() and not path.is_symlink() for path in sealed):
        with contextlib.suppress(KeyError, ValueError, OSError):
            seal(directory)


def change_text_model(directory: Path, random: Random, tiny_bert: str) -> None:
    """A text model that comes with the run: with code of its own, sizes of no model, pipes, other weights."""
    model = directory.parent / f"bert-{random.randrange(10**9)}"
    shutil.copytree(tiny_bert, model)
    config = json.loads((model / "config.json").read_text())
    kind = random.randrange(5)
    if kind == 0:
        (model / "evil.py").write_text(f"open({str(model / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
        config |= {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}, "model_type": "evil"}
    elif kind == 1:
        keys = ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads"]
        key = random.choice([*keys, "max_position_embeddings", "model_type", "hidden_act", "torch_dtype"])
        config[key] = random.choice(VALUES)
    elif kind == 2:
        os.mkfifo(model / "extra.json")
    elif kind == 3:
        damage(random.choice(sorted(model.iterdir())), random)
    if (model / "config.json").is_file() and kind < 2:
        (model / "config.json").write_text(json.dumps(config))
    for path in directory.parent.glob("*/record.json"):
        record = json.loads(path.read_text())
        record.pop("checksum")
        record["config"]["text_model"] = str(model)
        for cached in (text_config, load_tokenizer, text_model_sha256):
            cached.cache_clear()
        if kind == 1:
            with contextlib.suppress(MGCLError):
                record["text_model"]["sha256"] = text_model_sha256(str(model))
        write_sealed(path, record)
        seal(path.parent)


def test_a_stranger_s_run(run, file, tiny_bert, tmp_path, monkeypatch):
    expected = predict_file(run.directory, file, out=tmp_path / "out.csv", device="cpu")

    def no_network(*arguments, **more):
        pytest.fail("something was fetched")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    @share(90, seconds=120)
    @given(st.integers(0, 2**32))
    def check(seed):
        random = Random(seed)
        runs = tmp_path / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(run.directory.parent, runs, ignore=shutil.ignore_patterns("features-*"))
        change = random.choice([change_record, change_record, change_arrays, change_files, change_text_model])
        directory = random.choice(sorted(path for path in runs.iterdir() if path.is_dir()))
        change(directory, random, tiny_bert)
        (tmp_path / "out.csv").unlink(missing_ok=True)
        try:
            frame = predict_file(runs / run.name, file, out=tmp_path / "out.csv", device="cpu")
        except MGCLError:
            OUTCOMES["own error"] += 1
            assert not (tmp_path / "out.csv").exists()
        else:
            loaded = load_run(runs / run.name)
            sealed = not any(one.verify() for one in (loaded, *loaded.parents))
            assert list(frame["id"]) == list(expected["id"])
            assert frame.equals(expected) or (sealed and np.isfinite(frame["prediction"]).all()), change.__name__
            OUTCOMES["read as it was"] += 1
        assert not list(runs.rglob("ran"))

    check()
    print(dict(OUTCOMES))
