"""The synthetic corpora that have the sizes and shapes of the real ones."""

import numpy as np
import pytest

from mgcl_core.data.synthetic import SHAPES
from mgcl_core.data.text_model import tokenize

EXPECTED = {
    "synthetic-sims": ((1368, 456, 457), 39, (400, 33), (55, 709)),
    "synthetic-mosi": ((1284, 229, 686), 50, (375, 5), (500, 20)),
    "synthetic-mosei": ((16326, 1871, 4659), 50, (500, 74), (500, 35)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_shapes_lengths_and_tokens_are_those_of_the_real_corpus(name):
    sizes, text_steps, audio, vision = EXPECTED[name]
    assert SHAPES[name].sizes == sizes
    fields, again = (SHAPES[name].split_fields("valid", clips=60) for _ in range(2))
    sims = name == "synthetic-sims"
    assert ("regression_labels_T" in fields) == sims
    for key, value in fields.items():
        assert np.array_equal(value, again[key])
    assert fields["text_bert"].shape == (60, 3, text_steps)
    for modality, shape in (("audio", audio), ("vision", vision)):
        assert fields[modality].shape == (60, *shape)
        assert fields[modality].dtype == np.float32
        lengths = np.array(fields[f"{modality}_lengths"])
        fraction = lengths / shape[0]
        assert fraction.min() >= 0.2 and fraction.max() <= 1
        assert fraction.min() < 0.3 and fraction.max() > 0.9 and 0.5 < fraction.mean() < 0.7
        beyond = np.arange(shape[0]) >= lengths[:, None]
        assert not fields[modality][beyond].any() and fields[modality][~beyond].all()
    ids, mask = fields["text_bert"][:, 0], fields["text_bert"][:, 1]
    length = mask.sum(axis=1).astype(int)
    assert (ids[:, 0] == 101).all() and (ids[np.arange(60), length - 1] == 102).all()
    assert not ids[mask == 0].any()
    if sims:
        assert ids.max() < 21128 and 15 < length.mean() < 21 and length.max() <= 39
    else:
        assert 20 < length.mean() < 27
        assert np.array_equal(fields["text_bert"], tokenize("minilm", fields["raw_text"].tolist(), 50))
