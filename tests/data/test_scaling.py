"""Scaling of audio and vision: the statistics, what they leave out, and reading them back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from mgcl_core import reference
from mgcl_core.data.scaling import Scaler, sample_steps, unusual_dimensions
from mgcl_core.support.errors import RunError


def test_zscore_equals_the_naive_moments(make_split):
    split = make_split(12)
    scaler = Scaler.fit(split, "zscore")
    for name in ("audio", "vision"):
        values, mask = getattr(split, name), getattr(split, f"{name}_mask")
        mean, std = reference.moments(values, mask)
        np.testing.assert_allclose(scaler.statistics[f"{name}_center"], mean, atol=1e-6)
        np.testing.assert_allclose(scaler.statistics[f"{name}_scale"], std, atol=1e-6)
        scaled = scaler.apply(name, values)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, np.clip((values - np.array(mean)) / np.array(std), -10, 10), atol=1e-5)
        np.testing.assert_allclose(scaled[mask].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled[mask].std(0), 1, atol=1e-5)


def test_moments_of_many_clips_are_those_of_all_their_valid_steps(make_split):
    split = make_split(700)  # more than are read at once
    scaler = Scaler.fit(split, "zscore")
    valid = split.audio[split.audio_mask].astype(np.float64)  # (steps, D)
    np.testing.assert_allclose(scaler.statistics["audio_center"], valid.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scaler.statistics["audio_scale"], valid.std(0), rtol=1e-6)


def test_zero_steps_inside_a_clip_count_and_padding_does_not(make_split):
    split = make_split(2)
    audio, mask = np.zeros((2, 9, 4), np.float32), np.zeros((2, 9), bool)
    mask[0, :4] = True
    audio[0, 0] = 4.0  # one step of 4, three of 0: mean 1
    audio[1, :3] = 9.0  # not valid
    split = dataclasses.replace(split, audio=audio, audio_mask=mask)
    np.testing.assert_allclose(Scaler.fit(split, "zscore").statistics["audio_center"], 1.0)
    np.testing.assert_allclose(Scaler.fit(split).statistics["audio_center"], 0.0)  # the median


@pytest.mark.parametrize("kind", ["robust", "zscore"])
def test_constant_dimensions_keep_their_scale_and_outliers_are_clipped(make_split, kind):
    split = make_split(200)
    vision = split.vision.copy()
    vision[:, :, 1] = 3.5
    vision[0, 0, 0] = 1e6
    split = dataclasses.replace(split, vision=vision)
    scaler = Scaler.fit(split, kind)
    scaled = scaler.apply("vision", vision)
    assert np.isfinite(scaled).all() and scaler.statistics["vision_scale"][1] == 1
    assert (scaled[split.vision_mask][:, 1] == 0).all()
    assert scaled[0, 0, 0] == 10.0 and np.abs(scaled).max() == 10.0


def test_robust_scaling_of_normal_values_is_zscore(make_split):
    split = make_split(3000)
    scaler = Scaler.fit(split)
    np.testing.assert_allclose(scaler.statistics["audio_center"], 0, atol=0.03)
    np.testing.assert_allclose(scaler.statistics["audio_scale"], 1, atol=0.03)


@pytest.mark.parametrize("name", ["audio", "vision"])
def test_wild_frames_and_a_wild_clip_leave_the_ordinary_values_as_they_were(make_split, name):
    split = make_split(1000)
    values, mask = getattr(split, name), getattr(split, f"{name}_mask")
    clip, step = np.nonzero(mask)
    frames = np.random.default_rng(0).choice(len(clip), len(clip) // 500, replace=False)  # 0.2 %
    dirty = values.copy()
    dirty[clip[frames], step[frames]] *= 1e7
    dirty[3] *= 1e9
    ordinary = mask & (dirty == values).all(axis=2)
    assert 0.99 < ordinary.sum() / mask.sum() < 1
    clean = Scaler.fit(split).apply(name, values)[ordinary]
    scaled = Scaler.fit(dataclasses.replace(split, **{name: dirty})).apply(name, dirty)
    np.testing.assert_allclose(scaled[ordinary], clean, rtol=0.03, atol=0.03)
    assert np.isfinite(scaled).all() and np.abs(scaled).max() == 10


@pytest.mark.parametrize("share", [0.002, 0.03, 0.2, 0.5])
def test_sparse_binary_columns_keep_two_values(make_split, share):
    split = make_split(1000)
    vision = (np.random.default_rng(0).random(split.vision.shape) < share).astype(np.float32)
    scaled = Scaler.fit(dataclasses.replace(split, vision=vision)).apply("vision", vision)
    for dimension in range(vision.shape[2]):
        low, high = np.unique(scaled[split.vision_mask][:, dimension])
        assert low <= 0 <= high and 0.5 < high - low < 10


def test_sampled_steps_are_evenly_spread_over_the_valid_ones(make_split, monkeypatch):
    split = make_split(600)  # more than are read at once
    valid = split.audio[split.audio_mask]
    np.testing.assert_array_equal(sample_steps(split.audio, split.audio_mask), valid)
    monkeypatch.setattr("mgcl_core.data.scaling._SAMPLE_STEPS", 1000)
    stride = -(-len(valid) // 1000)
    assert stride > 1
    np.testing.assert_array_equal(sample_steps(split.audio, split.audio_mask), valid[::stride])


def test_unusual_dimensions_are_named(make_split):
    split = make_split(200)
    assert unusual_dimensions(split).empty
    audio, vision = split.audio.copy(), split.vision.copy()
    audio[:, :, 1] = 3.5
    audio[5, 0, 2] = -1e5
    vision[:, :, 0] = np.random.default_rng(0).random(vision.shape[:2]) < 0.05
    found = unusual_dimensions(dataclasses.replace(split, audio=audio, vision=vision))
    rows = found[["modality", "kind", "count", "of", "dimensions"]].values.tolist()
    assert rows == [["audio", "constant", 1, 4, "1"], ["audio", "extreme", 1, 4, "2"], ["vision", "sparse", 1, 3, "0"]]


def test_a_training_split_without_any_valid_step_is_left_as_it_is(make_split):
    split = make_split(3)
    split = dataclasses.replace(split, audio_mask=np.zeros_like(split.audio_mask))
    for kind in ("robust", "zscore"):
        scaler = Scaler.fit(split, kind)
        np.testing.assert_array_equal(scaler.statistics["audio_center"], 0)
        np.testing.assert_array_equal(scaler.statistics["audio_scale"], 1)


def test_a_saved_scaler_reads_back(make_split, tmp_path):
    split = make_split(5)
    scaler = Scaler.fit(split)
    scaler.save(tmp_path / "scaler.safetensors")
    again = Scaler.load(tmp_path / "scaler.safetensors", {"audio": 4, "vision": 3})
    for name in ("audio", "vision"):
        np.testing.assert_array_equal(again.apply(name, getattr(split, name)), scaler.apply(name, getattr(split, name)))


def test_a_damaged_scaler_is_an_error(make_split, tmp_path):
    path = tmp_path / "scaler.safetensors"
    statistics = Scaler.fit(make_split(5)).statistics
    path.write_bytes(b"not safetensors")
    with pytest.raises(RunError, match="cannot be read"):
        Scaler.load(path, {"audio": 4, "vision": 3})
    for change, message in (
        ({"audio_scale": np.zeros(4, np.float32)}, "audio_scale holds numbers by which nothing can be scaled"),
        ({"vision_center": np.full(3, np.nan, np.float32)}, "vision_center holds numbers"),
        ({"audio_center": np.zeros((4, 1), np.float32)}, "audio_center is float32 \\(4, 1\\), not float32 \\(4,\\)"),
        ({"text_center": np.zeros(3, np.float32)}, "not \\['audio_center'"),
    ):
        save_file(statistics | change, path)
        with pytest.raises(RunError, match=message):
            Scaler.load(path, {"audio": 4, "vision": 3})
