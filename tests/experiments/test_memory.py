"""What a run needs of a GPU's memory: counted, said before it starts, and named when it ran out."""

from __future__ import annotations

import logging
import pickle

import pytest
import torch

from mgcl_core.data.corpus import EncoderName
from mgcl_core.experiments import memory
from mgcl_core.experiments.memory import OutOfMemory, bytes_of_states, few_clips, need_of
from mgcl_core.experiments.study import Study
from mgcl_core.stage_one import UnimodalRegressor
from mgcl_core.support.errors import RunError

GIB = 2**30


@pytest.fixture
def study(tiny_corpus, tiny_overrides, tmp_path):
    def make(**changes) -> Study:
        overrides = {**tiny_overrides, **changes.pop("overrides", {})}
        return Study(tiny_corpus, "demo", seeds=[1], device="cpu", overrides=overrides, results=tmp_path,
                     **{"workers": 1, **changes})  # fmt: skip

    return make


@pytest.fixture
def card(monkeypatch):
    """Function of a number of bytes: what a GPU has, in the eyes of the counting."""

    def has(size: int) -> None:
        monkeypatch.setattr(memory, "device_memory", lambda device: size)

    return has


@pytest.mark.parametrize("name", ["macro_A", "micro_V", "macro_T"])
def test_states_of_a_step_grow_with_width_and_layers_and_weights_are_not_among_them(tiny_config, tiny_corpus, name):
    batch = few_clips(tiny_corpus.train, tiny_config)

    def states(**changes) -> int:
        config = tiny_config.override(changes)
        return bytes_of_states(UnimodalRegressor(EncoderName.parse(name), config), batch, "fp32")

    if name == "macro_T":
        assert states(encoder_chunk=2) < states()
        return
    once, twice = states(layers=1), states(layers=2)
    assert states(layers=3) - twice == twice - once > 0
    valid = int(getattr(batch, {"A": "audio_mask", "V": "vision_mask"}[name[-1]]).sum())
    width, inner = tiny_config.width, tiny_config.feedforward
    # Of a layer at least: its input, queries, keys, values, what they give, two norms' input, and the inner states.
    assert twice - once > 4 * valid * (6 * width + 2 * inner)
    assert states(layers=1, head_hidden=50_000) - once < 4 * 50_000 * 3 * len(batch)  # of weights, it would be more


def test_what_a_run_needs_follows_its_batch_and_its_chunk(study):
    def need(**overrides):
        built = study(overrides=overrides)
        run = next(run for run in built.pretrainings() if run.stage.name == "macro_A")
        return need_of(run, built.splits.shapes(run), few_clips(built.corpus.train, built.base))

    usual, double, chunked = need(sequence_batch_size=32), need(sequence_batch_size=64), need(encoder_chunk=8)
    assert (usual.clips, double.clips, chunked.clips) == (32, 64, 8)
    assert usual.clip == double.clip == chunked.clip > 0
    assert double.total - usual.total == 32 * usual.clip and usual.weights == chunked.weights


def test_workers_that_a_gpu_has_no_memory_for_are_named_before_they_start(study, card, caplog):
    built = study(workers=3)
    runs, shapes = built.pretrainings(), built.splits.shapes
    for size, said in ((GIB, False), (100_000, True)):
        caplog.clear()
        card(size)
        memory.warn_of_crowding(runs, shapes, built.corpus.train, built.device, 3)
        assert ("3 workers may need" in caplog.text) == said
    assert "GiB of states of" in caplog.text and "fewer workers; encoder_chunk=" in caplog.text


@pytest.mark.slow
def test_it_is_said_before_the_first_run_of_a_study(study, card, caplog, monkeypatch):
    built = study()
    card(100_000)

    def finish(self, run):
        logging.getLogger("mgcl_core").info("starts %s", run.name)
        raise RunError("enough")

    monkeypatch.setattr(Study, "finish", finish)
    with caplog.at_level(logging.INFO), pytest.raises(RunError, match="enough"):
        built.pretrain()
    messages = [record.message for record in caplog.records]
    first = next(number for number, message in enumerate(messages) if message.startswith("starts"))
    assert any("1 worker may need" in message for message in messages[:first])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, expected",
    [
        ("macro_A", ["encoder_chunk=", "a smaller sequence_batch_size"]),
        ("macro_T", ["encoder_chunk=", "a smaller text_batch_size"]),
        ("mgcl", ["encoder_chunk=", "feature_cache=fp16", "a smaller mgcl_batch_size"]),
        ("tfn", ["a smaller batch_size of tfn (system_overrides; now 32)"]),
    ],
)
def test_running_out_of_memory_names_what_helps_with_the_bytes_counted(study, monkeypatch, name, expected):
    built = study()
    if name == "mgcl":
        built.pretrain()
    runs = [*built.pretrainings(), *built.trainings(), *built.comparisons(["tfn"])]
    run = next(run for run in runs if run.stage.name == name)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more lines")

    monkeypatch.setattr("mgcl_core.experiments.study.fit", full)
    with pytest.raises(OutOfMemory) as caught:
        built.finish(run)
    message = str(caught.value)
    assert message.startswith(f"{run.name} ran out of memory") and "Tried to allocate 2.00 GiB" in message
    assert (
        "GiB of weights, gradients and AdamW" in message and f"states of {run.stage.schedule.batch_size} cl" in message
    )
    assert all(part in message for part in expected) and "more lines" not in message
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), RunError)  # as it comes from another process


def test_data_may_take_a_quarter_of_a_card(card):
    card(8 * GIB)
    assert memory.data_room(torch.device("cuda")) == 2 * GIB
    card(None)
    assert memory.data_room(torch.device("cpu")) is None
