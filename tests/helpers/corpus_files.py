"""Small feature files for the tests of the corpus, in the many ways that real ones were written."""

from __future__ import annotations

import copy
import pickle
import pickletools
from pathlib import Path

import numpy as np

AUDIO, VISION, TEXT = (7, 4), (5, 6), (8, 3)  # steps, features


def make_content(scheme="sims", sizes=(5, 3, 4), *, lengths=True, text=True, dtype=np.float32, seed=0) -> dict:
    """The unpickled form: three splits of random features that are zero beyond each clip's length."""
    random = np.random.default_rng(seed)
    return {
        name: _split(random, scheme, name, size, lengths, text, dtype)
        for name, size in zip(("train", "valid", "test"), sizes, strict=True)
    }


def _split(random, scheme, name, count, lengths, text, dtype) -> dict:
    split = {"id": [f"{name}_{index:03d}$_$1" for index in range(count)]}
    split["raw_text"] = [f"a sentence of clip {index}, naïve 你好" for index in range(count)]
    ids = random.integers(5, 1000, (count, TEXT[0]))
    mask = np.arange(TEXT[0]) < random.integers(2, TEXT[0] + 1, (count, 1))
    split["text_bert"] = np.stack([ids * mask, mask, np.zeros_like(ids)], axis=1).astype(dtype)
    if text:
        split["text"] = random.normal(size=(count, *TEXT)).astype(dtype)
    for key, shape in (("audio", AUDIO), ("vision", VISION)):
        valid = random.integers(1, shape[0] + 1, count)
        features = random.normal(size=(count, *shape))
        features[np.arange(shape[0]) >= valid[:, None]] = 0
        split[key] = features.astype(dtype)
        if lengths:
            split[f"{key}_lengths"] = valid.tolist()
    bound = {"sims": 1, "mosi": 3}[scheme]
    split["annotations"] = ["Positive"] * count
    split["classification_labels"] = np.ones(count, dtype)
    labels = np.round(random.uniform(-bound, bound, (4, count)) * 5) / 5
    labels[:, 0] = bound
    split["regression_labels"] = labels[0].astype(dtype)
    if scheme == "sims":
        for index, modality in enumerate("TAV"):
            split[f"regression_labels_{modality}"] = labels[1 + index].astype(dtype)
    return split


def write(path: Path, content, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def changed(content: dict, split: str, **values) -> dict:
    """A deep copy with keys of one split replaced, or dropped where the value is ``...``."""
    content = copy.deepcopy(content)
    for key, value in values.items():
        if value is ...:
            del content[split][key]
        else:
            content[split][key] = value
    return content


def with_numpy_names(data: bytes, core: str) -> bytes:
    """A pickle that names numpy's functions under ``numpy.core`` (1.x) or ``numpy._core`` (2.x)."""
    for other in ("numpy.core", "numpy._core"):
        for module in ("multiarray", "numeric"):
            old, new = f"{other}.{module}".encode(), f"{core}.{module}".encode()
            data = data.replace(b"c" + old + b"\n", b"c" + new + b"\n")
            data = data.replace(b"\x8c%c%s" % (len(old), old), b"\x8c%c%s" % (len(new), new))
    return pickletools.optimize(data) if data[1] >= 4 else data  # corrects the sizes of the frames
