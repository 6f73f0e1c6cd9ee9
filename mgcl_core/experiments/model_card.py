"""The model card of an exported run: data, metrics with intervals, cost, limits and ethics, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.corpus import video_of
from ..metrics import METRIC_NAMES, METRICS
from ..statistics import Estimate, mean_estimates
from .runs import Run
from .stages import StudentStage

_CARD = """---
library_name: mgcl-core
tags: [multimodal, sentiment-analysis, text, audio, vision]
---
# {name}

{what} It predicts the sentiment of a clip, a number in [−{bound:g}, {bound:g}], from its words and from features of
its audio and vision. Of *MGCL: Modality-Granularity Collaborative Contrastive Learning for Multimodal Sentiment
Analysis* (Liu and Tao), as `mgcl-core` builds and trains it; it is not the authors' own model.

```python
from mgcl_core import load_model
model = load_model("{folder}")
model.predict(text="a wonderful film")            # also audio=, vision=; or a feature file
```

Nothing in this folder is run as code. Each file is compared with its SHA-256 before it is used.

## Data

- corpus {corpus!r}{synthetic}, SHA-256 `{sha256}`, {train:,} clips to train on, {valid:,} for validation, {test:,}
  for the test
- label scheme of {scheme}; seed {seed}; settings of profile {profile!r} and their changes in `config.json`
- text: {text}
- audio: at most {audio_steps} steps of {audio_dim} values, vision: {vision_steps} of {vision_dim}, of the extractor
  that made that corpus and no other; scaling {scaling!r} is part of the model

The data is not in this folder. It belongs to its authors, whose terms hold for what is made of it too.

## Metrics

On the {test:,} test clips, read once, after the epoch ({epoch} of {epochs}) was chosen by validation MAE.{no_claim}

| metric | value | 95 % interval |
|---|---|---|
{metrics}

The interval is that of this one run over other videos of the same kind. Another seed gives other numbers, and no
seed was picked.

## Cost

| of one clip of {tokens} steps of text and of the longest audio and vision, on {device}, threads: {threads} | |
|---|---|
| parameters | {parameters:,}, of which text {text_parameters:,} |
| weights on disk | {disk:.1f} MB |
| operations, forward | {gflop:.3g} GFLOP |
| latency | {latency:.1f} ms, median of {repeats} |
| training, with all that it starts from | {hours:.2f} h on {trained_on} |

## Limits

- {language}
- One corpus, one seed. On other speakers, topics, cameras or extractors nothing was measured.
- A modality that a clip lacks is taken as absent. How much worse it is then was not measured for this card.
- The label is what annotators saw in a clip, not what the person felt.
- Longer clips are cut to the steps above, and a note says so.{limit_of_synthetic}

## Ethics

Faces, voices and words of persons go in, and a guess about their state comes out. It is made for research on
sentiment analysis, not for decisions about a person: not in hiring, teaching, policing, insurance or care. Errors
may differ by language, gender, age, skin and accent; the corpora carry no such labels, so this was not measured.
Ask those whose clips you analyse. In the European Union, inferring emotions of a person at work or in education
from biometric data is forbidden but for medical or safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f))."""


def estimates(run: Run) -> dict[str, Estimate]:
    """The metrics of a finished run on its test clips, each with its noise from the choice of videos."""
    frame, scheme = run.predictions("test"), run.record()["corpus"]["scheme"]
    predicted, videos = frame["prediction"].to_numpy()[None], [video_of(clip) for clip in frame["id"]]
    return mean_estimates(frame["label"].to_numpy(), predicted, scheme, videos)


def model_card(
    run: Run,
    record: Mapping[str, Any],
    cost: Mapping[str, float],
    *,
    folder: str,
    hours: float,
    bound: float,
    device: str,
) -> str:
    """The card of a finished run of MGCL or of a student.

    Args:
        run: Its settings, history and test predictions are read.
        record: As the exported folder has it.
        cost: Of `costs.measure`, on clips of the greatest length.
        folder: Name of the folder that is exported.
        hours: Of training, with all that the run starts from.
        bound: Of the labels.
        device: That the cost was measured on.
    """
    config, found = run.config, estimates(run)
    corpus, environment = record["corpus"], record["environment"]
    train, valid, test = corpus["clips"]
    what = f"{run.variant}: MGCL with its six encoders." if config.encoders == "dual" else f"{run.variant}: MGCL."
    if isinstance(run.stage, StudentStage):
        own = run.stage.own
        what = f"A student of MGCL: layers of the text model: {own.text_layers}, encoders: one per modality"
        what += f", which learned from the run `{own.teacher}`." if own.teacher else ", trained without a teacher."
    metrics = METRICS[corpus["scheme"]]
    rows = [f"| {METRIC_NAMES[m]} | {_number(found[m].value)} | {_interval(found[m])} |" for m in metrics]
    synthetic = " (synthetic: generated, no person speaks in it)" if corpus["synthetic"] else ""
    text = f"features, at most {config.text_steps} steps of {config.text_dim} values"
    if config.reads_words:
        text = f"words, read by encoders trained from {record['text_model'].get('name')!r}, whose tokeniser is here"
    return _CARD.format(
        name=run.name, what=what, bound=bound, folder=folder, tokens=cost["tokens"],
        corpus=corpus["name"], synthetic=synthetic,
        sha256=corpus["sha256"], train=train, valid=valid, test=test,
        scheme={"sims": "CH-SIMS", "mosi": "CMU-MOSI"}[corpus["scheme"]], seed=run.seed, profile=record["profile"],
        text=text,
        audio_steps=config.audio_steps, audio_dim=config.audio_dim, scaling=config.scaling,
        vision_steps=config.vision_steps, vision_dim=config.vision_dim,
        epoch=run.chosen_epoch, epochs=len(run.history), metrics="\n".join(rows),
        no_claim=" **Synthetic clips: these numbers say nothing about people.**" if corpus["synthetic"] else "",
        device=device, threads=cost["threads"], parameters=int(cost["parameters"]), text_parameters=int(cost["text"]),
        disk=cost["disk_bytes"] / 1e6, gflop=cost["gflop"], latency=1e3 * cost["latency"], repeats=cost["repeats"],
        hours=hours, trained_on=environment["device"],
        language="It reads the language of its corpus and no other." if config.reads_words
        else "It reads features of the text, not words.",
        limit_of_synthetic="\n- Trained on generated clips: of no use on real ones." if corpus["synthetic"] else "",
    )  # fmt: skip


def _number(value: np.ndarray | float) -> str:
    return "not defined" if np.isnan(value) else f"{float(value):.3f}"


def _interval(estimate: Estimate) -> str:
    low, high = estimate.interval()
    return "too few videos" if np.isnan(low) else f"{float(low):.3f} to {float(high):.3f}"
