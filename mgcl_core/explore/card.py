"""A clip's card: its words and signals coloured by attention, its labels, the prediction and the six heads."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.batches import DeviceSplit
from ..data.corpus import GRANULARITIES, MODALITIES, Split
from ..data.own_clips import Steps, feature_file
from ..data.text_model import load_tokenizer
from ..experiments.runs import Run
from ..model import Explanation
from ..reporting.figures.style import MODALITY_COLOURS, MODALITY_NAMES, NotebookFigure, finish, styled
from ..support.files import atomic
from .showing import image, readable, row_of


@dataclass(frozen=True)
class Card:
    """What a run makes of one clip.

    Attributes:
        words: its words with their share of all attention, in order.
        explanation: of `mgcl_core.MGCL.explain`, for a batch of this clip alone.
        figure: signals with the attention on their steps, and the six heads.
        page: all of it as HTML that needs nothing beside it.
    """

    words: list[tuple[str, float]]
    explanation: Explanation
    figure: Figure
    page: str

    def save(self, path: Path | str) -> Path:
        """Write the card as an HTML file."""
        with atomic(Path(path)) as temporary:
            temporary.write_text(f"<!doctype html><meta charset=utf-8><title>A clip</title>{self.page}", "utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        return self.page


def card(
    run: Run,
    clips: Split | None = None,
    clip: int | str = 0,
    *,
    text: str | None = None,
    audio: Steps | None = None,
    vision: Steps | None = None,
    device: str = "auto",
) -> Card:
    """What the finished ``run`` of MGCL makes of one clip, of a corpus or your own.

    Attention is that of MTM (equations 13-15), the mean over its heads and over the three macro features that ask. It
    says where the fusion looked, not what moved the prediction: for that, `counterfactuals`.

    Args:
        run: a finished run of MGCL.
        clips: a split, such as ``study.corpus.valid``.
        clip: its id or number there.
        text: instead of ``clips``, as for `Run.predict`.
        audio: likewise.
        vision: likewise.
        device: "auto", "cpu", "cuda" …

    Raises:
        RunError: there is no such clip, or the run is none of MGCL, not finished or damaged.
    """
    loaded = run.predictor(device)
    if clips is None:
        clips = loaded.load(feature_file(text, audio, vision))["test"]
    one = clips.take(np.array([row_of(clips, clip)]))
    prepared, (note,) = loaded.prepare(one)
    explanation = loaded.explain(prepared)
    words = _words(prepared, explanation, run.config.text_model)
    synthetic = run.record()["corpus"]["synthetic"]
    figure = _draw(prepared, explanation, one, run.name, synthetic=synthetic)
    head = _head(one, explanation, note, run, synthetic=synthetic)
    return Card(words, explanation, figure, _page(head, _coloured(words), explanation, figure))


def _words(prepared: DeviceSplit, explanation: Explanation, text_model: str) -> list[tuple[str, float]]:
    """Words of a clip with the attention on their word pieces; without attention, with 0."""
    batch, tokenizer = prepared.batch(), load_tokenizer(text_model)
    mask = explanation.masks["T"][0]
    shares = explanation.on_steps("T")[0] if explanation.attention else mask * 0.0
    if mask.shape[0] != batch.tokens.shape[2]:  # micro="pooled": one step for all of the words
        return [(tokenizer.decode(batch.tokens[0, 0], skip_special_tokens=True), float(shares.sum()))]
    words: list[tuple[str, float]] = []
    pieces = tokenizer.convert_ids_to_tokens(batch.tokens[0, 0].tolist())
    for piece, valid, share in zip(pieces, mask.tolist(), shares.tolist(), strict=True):
        if valid and piece.startswith("##") and words:
            word, before = words[-1]
            words[-1] = (word + piece[2:], before + share)
        elif valid:
            words.append((piece, share))
    return words


@styled()
def _draw(prepared: DeviceSplit, explanation: Explanation, clip: Split, name: str, *, synthetic: bool) -> Figure:
    batch = prepared.batch()
    figure = NotebookFigure(figsize=(10, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.75), height_ratios=(1, 5))
    for column, (modality, key) in enumerate((("V", "vision"), ("A", "audio"))):
        strip, ax = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        values, mask = getattr(batch, key)[0].cpu().numpy(), getattr(batch, f"{key}_mask")[0].cpu().numpy()
        strip.set_title(f"{MODALITY_NAMES[modality]}" + (": attention (%)" if mask.any() else ": absent"))
        if not mask.any():
            strip.set_axis_off()
            ax.set_axis_off()
            continue
        steps = int(np.flatnonzero(mask)[-1]) + 1
        ax.imshow(values[:steps].T, aspect="auto", cmap="vlag", vmin=-3, vmax=3, interpolation="nearest")
        ax.set(xlabel="step", ylabel="dimension, scaled")
        ax.sharex(strip)
        if explanation.attention:
            shares = explanation.on_steps(modality)[0].cpu().numpy()
            strip.bar(np.arange(len(shares))[:steps], 100 * shares[:steps], 1.0, color=MODALITY_COLOURS[modality])
        strip.tick_params(labelbottom=False)
        strip.set(xlim=(-0.5, steps - 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_heads(figure.add_subplot(grid[:, 2]), explanation, clip)
    return finish(figure, f"{readable(clip.ids[0])} · {name}", synthetic=synthetic)


def _draw_heads(ax, explanation: Explanation, clip: Split) -> None:
    """Six unimodal predictions as bars, the prediction as a line; labels as diamonds where there are any."""
    present = [bool(explanation.masks[m][0].any()) for m in MODALITIES]
    names = [f"{g} {MODALITY_NAMES[m]}" for g in GRANULARITIES for m in MODALITIES]
    values = explanation.output.unimodal[:, 0].float().cpu().numpy()
    for row, value in enumerate(values):
        if present[row % 3]:
            ax.barh(row, value, color=MODALITY_COLOURS[MODALITIES[row % 3]], alpha=1.0 if row < 3 else 0.6)
        else:
            ax.text(0, row, " absent", va="center", color=".4", fontsize=8, style="italic")
    prediction = float(explanation.output.prediction[0])
    ax.axvline(prediction, color="black", linewidth=1.5, label=f"ŷ {prediction:+.2f}")
    if clip.labels is not None:
        ax.axvline(clip.labels[0], color="black", linewidth=1, linestyle=":", label=f"y {clip.labels[0]:+.2f}")
        own = [clip.labels[0]] * 3
        if clip.unimodal_labels is not None:
            own += list(clip.unimodal_labels[:, 0])
            ax.plot(own[3:], [3, 4, 5], "D", color="black", markersize=4, linestyle="none", label="$y_T$, $y_V$, $y_A$")
    ax.axvline(0, color=".7", linewidth=0.8, zorder=0)
    ax.set_yticks(range(6), names)
    ax.set(ylim=(5.6, -0.6), xlabel="sentiment", title="six heads")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, handlelength=1, columnspacing=0.8)


def _head(clip: Split, explanation: Explanation, note: str, run: Run, *, synthetic: bool) -> str:
    prediction = float(explanation.output.prediction[0])
    parts = [f"<b>{html.escape(readable(clip.ids[0]))}</b>", f"predicted <b>{prediction:+.2f}</b>"]
    if clip.labels is not None:
        parts.append(f"label {clip.labels[0]:+.2f}, error {prediction - clip.labels[0]:+.2f}")
    if clip.unimodal_labels is not None:
        parts.append(", ".join(f"y<sub>{m}</sub> {clip.unimodal_labels[k, 0]:+.2f}" for k, m in enumerate(MODALITIES)))
    parts += [html.escape(part) for part in (note, run.name, "synthetic data" * synthetic) if part]
    return " · ".join(parts)


def _coloured(words: list[tuple[str, float]]) -> str:
    """Words on a background as strong as their share of attention."""
    most = max((share for _, share in words), default=0.0) or 1.0
    red, green, blue = (round(255 * value) for value in MODALITY_COLOURS["T"])
    return " ".join(
        f'<span title="{share:.1%} of all attention" style="padding: 1px 3px; '
        f'background-color: rgba({red}, {green}, {blue}, {0.65 * share / most:.2f})">{html.escape(word)}</span>'
        for word, share in words
    )


def _page(head: str, words: str, explanation: Explanation, figure: Figure) -> str:
    attention = "This variant has no attention: it concatenates the features."
    if explanation.attention:
        shares = explanation.on_modalities()[:, 0].tolist()
        named = (
            f'<b style="color: {to_hex(MODALITY_COLOURS[m])}">{MODALITY_NAMES[m]} {share:.0%}</b>'
            for m, share in zip(MODALITIES, shares, strict=True)
        )
        attention = f"Attention: {', '.join(named)}"
    return (
        '<div style="background-color: white; color: #111; padding: 8px; max-width: 1020px; '
        'font-family: system-ui, sans-serif">'
        f"<p>{head}</p><p>{words or '<i>no words</i>'}</p><p>{attention}</p>{image(figure)}</div>"
    )
