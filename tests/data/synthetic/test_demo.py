"""The synthetic corpora: deterministic, in the field's format, irregular like it, and as hard as promised."""

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
from helpers.demo_ceiling import SEEN, best_correlations, read_cues, read_levels, read_sequences

from mgcl_core.data.corpus import BOUNDS, SPLITS
from mgcl_core.data.loading import load_corpus
from mgcl_core.data.synthetic import DEMOS, write_corpus
from mgcl_core.data.synthetic.sentences import make_sentence
from mgcl_core.data.synthetic.signals import AUDIO, BURST, VISION, make_sequences
from mgcl_core.data.text_model import tokenize
from mgcl_core.support.errors import ConfigError

KEYS = {
    "raw_text", "text_bert", "audio", "vision", "audio_lengths", "vision_lengths", "id", "annotations",
    "classification_labels", "regression_labels",
}  # fmt: skip
UNIMODAL = ("regression_labels_T", "regression_labels_V", "regression_labels_A")
LAYOUTS = {"audio": AUDIO, "vision": VISION}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    content = {}
    for name in DEMOS:
        write_corpus(name, folder / f"{name}.pkl")
        content[name] = pickle.loads((folder / f"{name}.pkl").read_bytes())
    assert sorted(path.name for path in folder.iterdir()) == ["demo-mosi.pkl", "demo.pkl"]
    return content


def _fields(corpora):
    return [(name, split, corpora[name][split]) for name in DEMOS for split in SPLITS]


def _digest(content):
    digest = hashlib.sha256()
    for split in SPLITS:
        for key, value in sorted(content[split].items()):
            array = np.asarray(value)
            digest.update(f"{split} {key} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", "94f50faa89b2291d23ffcc1c4d7517d1c27d3734b65f7d9ca7fa3b375d083ccc"),
        ("demo-mosi", "514d8e2f277bf1a81222f05b090903510895e6d7165e3164c3727b8101fda955"),
    ],
)
def test_the_same_data_every_time(corpora, tmp_path, name, expected):
    write_corpus(name, tmp_path / "again.pkl")
    assert _digest(pickle.loads((tmp_path / "again.pkl").read_bytes())) == _digest(corpora[name])
    # Whoever changes this must raise synthetic.VERSION, or an old file stays in use.
    assert _digest(corpora[name]) == expected


def test_the_pickle_has_protocol_4(tmp_path):
    write_corpus("demo-mosi", tmp_path / "file.pkl")
    assert (tmp_path / "file.pkl").read_bytes()[:2] == b"\x80\x04"


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(pickle, "dump", fail)
    with pytest.raises(OSError, match="disk full"):
        write_corpus("demo-mosi", tmp_path / "file.pkl")
    assert not list(tmp_path.iterdir())


def test_the_package_reads_what_it_wrote(tmp_path):
    write_corpus("demo", tmp_path / "file.pkl")
    corpus = load_corpus(tmp_path / "file.pkl", scheme="sims", cache_dir=tmp_path / "cache")
    assert [len(split) for split in corpus.splits] == [400, 120, 480]
    assert corpus.train.unimodal_labels.shape == (3, 400)
    assert np.isfinite(corpus.train.audio).all()


def test_form(corpora):
    for name, split, fields in _fields(corpora):
        settings = DEMOS[name]
        count = settings.sizes[SPLITS.index(split)]
        assert set(fields) == KEYS | (set(UNIMODAL) if name == "demo" else set())
        assert all(len(value) == count for value in fields.values())
        assert fields["text_bert"].shape == (count, 3, 14)
        for modality, layout in LAYOUTS.items():
            assert fields[modality].shape == (count, layout.max_steps, layout.dims)
            assert fields[modality].dtype == np.float32
            assert len(layout.scales) == len(layout.offsets)


def test_labels(corpora):
    for name, _, fields in _fields(corpora):
        bound = BOUNDS[DEMOS[name].scheme]
        for key in ("regression_labels", *UNIMODAL):
            if key in fields:
                steps = fields[key].astype(float) * 5
                assert np.abs(steps - np.rint(steps)).max() < 1e-6
                assert np.abs(fields[key]).max() == np.float32(bound)
        sign = np.sign(fields["regression_labels"])
        assert (fields["classification_labels"] == sign + 1).all()
        words = {-1: "Negative", 0: "Neutral", 1: "Positive"}
        assert fields["annotations"].tolist() == [words[value] for value in sign]


def test_demo_is_more_negative_than_positive(corpora):
    y = np.concatenate([corpora["demo"][split]["regression_labels"] for split in SPLITS])
    assert -0.3 < y.mean() < -0.1
    assert (y == -1).mean() > 1.5 * (y == 1).mean() > 0.1


def test_unimodal_labels_disagree_with_y_as_often_as_in_ch_sims(corpora):
    for key, rate in zip(UNIMODAL, (0.68, 0.54, 0.59), strict=True):  # T, V, A
        differs = [fields[key] != fields["regression_labels"] for fields in corpora["demo"].values()]
        assert np.concatenate(differs).mean() == pytest.approx(rate, abs=0.03)
        for split in differs:
            assert split.mean() == pytest.approx(rate, abs=0.1)


def test_no_video_and_no_clip_twice(corpora):
    for name in DEMOS:
        ids = [identifier for split in SPLITS for identifier in corpora[name][split]["id"].tolist()]
        assert len(set(ids)) == len(ids)
        videos = [{i.split("$_$")[0] for i in corpora[name][split]["id"]} for split in SPLITS]
        assert not (videos[0] & videos[1] or videos[0] & videos[2] or videos[1] & videos[2])
        assert all(video.startswith("synthetic_") for part in videos for video in part)
        assert len(videos[0]) > 30


def test_irregularities(corpora):
    for _, _, fields in _fields(corpora):
        for modality, layout in LAYOUTS.items():
            x, lengths = fields[modality], np.array(fields[f"{modality}_lengths"])
            assert lengths.min() == layout.min_steps and lengths.max() == layout.max_steps
            valid = np.arange(x.shape[1]) < lengths[:, None]
            assert (x[~valid] == 0).all()
            zero = (x == 0).all(axis=2) & valid
            assert 0.05 < zero.any(axis=1).mean() < 0.4
            assert not zero[:, 0].any() and not zero[np.arange(len(x)), lengths - 1].any()
            assert not np.isnan(x).any() and not np.isposinf(x).any()
            scale = np.nanstd(np.where(np.isfinite(x) & valid[:, :, None], x, np.nan), axis=(0, 1))
            assert scale.max() / scale.min() > 1000
        minus = np.isneginf(fields["audio"])
        assert 0.001 * minus[:, :, -1].size < minus.sum() < 0.05 * minus[:, :, -1].size
        assert not minus[:, :, :-1].any() and not np.isneginf(fields["vision"]).any()


def test_tokens_are_those_of_raw_text(corpora):
    longest = 0
    for _, _, fields in _fields(corpora):
        tokens = tokenize("minilm", fields["raw_text"].tolist(), 20)
        assert np.array_equal(fields["text_bert"], tokens[:, :, :14]) and not tokens[:, 1, 14:].any()
        longest = max(longest, int(fields["text_bert"][:, 1].sum(axis=1).max()))
    assert longest == 14


def test_every_level_of_a_sentence_is_read_back():
    rng = np.random.default_rng(0)
    texts = set()
    for macro in range(-6, 7):
        for micro in range(-3, 4):
            for _ in range(5):
                text = make_sentence(rng, macro, micro)
                assert read_levels(text) == (macro, micro)
                texts.add(text)
    assert len(texts) > 440  # of 455
    assert tokenize("minilm", sorted(texts), 20)[:, 1].sum(axis=1).max() <= 14


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_burst_leaves_the_mean_of_a_clip_alone(layout):
    quiet = dataclasses.replace(layout, p_zero=0.0, p_inf=0.0)
    zero, video = np.zeros(300), np.arange(300) // 10
    calm, lengths = make_sequences(np.random.default_rng(3), quiet, zero, zero, video)
    moved, _ = make_sequences(np.random.default_rng(3), quiet, zero, zero + 2, video)
    change = (moved - calm) / np.array(layout.scales)
    assert not change[:, :, layout.macro].any() and not change[:, :, layout.marker].any()
    in_cue = change[:, :, layout.micro] * np.array(layout.micro_signs)
    assert np.abs(in_cue.sum(axis=1)).max() < 1e-2
    assert in_cue.max(axis=1) == pytest.approx(2 * layout.micro_gain, abs=1e-2)
    assert ((in_cue > 1).sum(axis=1) == BURST).all()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_cues_are_read_back_from_the_sequences(layout):
    rng = np.random.default_rng(4)
    macro, micro = rng.standard_normal((2, 2000))
    x, lengths = make_sequences(rng, layout, macro, micro, np.arange(2000) // 10)
    for cue, reading, other in zip((macro, micro), read_sequences(layout, x, lengths), (micro, macro), strict=True):
        assert np.corrcoef(cue, reading)[0, 1] > 0.93
        assert abs(np.corrcoef(other, reading)[0, 1]) < 0.08


def _check(corr):
    best = corr["all"]
    assert 0.75 <= best <= 0.90
    assert corr["text"] <= 0.75 * best
    assert 0.3 * best <= corr["audio"] <= 0.6 * best
    assert 0.3 * best <= corr["vision"] <= 0.6 * best
    assert corr["without_micro"] <= 0.9 * best
    assert best == max(corr.values())


@pytest.mark.parametrize("name", DEMOS)
def test_ceilings(name):
    for split in SPLITS:
        _check(best_correlations(DEMOS[name], split))


@pytest.mark.parametrize("name", DEMOS)
def test_ceilings_of_more_clips_and_no_linear_predictor_above_them(name):
    corpus = dataclasses.replace(DEMOS[name], sizes=(1200, 10, 1500))
    corr = best_correlations(corpus)
    _check(corr)
    train, test = corpus.draw("train"), corpus.draw("test")
    for key, seen in SEEN.items():
        inputs = [np.column_stack([read_cues(clips)[seen].T, np.ones(len(clips.labels))]) for clips in (train, test)]
        weights = np.linalg.lstsq(inputs[0], train.labels, rcond=None)[0]
        linear = np.corrcoef(inputs[1] @ weights, test.labels)[0, 1]
        assert corr[key] - 0.06 < linear < corr[key] + 0.01, key


def test_labels_by_hand():
    corpus = dataclasses.replace(
        DEMOS["demo"], bias=0.0, spread=0.5, weights=(0.5, 0.25, 0.25), gain=2.0, noise=0.1, settle=(0.2, 0.2, 0.2)
    )
    cues = np.array([[[1.0], [-1.0], [0.5]], [[0.0], [0.5], [2.0]]])  # sums .8, -.5, 1.6
    y, unimodal = corpus.annotate(cues, np.array([0.0]))
    assert unimodal[:, 0] == pytest.approx([0.4, -0.2, 0.8])
    # 2 * (.5 * .4 - .25 * .25 + .25 * .8) = .675, nearest to A's .8
    assert y == pytest.approx([0.8])
    unsettled, _ = dataclasses.replace(corpus, settle=None).annotate(cues, np.array([-1.0]))
    assert unsettled == pytest.approx([0.6])  # .575 on the grid


def test_an_unknown_name_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'demo-mosi'"):
        write_corpus("demo-mosy", "unused.pkl")
