"""The benchmark's floors against counts by hand, and its parts on a tiny corpus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgcl_core.bench import floors, measure
from mgcl_core.bench.floors import Lengths, Work
from mgcl_core.bench.loss import loss_alone
from mgcl_core.bench.many import many
from mgcl_core.bench.measure import Rates, _processor, machine, rates, row
from mgcl_core.bench.paper import paper
from mgcl_core.bench.parts import Options, bench
from mgcl_core.bench.stages import lengths_of, random_features, split_of, stage_one, stage_two
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.support.errors import RunError

CPU, RATE = torch.device("cpu"), Rates(1e9, 1e9)


def test_a_linear_layer_costs_two_operations_a_weight_and_row_and_pass():
    assert floors.linear(5, 3, 4).flops == 2 * 5 * 3 * 4
    assert floors.linear(5, 3, 4, 3).flops == 3 * floors.linear(5, 3, 4).flops
    assert floors.linear(5, 3, 4, 3).bytes > 3 * floors.linear(5, 3, 4).bytes  # and the optimiser's


def test_attention_counts_each_clip_by_itself():
    lengths = np.array([2, 5])
    assert floors.attention(lengths, 8).flops == 2 * 2 * (2 * 2 + 5 * 5) * 8  # scores and sums


def test_padding_is_no_work(tiny_config):
    short, long = (Lengths(*(np.array([2, steps]) for _ in range(3))) for steps in (3, 9))
    assert (
        floors.stage_two(short, tiny_config, 16, train=True).flops
        < floors.stage_two(long, tiny_config, 16, train=True).flops
    )
    frozen = tiny_config.override({"trained_encoders": ()})
    assert (
        floors.stage_two(long, frozen, 16, train=True).flops < floors.stage_two(long, tiny_config, 16, train=True).flops
    )


def test_a_line_has_the_median_and_its_ratio_to_the_floor():
    line = row("x", [1.0, 3.0, 2.0], Work(flops=5e8, bytes=1e8), RATE, times=2.0)
    assert (line["seconds"], line["low"], line["high"], line["floor"], line["ratio"]) == (4.0, 2.0, 6.0, 1.0, 4.0)


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
def test_stage_two_is_timed(tiny_corpus, tiny_config, changes):
    config = tiny_config.override({"mgcl_batch_size": 4, **changes})
    line = stage_two(tiny_corpus, config, RATE, CPU, "stage two", text_width=16, batches=2, repeats=1)
    assert line["seconds"] > 0 and line["floor"] > 0 and line["measured_clips"] == 8


def test_stage_one_is_timed(tiny_corpus, tiny_config):
    lines = list(stage_one(tiny_corpus, tiny_config, RATE, CPU, batches=1, repeats=1, full_length=True))
    assert [line["what"].split(", ")[1] for line in lines] == ["macro_A", "micro_A", "macro_V", "micro_V"]
    assert all(line["seconds"] > 0 and line["ratio"] > 0 for line in lines)


def test_the_whole_paper_is_the_sum_of_all_epochs_of_all_runs(tiny_corpus, tiny_config):
    config = tiny_config.override({"mgcl_epochs": 7})
    lines = list(paper({"sims": config, "mosei": config}, RATE, CPU, repeats=1, load=lambda _: tiny_corpus, layers=1))
    stages, (whole,) = (
        [line for line in lines if "epochs" in line],
        [line for line in lines if "epochs" not in line and "hours" in line],
    )
    assert len(stages) == 2 * 7 and len(lines) == 2 * 7 + 2  # six encoders and MGCL; MOSEI's large batch; the sum
    assert [line["runs"] for line in stages if line["epochs"] == 7] == [18, 3]  # ablations on CH-SIMS alone
    for column, of_an_epoch in (("hours", "seconds"), ("floor_hours", "floor")):
        seconds = sum(line[of_an_epoch] * line["epochs"] * line["runs"] for line in stages)
        assert whole[column] == pytest.approx(seconds / 3600)
    assert lines[-2]["batch"] == 64


def test_an_epoch_is_scaled_from_the_clips_that_were_timed(tiny_corpus, tiny_config):
    config = tiny_config.override({"sequence_batch_size": 8})
    part, whole = (
        next(
            stage_one(tiny_corpus, config, RATE, CPU, batches=batches, repeats=1, names=("macro_A",), full_length=True)
        )
        for batches in (2, 10_000)
    )
    assert part["measured_clips"] == 16 < whole["measured_clips"] == len(tiny_corpus.train)
    assert part["gflop"] == pytest.approx(whole["gflop"], rel=0.1)  # the share of validation is whole clips


def test_the_loss_is_timed_beside_the_loops():
    lines = list(loss_alone(RATE, CPU, width=4, sizes=(4, 8), looped=(4,), repeats=1))
    assert [line["batch"] for line in lines] == [4, 4, 8]


def test_the_machine_is_named():
    assert machine(CPU)["device"] == _processor()


def test_several_runs_are_timed_in_three_ways(tiny_corpus, tiny_config):
    config = tiny_config.override({"mgcl_batch_size": 4})
    lines = list(many(tiny_corpus, config, CPU, runs=2, workers=2, clips=8, epochs=1))
    assert [line["what"].split("runs ")[1].split(",")[0] for line in lines] == [
        "one after the other",
        "side by side",
        "stacked by torch.func",
    ]
    assert all(line["seconds"] > 0 for line in lines)


def test_a_part_with_buckets_draws_its_batches_from_them(tiny_corpus, tiny_config, monkeypatch):
    drawn = []
    real = DeviceSplit.batches
    monkeypatch.setattr(DeviceSplit, "batches", lambda *a, **k: drawn.append(k.get("buckets", 1)) or real(*a, **k))
    config = tiny_config.override({"mgcl_batch_size": 4, "length_buckets": 2})
    stage_two(tiny_corpus, config, RATE, CPU, "stage two", text_width=16, batches=2, repeats=1)
    assert 2 in drawn


def test_stand_ins_have_as_many_words_as_the_floor_counts(tiny_corpus, tiny_config):
    split = split_of(tiny_corpus.train, 40, CPU)
    words = random_features(split, tiny_config, 16)["micro_T_mask"].sum(1)
    (batch,) = split.batches(40)
    assert (words.numpy() == lengths_of(batch).text).all()


def test_of_the_last_layer_only_the_first_state_is_counted():
    tokens, shape = np.array([5, 9]), {"width": 8, "inner": 32, "layers": 2, "vocabulary": 99, "train": True}
    whole, first = floors.bert(tokens, **shape), floors.bert(tokens, **shape, first_only=True)
    one = floors.transformer_layer(tokens, 8, 32, 3)
    assert whole.flops - one.flops < first.flops < whole.flops
    # A clip of one token leaves nothing out.
    assert floors.bert(np.array([1]), **shape).flops == floors.bert(np.array([1]), **shape, first_only=True).flops


def test_half_precision_has_a_rate_and_a_width_of_its_own(monkeypatch):
    monkeypatch.setattr(measure, "MATRIX", 64)  # a processor without bfloat16 takes minutes for the real one
    assert rates(CPU, "bf16", 1).number == 2 and rates(CPU, "fp32", 1).number == 4
    assert Rates(1e9, 1e9, 2).floor(Work(0, 8e9)) == 4.0


def test_a_part_that_fails_leaves_the_others(tmp_path):
    options = Options("cpu", "synthetic-sims", tmp_path, None, 1)
    with pytest.raises(RunError, match="these parts failed.*: compared"):  # it lacks its interpreter
        bench(options, ["compared", "machine"])
    folder = tmp_path / "bench"
    assert (folder / "machine.json").exists() and "machine" in (folder / "bench.csv").read_text()
