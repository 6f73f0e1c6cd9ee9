"""The benchmark's floors against counts by hand, and its parts on a tiny corpus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgcl_core.bench import floors, measure
from mgcl_core.bench.drift import half_precision_drift
from mgcl_core.bench.floors import Work
from mgcl_core.bench.loss import time_contrastive_loss
from mgcl_core.bench.measure import Rates, Setup, describe_machine, measure_rates, row
from mgcl_core.bench.paper import time_whole_paper
from mgcl_core.bench.parts import Options, run_parts
from mgcl_core.bench.stages import (
    SEQUENCE_ENCODERS,
    first_clips,
    random_features,
    time_mgcl,
    time_sequence_encoders,
    valid_steps,
)
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.support.errors import ConfigError, RunError

CPU, RATES = torch.device("cpu"), Rates(1e9, 1e9)


@pytest.fixture
def make_setup(tiny_corpus, tiny_config):
    """Function of changed settings: what the tiny corpus is measured with, once."""
    return lambda **changes: Setup(tiny_corpus, tiny_config.override(changes), RATES, CPU, repeats=1)


def test_a_linear_layer_costs_two_operations_a_weight_and_row_and_pass():
    assert floors.linear(5, 3, 4).flops == 2 * 5 * 3 * 4
    assert floors.linear(5, 3, 4, 3).flops == 3 * floors.linear(5, 3, 4).flops
    assert floors.linear(5, 3, 4, 3).bytes > 3 * floors.linear(5, 3, 4).bytes  # and the optimiser's


def test_attention_counts_each_clip_by_itself():
    lengths = np.array([2, 5])
    assert floors.attention(lengths, 8).flops == 2 * 2 * (2 * 2 + 5 * 5) * 8  # scores and sums


def test_padding_is_no_work(tiny_config):
    def flops(longest: int, **changes) -> float:
        lengths = {modality: np.array([2, longest]) for modality in "TVA"}
        return floors.stage_two(lengths, tiny_config.override(changes), 16, train=True).flops

    assert flops(3) < flops(9)
    assert flops(9, trained_encoders=()) < flops(9)


def test_of_the_last_layer_only_the_first_state_is_counted():
    tokens, shape = np.array([5, 9]), {"width": 8, "inner": 32, "layers": 2, "vocabulary": 99, "train": True}
    whole, first = floors.bert(tokens, **shape), floors.bert(tokens, **shape, first_only=True)
    one = floors.transformer_layer(tokens, 8, 32, 3)
    assert whole.flops - one.flops < first.flops < whole.flops
    # A clip of one token leaves nothing out.
    assert floors.bert(np.array([1]), **shape).flops == floors.bert(np.array([1]), **shape, first_only=True).flops


def test_a_row_has_the_median_and_its_ratio_to_the_floor():
    values = row("x", [1.0, 3.0, 2.0], Work(flops=5e8, bytes=1e8), RATES, times=2.0)
    assert (values["seconds"], values["low"], values["high"]) == (4.0, 2.0, 6.0)
    assert (values["floor"], values["ratio"]) == (1.0, 4.0)


def test_half_precision_has_a_rate_and_a_width_of_its_own(monkeypatch):
    monkeypatch.setattr(measure, "MATRIX", 64)  # a processor without bfloat16 takes minutes for the real one
    assert measure_rates(CPU, "bf16", 1).number == 2 and measure_rates(CPU, "fp32", 1).number == 4
    assert Rates(1e9, 1e9, 2).floor(Work(0, 8e9)) == 4.0


def test_the_machine_is_named():
    described = describe_machine(CPU)
    assert described["device"] and described["cores"] > 0 and described["packages"]["torch"]


def test_the_loss_is_timed_beside_the_loops():
    rows = list(time_contrastive_loss(RATES, CPU, width=4, sizes=(4, 8), looped=(4,), repeats=1))
    assert [values["batch"] for values in rows] == [4, 4, 8]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trained_encoders": ()},
        {"trained_encoders": (), "micro": "pooled"},
        {"encoder_chunk": 2},
        {"length_buckets": 2},
    ],
)
def test_stage_two_is_timed(make_setup, changes):
    values = time_mgcl(make_setup(mgcl_batch_size=4, **changes), clips=8, text_width=16)
    assert values["seconds"] > 0 and values["floor"] > 0 and values["measured_clips"] == 8


def test_stage_one_is_timed(make_setup):
    rows = list(time_sequence_encoders(make_setup()))
    assert [values["what"].split(", ")[1] for values in rows] == ["macro_A", "micro_A", "macro_V", "micro_V"]
    assert all(values["seconds"] > 0 and values["ratio"] > 0 for values in rows)


def test_an_epoch_is_scaled_from_the_clips_that_were_timed(make_setup, tiny_corpus):
    setup = make_setup(sequence_batch_size=8)
    part, whole = (
        next(time_sequence_encoders(setup, clips=clips, names=SEQUENCE_ENCODERS[:1])) for clips in (20, 10_000)
    )
    assert part["measured_clips"] == 20 < whole["measured_clips"] == len(tiny_corpus.train)
    assert part["gflop"] == pytest.approx(whole["gflop"], rel=0.3)  # the clips are of other lengths


def test_batches_of_similar_length_are_timed_as_such(make_setup, monkeypatch):
    drawn = []
    real = DeviceSplit.batches
    monkeypatch.setattr(DeviceSplit, "batches", lambda *a, **k: drawn.append(k.get("buckets", 1)) or real(*a, **k))
    time_mgcl(make_setup(mgcl_batch_size=4, length_buckets=2), clips=8, text_width=16)
    assert 2 in drawn


def test_random_features_have_as_many_words_as_the_floor_counts(tiny_corpus, tiny_config):
    split, _ = first_clips(tiny_corpus, 40, CPU)
    words = random_features(split, tiny_config, 16)["micro_T_mask"].sum(1)
    (batch,) = split.batches(40)
    assert (words.numpy() == valid_steps(batch)["T"]).all()


@pytest.mark.slow
def test_the_whole_paper_is_the_sum_of_all_epochs_of_all_runs(make_setup):
    setup = make_setup(mgcl_epochs=7)
    *stages, whole = time_whole_paper([("sims", setup), ("mosei", setup)], layers=1)
    assert len(stages) == 2 * 7  # six encoders and MGCL
    assert [values["runs"] for values in stages if values["epochs"] == 7] == [18, 3]  # ablations on CH-SIMS alone
    for column, of_an_epoch in (("hours", "seconds"), ("floor_hours", "floor")):
        seconds = sum(values[of_an_epoch] * values["epochs"] * values["runs"] for values in stages)
        assert whole[column] == pytest.approx(seconds / 3600)


@pytest.mark.slow
def test_features_in_half_precision_move_predictions_a_little(tiny_corpus, tiny_overrides, tmp_path):
    read, trained = half_precision_drift(tmp_path, device="cpu", corpus=tiny_corpus, overrides=tiny_overrides)
    assert 0 < read["mean_drift"] <= read["highest_drift"] < 0.01
    assert trained["mean_drift"] > 0 and trained["mae_fp32"] > 0 and trained["mae_fp16"] > 0


@pytest.mark.slow
def test_a_part_that_fails_leaves_the_others(tmp_path):
    options = Options("cpu", "synthetic-sims", tmp_path, None, 1)
    with pytest.raises(RunError, match="these parts failed.*: compared"):  # it lacks its interpreter
        run_parts(options, ["compared", "machine"])
    folder = tmp_path / "bench"
    assert (folder / "machine.json").exists() and "machine" in (folder / "bench.csv").read_text()


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'stage-two'"):
        run_parts(Options("cpu", "synthetic-sims", tmp_path, None, 1), ["stage-tow"])
