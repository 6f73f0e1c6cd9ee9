"""What the prediction would be if a clip were otherwise: other words, a word less, a modality less."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..data.corpus import Split
from ..data.own_clips import Steps, feature_file
from ..experiments.runs import Run
from ..support.errors import ConfigError, nearest
from .showing import row_of


def counterfactuals(
    run: Run,
    clips: Split | None = None,
    clip: int | str = 0,
    *,
    replace: Mapping[str, str] | None = None,
    text: str | None = None,
    audio: Steps | None = None,
    vision: Steps | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Predictions of a clip as it is, with words replaced, without each modality, and without each of its words.

    The sentence is tokenised, also where the file has token ids of its own.

    Args:
        run: a finished run of MGCL.
        clips: a split, such as ``study.corpus.valid``.
        clip: its id or number there.
        replace: word → what to say instead; a row each.
        text: instead of ``clips``, as for `Run.predict`.
        audio: likewise.
        vision: likewise.
        device: "auto", "cpu", "cuda" …

    Returns:
        Columns change, prediction, and difference to the clip as it is; missing words, those that matter most first.

    Raises:
        ConfigError: a word to replace that the sentence lacks.
        RunError: there is no such clip, or the run is none of MGCL, not finished or damaged.
    """
    loaded = run.predictor(device)
    if clips is None:
        clips = loaded.load(feature_file(text, audio, vision))["test"]
    one = clips.take(np.array([row_of(clips, clip)]))
    sentence = one.raw_text[0]
    parts, joint = (sentence.split(), " ") if " " in sentence.strip() else (list(sentence), "")
    changes: list[tuple[str, str]] = [("as it is", sentence)]
    for word, other in (replace or {}).items():
        if word not in sentence:
            raise ConfigError(f"the clip does not say {word!r}: {nearest(word, parts)}")
        whole = joint.join(other if part == word else part for part in parts)
        changes.append((f"{word} → {other}", whole if word in parts else sentence.replace(word, other)))
    absent = {"text": bool(sentence.strip()), "vision": one.vision_mask.any(), "audio": one.audio_mask.any()}
    absent = [name for name, present in absent.items() if present] if sum(map(bool, absent.values())) > 1 else []
    changes += [(f"no {name}", "" if name == "text" else sentence) for name in absent]
    fixed = len(changes)
    if len(parts) > 1:
        changes += [
            (f"without {word}", joint.join(parts[:k] + parts[k + 1 :])) for k, word in enumerate(parts) if word.strip()
        ]
    labels, sentences = zip(*changes, strict=True)
    variants = dataclasses.replace(
        one.take(np.zeros(len(changes), int)),
        ids=tuple(f"{number} {label}" for number, label in enumerate(labels)),
        raw_text=sentences,
        text_bert=None,
        audio_mask=np.stack([one.audio_mask[0] & (label != "no audio") for label in labels]),
        vision_mask=np.stack([one.vision_mask[0] & (label != "no vision") for label in labels]),
    )
    predicted = run.predict(variants, device=device)["prediction"].astype(float)
    frame = pd.DataFrame({"change": labels, "prediction": predicted, "difference": predicted - predicted[0]})
    words = frame[fixed:].sort_values("difference", key=np.abs, ascending=False, kind="stable")
    return pd.concat([frame[:fixed], words], ignore_index=True)
