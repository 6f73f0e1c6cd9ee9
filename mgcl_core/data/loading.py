"""From the name of a corpus or the path of a feature file to a checked `Corpus`."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..support.errors import ConfigError, CorpusError, nearest
from ..support.paths import data_directory
from .cache import Contents, Store, open_cached
from .corpus import BOUNDS, PAPER_DATASETS, SPLITS, Corpus, Split, describe_notes
from .formats import in_mmsa_form
from .known_files import (
    ALIASES,
    KNOWN_CORPORA,
    PUBLISHED,
    KnownCorpus,
    name_of,
    published_hash,
    resolve,
    warn_of_another_file,
)
from .reading import is_aligned, keep_splits, read_file, read_text
from .sources import read_source
from .validation import UNIMODAL, check_clips, decide_scheme
from .values import Location

log = logging.getLogger(__name__)

#: How the file's lengths are read (decision 19), and what becomes of numbers that are not finite.
LENGTH_RULES, NONFINITE_RULES = ("auto", "file", "nonzero"), ("error", "zero")


def load_corpus(
    name_or_path: str | os.PathLike,
    scheme: str | None = None,
    *,
    dataset: str | None = None,
    lengths: str = "auto",
    nonfinite: str = "error",
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Corpus:
    """Load a corpus: read its feature file, check all of it, and cache it memory-mapped.

    A published file is recognised by its SHA-256, wherever it lies. One in a published file's place that has another is
    read with a logged warning.

    Args:
        name_or_path: A known name (``demo``, ``demo-mosi``, ``sims``, ``mosi``, ``mosei``, ``synthetic-sims``,
            ``synthetic-mosi``, ``synthetic-mosei``, in any case) or a feature file.
        scheme: ``"sims"`` (labels in [-1, 1]) or ``"mosi"`` ([-3, 3]). By default the known corpus or else the range of
            the labels decides, and the decision is logged.
        dataset: ``"sims"``, ``"mosi"`` or ``"mosei"``, whose settings of the paper it is to be run with; by default
            that of a known corpus.
        lengths: ``"auto"`` believes the file's lengths where they cut off no observed step, ``"file"`` always, and
            ``"nonzero"`` never (decision 19).
        nonfinite: ``"error"``, or ``"zero"`` to read NaN and infinity as 0.
        data_dir: Where known feature files are, and where synthetic ones are written once. By default ``MGCL_DATA``,
            else ``data`` in the project.
        cache_dir: By default ``.cache`` in ``data_dir``.

    Returns:
        The corpus, with read-only arrays. The file's text features are read by `with_text`.

    Raises:
        CorpusError: The name is unknown, or the file is missing or breaks the format.
        ConfigError: An argument is none of its values.
    """
    choices = (("scheme", scheme, BOUNDS), ("dataset", dataset, PAPER_DATASETS))
    for what, value, known_values in (
        *choices,
        ("lengths", lengths, LENGTH_RULES),
        ("nonfinite", nonfinite, NONFINITE_RULES),
    ):
        if value not in known_values and not (value is None and what in ("scheme", "dataset")):
            raise ConfigError(f"unknown {what} {value!r}: {nearest(str(value), known_values)}")
    data_dir = Path(data_dir) if data_dir is not None else data_directory()
    cache_dir = Path(cache_dir) if cache_dir is not None else data_dir / ".cache"
    known, place = resolve(name_or_path, data_dir)
    path = place.resolve()
    read = functools.partial(
        read_file, path, lengths=lengths, nonfinite=nonfinite, published=published_hash(known, place)
    )
    contents = open_cached(path, cache_dir, read, ("features", lengths, nonfinite))
    facts, splits = contents.facts, {name: _split(name, contents) for name in SPLITS}
    name, recognised = known.name if known else name_of(path), PUBLISHED.get(facts["sha256"])
    if recognised:
        if known and known.files and known.name != recognised.split("/")[0]:
            log.warning("%s is asked for as %s, but it is %s by its SHA-256", place, known.name, recognised)
        known = KNOWN_CORPORA[ALIASES[recognised.split("/")[0].lower()]]
        name = known.name + ("-aligned" if facts["aligned"] else "")
        log.info("%s: the published file %s, by its SHA-256", name, recognised)
    else:
        warn_of_another_file(place, known, facts["sha256"], [len(split) for split in splits.values()])
    log.info("%s: its form is %s", name, facts["form"])
    for line in describe_notes(facts["notes"]):
        log.info("%s: %s", name, line)
    return Corpus(
        name=name,
        scheme=_decide_scheme(name, known, splits, scheme, path),
        **splits,
        path=path,
        sha256=facts["sha256"],
        aligned=facts["aligned"],
        synthetic=known is not None and not known.files,
        language=known.language if known else "",
        notes=facts["notes"],
        dataset=dataset or (known.dataset if known else None),
        lengths=lengths,
        nonfinite=nonfinite,
        text_dim=facts["text_shape"][1] if facts["text_shape"] else None,
        text_steps=facts["text_shape"][0] if facts["text_shape"] else None,
        has_words=facts["has_words"],
        form=facts["form"],
        cache_dir=cache_dir,
    )


def with_text(corpus: Corpus) -> Corpus:
    """The corpus with the file's own text features (`Split.text`), where it has any.

    Few systems read them, and they are most of a feature file; so they are read and cached only here, except those of
    a file without words, which has nothing else.

    Raises:
        CorpusError: The file is another one by now, or a number is not finite and the corpus was not read with
            ``nonfinite="zero"``.
    """
    if corpus.text_dim is None or corpus.train.text is not None:
        return corpus
    read = functools.partial(read_text, corpus.path, nonfinite=corpus.nonfinite, aligned=corpus.aligned)
    contents = open_cached(corpus.path, corpus.cache_dir, read, ("text", corpus.nonfinite))
    if contents.facts["sha256"] != corpus.sha256:
        problem = "the file changed since the corpus was loaded: load it again"
        found = f"SHA-256 {contents.facts['sha256']}"
        raise CorpusError(problem, file=corpus.path, key="text", expected=f"SHA-256 {corpus.sha256}", found=found)
    present = {split.name: split for split in corpus.splits if isinstance(split, Split)}
    texts = {
        name: dataclasses.replace(split, **{key: contents.arrays[f"{name}-{key}"] for key in ("text", "text_mask")})
        for name, split in present.items()
    }
    return dataclasses.replace(corpus, **texts)


def load_clips(
    name_or_path: str | os.PathLike,
    *,
    audio_dim: int,
    vision_dim: int,
    text_dim: int | None = None,
    splits: Sequence[str] = (),
    lengths: str = "auto",
    nonfinite: str = "error",
    data_dir: str | os.PathLike | None = None,
) -> dict[str, Split]:
    """Load clips to predict: any of the splits train, valid and test, with or without labels, which are not kept.

    Args:
        name_or_path: As for `load_corpus`.
        audio_dim: Features per step of audio that the model takes.
        vision_dim: The same for vision.
        text_dim: The same for text, of a model that reads features of it; None for one that reads words.
        splits: Which splits; all that there are by default. The others are not looked at.
        lengths: As for `load_corpus`.
        nonfinite: As for `load_corpus`.
        data_dir: As for `load_corpus`.

    Returns:
        The splits by name. A modality that the file lacks is absent in every clip.

    Raises:
        CorpusError: As `load_corpus`, a split is missing, or the features have another width.
    """
    _, path = resolve(name_or_path, Path(data_dir) if data_dir is not None else data_directory())
    content, form = in_mmsa_form(read_source(path), path)
    log.info("%s: its form is %s", path.name, form)
    checked = check_clips(content, path, splits, text_features=text_dim is not None)
    widths = {"audio": audio_dim, "vision": vision_dim, **({} if text_dim is None else {"text": text_dim})}
    for name, split in checked.items():
        for key, width in widths.items():
            if key == "text" and "text" not in split.features:
                Location(path, name).fail("the model reads features of the text", key, f"{width} values a step", "none")
            elif key in split.absent:
                split.features[key] = np.zeros((len(split.ids), 1, width), np.float32)
            elif (dims := split.features[key].shape[2]) != width:
                Location(path, name).fail("features of another width", key, f"{width} values a step", f"{dims} values")
    store, notes = Store(), Counter()
    aligned = is_aligned(next(iter(checked.values())))
    keep_splits(checked, path, store, notes, lengths, nonfinite, aligned, text=text_dim is not None)
    for line in describe_notes(notes):
        log.info("%s: %s", path.name, line)
    texts = {name: {"ids": split.ids, "raw_text": split.raw_text} for name, split in checked.items()}
    return {name: _split(name, Contents(store.arrays, texts)) for name in checked}


def _split(name: str, contents: Contents) -> Split:
    kept = (
        "text_bert",
        "text",
        "text_mask",
        "audio",
        "audio_mask",
        "vision",
        "vision_mask",
        "labels",
        "unimodal_labels",
    )
    arrays = {key: contents.arrays.get(f"{name}-{key}") for key in kept}
    texts = contents.facts[name]
    return Split(name=name, ids=tuple(texts["ids"]), raw_text=tuple(texts["raw_text"]), **arrays)


def _decide_scheme(
    name: str, known: KnownCorpus | None, splits: Mapping[str, Split], scheme: str | None, path: Path
) -> str:
    labels = {}
    for split in splits.values():
        labels[split.name, "regression_labels"] = split.labels
        for index, key in enumerate(UNIMODAL if split.unimodal_labels is not None else ()):
            labels[split.name, key] = split.unimodal_labels[index]
    decided = decide_scheme(labels, scheme or (known.scheme if known else None), path)
    reason = "as given" if scheme else "by its name" if known else "by the range of its labels"
    log.info("%s: label scheme %r, [-%g, %g], %s", name, decided, BOUNDS[decided], BOUNDS[decided], reason)
    return decided
