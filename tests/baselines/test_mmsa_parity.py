"""The systems that mmsa 2.2.1 holds, against its weights, inputs, outputs and settings in ``parity/reference``."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from baselines.parity.reference import Reference, published
from torch import nn

from mgcl_core.baselines import COMPARED_SYSTEMS, lf_dnn, lmf, mag_bert, mfn, misa, mult, self_mm, tfn
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


def small_lf_dnn(args: dict) -> tuple[lf_dnn.LFDNNSettings, dict[str, str]]:
    settings = lf_dnn.LFDNNSettings(
        **vector_settings(args), text_out=args["text_out"], fusion_hidden=args["post_fusion_dim"]
    )
    return settings, {**VECTORS, **{f"post_fusion_layer_{n}.": f"fusion.{2 * n - 1}." for n in (1, 2, 3)}}


def small_lmf(args: dict) -> tuple[lmf.LMFSettings, dict[str, str]]:
    settings = lmf.LMFSettings(**vector_settings(args), text_out=args["hidden_dims"][0] // 2, rank=args["rank"])
    return settings, {
        **VECTORS,
        "text_factor": "factors.text",
        "audio_factor": "factors.audio",
        "video_factor": "factors.vision",
        "fusion_weights": "weights.weight",
        "fusion_bias": "weights.bias",
    }


def small_tfn(args: dict) -> tuple[tfn.TFNSettings, dict[str, str]]:
    settings = tfn.TFNSettings(
        **vector_settings(args), text_out=args["text_out"], fusion_hidden=args["post_fusion_dim"]
    )
    return settings, {
        **VECTORS,
        "post_fusion_layer_1.": "fusion.linear.",
        "post_fusion_layer_2.": "layers.1.",
        "post_fusion_layer_3.": "layers.3.",
    }


def small_mfn(args: dict) -> tuple[mfn.MFNSettings, dict[str, str]]:
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
    return mfn.MFNSettings(**vector_settings(args), memory=args["memsize"], **widths), names


def small_mult(args: dict) -> tuple[mult.MulTSettings, dict[str, str]]:
    width, heads = args["dst_feature_dim_nheads"]
    settings = mult.MulTSettings(
        width=width,
        heads=heads,
        layers=args["nlevels"],
        text_kernel=args["conv1d_kernel_size_l"],
        audio_kernel=args["conv1d_kernel_size_a"],
        vision_kernel=args["conv1d_kernel_size_v"],
        positions=False,
    )
    names = {"proj1.": "residual.0.", "proj2.": "residual.3.", "out_layer.": "head."}
    modalities = {"l": "T", "a": "A", "v": "V"}
    names |= {f"proj_{letter}.": f"convolutions.{m}." for letter, m in modalities.items()}
    transformers = {f"trans_{letter}_mem.": f"unimodal.{m}." for letter, m in modalities.items()}
    transformers |= {
        f"trans_{letter}_with_{other}.": f"crossmodal.{m}{modalities[other]}."
        for letter, m in modalities.items()
        for other in modalities
        if letter != other
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
    system = COMPARED_SYSTEMS[name].build(dataclasses.replace(settings, **changes), reference.shapes(case))
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
    theirs, settings = published(name)[dataset], COMPARED_SYSTEMS[name].published[dataset]
    audio, vision = {"sims": (33, 709), "mosi": (5, 20), "mosei": (74, 35)}[dataset]
    shapes = Shapes(768, 50, audio, 500, vision, 375, bound=3.0, clips=1, text_model="")
    with torch.device("meta"):
        system = COMPARED_SYSTEMS[name].build(settings, shapes)
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


#: mmsa's gates of an LSTM: its names under ours.
GATES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def load(system: nn.Module, weights: dict[str, torch.Tensor], unused: tuple[str, ...] = ()) -> None:
    """Load ``weights``; what begins with ``unused`` has no counterpart, and only our own additions may be missing."""
    weights = {name: value for name, value in weights.items() if not name.startswith(unused)}
    missing, unexpected = system.load_state_dict(weights, strict=False)
    assert not unexpected
    additions = ("labels", "features_", "centres_")
    assert not [name for name in missing if not name.startswith(additions)]
    system.eval()


@pytest.fixture
def text_model(tmp_path):
    def save(reference: Reference) -> str:
        return reference.save_text_model(tmp_path / "bert")

    return save


class TestMISA:
    @pytest.fixture
    def reference(self) -> Reference:
        return Reference.load("misa")

    def build(self, reference: Reference, case: str, text_model) -> misa.MISA:
        args = reference.args
        settings = misa.MISASettings(
            width=args["hidden_size"],
            dropout=args["dropout"],
            difference_weight=args["diff_weight"],
            similarity_weight=args["sim_weight"],
            reconstruction_weight=args["recon_weight"],
            text_lengths=True,
        )
        system = misa.MISA(settings, reference.shapes(case, text_model(reference)))
        load(system, reference.weights(self.names()), unused=("sp_discriminator", "tlayer_norm", "text.bert.pooler"))
        return system

    @staticmethod
    def names() -> dict[str, str]:
        names = {
            "bertmodel.model.": "text.bert.",
            "shared.shared_1": "invariant.0",
            "fusion.fusion_layer_1.": "predictor.0.",
            "fusion.fusion_layer_3.": "predictor.3.",
            "transformer_encoder.": "transformer.",
        }
        for letter, whole in (("v", "vision"), ("a", "audio")):
            for number, layer in (("1", "first"), ("2", "second")):
                for gate in GATES:
                    names[f"{letter}rnn{number}.{gate}_reverse"] = f"{whole}.{layer}.backward_lstm.{gate}"
                    names[f"{letter}rnn{number}.{gate}"] = f"{whole}.{layer}.forward_lstm.{gate}"
            names[f"{letter}layer_norm."] = f"{whole}.norm."
        for letter, number in (("t", "1"), ("v", "1"), ("a", "3")):
            modality = letter.upper()
            names[f"project_{letter}.project_{letter}."] = f"projections.{modality}.0."
            names[f"project_{letter}.project_{letter}_layer_norm."] = f"projections.{modality}.2."
            names[f"private_{letter}.private_{letter}_{number}."] = f"specific.{modality}.0."
            names[f"recon_{letter}.recon_{letter}_1."] = f"reconstruction.{modality}."
        return names

    @pytest.mark.parametrize("case", ["full", "padded"])
    def test_prediction_losses_and_gradients(self, reference, case, text_model):
        system = self.build(reference, case, text_model)
        batch, expected = reference.batch(case), reference.group(f"loss.{case}")
        output = system(batch)
        torch.testing.assert_close(output.prediction, reference.group(f"output.{case}")["M"][:, 0], **CLOSE)
        args = reference.args
        weights = {
            "pred": ("task", 1.0),
            "diff": ("diff", args["diff_weight"]),
            "sim": ("sim", args["sim_weight"]),
            "recon": ("recon", args["recon_weight"]),
        }
        assert set(output.losses) == set(weights)
        for ours, (theirs, weight) in weights.items():
            torch.testing.assert_close(output.losses[ours], weight * expected[theirs], **CLOSE)
        sum(output.losses.values()).backward()
        gradients = {name: parameter.grad for name, parameter in system.named_parameters()}
        compared = 0
        for name, value in reference.group(f"grad.{case}").items():
            for old, new in self.names().items():
                if name.startswith(old):
                    torch.testing.assert_close(gradients[new + name.removeprefix(old)], value, **CLOSE)
                    compared += 1
        assert compared > 10

    def test_losses_of_a_batch_are_the_mean_over_its_published_micro_batches(self, reference, text_model):
        system = self.build(reference, "padded", text_model)
        batch = reference.batch("padded")
        whole = system(batch).losses
        system.settings = dataclasses.replace(system.settings, micro_batch=2)
        halves = [system(part).losses for part in batch.parts(2)]
        for name, loss in system(batch).losses.items():
            torch.testing.assert_close(loss, (halves[0][name] + halves[1][name]) / 2, **CLOSE)
        assert abs(whole["diff"] - system(batch).losses["diff"]) > 1e-3  # which is not that of the whole batch

    def test_own_lengths_read_all_valid_steps(self, reference, text_model):
        """By default a late step of audio matters; with the reference's lengths it does not."""
        system = self.build(reference, "padded", text_model)
        batch = reference.batch("padded")
        changed = dataclasses.replace(batch, audio=batch.audio.clone())
        changed.audio[1, 5] += 1.0  # the clip has 4 tokens and 6 steps of audio
        assert torch.equal(system(batch).prediction, system(changed).prediction)
        system.settings = dataclasses.replace(system.settings, text_lengths=False)
        difference = (system(batch).prediction - system(changed).prediction).abs()
        assert difference[1] > 1e-4 and (difference[[0, 2, 3]] == 0).all()


class TestMAGBERT:
    @pytest.fixture
    def reference(self) -> Reference:
        return Reference.load("bert_mag")

    @pytest.mark.parametrize("case", ["full", "padded", "aligned"])
    def test_prediction(self, reference, case, text_model):
        settings = mag_bert.MAGBERTSettings(beta=reference.args["beta_shift"], strided=True)
        system = mag_bert.MAGBERT(settings, reference.shapes(case, text_model(reference)))
        load(
            system,
            reference.weights(
                {
                    "model.bert.MAG.W_hv.": "gate.vision_gate.",
                    "model.bert.MAG.W_ha.": "gate.audio_gate.",
                    "model.bert.MAG.W_v.": "gate.vision_shift.",
                    "model.bert.MAG.W_a.": "gate.audio_shift.",
                    "model.bert.MAG.LayerNorm.": "gate.norm.",
                    "model.bert.pooler.dense.": "pooler.0.",
                    "model.bert.": "text.bert.",
                    "model.classifier.": "head.1.",
                }
            ),
        )
        batch = reference.batch(case)
        expected = reference.group(f"output.{case}")["M"][:, 0]
        torch.testing.assert_close(system(batch).prediction, expected, **CLOSE)
        if case == "aligned":  # the adapter leaves aligned files as they are
            system.settings = dataclasses.replace(settings, strided=False)
            torch.testing.assert_close(system(batch).prediction, expected, **CLOSE)


class TestSelfMM:
    @pytest.fixture
    def reference(self) -> Reference:
        return Reference.load("self_mm")

    def build(self, reference: Reference, case: str, text_model) -> self_mm.SelfMM:
        args = reference.args
        settings = self_mm.SelfMMSettings(
            audio_hidden=args["a_lstm_hidden_size"],
            vision_hidden=args["v_lstm_hidden_size"],
            audio_out=args["audio_out"],
            vision_out=args["video_out"],
            fusion_width=args["post_fusion_dim"],
            text_width=args["post_text_dim"],
            audio_width=args["post_audio_dim"],
            vision_width=args["post_video_dim"],
            exclude_zero=args["excludeZero"],
        )
        system = self_mm.SelfMM(settings, reference.shapes(case, text_model(reference)))
        names = {
            "text_model.model.": "text.bert.",
            "audio_model.rnn.": "audio.lstm.",
            "audio_model.linear_1.": "audio.projection.",
            "video_model.rnn.": "vision.lstm.",
            "video_model.linear_1.": "vision.projection.",
        }
        for theirs, ours in {"fusion": "M", "text": "T", "audio": "A", "video": "V"}.items():
            for number, layer in (("1", "features"), ("2", "hidden"), ("3", "prediction")):
                names[f"post_{theirs}_layer_{number}."] = f"tasks.{ours}.{layer}."
        load(system, reference.weights(names), unused=("text.bert.pooler",))
        return system

    @pytest.mark.parametrize("case", ["full", "padded"])
    def test_prediction_and_features(self, reference, case, text_model):
        output = self.build(reference, case, text_model)(reference.batch(case))
        expected = reference.group(f"output.{case}")
        torch.testing.assert_close(output.prediction, expected["M"][:, 0], **CLOSE)
        for theirs, ours in {"f": "M", "t": "T", "a": "A", "v": "V"}.items():
            torch.testing.assert_close(output.features[ours], expected[f"Feature_{theirs}"], **CLOSE)

    def test_labels_losses_and_centres_over_three_epochs(self, reference, text_model):
        system = self.build(reference, "training", text_model)
        expected, y = reference.group("loss.training"), reference.group("input.training")["labels"]
        batches = expected["batches"]
        for step, rows in enumerate(batches):
            system.begin_epoch(1 + step // 3)
            batch = reference.batch("training", rows[rows >= 0])
            output = system(batch)
            torch.testing.assert_close(torch.stack([*output.losses.values()]), expected[f"losses.{step}"], **CLOSE)
            system.after_step(batch, output)
            labels = torch.where(system.labels.isnan(), y, system.labels)
            torch.testing.assert_close(labels, expected[f"labels.{step}"], **CLOSE)
        assert (labels[1:] - y).abs().max() > 0.1  # the unimodal labels did move
        for theirs, ours in {"fusion": "M", "text": "T", "audio": "A", "vision": "V"}.items():
            for row, sign in enumerate(("pos", "neg")):
                torch.testing.assert_close(
                    getattr(system, f"centres_{ours}")[row], expected[f"center.{theirs}.{sign}"], **CLOSE
                )
