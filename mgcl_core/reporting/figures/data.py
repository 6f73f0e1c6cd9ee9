"""Figures of a corpus: labels, lengths, and how far the modalities' labels agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...data.corpus import MODALITIES, SPLITS, Corpus, Split
from ...data.scaling import Scaler
from ...support.errors import ConfigError, nearest
from .style import (
    LABEL_STEP,
    MODALITY_COLOURS,
    MODALITY_NAMES,
    SPLIT_LINES,
    NotebookFigure,
    counted,
    finish,
    panels,
    styled,
)

LABEL_NAMES = ("y", *(f"y_{m}" for m in MODALITIES))
#: Of the panel of y, which is no modality's.
WHOLE = ".35"
#: How much of a panel's colour a split's bars have.
SPLIT_SHADES = dict(zip(SPLITS, (0.95, 0.5, 0.25), strict=True))


@styled()
def label_distributions(corpus: Corpus, *, splits: Sequence[str] = ("train", "valid")) -> Figure:
    """Histogram of y, and of y_T, y_V, y_A where the file has them: one panel per label, a bar per split.

    The test split is left out unless asked for: its labels are no part of an inspection.

    Raises:
        ConfigError: an unknown split, or none.
    """
    chosen = _splits(corpus, splits)
    unimodal = all(split.unimodal_labels is not None for split in chosen)
    names = LABEL_NAMES if unimodal else LABEL_NAMES[:1]
    figure, axes = panels(len(names), columns=2, width=4, height=2.4, sharex=True, sharey=True)

    step = LABEL_STEP[corpus.scheme]
    most = round(corpus.bound / step)
    centres = np.arange(-most, most + 1) * step
    width = 0.8 * step / len(chosen)
    for row, (ax, name) in enumerate(zip(axes, names, strict=True)):
        for position, split in enumerate(chosen):
            values = split.labels if row == 0 else split.unimodal_labels[row - 1]
            bins = np.clip(np.rint(np.asarray(values, float) / step).astype(int) + most, 0, 2 * most)
            share = 100 * np.bincount(bins, minlength=2 * most + 1) / len(split)
            offset = (position - (len(chosen) - 1) / 2) * width
            ax.bar(
                centres + offset,
                share,
                width,
                color=WHOLE if row == 0 else MODALITY_COLOURS[MODALITIES[row - 1]],
                alpha=SPLIT_SHADES[split.name],
                label=f"{split.name} ({counted(len(split), 'clip')})",
            )
        ax.set(xlabel=f"sentiment {_math(name)}", ylabel="clips in the split (%)")
        ax.set_xticks(np.linspace(-corpus.bound, corpus.bound, 5 if corpus.bound == 1 else 7))
        ax.tick_params(labelbottom=True, labelleft=True)
        ax.grid(axis="y")
    handles, labels = axes[0].get_legend_handles_labels()  # grey: the colours of the other panels are modalities
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    title = f"{corpus.name}: labels" + ("" if unimodal else ", no unimodal ones in the file")
    return finish(figure, title, synthetic=corpus.synthetic)


@styled()
def length_distributions(corpus: Corpus, *, splits: Sequence[str] = SPLITS) -> Figure:
    """Histogram of each clip's valid steps: text (attention mask, special tokens included), vision, audio.

    Raises:
        ConfigError: an unknown split, or none.
    """
    chosen = _splits(corpus, splits)
    figure, axes = panels(3, columns=3, width=3.1, height=2.7)
    for ax, modality in zip(axes, MODALITIES, strict=True):
        lengths = [_lengths(split, modality) for split in chosen]
        every = np.concatenate(lengths)
        limit = _steps(chosen[0], modality)
        width = -(-(limit + 1) // 30)  # whole steps: other bins would hold unequal numbers of lengths
        edges = np.arange(-0.5, limit + width, width)
        for split, values in zip(chosen, lengths, strict=True):
            share = 100 * np.histogram(values, edges)[0] / len(values)
            ax.stairs(share, edges, color=MODALITY_COLOURS[modality], linestyle=SPLIT_LINES[split.name], linewidth=1.5)
        absent = int((every == 0).sum())
        ax.set_title(
            f"{MODALITY_NAMES[modality]}: median {np.median(every):g} of {limit}"
            + (f", {absent} empty" if absent else "")
        )
        ax.set(xlabel="valid steps of a clip", ylabel="clips in the split (%)", ylim=(0, None))
        ax.grid(axis="y")
    handles = [
        Line2D([], [], color=WHOLE, linestyle=SPLIT_LINES[split.name],
               label=f"{split.name} ({counted(len(split), 'clip')})")
        for split in chosen
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return finish(figure, f"{corpus.name}: sequence lengths", synthetic=corpus.synthetic)


@styled()
def clip_signals(corpus: Corpus, *, count: int = 3) -> Figure:
    """Audio and vision of training clips as heat maps, dimensions by steps, scaled per dimension (decision 18).

    The clips are those of lowest, middle and highest label, and so on for more. An absent modality stays white.
    """
    train, scaler = corpus.train, Scaler.fit(corpus.train)
    order = np.argsort(train.labels, kind="stable")
    rows = order[np.unique(np.linspace(0, len(train) - 1, count).astype(int))]
    figure, axes = panels(2 * len(rows), columns=len(rows), width=3.1, height=2.2)
    for position, (name, row) in enumerate([(name, row) for name in ("audio", "vision") for row in rows]):
        ax, mask = axes[position], np.asarray(getattr(train, f"{name}_mask")[row])
        values = scaler.apply(name, getattr(train, name)[row : row + 1])[0]  # (L, D)
        shown = np.where(mask[:, None], values, np.nan)[: max(1, int(mask.sum()))]
        image = ax.imshow(shown.T, aspect="auto", cmap="vlag", vmin=-3, vmax=3, interpolation="nearest")
        ax.set_title(f"{name}, y = {train.labels[row]:+.1f}" + ("" if mask.any() else ": absent"))
        ax.set(xlabel="step", ylabel="dimension")
    figure.colorbar(image, ax=axes, shrink=0.6, label="scaled value")
    return finish(
        figure, f"{corpus.name}: signals of {counted(len(rows), 'training clip')}", synthetic=corpus.synthetic
    )


@styled()
def label_agreement(split: Split, *, synthetic: bool, title: str = "Agreement of the labels") -> Figure:
    """Agreement of y, y_T, y_V, y_A on a split, as two 4 × 4 heat maps.

    Left the share of clips with equal labels (to 1e-6: the labels of a grid carry float noise), right Pearson's
    correlation, "–" where a label is constant. Without unimodal labels the figure says so.
    """
    title = f"{title}, {split.name} ({counted(len(split), 'clip')})"
    if split.unimodal_labels is None:
        figure = NotebookFigure(figsize=(6, 1.6), layout="constrained")
        ax = figure.subplots()
        ax.set_axis_off()
        ax.text(
            0.5, 0.5, "The file has no unimodal labels: $y_T$, $y_V$, $y_A$ fall back to $y$.", ha="center", va="center"
        )
        return finish(figure, title, synthetic=synthetic)

    labels = np.vstack([split.labels, split.unimodal_labels]).astype(float)  # (4, N)
    equal = 100 * (np.abs(labels[:, None] - labels[None]) <= 1e-6).mean(axis=-1)  # (4, 4)
    centred = labels - labels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = centred @ centred.T / np.outer(norms, norms)  # (4, 4)
    constant = np.ptp(labels, axis=1) <= 1e-6
    correlation[constant] = correlation[:, constant] = np.nan

    figure, axes = panels(2, columns=2, width=3.9, height=3.1)
    shown = (
        (equal, "{:.0f}", "clips with equal labels (%)", {"cmap": "Blues", "vmin": 0, "vmax": 100}),
        (correlation, "{:.2f}", "Pearson's correlation", {"cmap": "vlag", "vmin": -1, "vmax": 1}),
    )
    for ax, (values, form, caption, colours) in zip(axes, shown, strict=True):
        image = ax.imshow(values, **colours)
        for (row, column), value in np.ndenumerate(values):
            written = form.format(value) if np.isfinite(value) else "–"
            dark = abs(value) > 0.6 * colours["vmax"]
            ax.text(column, row, written, ha="center", va="center", color="white" if dark else "black")
        names = [_math(name) for name in LABEL_NAMES]
        ax.set_xticks(range(4), names)
        ax.set_yticks(range(4), names)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(caption)
        figure.colorbar(image, ax=ax, shrink=0.8)
    return finish(figure, title, synthetic=synthetic)


def _splits(corpus: Corpus, names: Sequence[str]) -> list[Split]:
    known = {split.name: split for split in corpus.splits}
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown split {name!r}: {nearest(name, known)}")
    if not names:
        raise ConfigError(f"expected at least one split of {', '.join(known)}")
    return [known[name] for name in names]


def _lengths(split: Split, modality: str) -> np.ndarray:
    if modality == "T":
        if split.text_bert is None and split.text_mask is not None:
            return np.asarray(split.text_mask).sum(axis=1)
        if split.text_bert is None:  # not tokenised yet: words
            return np.array([len(text.split()) for text in split.raw_text])
        return np.asarray(split.text_bert[:, 1]).sum(axis=1)
    return np.asarray({"V": split.vision_mask, "A": split.audio_mask}[modality]).sum(axis=1)  # (N,)


def _steps(split: Split, modality: str) -> int:
    if modality == "T" and split.text_bert is None and split.text_mask is not None:
        return split.text_mask.shape[1]
    if modality == "T" and split.text_bert is None:
        return int(_lengths(split, "T").max())
    return {"T": split.text_bert, "V": split.vision_mask, "A": split.audio_mask}[modality].shape[-1]


def _math(name: str) -> str:
    return f"${name}$"
