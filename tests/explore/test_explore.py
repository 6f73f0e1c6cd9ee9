"""What a person asks of one clip, of one run, of two variants."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest

from mgcl_core import Study, explore
from mgcl_core.losses import intensity_pairs
from mgcl_core.statistics import paired_differences
from mgcl_core.support.errors import ConfigError, RunError
from mgcl_core.trainer import predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tiny_corpus, tiny_overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")

    return Study(
        tiny_corpus, "demo", seeds=[1, 2, 3], overrides=tiny_overrides, results=folder, device="cpu", workers=1
    )


@pytest.fixture(scope="module")
def runs(study):
    return study.train()


@pytest.fixture(scope="module")
def others(study, runs):
    return study.train(["w/o CL"])


def test_a_card_says_what_the_run_said_of_the_clip(study, runs, tmp_path):
    clips, run = study.corpus.valid, runs[0]
    card = explore.card(run, clips, clips.ids[4])
    table = run.predictions("valid")
    assert card.explanation.output.prediction[0].item() == pytest.approx(table["prediction"][4], abs=1e-6)
    shares = card.explanation.on_modalities()[:, 0]
    assert sum(share for _, share in card.words) == pytest.approx(shares[0].item(), abs=1e-6)
    page = card.save(tmp_path / "card.html").read_text()
    assert "valid4 / 0" in page and "synthetic data" in page and f"label {clips.labels[4]:+.2f}" in page
    assert page.count("<span") == len(card.words) and "data:image/png" in page and "<script" not in page
    assert card._repr_html_() in page


def test_a_card_joins_word_pieces_and_escapes_words(runs):
    card = explore.card(runs[0], text="films badly <b>bad</b>")
    assert [word for word, _ in card.words][:2] == ["films", "badly"]
    assert "<b>bad" not in card.page and "no vision and no audio" in card.page


def test_a_clip_that_is_not_there_is_named(study, runs):
    with pytest.raises(RunError, match="no clip of 'valid' has the id 'valid44.*did you mean 'valid4"):
        explore.card(runs[0], study.corpus.valid, "valid44$_$0")
    with pytest.raises(RunError, match="has 12 clips, counted from 0"):
        explore.card(runs[0], study.corpus.valid, 12)
    with pytest.raises(RunError, match="need a run of MGCL"):
        explore.card(runs[0].parents[0], study.corpus.valid)


def test_counterfactuals_are_predictions_of_changed_clips(study, runs):
    clips = study.corpus.valid  # every clip says "a good film"
    frame = explore.counterfactuals(runs[0], clips, 2, replace={"good": "bad"})
    first = ["as it is", "good → bad", "no text", "no vision", "no audio"]
    assert list(frame["change"][:5]) == first
    assert sorted(frame["change"][5:]) == ["without a", "without film", "without good"]
    assert np.allclose(frame["difference"], frame["prediction"] - frame["prediction"][0])
    assert frame["difference"][5:].abs().is_monotonic_decreasing
    one = dataclasses.replace(clips.take(np.array([2])), text_bert=None)
    asked = {"good → bad": {"raw_text": ("a bad film",)}, "without a": {"raw_text": ("good film",)}}
    asked |= {"no audio": {"audio_mask": one.audio_mask & False}, "no text": {"raw_text": ("",)}, "as it is": {}}
    by_change = frame.set_index("change")["prediction"]
    for change, parts in asked.items():
        alone = runs[0].predict(dataclasses.replace(one, **parts))["prediction"].item()
        assert by_change[change] == pytest.approx(alone, abs=1e-5), change
    with pytest.raises(ConfigError, match="does not say 'god': did you mean 'good'"):
        explore.counterfactuals(runs[0], clips, 2, replace={"god": "bad"})


def test_counterfactuals_of_a_sentence_without_spaces_go_by_characters(runs):
    frame = explore.counterfactuals(runs[0], text="好看")
    assert sorted(frame["change"]) == sorted(["as it is", "without 好", "without 看"])


def test_attention_adds_up_and_even_weights_count_steps(study, runs):
    found = explore.attention(study, runs[0])
    assert len(found.table) == 6 * 12 and len(found.summary) == 6
    sums = found.table.groupby(["clip", "query"])[["share", "even"]].sum()
    assert np.allclose(sums, 1, atol=1e-5)
    one = found.table[(found.table["clip"] == "valid3$_$0") & (found.table["query"] == "T")].set_index("source")
    vision, audio = study.corpus.valid.vision_mask[3].sum(), study.corpus.valid.audio_mask[3].sum()
    assert one["even"]["V"] == pytest.approx(vision / (vision + audio))
    with pytest.raises(RunError, match="no attention"):
        explore.attention(study, runs[0].parents[0])


def test_errors_divide_all_clips_in_each_way(study, runs):
    table = explore.errors(study, runs).table
    assert set(table["by"]) == {"conflict", "intensity", "audio steps", "vision steps"}  # all say as many words
    assert (table.groupby("by")["clips"].sum() == 12).all()
    whole = np.mean([np.abs(run.predictions("valid")["prediction"] - study.corpus.valid.labels).mean() for run in runs])
    for _, group in table.groupby("by"):
        assert np.average(group["mae"], weights=group["clips"]) == pytest.approx(whole, abs=1e-6)


def test_errors_by_conflict_need_labels_of_the_modalities(study, runs):
    other = copy.copy(study)
    other.corpus = dataclasses.replace(
        study.corpus, valid=dataclasses.replace(study.corpus.valid, unimodal_labels=None)
    )
    assert "conflict" not in set(explore.errors(other, runs).table["by"])
    assert "y_T" not in explore.worst(other, runs)


def test_the_worst_clips_are_those_with_the_largest_errors(study, runs):
    worst = explore.worst(study, runs, count=3)
    mean = np.mean([run.predictions("valid")["prediction"] for run in runs], axis=0)
    largest = np.sort(np.abs(mean - study.corpus.valid.labels))[::-1][:3]
    assert worst["error"].abs().to_numpy() == pytest.approx(largest, abs=1e-6)
    assert list(worst["words"]) == ["a good film"] * 3


def test_compare_is_the_paired_test_and_each_clip(study, runs, others):
    found = explore.compare(study, runs, others)
    a, b = (np.stack([run.predictions("valid")["prediction"] for run in each]) for each in (runs, others))
    labels = study.corpus.valid.labels
    expected = paired_differences(labels, a, b, "sims", [f"valid{k}" for k in range(12)])["mae"]
    row = found.table.set_index("metric").loc["MAE"]
    assert row["difference"] == pytest.approx(float(expected.value)) and row["p"] == pytest.approx(float(expected.p))
    assert found.clips["change of error"].mean() == pytest.approx(float(expected.value), abs=1e-6)
    assert found.clips["change of error"].is_monotonic_increasing and len(found.clips) == 12
    with pytest.raises(RunError, match="same seeds"):
        explore.compare(study, runs, others[:2])


def test_neighbours_are_sorted_by_cosine_and_paired_as_in_the_loss(study, runs):
    frame = explore.neighbours(study, runs[0], 3, feature="micro_A", count=2)
    assert len(frame) == 4 and frame["cosine"].is_monotonic_decreasing and "valid3$_$0" not in set(frame["clip"])
    outputs = predict(study.build(runs[0], trained=True), study.split("valid", runs[0]), runs[0].stage.schedule)
    vectors = outputs["micro"][2]
    for row in frame.itertuples():
        other = study.corpus.valid.ids.index(row.clip)
        a, b = vectors[3], vectors[other]
        assert row.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
        positive, weight = intensity_pairs(study.splits.split("valid", runs[0]).labels, runs[0].config.delta)
        assert (row.pair == "positive") == bool(positive[3, other]) and pytest.approx(weight[3, other].item()) == row.W
    with pytest.raises(ConfigError, match="did you mean 'macro_T'"):
        explore.neighbours(study, runs[0], 3, feature="macroT")


def test_the_map_is_one_page_that_loads_nothing_and_trusts_no_sentence(study, runs):
    hostile = "</script><img src=x onerror=alert(1)>"
    valid = dataclasses.replace(study.corpus.valid, raw_text=(hostile,) * 12)
    other = copy.copy(study)
    other.corpus = dataclasses.replace(study.corpus, valid=valid)
    linked = explore.linked_map(other, runs[0], clips=10)
    path = linked.save("11_map").path("11_map")
    page = path.read_text()
    assert (
        hostile not in page
        and not re.search(r"""(src|href)=["'](?!data:)""", page)
        and "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page)
    )
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
    assert [item["words"] for item in data["clips"]] == [hostile] * 10
    assert len(data["maps"]) == 6 and all(len(item["points"]) == 10 for item in data["maps"])
    assert "<iframe srcdoc=" in linked._repr_html_() and "<script" not in linked._repr_html_()


def test_vary_trains_every_value_and_reads_no_test_data(study, runs, monkeypatch):
    monkeypatch.setattr(Study, "_test", lambda *_: pytest.fail("test data was read"))
    found = explore.vary(study, alpha=[0.5, 0])
    assert list(dict.fromkeys(found.table["alpha"])) == [0.0, 0.1, 0.5]
    own = found.table[found.table["alpha"] == 0.1]
    assert (own["difference"] == 0).all() and own["p"].isna().all()
    predicted = {
        alpha: np.stack(
            [run.predictions("valid")["prediction"] for run in study.with_overrides({"alpha": alpha}).trainings()]
        )
        for alpha in (0.5, 0.1)
    }
    videos = [f"valid{k}" for k in range(12)]
    expected = paired_differences(study.corpus.valid.labels, predicted[0.5], predicted[0.1], "sims", videos)["corr"]
    row = found.table[(found.table["alpha"] == 0.5) & (found.table["metric"] == "Corr")].iloc[0]
    assert row["difference"] == pytest.approx(float(expected.value)) and row["p"] == pytest.approx(float(expected.p))
    assert "alpha = 0.1" in found.note


@pytest.mark.parametrize(
    "variant, values, message",
    [
        ("MGCL", {}, "takes one setting"),
        ("MGCL", {"alpha": [0], "beta": [0]}, "takes one setting"),
        ("MGCL", {"alhpa": [0]}, "did you mean 'alpha'"),
        ("w/o CL", {"alpha": [0.3]}, "is what makes the variant"),
    ],
)
def test_vary_says_what_it_cannot_vary(study, variant, values, message):
    with pytest.raises(ConfigError, match=message):
        explore.vary(study, variant, **values)
