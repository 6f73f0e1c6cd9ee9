"""ConFEDE and SFTTR: retrieval and losses against naive loops, the memory, and the sequential encoder against BERT."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mgcl_core.baselines import confede, sfttr
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.support.errors import RunError
from mgcl_core.system import Shapes

WIDTH = 8
SMALL = {
    "width": WIDTH,
    "heads": 2,
    "candidates": 3,
    "encoder_dropout": 0.0,
    "similar_dropout": 0.0,
    "dissimilar_dropout": 0.0,
    "batch_size": 6,
}
KINDS = ("Ts", "Vs", "As", "Td", "Vd", "Ad")


def named_pairs() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The pairs as the paper draws them, clip 0 being the sample: clips 1, 2 have its label, 3 to 6 another."""
    positive, negative = set(), set()
    for modality in "TVA":
        positive |= {(f"0{modality}s", f"1{modality}s"), (f"0{modality}s", f"2{modality}s")}
        negative |= {(f"0{modality}s", f"{clip}{modality}s") for clip in (3, 4, 5, 6)}
    for clip in range(7):
        positive |= {(f"{clip}Ts", f"{clip}Vs"), (f"{clip}Ts", f"{clip}As")}
        negative |= {(f"{clip}Ts", f"{clip}Td"), (f"{clip}Ts", f"{clip}Vd"), (f"{clip}Ts", f"{clip}Ad")}
    return positive, negative


def naive_contrast(features: torch.Tensor, valid: torch.Tensor, temperature: float) -> torch.Tensor:
    positive, negative = named_pairs()
    clips = []
    for sample, here in zip(features, valid, strict=True):
        vector = {f"{clip}{kind}": sample[clip, k] for clip in range(7) for k, kind in enumerate(KINDS) if here[clip]}

        def similarity(a: str, b: str, vector=vector) -> torch.Tensor:
            return (vector[a] @ vector[b] / vector[a].norm() / vector[b].norm() / temperature).exp()

        terms = []
        for anchor, other in positive:
            if anchor in vector and other in vector:
                top = similarity(anchor, other)
                rest = [similarity(a, n) for a, n in negative if a == anchor and n in vector]
                terms.append(-(top / (top + sum(rest))).log())
        clips.append(sum(terms) / len(terms))
    return sum(clips) / len(clips)


@pytest.fixture
def split(make_split) -> DeviceSplit:
    return with_text(DeviceSplit(make_split(12, seed=3), torch.device("cpu")))


def with_text(split: DeviceSplit) -> DeviceSplit:
    generator = torch.Generator().manual_seed(5)
    split.features["macro_T"] = torch.randn(len(split), 5, generator=generator)
    return split


def shapes(clips: int = 12) -> Shapes:
    return Shapes(5, 10, 4, 9, 3, 7, bound=1.0, clips=clips, text_model="")


def build(module=confede, seed: int = 0, **changes):
    torch.manual_seed(seed)
    if module is sfttr:
        changes = {"fusion_heads": 2, "fusion_feedforward": 7, **changes}
    settings = dataclasses.replace(module.PUBLISHED["sims"], **{**SMALL, **changes})
    return module.ENTRY.build(settings, shapes()).train()


class TestContrast:
    def test_pairs_are_the_papers(self):
        named = [
            {(f"{a // 6}{KINDS[a % 6]}", f"{b // 6}{KINDS[b % 6]}") for a, b in pairs}
            for pairs in confede.contrast_pairs()
        ]
        assert tuple(named) == named_pairs()
        assert [len(pairs) for pairs in confede.contrast_pairs()] == [20, 33]

    @pytest.mark.parametrize("temperature", [0.5, 0.07])
    def test_equals_naive_loops(self, temperature):
        torch.manual_seed(0)
        features = torch.randn(4, 7, 6, 3, dtype=torch.float64)
        valid = torch.ones(4, 7, dtype=torch.bool)
        valid[1, [1, 2]] = False  # no clip with its label
        valid[2, 3:] = False  # no clip with another label
        valid[3, 1:] = False  # nothing at all
        ours = confede.contrastive_loss(features, valid[:, :, None].expand(-1, -1, 6), temperature)
        assert abs(ours - naive_contrast(features, valid, temperature)) < 1e-10

    def test_gradient(self):
        torch.manual_seed(0)
        features = torch.randn(2, 7, 6, 3, dtype=torch.float64, requires_grad=True)
        valid = torch.ones(2, 7, 6, dtype=torch.bool)
        valid[1, 3:] = False
        valid[0, 0, 1] = valid[0, 2, 4] = False  # no vision in the clip, none in one retrieved for it
        assert torch.autograd.gradcheck(lambda x: confede.contrastive_loss(x, valid, 0.5), features)


class TestRetrieval:
    @pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
    def test_equals_naive_ranking(self, share):
        torch.manual_seed(1)
        count, embeddings, labels = 3, torch.randn(20, 6), torch.randint(-2, 3, (20,)) / 2
        ours = confede.rank_candidates(embeddings, labels, share, count, rows=7)
        reach = max(1, int(20 * share))
        for i in range(20):
            cosine = {j: float(torch.cosine_similarity(embeddings[i], embeddings[j], dim=0)) for j in range(20)}
            ranking = sorted(cosine, key=cosine.get, reverse=True)
            near, far = ranking[:reach], ranking[::-1][:reach]
            expected = [
                [j for j in near if j != i and labels[j] == labels[i]],
                [j for j in far if labels[j] != labels[i]],
                [j for j in near if labels[j] != labels[i]],
            ]
            for kind, rows in enumerate(expected):
                rows = rows[:count]
                assert ours[i, kind].tolist() == rows + [-1] * (count - len(rows))

    def test_fewer_clips_than_candidates(self):
        ranked = confede.rank_candidates(torch.randn(2, 4), torch.tensor([0.0, 1.0]), 1.0, 5)
        assert ranked.shape == (2, 3, 5)
        assert ranked[0].tolist() == [[-1] * 5, [1, -1, -1, -1, -1], [1, -1, -1, -1, -1]]

    def test_draw_without_replacement(self):
        torch.manual_seed(0)
        candidates = torch.tensor([[[4, 5, 6], [7, -1, -1], [-1, -1, -1]]]).repeat(200, 1, 1)
        drawn = confede.draw_candidates(candidates)
        assert drawn.shape == (200, 6)
        assert (drawn[:, 0] != drawn[:, 1]).all() and set(drawn[:, :2].flatten().tolist()) == {4, 5, 6}
        assert (drawn[:, 2:].sort(1).values == torch.tensor([-1, -1, -1, 7])).all()


class TestObjective:
    def test_terms_equal_naive_sums(self, split):
        system = build()
        system.begin_fit(split)
        system.begin_epoch(1)
        batch = split.batch([0, 3, 5])
        torch.manual_seed(9)
        losses = system(batch).losses
        torch.manual_seed(9)
        rows = confede.draw_candidates(system.candidates[batch.index])
        clips = torch.cat([batch.index[:, None], rows], 1)  # (B, 7)
        pred, uni, features = [], [], torch.zeros(3, 7, 6, WIDTH // 2, dtype=torch.float64)
        valid = clips >= 0
        for i in range(3):
            for k in range(7):
                if valid[i, k]:
                    clip = split.batch([int(clips[i, k])])
                    parts = system.decompose(system.embed(clip), clip.present)[0]
                    features[i, k] = parts.double()
                    pred.append((system.decoder(parts.flatten()) - clip.labels) ** 2)
                    targets = [clip.labels] * 3 + list(clip.unimodal_labels)
                    uni += [(system.unimodal_decoder(part) - y) ** 2 for part, y in zip(parts, targets, strict=True)]
        torch.testing.assert_close(losses["pred"], torch.stack(pred).mean())
        torch.testing.assert_close(losses["uni"], 0.01 * torch.stack(uni).mean())
        torch.testing.assert_close(losses["con"], 0.1 * naive_contrast(features, valid, 0.5).float())
        assert valid.sum() > 12  # neighbours were found

    def test_only_the_batchs_clips_are_predicted(self, split):
        system = build(sfttr, learn_retrieved=False, unimodal_weight=0.0)
        system.begin_fit(split)
        system.begin_epoch(1)
        batch = split.batch([0, 3])
        output = system(batch)
        assert set(output.losses) == {"pred", "con"}
        torch.testing.assert_close(output.losses["pred"], (output.prediction - batch.labels).square().mean())

    def test_losses_of_the_batchs_clips_without_retrieval(self, split):
        batch, system = split.batch([0, 3]), build()
        output = system(batch)
        assert set(output.losses) == {"pred", "uni"}
        torch.testing.assert_close(output.losses["pred"], (output.prediction - batch.labels).square().mean())

    def test_memory_gives_what_encoding_again_gives(self, split):
        """Without dropout, and before the first step, remembered and fresh encodings are the same."""
        losses = []
        for fresh in (False, True):
            system = build(encode_retrieved=fresh)
            calls = []
            system.begin_fit(split)
            system.begin_epoch(1)
            for encoder in system.encoders.values():
                encoder.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            torch.manual_seed(2)
            losses.append(system(split.batch([1, 2, 7])).losses)
            assert len(calls) == (4 if fresh else 2)  # audio and vision, once or twice
        for name, value in losses[0].items():
            torch.testing.assert_close(value, losses[1][name])

    def test_memory_follows_training_and_ranking_its_schedule(self, split):
        system = build(refresh_epochs=2)
        system.begin_fit(split)
        system.begin_epoch(1)
        assert (system.candidates >= 0).any() and system.training
        remembered, ranked = system.memory.clone(), system.candidates.clone()
        with torch.no_grad():
            for parameter in system.encoders.parameters():
                parameter.add_(torch.randn_like(parameter))
        system.begin_epoch(2)
        batch = split.batch([2, 4])
        system(batch)
        changed = (system.memory != remembered).any(1)
        assert changed.nonzero().flatten().tolist() == [2, 4]
        torch.testing.assert_close(system.memory[batch.index], torch.cat(system.embed(batch)[1:], -1))
        assert torch.equal(system.candidates, ranked)
        system.begin_epoch(3)
        assert not torch.equal(system.candidates, ranked)
        assert (system.memory != remembered).any(1).all()

    def test_rounded_labels_make_more_labels_equal(self, split):
        counts = {}
        for rounded in (False, True):
            system = build(round_labels=rounded, share=1.0, candidates=11)
            system.begin_fit(split)
            system.begin_epoch(1)
            counts[rounded] = (system.candidates[:, 0] >= 0).sum()
            for row, kinds in enumerate(system.candidates):
                y = split.labels.round() if rounded else split.labels
                same_label = kinds[0][kinds[0] >= 0]
                assert (y[same_label] == y[row]).all() and (y[kinds[1][kinds[1] >= 0]] != y[row]).all()
        assert counts[True] > counts[False]

    def test_pretraining_shares_the_encoders(self, split):
        system = build()
        stages = system.pretraining()
        batch = split.batch([0, 1, 2])
        for name, m, row in (("pretrain_V", "V", 1), ("pretrain_A", "A", 2)):
            stage = stages[name]
            assert stage.encoder is system.encoders[m]
            output = stage(batch)
            target = batch.unimodal_labels[row]
            assert torch.equal(stage.target(batch), target)
            torch.testing.assert_close(output.losses["pred"], (output.prediction - target).square().mean())

    def test_misuse_is_named(self, split, make_split):
        system = build()
        with pytest.raises(RunError, match="macro_T"):
            system(DeviceSplit(make_split(3), torch.device("cpu")).batch())
        with pytest.raises(RunError, match="macro_T"):
            system.begin_fit(DeviceSplit(make_split(12), torch.device("cpu")))
        with pytest.raises(RunError, match="12 training clips, given 3"):
            system.begin_fit(with_text(DeviceSplit(make_split(3), torch.device("cpu"))))


class TestPublished:
    @pytest.mark.parametrize("module", [confede, sfttr])
    def test_values_of_the_authors_repositories(self, module):
        wanted = {"sims": (50, 32, 1, 2, 10, 0.5), "mosi": (25, 16, 2, 2, 2, 1.0), "mosei": (6, 8, 3, 3, 2, 0.1)}
        for name, expected in wanted.items():
            s = module.PUBLISHED[name]
            assert (s.epochs, s.batch_size, s.vision_layers, s.audio_layers, s.refresh_epochs, s.share) == expected
            assert (s.lr, s.weight_decay, s.contrast_weight, s.temperature) == (1e-4, 1e-3, 0.1, 0.5)


class TestSequentialFusion:
    def bert(self, encoder: sfttr.CrossEncoder):
        """transformers' BERT with the weights of ``encoder``."""
        from transformers import BertConfig, BertModel

        width, layers = encoder.norm.normalized_shape[0], encoder.transformer.layers
        bert = BertModel(
            BertConfig(
                vocab_size=2,
                hidden_size=width,
                num_hidden_layers=len(layers),
                num_attention_heads=layers[0].self_attn.num_heads,
                hidden_act="gelu",
                intermediate_size=layers[0].linear1.out_features,
                max_position_embeddings=len(encoder.positions),
                type_vocab_size=2,
            ),
            add_pooling_layer=False,
        )
        state = {
            "embeddings.position_embeddings.weight": encoder.positions,
            "embeddings.token_type_embeddings.weight": encoder.sides,
        }
        pairs = [("embeddings.LayerNorm", encoder.norm)]
        for number, layer in enumerate(layers):
            prefix = f"encoder.layer.{number}."
            pairs += [
                (prefix + "attention.output.dense", layer.self_attn.out_proj),
                (prefix + "attention.output.LayerNorm", layer.norm1),
                (prefix + "output.LayerNorm", layer.norm2),
                (prefix + "intermediate.dense", layer.linear1),
                (prefix + "output.dense", layer.linear2),
            ]
            names = ("query", "key", "value")
            for kind in ("weight", "bias"):
                parts = getattr(layer.self_attn, f"in_proj_{kind}").chunk(3)
                state |= {f"{prefix}attention.self.{n}.{kind}": p for n, p in zip(names, parts, strict=True)}
        for name, module in pairs:
            state |= {f"{name}.{kind}": getattr(module, kind) for kind in ("weight", "bias")}
        missing, unexpected = bert.load_state_dict(state, strict=False)
        assert not unexpected and all("word_embeddings" in name or "_ids" in name for name in missing)
        return bert.eval()

    def test_prediction_equals_three_berts_in_sequence(self):
        system = build(sfttr).eval()
        features = torch.randn(3, 6, WIDTH // 2)
        text, vision, audio = features[:, 3], features[:, 4], features[:, 5]

        def encode(encoder, vectors, sides):
            types = torch.tensor([sides]).expand(len(features), -1)
            return self.bert(encoder)(inputs_embeds=torch.stack(vectors, 1), token_type_ids=types).last_hidden_state

        far = encode(system.audio_vision, [audio, vision], [0, 1])
        far = encode(system.with_text, [text, *far.unbind(1)], [0, 1, 1])
        fused = encode(system.with_close, [*far.unbind(1), features[:, :3].sum(1)], [0, 0, 0, 1])
        expected = system.decoder(fused.mean(1))[:, 0]
        torch.testing.assert_close(system.predict(features), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            system.predict(features[None].expand(2, -1, -1, -1)), expected.expand(2, -1), rtol=1e-5, atol=1e-5
        )

    def test_dropout_is_berts(self):
        """Close projections drop 0.3, far ones 0.5, and nothing is dropped between the feed-forward layers."""
        system = sfttr.SFTTR(dataclasses.replace(sfttr.PUBLISHED["sims"], width=16), shapes())
        assert [system.similar["T"][-1].p, system.dissimilar["T"][-1].p] == [0.3, 0.5]
        assert all(isinstance(layer.dropout, torch.nn.Identity) for layer in system.with_text.transformer.layers)
        assert math.isclose(system.with_text.transformer.layers[0].dropout1.p, 0.1)
