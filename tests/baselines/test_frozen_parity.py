"""LF-DNN, MFN, LMF, TFN and MulT against mmsa 2.2.1: its weights, inputs, outputs and settings from tests/parity."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from baselines.parity.reference import Reference, published

from mgcl_core.baselines import SYSTEMS, lf_dnn, lmf, mfn, mult, tfn
from mgcl_core.system import Shapes, System

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FROZEN = ("lf_dnn", "mfn", "lmf", "tfn", "mult")
DATASETS = ("sims", "mosi", "mosei")

#: mmsa's names of the vectors' networks → ours.
VECTORS = {
    "text_subnet.rnn.": "vectors.text.lstm.",
    "text_subnet.linear_1.": "vectors.text.projection.",
    **{
        f"{theirs}_subnet.{old}": f"vectors.{ours}.{new}"
        for theirs, ours in (("audio", "audio"), ("video", "vision"))
        for old, new in (
            ("norm.", "norm."),
            ("linear_1.", "layers.0."),
            ("linear_2.", "layers.2."),
            ("linear_3.", "layers.4."),
        )
    },
}


def vector_settings(args: dict) -> dict:
    text, audio, vision = args["hidden_dims"]
    return {"text_hidden": text, "audio_hidden": audio, "vision_hidden": vision}


def small_lf_dnn(args: dict) -> tuple[lf_dnn.Settings, dict[str, str]]:
    settings = lf_dnn.Settings(
        **vector_settings(args), text_out=args["text_out"], fusion_hidden=args["post_fusion_dim"]
    )
    return settings, {**VECTORS, **{f"post_fusion_layer_{n}.": f"fusion.{2 * n - 1}." for n in (1, 2, 3)}}


def small_lmf(args: dict) -> tuple[lmf.Settings, dict[str, str]]:
    settings = lmf.Settings(**vector_settings(args), text_out=args["hidden_dims"][0] // 2, rank=args["rank"])
    return settings, {
        **VECTORS,
        "text_factor": "factors.text",
        "audio_factor": "factors.audio",
        "video_factor": "factors.vision",
        "fusion_weights": "weights.weight",
        "fusion_bias": "weights.bias",
    }


def small_tfn(args: dict) -> tuple[tfn.Settings, dict[str, str]]:
    settings = tfn.Settings(**vector_settings(args), text_out=args["text_out"], fusion_hidden=args["post_fusion_dim"])
    return settings, {
        **VECTORS,
        "post_fusion_layer_1.": "fusion.linear.",
        "post_fusion_layer_2.": "layers.1.",
        "post_fusion_layer_3.": "layers.3.",
    }


def small_mfn(args: dict) -> tuple[mfn.Settings, dict[str, str]]:
    parts = {
        "att1": ("attention", "NN1Config"),
        "att2": ("candidate", "NN2Config"),
        "gamma1": ("retain", "gamma1Config"),
        "gamma2": ("update", "gamma2Config"),
        "out": ("output", "outConfig"),
    }
    widths = {f"{ours}_hidden": args[config]["shapes"] for ours, config in parts.values()}
    names = {f"lstm_{letter}.": f"{modality}." for letter, modality in (("l", "text"), ("a", "audio"), ("v", "vision"))}
    for theirs, (ours, _) in parts.items():
        names |= {f"{theirs}_fc1.": f"{ours}.0.", f"{theirs}_fc2.": f"{ours}.3."}
    return mfn.Settings(**vector_settings(args), memory=args["memsize"], **widths), names


def small_mult(args: dict) -> tuple[mult.Settings, dict[str, str]]:
    width, heads = args["dst_feature_dim_nheads"]
    settings = mult.Settings(
        width=width,
        heads=heads,
        layers=args["nlevels"],
        text_kernel=args["conv1d_kernel_size_l"],
        audio_kernel=args["conv1d_kernel_size_a"],
        vision_kernel=args["conv1d_kernel_size_v"],
        positions=False,
    )
    names = {"proj1.": "residual.0.", "proj2.": "residual.3.", "out_layer.": "head."}
    names |= {f"proj_{m}.": f"convolutions.{ours}." for m, ours in zip("lav", "TAV", strict=True)}
    transformers = {f"trans_{m}_mem.": f"own.{ours}." for m, ours in zip("lav", "TAV", strict=True)}
    transformers |= {
        f"trans_{m}_with_{other}.": f"crossmodal.{m.replace('l', 't')}{other.replace('l', 't')}.".upper().replace(
            "CROSSMODAL", "crossmodal"
        )
        for m in "lav"
        for other in "lav"
        if m != other
    }
    inside = {
        "layer_norms.0.": "attention_norm.",
        "layer_norms.1.": "feedforward_norm.",
        "fc1.": "feedforward.0.",
        "fc2.": "feedforward.3.",
        "self_attn.out_proj.": "output.",
        "self_attn.": "",
    }
    for theirs, ours in transformers.items():
        names[f"{theirs}layer_norm."] = f"{ours}norm."
        for layer in range(4):
            names |= {f"{theirs}layers.{layer}.{old}": f"{ours}layers.{layer}.{new}" for old, new in inside.items()}
    return settings, names


SMALL = {"lf_dnn": small_lf_dnn, "mfn": small_mfn, "lmf": small_lmf, "tfn": small_tfn, "mult": small_mult}


def from_reference(name: str, case: str, **changes) -> tuple[System, Reference]:
    """Our system with the weights of mmsa's, in eval mode."""
    reference = Reference.load(name)
    settings, names = SMALL[name](reference.args)
    system = SYSTEMS[name].build(dataclasses.replace(settings, **changes), reference.shapes(case))
    ours, weights = system.state_dict(), {}
    for key, value in reference.weights(names).items():
        if key.endswith(("in_proj_weight", "in_proj_bias")):  # query, key and value on top of each other
            prefix, kind = key.rsplit("in_proj_", 1)
            width = len(value) // 3
            weights[f"{prefix}query.{kind}"], weights[f"{prefix}key_value.{kind}"] = value[:width], value[width:]
        elif key not in ("output_range", "output_shift") and not key.endswith(".version"):  # constants of mmsa's
            weights[key] = value.reshape(ours[key].shape)
    system.load_state_dict(weights)
    return system.eval(), reference


@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("case", ["full", "padded"])
def test_reference_behaviour_gives_the_output_of_mmsa(name, case):
    system, reference = from_reference(name, case, reference_behaviour=True)
    output = system(reference.batch(case))
    torch.testing.assert_close(output.prediction, reference.group(f"output.{case}")["M"][:, 0], **CLOSE)
    assert output.prediction.std() > 0.05  # the clips differ, so the comparison says something


@pytest.mark.parametrize(
    ("name", "case"), [("lf_dnn", "full"), ("mfn", "aligned"), ("lmf", "full"), ("tfn", "full"), ("mult", "full")]
)
def test_without_padding_our_own_behaviour_gives_the_output_of_mmsa_too(name, case):
    system, reference = from_reference(name, case)
    predicted = system(reference.batch(case)).prediction
    torch.testing.assert_close(predicted, reference.group(f"output.{case}")["M"][:, 0], **CLOSE)


@pytest.mark.parametrize("name", FROZEN)
def test_padding_changes_nothing_unless_the_reference_is_followed(name):
    ours, reference = from_reference(name, "padded")
    theirs, _ = from_reference(name, "padded", reference_behaviour=True)
    batch = reference.batch("padded")
    noisy = dataclasses.replace(
        batch,
        text=batch.text + 3.0 * (batch.tokens[:, 1] == 0)[:, :, None],
        audio=batch.audio + 3.0 * ~batch.audio_mask[:, :, None],
        vision=batch.vision + 3.0 * ~batch.vision_mask[:, :, None],
    )
    torch.testing.assert_close(ours(noisy).prediction, ours(batch).prediction, **CLOSE)
    assert (theirs(noisy).prediction - theirs(batch).prediction).abs().max() > 1e-3


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", FROZEN)
def test_presets_have_the_size_and_the_optimiser_of_the_published_settings(name, dataset):
    theirs, settings = published(name)[dataset], SYSTEMS[name].published[dataset]
    audio, vision = {"sims": (33, 709), "mosi": (5, 20), "mosei": (74, 35)}[dataset]
    shapes = Shapes(768, 50, audio, 500, vision, 375, bound=3.0, clips=1, text_model="")
    with torch.device("meta"):
        system = SYSTEMS[name].build(settings, shapes)
    assert sum(parameter.numel() for parameter in system.parameters()) == theirs["weights"]
    assert settings.lr == theirs["learning_rate"]
    assert settings.batch_size == theirs["batch_size"] * theirs.get("update_epochs", 1)
    assert settings.weight_decay == theirs.get("weight_decay", 0.0)
    assert settings.patience == theirs["early_stop"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_presets_have_the_published_dropouts(dataset):
    for name, module in (("lf_dnn", lf_dnn), ("tfn", tfn), ("lmf", lmf)):
        ours, (audio, vision, text, fusion) = module.PUBLISHED[dataset], published(name)[dataset]["dropouts"]
        assert (ours.audio_dropout, ours.vision_dropout, ours.text_dropout) == (audio, vision, text)
        assert name == "lmf" or ours.fusion_dropout == fusion
    assert lmf.PUBLISHED[dataset].factor_lr == published("lmf")[dataset]["factor_lr"]
    ours, theirs = mfn.PUBLISHED[dataset], published("mfn")[dataset]
    for part, config in (
        ("attention", "NN1Config"),
        ("candidate", "NN2Config"),
        ("retain", "gamma1Config"),
        ("update", "gamma2Config"),
        ("output", "outConfig"),
    ):
        assert getattr(ours, f"{part}_dropout") == theirs[config]["drop"]
    ours, theirs = mult.PUBLISHED[dataset], published("mult")[dataset]
    for field, key in (
        ("text_attention_dropout", "attn_dropout"),
        ("audio_attention_dropout", "attn_dropout_a"),
        ("vision_attention_dropout", "attn_dropout_v"),
        ("feedforward_dropout", "relu_dropout"),
        ("embedding_dropout", "embed_dropout"),
        ("residual_dropout", "res_dropout"),
        ("output_dropout", "output_dropout"),
        ("text_dropout", "text_dropout"),
        ("text_kernel", "conv1d_kernel_size_l"),
        ("audio_kernel", "conv1d_kernel_size_a"),
        ("vision_kernel", "conv1d_kernel_size_v"),
    ):
        assert getattr(ours, field) == theirs[key], field
    assert [ours.width, ours.heads] == theirs["dst_feature_dim_nheads"]
