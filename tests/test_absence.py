"""Absent modalities (decision 19) through MGCL, both stages, and the ten compared systems."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from mgcl_core import reference as naive
from mgcl_core.config import VARIANTS
from mgcl_core.data.absence import Loss, Words, lose
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.data.corpus import EncoderName
from mgcl_core.experiments.registry import compared_systems, system_entry
from mgcl_core.losses import collaborative_contrastive_loss, unimodal_loss
from mgcl_core.model import MGCL
from mgcl_core.stage_one import UnimodalRegressor
from mgcl_core.system import Shapes

CPU = torch.device("cpu")
#: Clips of a split by what they lack: nothing, one, two, all three modalities.
LACKING = ("", "", "", "T", "V", "A", "TV", "TA", "VA", "TVA")
ABSENT = torch.tensor([[m in lacking for lacking in LACKING] for m in "TVA"])  # (3, B)


def lacking_split(make_split, lacking) -> DeviceSplit:
    split = make_split(len(lacking), seed=7)
    text_bert, masks = split.text_bert.copy(), {"V": split.vision_mask.copy(), "A": split.audio_mask.copy()}
    for row, modalities in enumerate(lacking):
        for modality in modalities:
            if modality == "T":
                text_bert[row] = 0
            else:
                masks[modality][row] = False
    split = dataclasses.replace(split, text_bert=text_bert, vision_mask=masks["V"], audio_mask=masks["A"])
    result = DeviceSplit(split, CPU)
    generator = torch.Generator().manual_seed(3)
    result.text = torch.randn(len(lacking), 10, 16, generator=generator)  # a file's own, with anything at padding
    result.features["macro_T"] = torch.randn(len(lacking), 16, generator=generator) * result.present[0, :, None]
    return result


def build(name, tiny_config, clips):
    torch.manual_seed(0)
    shapes = Shapes(16, 10, 4, 9, 3, 7, bound=1.0, clips=clips, text_model=tiny_config.text_model)
    if name in VARIANTS:
        return MGCL(tiny_config.override(VARIANTS[name]), shapes)
    entry = system_entry(name)
    settings = entry.published["sims"]
    if name in ("confede", "sfttr"):
        settings = dataclasses.replace(settings, width=16, heads=2, candidates=2)
    return entry.build(settings, shapes)


def without_cached_text(name, split):
    """MGCL holds its text encoders here: it is not to read features that other systems are given."""
    if name in VARIANTS:
        split.features.clear()
    return split


@pytest.mark.parametrize("name", [*VARIANTS, *compared_systems()])
def test_every_system_trains_and_predicts_whatever_is_absent(name, tiny_config, make_split):
    split = without_cached_text(name, lacking_split(make_split, LACKING))
    system = build(name, tiny_config, len(LACKING))
    system.begin_fit(split)
    for epoch in (1, 2):
        system.train()
        system.begin_epoch(epoch)
        system.zero_grad()
        batch = split.batch()
        output = system(batch)
        sum(output.losses.values()).backward()
        assert output.prediction.isfinite().all() and all(loss.isfinite() for loss in output.losses.values())
        for parameter_name, parameter in system.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
        system.after_step(batch, output)


@pytest.mark.parametrize("name", [*VARIANTS, *compared_systems()])
def test_a_clip_that_lacks_something_is_predicted_as_if_alone(name, tiny_config, make_split):
    split = without_cached_text(name, lacking_split(make_split, LACKING))
    system = build(name, tiny_config, len(LACKING)).eval()
    with torch.no_grad():
        together = system(dataclasses.replace(split.batch(), labels=None, unimodal_labels=None)).prediction
        for row in range(len(LACKING)):
            batch = dataclasses.replace(split.batch(np.array([row])), labels=None, unimodal_labels=None)
            assert system(batch).prediction.item() == pytest.approx(together[row].item(), abs=2e-5)


@pytest.mark.parametrize("name", [*VARIANTS, *compared_systems()])
def test_a_modality_that_is_lost_is_one_that_was_never_there(name, tiny_config, make_split):
    """The one transform of a batch, for every system; with lost steps nothing is NaN either."""
    never = without_cached_text(name, lacking_split(make_split, LACKING))
    complete = without_cached_text(name, lacking_split(make_split, ("",) * len(LACKING)))
    if complete.features:
        complete.features["macro_T"][:] = torch.where(ABSENT[0, :, None], 9.0, never.features["macro_T"])
    system = build(name, tiny_config, len(LACKING)).eval()
    words = Words(unknown=1, special=(0, 2, 3))
    batch = dataclasses.replace(complete.batch(), labels=None, unimodal_labels=None)
    sets = Loss({m: ~ABSENT["TVA".index(m), :, None].numpy() for m in "TVA"}, modalities=True)
    random = np.random.default_rng(0)
    steps = Loss({m: random.random((len(LACKING), 10)) > 0.7 for m in "TVA"}, modalities=False)
    with torch.no_grad():
        expected = system(dataclasses.replace(never.batch(), labels=None, unimodal_labels=None)).prediction
        assert system(lose(batch, sets, words)).prediction.tolist() == pytest.approx(expected.tolist(), abs=2e-5)
        assert system(lose(batch, steps, words)).prediction.isfinite().all()


@pytest.mark.parametrize("modality", "TVA")
# MFN's LSTMs step through the tokens that the modalities share, over zeros.
@pytest.mark.parametrize("name", [*VARIANTS, *(name for name in compared_systems() if name != "mfn")])
def test_what_reads_an_absent_modality_alone_learns_nothing(name, modality, tiny_config, make_split):
    """In a batch that lacks it everywhere; a system's own parts of it are those that move a batch that has it alone."""
    split = without_cached_text(name, lacking_split(make_split, [modality] * 6))
    system = build(name, tiny_config, 6)
    system.begin_fit(split)
    system.train()
    system.begin_epoch(1)
    system(split.batch())
    sum(system(split.batch()).losses.values()).backward()
    parts = {"T": ("text.", "encoders.macro_T.", "encoders.micro_T.", "macro_projections.T", "micro_projections.T"),
             "V": ("vision.", "vectors.vision.", "encoders.macro_V.", "encoders.micro_V.", "encoders.V.",
                   "macro_projections.V", "micro_projections.V", "convolutions.V", "specific.V", "reconstruction.V",
                   "similar.V", "dissimilar.V"),
             "A": ("audio.", "vectors.audio.", "encoders.macro_A.", "encoders.micro_A.", "encoders.A.",
                   "macro_projections.A", "micro_projections.A", "convolutions.A", "specific.A", "reconstruction.A",
                   "similar.A", "dissimilar.A")}[modality]  # fmt: skip
    for parameter_name, parameter in system.named_parameters():
        if parameter_name.startswith(parts):
            assert parameter.grad is None or not parameter.grad.any(), parameter_name


@pytest.mark.parametrize("components", [("C1",), ("C2",), ("C3",), ("C1", "C2", "C3")])
def test_losses_leave_absent_features_out_as_the_loops_do(components):
    generator = torch.Generator().manual_seed(1)
    macro, micro = torch.randn(2, 3, len(LACKING), 4, dtype=torch.float64, generator=generator)
    labels = torch.linspace(-1, 1, len(LACKING), dtype=torch.float64)
    present = ~ABSENT
    found = collaborative_contrastive_loss(macro, micro, labels, components=components, present=present)
    expected = naive.contrastive_loss(
        macro.tolist(), micro.tolist(), labels.tolist(), components=components, present=present.tolist()
    )
    assert found.item() == pytest.approx(expected, abs=1e-10)
    everything = collaborative_contrastive_loss(macro, micro, labels, components=components)
    assert abs(everything.item() - expected) > 1e-4
    predictions, unimodal = torch.randn(6, len(LACKING)), torch.randn(3, len(LACKING))
    expected = naive.unimodal_loss(predictions.tolist(), labels.tolist(), unimodal.tolist(), present.tolist())
    assert unimodal_loss(predictions, labels, unimodal, present).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", [f"{g}_{m}" for g, m in itertools.product(("macro", "micro", "shared"), "TVA")])
def test_stage_one_learns_from_the_clips_that_have_the_modality(name, tiny_config, make_split):
    encoder = EncoderName.parse(name)
    split = lacking_split(make_split, LACKING)
    rows = np.flatnonzero(split.present["TVA".index(encoder.modality)].numpy())
    torch.manual_seed(0)
    system = UnimodalRegressor(encoder, tiny_config).eval()
    whole, part = system(split.batch()), system(split.batch(rows))
    for term in whole.losses:
        assert whole.losses[term].item() == pytest.approx(part.losses[term].item(), rel=1e-5)
    others = np.setdiff1d(np.arange(len(LACKING)), rows)
    assert not whole.prediction[others].any()
    none = system(split.batch(others))
    sum(none.losses.values()).backward()
    assert sum(none.losses.values()).item() == 0
    assert all(p.grad is None or not p.grad.any() for p in system.parameters())


@pytest.mark.parametrize("micro", ["sequence", "pooled"])
def test_mgcl_gives_zeros_where_a_modality_is_absent(micro, tiny_config, make_split):
    split = without_cached_text("MGCL", lacking_split(make_split, LACKING))
    torch.manual_seed(0)
    config = tiny_config.override({"micro": micro})
    model = MGCL(config, Shapes(16, 10, 4, 9, 3, 7, bound=1.0, clips=10, text_model=config.text_model)).eval()
    output = model(split.batch())
    for k in range(3):
        assert not output.macro[k][ABSENT[k]].any() and not output.micro[k][ABSENT[k]].any()
        assert not output.unimodal[k][ABSENT[k]].any() and not output.unimodal[3 + k][ABSENT[k]].any()
        assert output.macro[k][~ABSENT[k]].any(1).all() and output.micro[k][~ABSENT[k]].any(1).all()
