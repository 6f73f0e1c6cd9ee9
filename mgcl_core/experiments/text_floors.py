"""Floors: what a linear model on frozen text reaches, without audio, vision or training of a text model.

A trimodal system that does not beat them has learned little beyond its words. They need a list of sentences with labels
and splits, which is known of all of CMU-MOSI and CH-SIMS, so they can be had on the paper's own test clips where no
feature file is available.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..data import load_corpus
from ..data.corpus import BOUNDS, SPLITS, video_of
from ..data.known_files import known_name
from ..data.text_model import MOST_UNKNOWN, load_text_model, tokenize, unknown_share
from ..data.valid_steps import masked_mean
from ..metrics import METRICS
from ..statistics import LeaveOneOut
from ..support.devices import choose_device
from ..support.errors import ConfigError, CorpusError

#: Strengths of the ridge penalty, of which validation MAE chooses; features are vectors of norm 1.
PENALTIES = tuple(10.0 ** (power / 2) for power in range(-4, 7))
_COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
_LONGEST = 128  # word pieces; the longest sentence of CMU-MOSI has some 110


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences of three splits: ``name`` of the corpus, ``scheme``, and by split ``texts``, ``labels``, ``ids``."""

    name: str
    scheme: str
    synthetic: bool
    texts: dict[str, list[str]]
    labels: dict[str, np.ndarray]
    ids: dict[str, list[str]]


def read_sentences(source: str) -> Sentences:
    """Sentences and labels of a feature file, of a known corpus, or of a table of labels (``….csv``).

    Args:
        source: for `load_corpus`, or a CSV with the columns ``video_id``, ``clip_id``, ``text``, ``label`` and ``mode``
            ("train", "valid", "test"), as the authors of CH-SIMS and MMSA give it. Labels beyond [-1, 1] make it one
            of the scheme "mosi".

    Raises:
        CorpusError: a file that is neither, or has no words.
    """
    if known_name(source) is None and source.endswith(".csv"):
        return _from_table(Path(source))
    corpus = load_corpus(source)
    if not corpus.has_words:
        raise CorpusError("the file has no words", file=corpus.path, expected="sentences (raw_text)", found="none")
    splits = {split.name: split for split in corpus.splits}
    return Sentences(
        corpus.name, corpus.scheme, corpus.synthetic,
        {name: list(split.raw_text) for name, split in splits.items()},
        {name: np.asarray(split.labels, np.float64) for name, split in splits.items()},
        {name: list(split.ids) for name, split in splits.items()},
    )  # fmt: skip


def floors(sentences: Sentences, text_models: Sequence[str] = ("minilm",), device: str = "cpu") -> pd.DataFrame:
    """Test metrics of a constant, of ridge regression on tf-idf, and on the embeddings of each frozen text model.

    Fitted on training clips; the penalty is that of the best validation MAE; test is read once.

    Args:
        sentences: of `read_sentences`.
        text_models: names for `load_text_model`, each of the language of the sentences.
        device: of the text models, as for ``torch.device``, or "auto".

    Returns:
        One row per floor (index ``floor``), and for each metric its value, ``…_low`` and ``…_high``: the 95 % interval
        for other videos. ``penalty`` is the chosen one.

    Raises:
        ConfigError: a text model is not here, or does not know the language.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import

    train = sentences.texts["train"]
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, analyzer="char_wb", ngram_range=(1, 5)).fit(train)
    features = {"tf-idf, ridge": {name: tfidf.transform(texts) for name, texts in sentences.texts.items()}}
    for name in text_models:
        if not knows_language(name, train):
            raise ConfigError(f"the text model {name!r} does not know the language of {sentences.name!r}")
        embedded = {split: embed(name, texts, device) for split, texts in sentences.texts.items()}
        features[f"frozen {name}, ridge"] = embedded
    constant = np.full(len(sentences.labels["test"]), np.median(sentences.labels["train"]))
    predictions = {"the training labels' median": (constant, np.nan)}
    predictions |= {floor: _ridge(values, sentences.labels) for floor, values in features.items()}
    videos = [video_of(clip) for clip in sentences.ids["test"]]
    rows = {}
    for floor, (predicted, penalty) in predictions.items():
        left = LeaveOneOut.of(sentences.labels["test"], predicted[None], sentences.scheme, videos)
        row = {"penalty": penalty}
        for metric in METRICS[sentences.scheme]:
            estimate = left.estimate(metric)
            low, high = estimate.interval()
            row |= {metric: float(estimate.value), f"{metric}_low": float(low), f"{metric}_high": float(high)}
        rows[floor] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("floor")


def knows_language(text_model: str, texts: Sequence[str]) -> bool:
    """Whether at most a tenth of the word pieces of the first 200 sentences are unknown to the model (decision 19)."""
    return unknown_share(text_model, tokenize(text_model, list(texts[:200]), _LONGEST)) <= MOST_UNKNOWN


@torch.no_grad()
def embed(text_model: str, texts: Sequence[str], device: str = "cpu", batch_size: int = 64) -> np.ndarray:
    """Mean final hidden state of each sentence's tokens, divided by its norm: (N, H) float32.

    This is how the authors of all-MiniLM-L6-v2 define its sentence embedding ([CLS] and [SEP] count too).
    """
    loaded, chosen = load_text_model(text_model), choose_device(device)
    model, steps = loaded.model.to(chosen).eval(), min(_LONGEST, loaded.max_steps)
    tokens = torch.from_numpy(tokenize(text_model, list(texts), steps)).to(chosen)  # (N, 3, L)
    order = tokens[:, 1].sum(1).argsort()  # sentences of one length together, so that little is padded
    states = torch.zeros(len(texts), model.config.hidden_size)
    for rows in order.split(batch_size):
        ids, mask, _ = tokens[rows, :, : int(tokens[rows, 1].sum(1).max())].unbind(1)
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, H)
        states[rows.cpu()] = masked_mean(hidden, mask.bool()).float().cpu()
    return torch.nn.functional.normalize(states).numpy()


def _ridge(features: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Test predictions of the ridge regression whose validation MAE is the lowest, and its penalty."""
    from sklearn.linear_model import Ridge

    models = [Ridge(alpha=penalty).fit(features["train"], labels["train"]) for penalty in PENALTIES]
    errors = [np.abs(model.predict(features["valid"]) - labels["valid"]).mean() for model in models]
    best = int(np.argmin(errors))
    return models[best].predict(features["test"]), PENALTIES[best]


def _from_table(path: Path) -> Sentences:
    try:
        frame = pd.read_csv(path, dtype={"video_id": str, "clip_id": str, "text": str}, keep_default_na=False)
    except (OSError, ValueError, UnicodeError) as error:
        raise CorpusError("the table of labels cannot be read", file=path, expected="CSV", found=str(error)) from error
    if missing := [name for name in _COLUMNS if name not in frame]:
        raise CorpusError("the table of labels lacks a column", file=path, expected=", ".join(_COLUMNS),
                          found=f"no {', '.join(missing)}")  # fmt: skip
    labels = pd.to_numeric(frame["label"], errors="coerce")
    if labels.isna().any() or not set(SPLITS) <= set(frame["mode"]):
        raise CorpusError("the table of labels is incomplete", file=path, expected="numbers, and the splits "
                          f"{', '.join(SPLITS)}", found="a label or a split that is missing")  # fmt: skip
    scheme = "sims" if labels.abs().max() <= BOUNDS["sims"] else "mosi"
    ids = frame["video_id"] + "$_$" + frame["clip_id"]
    rows = {split: frame["mode"] == split for split in SPLITS}
    return Sentences(
        path.resolve().parent.name, scheme, False,
        {split: frame.loc[chosen, "text"].tolist() for split, chosen in rows.items()},
        {split: labels[chosen].to_numpy(np.float64) for split, chosen in rows.items()},
        {split: ids[chosen].tolist() for split, chosen in rows.items()},
    )  # fmt: skip
