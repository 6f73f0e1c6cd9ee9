"""Masks of the three protocols, and the one transform of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgcl_core.data.absence import (
    PROTOCOLS,
    SET_RATES,
    STEP_RATES,
    Condition,
    Words,
    conditions,
    digest,
    file_steps,
    lose,
    loss_of,
    selection_loss,
    training_loss,
    uniform,
)
from mgcl_core.data.batches import DeviceSplit

CPU = torch.device("cpu")
WORDS = Words(unknown=1, special=(0, 2, 3))  # of the vocabulary of the tests
DATA = "ab" * 32


@pytest.fixture(scope="module")
def many(make_split) -> DeviceSplit:
    return DeviceSplit(make_split(400, seed=5), CPU)


def test_a_number_is_a_function_of_its_name_alone():
    ids = ("a", "b", "c")
    whole = uniform(DATA, "test", ids, "A", 50, 0)
    assert whole.shape == (3, 50) and whole.min() >= 0 and whole.max() < 1
    np.testing.assert_array_equal(uniform(DATA, "test", ids[::-1], "A", 20, 0), whole[::-1, :20])
    others = [("cd" * 32, "test", "A", 0), (DATA, "valid", "A", 0), (DATA, "test", "V", 0), (DATA, "test", "A", 1)]
    for origin, split, modality, draw in others:
        assert not np.isin(uniform(origin, split, ids, modality, 50, draw), whole).any()


def test_numbers_are_uniform_and_those_of_modalities_independent():
    ids = [f"clip {n}" for n in range(400)]
    found = {m: uniform(DATA, "test", ids, m, 50, 0) for m in "TVA"}
    for values in found.values():
        assert np.abs(np.quantile(values, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.015
    correlations = np.corrcoef([values.ravel() for values in found.values()])
    assert np.abs(correlations - np.eye(3)).max() < 0.03


def test_the_protocols_have_the_fields_conditions():
    assert [c.level for c in conditions("sets")] == ["TVA", "T", "V", "A", "TV", "TA", "VA"]
    assert len(conditions("random-sets")) == 1 + 5 * 7 and len(conditions("random-steps")) == 2 + 5 * 9
    assert all(sum(c.complete for c in conditions(protocol)) == 1 for protocol in PROTOCOLS)


def test_random_sets_lose_their_rate_keep_one_and_are_nested(many):
    for draw in (0, 1):
        before = np.ones((3, len(many)), bool)
        for rate in SET_RATES:
            loss = loss_of("random-sets", Condition(rate, draw), DATA, "test", many)
            kept = np.stack([loss.kept[m][:, 0] for m in "TVA"])
            assert kept.any(0).all() and not (kept & ~before).any()
            assert abs(1 - kept.mean() - rate) < 0.03
            before = kept
        assert (before.sum(0) == 1).all() and before.mean(1) == pytest.approx([1 / 3] * 3, abs=0.07)


def test_random_sets_keep_a_modality_that_the_clip_has(make_split):
    split = DeviceSplit(make_split(60), CPU)
    split.present[1, :30] = False
    loss = loss_of("random-sets", Condition(2 / 3, 0), DATA, "test", split)
    kept = np.stack([loss.kept[m][:, 0] for m in "TVA"])
    assert (kept & split.present.numpy()).any(0).all()


def test_random_steps_keep_a_step_where_its_number_exceeds_the_rate(many):
    for rate in STEP_RATES:
        kept = loss_of("random-steps", Condition(rate, 2 if 0 < rate < 1 else -1), DATA, "test", many).kept
        for m, steps in file_steps(many).items():
            numbers = uniform(DATA, "test", many.ids, m, steps, 2)
            np.testing.assert_array_equal(kept[m], numbers > rate if 0 < rate < 1 else np.full_like(kept[m], rate == 0))


def test_lost_steps_are_zero_lost_words_unknown_and_special_tokens_stay(many):
    batch, loss = many.batch(), loss_of("random-steps", Condition(0.5, 0), DATA, "test", many)
    left = lose(batch, loss, WORDS)
    for name, m in (("audio", "A"), ("vision", "V")):
        mask = getattr(batch, f"{name}_mask").numpy()
        stays = mask & loss.kept[m][:, : mask.shape[1]]
        np.testing.assert_array_equal(getattr(left, name), getattr(batch, name) * torch.from_numpy(stays)[:, :, None])
        # Zero steps are data, but a clip without any other lacks the modality.
        np.testing.assert_array_equal(getattr(left, f"{name}_mask"), mask & stays.any(1, keepdims=True))
        assert (mask & ~stays.any(1, keepdims=True)).any()
    before, after = batch.tokens.numpy(), left.tokens.numpy()
    words = (before[:, 1] > 0) & ~np.isin(before[:, 0], (0, 2, 3))
    lost = words & ~loss.kept["T"][:, : words.shape[1]]
    np.testing.assert_array_equal(after[:, 0], np.where(lost, 1, before[:, 0]))
    np.testing.assert_array_equal(after[:, 1:], before[:, 1:])
    assert 0.4 < lost.sum() / words.sum() < 0.6


def test_at_rate_one_nothing_is_left_but_the_length_of_the_sentence(many):
    left = lose(many.batch(), loss_of("random-steps", Condition(1.0), DATA, "test", many), WORDS)
    assert not left.audio.any() and not left.vision_mask.any() and left.present[0].all()
    assert set(left.tokens[:, 0].unique().tolist()) == {0, 1, 2, 3}


def test_text_features_lose_steps_as_audio_does(many):
    batch = many.batch()
    batch.text = torch.ones(*batch.tokens[:, 0].shape, 2)
    loss = loss_of("random-steps", Condition(0.3, 0), DATA, "test", many)
    left = lose(batch, loss, None)
    expected = batch.text_mask.numpy() & loss.kept["T"][:, : batch.text.shape[1]]
    np.testing.assert_array_equal(left.text[:, :, 0] > 0, expected)
    np.testing.assert_array_equal(left.tokens[:, 0][left.present[0]], batch.tokens[:, 0][left.present[0]])


def test_the_digest_knows_every_mask(many):
    losses = [loss_of("random-steps", Condition(0.5, draw), DATA, "test", many) for draw in (0, 1)]
    assert digest(losses) == digest(losses) != digest(losses[::-1])


def test_dropout_leaves_half_of_the_clips_complete_and_repeats_by_seed(many):
    loss, again, other = training_loss(many, 1), training_loss(many, 1), training_loss(many, 2)
    shares = np.stack([loss.kept[m].mean(1) for m in "TVA"])  # (3, N)
    assert (shares == 1).all(0).sum() == pytest.approx(len(many) // 2, abs=8)  # of the others, short ones by chance
    lossy = shares[:, (shares < 1).any(0)]
    assert lossy.mean() == pytest.approx(0.5, abs=0.05)
    assert np.corrcoef(lossy[0], lossy[2])[0, 1] > 0.6  # one rate a clip
    assert digest([loss]) == digest([again]) != digest([other])
    fixed = selection_loss(DATA, "valid", many)
    assert digest([fixed]) == digest([selection_loss(DATA, "valid", many)]) != digest([loss])
