"""Text-only floors: sentences with a planted signal, tables of labels, and the paper's own test clips."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from mgcl_core.cli import main
from mgcl_core.experiments.text_floors import PENALTIES, Sentences, embed, floors, knows_language, read_sentences
from mgcl_core.reporting.floors import floors_table, paper_dataset_of
from mgcl_core.reporting.published import paper_file
from mgcl_core.support.errors import ConfigError, CorpusError

GOOD, BAD = "a good film", "the bad plot"


def labels(path, clips=(120, 60, 60), scale=1.0, **changes):
    """A table of labels whose words say the sign, with noise."""
    random, rows = np.random.default_rng(0), []
    for mode, count in zip(("train", "valid", "test"), clips, strict=True):
        for clip in range(count):
            sign = random.choice([-1, 1])
            label = scale * float(np.clip(round(sign * 0.5 + random.normal(0, 0.2), 1), -1, 1))
            rows.append((f"{mode}{clip % 12}", str(clip), GOOD if sign > 0 else BAD, label, mode))
    frame = pd.DataFrame(rows, columns=["video_id", "clip_id", "text", "label", "mode"]).assign(**changes)
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    return read_sentences(str(labels(tmp_path_factory.mktemp("floors") / "labels.csv")))


@pytest.fixture(scope="module")
def found(sentences, tiny_bert):
    return floors(sentences, [tiny_bert])


def test_a_planted_word_is_found_and_a_constant_knows_nothing(sentences, found):
    constant, tfidf, frozen = found.to_dict(orient="index").values()
    assert np.isnan(constant["corr"]) and np.isnan(constant["penalty"])
    best = np.corrcoef([1 if text == GOOD else -1 for text in sentences.texts["test"]], sentences.labels["test"])[0, 1]
    for row in (tfidf, frozen):
        assert row["corr"] == pytest.approx(best, abs=0.02) and row["mae"] < 0.5 * constant["mae"]
        assert row["corr_low"] < row["corr"] < row["corr_high"] and row["penalty"] in PENALTIES


def test_validation_chooses_the_penalty_and_test_has_no_part_in_it(sentences, found, tiny_bert):
    turned = {**sentences.labels, "test": -sentences.labels["test"]}
    other = floors(Sentences(sentences.name, "sims", False, sentences.texts, turned, sentences.ids), [tiny_bert])
    assert other["penalty"].equals(found["penalty"])
    assert other["corr"].iloc[1] == pytest.approx(-found["corr"].iloc[1])


def test_an_embedding_is_of_norm_1_and_does_not_hang_on_its_batch(tiny_bert):
    texts = [GOOD, "a very very very dull film", BAD]
    alone, together = (embed(tiny_bert, texts, batch_size=size) for size in (1, 3))
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_a_table_says_its_scheme_and_splits(sentences, tmp_path):
    assert sentences.scheme == "sims" and [len(sentences.ids[split]) for split in sentences.ids] == [120, 60, 60]
    assert sentences.ids["test"][13] == "test1$_$13"
    assert read_sentences(str(labels(tmp_path / "labels.csv", scale=3))).scheme == "mosi"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mode": "train"}, "incomplete"),
        ({"label": "?"}, "incomplete"),
        (None, "lacks a column"),
        ("", "cannot be read"),
    ],
)
def test_a_table_that_is_none_is_an_error_that_says_so(tmp_path, changes, message):
    path = tmp_path / "labels.csv"
    if changes is None:
        path.write_text("a,b\n1,2\n")
    elif changes:
        labels(path, **changes)
    with pytest.raises(CorpusError, match=message):
        read_sentences(str(path))


def test_a_text_model_of_another_language_is_refused(tiny_bert, sentences):
    other = {split: ["字 字 字"] * len(texts) for split, texts in sentences.texts.items()}
    foreign = Sentences("foreign", "sims", False, other, sentences.labels, sentences.ids)
    assert knows_language(tiny_bert, sentences.texts["train"]) and not knows_language(tiny_bert, other["train"])
    with pytest.raises(ConfigError, match="does not know the language of 'foreign'"):
        floors(foreign, [tiny_bert])


def test_a_feature_file_serves_too(tiny_bert, monkeypatch):
    demo = read_sentences("demo")
    assert demo.synthetic and demo.scheme == "sims" and len(demo.texts["test"]) == 480


def test_the_papers_rows_stand_below_on_its_own_clips_alone(sentences, found):
    assert paper_dataset_of(sentences) is None
    assert not any(row.endswith(", paper") for row in floors_table(sentences, found).index)
    sizes = paper_file("test_sets").set_index("dataset").loc["CH-SIMS"].astype(int)
    signs = np.repeat([-0.2, 0.0, 0.2], sizes[["negative", "zero", "positive"]])
    ids = [f"v{clip % sizes['videos']}$_${clip}" for clip in range(sizes["clips"])]
    own = Sentences("x", "sims", False, sentences.texts, {"test": signs}, {"test": ids})
    assert paper_dataset_of(own) == "CH-SIMS"
    table = floors_table(own, found)
    assert table.loc["MGCL, paper"].tolist() == ["81.69", "81.66", "69.88", "43.40", "0.402", "0.664"]
    assert table.loc["MISA, paper", "Acc-3"] == "–" and table.columns.tolist()[0] == "Acc-2"


def test_the_command_prints_the_floors_and_keeps_the_numbers(tmp_path, tiny_bert, capsys):
    path = labels(tmp_path / "labels.csv")
    assert main(["floors", str(path), "--text-model", tiny_bert, "--out", str(tmp_path / "floors.csv")]) == 0
    shown = capsys.readouterr().out
    assert "60 test clips of 12 videos" in shown and "not the paper's" in shown and "tf-idf, ridge" in shown
    kept = pd.read_csv(tmp_path / "floors.csv", index_col="floor")
    assert len(kept) == 3 and kept["corr_low"].notna().sum() == 2


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MGCL_FLOORS"), reason="half a minute; MGCL_FLOORS=1 runs it")
def test_the_floor_of_the_papers_own_test_clips(shared_data):
    """Frozen MiniLM and ridge on CMU-MOSI's words: the table of the README."""
    sentences = read_sentences(str(shared_data / "CMU-MOSI" / "labels.csv"))
    assert paper_dataset_of(sentences) == "CMU-MOSI"
    row = floors(sentences).loc["frozen minilm, ridge"]
    assert [row["corr"], row["mae"], row["acc2_np"]] == pytest.approx([0.697, 0.952, 0.787], abs=0.003)
