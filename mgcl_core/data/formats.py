"""The forms that feature files of this field come in, each turned into MMSA's: a dict of splits, each a dict of keys.

Nothing is decided here but where things lie; `validation` checks what comes out. What is read is bounded by the size of
the file, since a pickle may hold one large object in many places.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .padded import Padded
from .sources import SPLIT_NAMES, size_of
from .values import Location, describe, ids_of, names_of

_MODALITIES = ("audio", "vision", "text")
#: Words and arrays of the clips of MAG-BERT and MISA.
_EXAMPLES = {3: ("MAG-BERT's", 0, 2, 1), 4: ("MISA's", 3, 2, 1)}  # parts → name, places of words, audio, vision
_LONGEST_NAME = 1000
_TO_PREDICT = " (which can be predicted, and not trained on)"


def in_mmsa_form(content: Any, file: Path) -> tuple[Any, str]:
    """What a feature file holds, in the form that `validation` checks.

    Args:
        content: What its pickle holds, or for a folder a dict of what the file of each split holds.
        file: Its path, for errors and for the name of a single clip.

    Returns:
        The splits by name (what no adapter knows stays as it is), and the form it was in, in words.

    Raises:
        CorpusError: A clip is not of the form that the first clip says it is.
    """
    if type(content) in (list, tuple):
        content = {"test": content}
    if type(content) is not dict:
        return content, "unknown"
    splits: dict[str, Any] = {}
    for name, split in SPLIT_NAMES.items():  # "valid" goes before "dev"
        if name in content:
            splits.setdefault(split, content[name])
    if not splits:
        return _without_splits(content, file)
    if all(type(value) in (list, tuple) for value in splits.values()):
        return _from_examples(splits, file)
    kinds = [
        type(value) is dict and "labels" in value and "regression_labels" not in value for value in splits.values()
    ]
    if all(kinds):
        return _from_mult(splits, file)
    others = [str(key)[:40] for key, value in content.items() if key not in SPLIT_NAMES and type(value) is dict]
    ignored = (
        f"; of its other parts, {', '.join(others[:5])} {'is' if len(others) == 1 else 'are'} ignored" if others else ""
    )
    return splits, "MMSA's" + ignored


def _from_mult(splits: Mapping[str, dict], file: Path) -> tuple[dict, str]:
    """MulT's and MultiBench's: vision, audio, text (GloVe), labels (N, 1, 1), id (N, 3), no words.

    Sources: yaohungt/Multimodal-Transformer, src/dataset.py; pliang279/MultiBench, datasets/affect.
    """
    read = {}
    for name, split in splits.items():
        location = Location(file, name)
        labels = split["labels"]
        if isinstance(labels, np.ndarray) and labels.ndim and labels.size != len(labels):
            location.fail("labels of several classes or emotions", "labels", "one number a clip", describe(labels))
        count = len(labels) if type(labels) is list or (isinstance(labels, np.ndarray) and labels.ndim) else 0
        kept = {key: split[key] for key in (*_MODALITIES, "raw_text", "text_bert") if key in split}
        ids = ids_of(split["id"], location) if "id" in split else [f"{name}{row}$_$0" for row in range(count)]
        read[name] = {"id": ids, "regression_labels": labels, **kept}
    numbered = _number_ids(read, file)
    return read, "MulT's (vision, audio, text, labels, id)" + numbered


def _number_ids(splits: Mapping[str, dict], file: Path) -> str:
    """Complete ids that several clips have although these differ, by split and row; says so.

    Clips that do not differ keep their id, so that a leak stays one.
    """
    counts = Counter(clip for split in splits.values() for clip in split["id"])
    rows = [(name, row) for name, split in splits.items() for row, clip in enumerate(split["id"]) if counts[clip] > 1]
    parts = {place: list(_arrays_of(splits[place[0]], place[1])) for place in rows}
    if sum(part.nbytes for arrays in parts.values() for part in arrays) > size_of(file):
        return ""  # one array is there for many clips, which is refused later
    digests = {
        (name, row): (splits[name]["id"][row], hashlib.sha256(b"".join(part.tobytes() for part in arrays)).digest())
        for (name, row), arrays in parts.items()
    }
    seen = Counter(digests.values())
    changed = [place for place in rows if seen[digests[place]] == 1]
    for name, row in changed:
        clip = splits[name]["id"][row]
        splits[name]["id"][row] = f"{clip}{'-' if '$_$' in clip else '$_$'}{name}{row}"
    return f"; {len(changed):,} clips have ids that others have too, and are numbered" if changed else ""


def _arrays_of(split: dict, row: int) -> Iterator[np.ndarray]:
    for key in _MODALITIES:
        value = split.get(key)
        if isinstance(value, Padded):
            yield value.clips[row]
        elif isinstance(value, np.ndarray) and value.ndim and row < len(value):
            yield value[row]


def _from_examples(splits: Mapping[str, Sequence], file: Path) -> tuple[dict, str]:
    """MAG-BERT's and MISA's: lists of ((words, visual, acoustic), label, segment), MISA's with word ids in front.

    Sources: WasifurRahman/BERT_multimodal_transformer, multimodal_driver.py; declare-lab/MISA, src/create_dataset.py.
    """
    clips = {name: _clips_of(examples, Location(file, name)) for name, examples in splits.items()}
    form = {clip["form"] for split in clips.values() for clip in split}
    if len(form) > 1:
        Location(file).fail("clips of several forms", None, "one form", " and ".join(sorted(form)))
    name = form.pop() if form else "MAG-BERT's"
    inside = "(words, visual, acoustic)" if name == "MAG-BERT's" else "(word ids, visual, acoustic, words)"
    read = _together(clips, file)
    return read, f"{name} (lists of ({inside}, label, segment))" + _number_ids(read, file)


def _clips_of(examples: Sequence, location: Location) -> list[dict[str, Any]]:
    clips, expected = [], "((words, visual, acoustic), label, segment)"
    for number, example in enumerate(examples):
        parts = example[0] if type(example) in (list, tuple) and len(example) == 3 else None
        if type(parts) not in (list, tuple) or len(parts) not in _EXAMPLES:
            found = f"{describe(example)} at clip {number}"
            location.fail("a clip is not of the form of MAG-BERT or MISA", None, expected, found)
        form, words, audio, vision = _EXAMPLES[len(parts)]
        words, label, segment = parts[words], example[1], example[2]
        is_array = isinstance(words, np.ndarray) and words.ndim == 1
        if not (is_array or type(words) in (list, tuple)) or type(segment) not in (str, bytes):
            found = f"{describe(words)} and {describe(segment)} at clip {number}"
            location.fail("a clip has no words or no name", None, expected, found)
        segment = segment[:_LONGEST_NAME]  # which may be there for every clip
        clip = segment.decode(errors="replace") if isinstance(segment, bytes) else segment
        clips.append({
            "form": form, "id": re.sub(r"^(.*)\[(\d+)\]$", r"\1$_$\2", clip), "words": words,
            "audio": parts[audio], "vision": parts[vision], "regression_labels": label,
        })  # fmt: skip
    return clips


def _together(clips: Mapping[str, Sequence[dict[str, Any]]], file: Path) -> dict[str, dict[str, Any]]:
    """Clips as dicts, each without the first axis, as splits in MMSA's form: features padded to the longest clip."""
    room = size_of(file)
    steps: Counter[str] = Counter()
    for name, split in clips.items():
        for number, clip in enumerate(split):
            for key in _MODALITIES:
                if key in clip:
                    value = clip[key]
                    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
                        found = f"{describe(value)} at clip {number}"
                        Location(file, name).fail("not an array of features", key, "a numeric array (steps, D)", found)
                    steps[key] = max(steps[key], len(value), 1)
    read: dict[str, dict[str, Any]] = {}
    used = 0
    for name, split in clips.items():
        together = read[name] = {"id": [clip["id"] for clip in split]}
        for key in _MODALITIES:
            values = [clip[key] for clip in split if key in clip]
            if values and len(values) != len(split) or len({value.shape[1] for value in values}) > 1:
                widths = sorted({value.shape[1] for value in values})
                found = f"{len(values)} clips with {' or '.join(map(str, widths[:5]))} values"
                Location(file, name).fail(
                    "clips differ in their keys or widths", key, f"{len(split)} clips of one width", found
                )
            if values:
                together[key] = Padded(values, steps[key])
                together[f"{key}_lengths"] = [len(value) for value in values]
        together.pop("text_lengths", None)
        if any("words" in clip for clip in split):
            together["raw_text"] = []
            for clip in split:  # one list of words may be there for every clip, and one long word in every list
                used += len(clip["words"])
                words = clip["words"] if used <= room else ()
                used += sum(len(word) for word in words if isinstance(word, str | bytes))
                if used > room:
                    Location(file, name).fail("texts are longer than the file", "raw_text", f"up to {room}", "more")
                together["raw_text"].append(" ".join(_words(words)))
        for key in ("raw_text", "regression_labels"):
            if all(key in clip for clip in split) and split:
                together[key] = [_label(clip[key]) for clip in split]
    return read


def _words(words: Iterable[Any]) -> list[str]:
    read = [word.decode(errors="replace") if isinstance(word, bytes) else word for word in words]
    return [str(word) for word in read if isinstance(word, str)]


def _label(value: Any) -> Any:
    """The first number of a clip's label, an array of one; MISA's MOSEI has six emotions after it."""
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size in (1, 7) else value


def _without_splits(content: dict, file: Path) -> tuple[Any, str]:
    """One clip of MMSA-FET (`run_single`), clips without splits, or a dict of clips by id: as the split "test"."""
    arrays = [content[key] for key in _MODALITIES if isinstance(content.get(key), np.ndarray)]
    if arrays and all(array.ndim == 2 for array in arrays):
        return {"test": _single(content, file)}, "MMSA-FET's, of a single clip" + _TO_PREDICT
    if arrays:
        count = len(arrays[0]) if arrays[0].ndim else 0
        ids = [f"{file.stem}$_${row}" for row in range(count)]
        return {"test": {"id": ids, **content}}, "clips without splits" + _TO_PREDICT
    if content and all(type(clip) is dict and np.ndim(_first_array(clip)) == 2 for clip in content.values()):
        kept = ("raw_text", *_MODALITIES)
        split = [{"id": str(key), **{k: clip[k] for k in kept if k in clip}} for key, clip in content.items()]
        if any("raw_text" in clip for clip in split):
            split = [{"raw_text": "", **clip} for clip in split]
        return _together({"test": split}, file), "clips by id" + _TO_PREDICT
    return content, f"unknown, with the keys {names_of(content)}"


def _first_array(clip: dict) -> np.ndarray | None:
    return next((clip[key] for key in _MODALITIES if isinstance(clip.get(key), np.ndarray)), None)


def _single(clip: dict, file: Path) -> dict[str, Any]:
    """A clip without the first axis: audio (La, D), vision (Lv, D), text (L, D), text_bert (L, 3) or (3, L)."""
    split = {key: clip[key][None] for key in _MODALITIES if isinstance(clip.get(key), np.ndarray)}
    tokens = clip.get("text_bert")
    if isinstance(tokens, np.ndarray) and tokens.ndim == 2:
        split["text_bert"] = (tokens.T if tokens.shape[1] == 3 and tokens.shape[0] != 3 else tokens)[None]
    clip_id = clip.get("id")
    split["id"] = [clip_id if isinstance(clip_id, str) else file.stem]
    if isinstance(clip.get("raw_text"), str):
        split["raw_text"] = [clip["raw_text"]]
    return split
