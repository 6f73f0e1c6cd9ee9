"""The real data, where there is some: Table 1 from the official labels, and a real trimodal file."""

import numpy as np
import pandas as pd
import pytest

from mgcl_core.data import load_corpus, table1

TABLE1 = {  # of the paper: train, valid, test, total
    "CH-SIMS": (1368, 456, 457, 2281),
    "CMU-MOSI": (1284, 229, 686, 2199),
    "CMU-MOSEI": (16326, 1871, 4659, 22856),
}


@pytest.mark.parametrize("name", TABLE1)
def test_the_official_labels_have_table_1s_counts(shared_data, name):
    labels = pd.read_csv(shared_data / name / "labels.csv", dtype={"video_id": str, "clip_id": str})
    counts = labels["mode"].value_counts()
    assert (*(int(counts[split]) for split in ("train", "valid", "test")), len(labels)) == TABLE1[name]
    assert not labels.duplicated(["video_id", "clip_id"]).any()  # so the reader may refuse a clip that is there twice


@pytest.fixture(scope="module")
def context_8(shared_data, tmp_path_factory):
    return load_corpus(shared_data / "CMU-MOSI" / "context_8.pkl", cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_real_trimodal_file_is_read(context_8):
    assert (context_8.name, context_8.scheme, context_8.synthetic, context_8.aligned) == (
        "context_8", "mosi", False, False,
    )  # fmt: skip
    assert table1([context_8]).iloc[0].tolist() == ["context_8", 430, 142, 180, 752, ""]
    for split in context_8.splits:
        assert split.audio.shape == (len(split), 8, 73)
        assert split.vision.shape == (len(split), 8, 100)
        assert split.text_bert.shape == (len(split), 3, 50)
        assert split.text is None and split.unimodal_labels is None
        assert np.isfinite(split.audio).all() and np.isfinite(split.vision).all()
        assert (split.text_bert[:, 0, 0] == 101).all()  # [CLS] of bert-base-uncased
        assert split.audio_mask.any(axis=1).all()
    assert context_8.notes == {}


def test_its_labels_are_the_official_ones(shared_data, context_8):
    labels = pd.read_csv(shared_data / "CMU-MOSI" / "labels.csv", dtype={"video_id": str, "clip_id": str})
    official = dict(zip(labels["video_id"] + "$_$" + labels["clip_id"], labels["label"], strict=True))
    for split in context_8.splits:
        expected = [official[clip] for clip in split.ids]
        assert np.abs(split.labels - expected).max() < 1e-5


def test_its_clips_share_no_video_between_splits(context_8):
    videos = [{clip.split("$_$")[0] for clip in split.ids} for split in context_8.splits]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 31
