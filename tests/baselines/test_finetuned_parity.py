"""MISA, MAG-BERT and Self-MM against mmsa 2.2.1: its weights, inputs and outputs from tests/parity/reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from baselines.parity.reference import Reference
from torch import nn

from mgcl_core.baselines import mag_bert, misa, self_mm

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
#: mmsa's gates of an LSTM: its names under ours.
GATES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def load(system: nn.Module, weights: dict[str, torch.Tensor], unused: tuple[str, ...] = ()) -> None:
    """Load ``weights``; what begins with ``unused`` has no counterpart, and only our own additions may be missing."""
    weights = {name: value for name, value in weights.items() if not name.startswith(unused)}
    missing, unexpected = system.load_state_dict(weights, strict=False)
    assert not unexpected
    additions = ("text.absent", "labels", "features_", "centres_")
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
        settings = misa.Settings(
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
                    names[f"{letter}rnn{number}.{gate}_reverse"] = f"{whole}.{layer}.backward.{gate}"
                    names[f"{letter}rnn{number}.{gate}"] = f"{whole}.{layer}.onward.{gate}"
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
        settings = mag_bert.Settings(beta=reference.args["beta_shift"], strided=True)
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
        settings = self_mm.Settings(
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
            for place, sign in enumerate(("pos", "neg")):
                torch.testing.assert_close(
                    getattr(system, f"centres_{ours}")[place], expected[f"center.{theirs}.{sign}"], **CLOSE
                )
