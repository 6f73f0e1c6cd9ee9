"""Scaling of audio and vision: the statistics, what they leave out, and reading them back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from mgcl_core import reference
from mgcl_core.data.scaling import Scaler
from mgcl_core.support.errors import RunError


def test_scaler_equals_the_naive_statistics(make_split):
    split = make_split(12)
    scaler = Scaler.fit(split)
    for name in ("audio", "vision"):
        values, mask = getattr(split, name), getattr(split, f"{name}_mask")
        mean, std = reference.moments(values, mask)
        np.testing.assert_allclose(scaler.statistics[f"{name}_mean"], mean, atol=1e-6)
        np.testing.assert_allclose(scaler.statistics[f"{name}_std"], std, atol=1e-6)
        scaled = scaler.apply(name, values)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, np.clip((values - np.array(mean)) / np.array(std), -10, 10), atol=1e-5)
        np.testing.assert_allclose(scaled[mask].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled[mask].std(0), 1, atol=1e-5)


def test_statistics_of_many_clips_are_those_of_all_their_valid_steps(make_split):
    split = make_split(700)  # more than are read at once
    scaler = Scaler.fit(split)
    valid = split.audio[split.audio_mask].astype(np.float64)  # (steps, D)
    np.testing.assert_allclose(scaler.statistics["audio_mean"], valid.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scaler.statistics["audio_std"], valid.std(0), rtol=1e-6)


def test_zero_steps_inside_a_clip_count_and_padding_does_not(make_split):
    split = make_split(2)
    audio, mask = np.zeros((2, 9, 4), np.float32), np.zeros((2, 9), bool)
    mask[0, :4] = True
    audio[0, 0] = 4.0  # one step of 4, three of 0: mean 1
    scaler = Scaler.fit(dataclasses.replace(split, audio=audio, audio_mask=mask))
    np.testing.assert_allclose(scaler.statistics["audio_mean"], 1.0)


def test_constant_dimensions_keep_their_scale_and_outliers_are_clipped(make_split):
    split = make_split(200)
    vision = split.vision.copy()
    vision[:, :, 1] = 3.5
    vision[0, 0, 0] = 1e6
    split = dataclasses.replace(split, vision=vision)
    scaled = Scaler.fit(split).apply("vision", vision)
    assert np.isfinite(scaled).all()
    assert (scaled[split.vision_mask][:, 1] == 0).all()
    assert scaled[0, 0, 0] == 10.0 and np.abs(scaled).max() == 10.0


def test_a_training_split_without_any_valid_step_is_left_as_it_is(make_split):
    split = make_split(3)
    split = dataclasses.replace(split, audio_mask=np.zeros_like(split.audio_mask))
    scaler = Scaler.fit(split)
    np.testing.assert_array_equal(scaler.statistics["audio_mean"], 0)
    np.testing.assert_array_equal(scaler.statistics["audio_std"], 1)


def test_a_saved_scaler_reads_back(make_split, tmp_path):
    split = make_split(5)
    scaler = Scaler.fit(split)
    scaler.save(tmp_path / "scaler.safetensors")
    again = Scaler.load(tmp_path / "scaler.safetensors")
    for name in ("audio", "vision"):
        np.testing.assert_array_equal(again.apply(name, getattr(split, name)), scaler.apply(name, getattr(split, name)))


def test_a_damaged_scaler_is_an_error(make_split, tmp_path):
    path = tmp_path / "scaler.safetensors"
    statistics = Scaler.fit(make_split(5)).statistics
    path.write_bytes(b"not safetensors")
    with pytest.raises(RunError, match="cannot be read"):
        Scaler.load(path)
    for change, message in (
        ({"audio_std": np.zeros(4, np.float32)}, "audio_std holds numbers by which nothing can be scaled"),
        ({"vision_mean": np.full(3, np.nan, np.float32)}, "vision_mean holds numbers"),
        ({"text_mean": np.zeros(3, np.float32)}, "not \\['audio_mean'"),
    ):
        save_file(statistics | change, path)
        with pytest.raises(RunError, match=message):
            Scaler.load(path)
