"""Figures 1 and 2 of the paper, drawn from its text (sections 3.1 to 3.4). They hold no data."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ...data.corpus import MODALITIES
from .style import HUES, MODALITY_COLOURS, MODALITY_NAMES, NotebookFigure, finish, style

Point = tuple[float, float]
GREY = (0.45, 0.45, 0.45)
CONTRASTS = {
    "C1": ((0.75, 0.25, 0.0), "same modality, same granularity"),
    "C2": ((0.55, 0.2, 0.55), "cross modality, same granularity"),
    "C3": ((0.4, 0.28, 0.12), "same modality, cross granularity"),
}
LANES = {"T": (57.0, 48.0), "V": (37.0, 28.0), "A": (17.0, 8.0)}  # heights of the macro and the micro lane
CLIP_I, CLIP_J = 68.0, 82.0  # columns of the features


@style()
def architecture() -> Figure:
    """Figure 1: from three modalities to six features, and from these to the three losses (equation 22)."""
    figure, ax = _canvas(155, 68, inches=12.6)
    for modality in MODALITIES:
        _modality_lanes(ax, modality)
    _contrasted_features(ax)

    _box(ax, (113, 52.5), 36, 20)
    ax.text(113, 59.8, "collaborative contrastive learning", ha="center", va="center", weight="bold")
    for row, (name, (colour, meaning)) in enumerate(CONTRASTS.items()):
        ax.text(97, 55.8 - 3.3 * row, f"{name}: {meaning}", color=colour, va="center", fontsize=8)
    ax.text(97, 45.4, "pairs and weights from $|y_i - y_j|$", va="center", fontsize=8)
    _box(ax, (104, 32.5), 18, 10, "CMGF\nthree MTM blocks\n(Figure 2)")
    _box(ax, (124.5, 32.5), 13, 10, "predictor\n(MLP)")
    _arrow(ax, (113, 32.5), (118, 32.5), "$F$")
    heads = "six unimodal heads (MLPs)\n$T_a, V_a, A_a$ learn $y$\n$T_i, V_i, A_i$ learn $y_T, y_V, y_A$"
    _box(ax, (113, 12.5), 36, 10, heads)
    outcomes = ((52.5, "", "$L_{con}$"), (32.5, r"$\hat{y}$", "$L_{pred}$"), (12.5, r"$\hat{u}$", "$L_{uni}$"))
    for height, output, loss in outcomes:
        _arrow(ax, (90, height), (95, height))
        _arrow(ax, (131, height), (136, height), output)
        _box(ax, (140, height), 8, 6, loss, HUES[7])
        _arrow(ax, (144, height), (148, height))
    _box(ax, (151, 32.5), 6, 50, r"$L_{all} = L_{pred} + \alpha\,L_{con} + \beta\,L_{uni}$", HUES[7], rotation=90)
    return finish(figure, "MGCL: overall structure", synthetic=False)


@style()
def cmgf_block() -> Figure:
    """Figure 2: cross modality-granularity fusion, its MTM block shown for text (equations 13 to 17).

    What the paper's text leaves open inside the block is drawn as decision 6 settles it.
    """
    figure, ax = _canvas(152, 50, inches=12.4)
    text, vision, audio = (MODALITY_COLOURS[m] for m in MODALITIES)
    _border(ax, (1, 14), 108, 34)
    ax.text(107, 45, "MTM$(T_a, V_i, A_i)$", ha="right", va="center", weight="bold")
    _box(ax, (10, 43), 15, 7, "$T_a$\nmacro, text", text)
    _box(ax, (10, 30), 15, 7, "$V_i$\nmicro, vision", vision)
    _box(ax, (10, 20), 15, 7, "$A_i$\nmicro, audio", audio)
    _box(ax, (34, 25), 19, 14, "joined along the\nsteps, each with its\nmodality embedding\nand its own mask")
    _arrow(ax, (17.5, 30), (24.5, 28))
    _arrow(ax, (17.5, 20), (24.5, 22))
    _box(ax, (59, 30), 15, 14, "multi-head\nattention")
    _bent(ax, (17.5, 41), (59, 37), "query")
    _arrow(ax, (43.5, 25), (51.5, 25), "keys,\nvalues")
    _box(ax, (74.5, 30), 8, 14, "add,\nlayer\nnorm")
    _box(ax, (88, 30), 11, 14, "feed-\nforward")
    _box(ax, (101.5, 30), 8, 14, "add,\nlayer\nnorm")
    for start, end in ((66.5, 70.5), (78.5, 82.5), (93.5, 97.5)):
        _arrow(ax, (start, 30), (end, 30))
    _bent(ax, (17.5, 44.5), (74.5, 37), "residual")
    ax.plot([80.5, 80.5], [30, 19], color=GREY, linewidth=1)
    _bent(ax, (80.5, 19), (101.5, 23), "residual")

    outputs = ((30, "$F_{en}^1$", text), (9, "$F_{en}^2$", vision), (3, "$F_{en}^3$", audio))
    for height, name, colour in outputs:
        _box(ax, (117, height), 7, 5, name, colour)
        _bent(ax, (120.5, height), (127, 22 if height > 22 else 14))
    _arrow(ax, (105.5, 30), (113.5, 30))
    for height, inputs in ((9, "V_a, T_i, A_i"), (3, "A_a, T_i, V_i")):
        _box(ax, (92, height), 34, 5, f"MTM$({inputs})$, with weights of its own")
        _arrow(ax, (109, height), (113.5, height))
    _box(ax, (127, 18), 9, 8, "$F$\nconcat.")
    _box(ax, (140, 18), 10, 8, "predictor\n(MLP)")
    _arrow(ax, (131.5, 18), (135, 18))
    _arrow(ax, (145, 18), (148.5, 18))
    ax.text(150.3, 18, r"$\hat{y}$", ha="center", va="center")
    note = "Inputs, query, keys and values: equations 13 to 17.\nThe inside of the block: decision 6."
    ax.text(2, 6, note, va="center", fontsize=8, color=".3")
    return finish(figure, "CMGF: cross modality-granularity fusion, the block of text in full", synthetic=False)


def _modality_lanes(ax: Axes, modality: str) -> None:
    """Input, two encoders, enhancement and projections of one modality, up to its features of clip i."""
    colour, (macro, micro) = MODALITY_COLOURS[modality], LANES[modality]
    _box(ax, (6, (macro + micro) / 2), 11, 8, MODALITY_NAMES[modality], colour)
    if modality == "T":
        encoders = ("BERT\n[CLS] state", "BERT\ntoken states")
    else:
        encoders = ("Transformer\nattention pooling", "Transformer\nhidden states")
    for height, encoder, shift in ((macro, encoders[0], 1.5), (micro, encoders[1], -1.5)):
        _arrow(ax, (11.5, (macro + micro) / 2 + shift), (15.5, height))
        _box(ax, (24, height), 17, 7, encoder, colour)
    _arrow(ax, (32.5, macro), (49, macro))
    _arrow(ax, (32.5, micro), (35, micro))
    _box(ax, (41, micro), 12, 7, "average,\ndifference", colour)
    _arrow(ax, (47, micro), (49, micro))
    for height, kind, letter in ((macro, "macro", "a"), (micro, "micro", "i")):
        _box(ax, (55, height), 12, 7, f"{kind}\nprojection", colour)
        _arrow(ax, (61, height), (CLIP_I - 3, height))
        _box(ax, (CLIP_I, height), 6, 6, f"${modality}_{letter}^i$", colour)
        _box(ax, (CLIP_J, height), 6, 6, f"${modality}_{letter}^j$", colour, faint=True)


def _contrasted_features(ax: Axes) -> None:
    """The border of the six features, and one example of each kind of pair where it fits."""
    _border(ax, (63.5, 2), 26.5, 60.5)
    ax.text(CLIP_I, 64.5, "clip $i$", ha="center", va="center")
    ax.text(CLIP_J, 64.5, "clip $j$", ha="center", va="center")
    for modality in MODALITIES:
        macro, micro = LANES[modality]
        _arrow(ax, (CLIP_I + 3, macro), (CLIP_J - 3, macro), "C1", CONTRASTS["C1"][0], both=True)
        _arrow(ax, (CLIP_I, macro - 3), (CLIP_I, micro + 3), "", CONTRASTS["C3"][0], both=True)
        ax.text(CLIP_I + 1, (macro + micro) / 2, "C3", color=CONTRASTS["C3"][0], va="center", fontsize=8)
    for upper, lower in (("T", "V"), ("V", "A")):
        start, end = (CLIP_I + 3, LANES[upper][0] - 3), (CLIP_J - 3, LANES[lower][0] + 3)
        _arrow(ax, start, end, "", CONTRASTS["C2"][0], both=True)
        ax.text(CLIP_J - 5.5, sum((start[1], end[1])) / 2, "C2", color=CONTRASTS["C2"][0], va="center", fontsize=8)


def _canvas(width: float, height: float, *, inches: float) -> tuple[Figure, Axes]:
    """Empty axes in units of the drawing, ``inches`` wide."""
    figure = NotebookFigure(figsize=(inches, inches * height / width + 0.4), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    return figure, ax


def _box(ax: Axes, centre: Point, width: float, height: float, text: str = "", colour=GREY, *, faint=False, rotation=0):
    corner = (centre[0] - width / 2, centre[1] - height / 2)
    look = {"facecolor": (*colour, 0.06 if faint else 0.18), "edgecolor": (*colour, 0.4 if faint else 1.0)}
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=1", **look))
    ax.text(*centre, text, ha="center", va="center", fontsize=8, linespacing=1.15, rotation=rotation)


def _border(ax: Axes, corner: Point, width: float, height: float) -> None:
    look = {"facecolor": "none", "edgecolor": ".6", "linestyle": "--"}
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=2", **look))


def _bent(ax: Axes, start: Point, end: Point, label: str = "") -> None:
    """Along from ``start``, then up or down into ``end``."""
    ax.plot([start[0], end[0]], [start[1], start[1]], color=GREY, linewidth=1)
    _arrow(ax, (end[0], start[1]), end)
    ax.text((start[0] + end[0]) / 2, start[1] + 0.4, label, ha="center", va="bottom", fontsize=8)


def _arrow(ax: Axes, start: Point, end: Point, label: str = "", colour=GREY, *, both: bool = False) -> None:
    look = {"arrowstyle": "<|-|>" if both else "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    ax.annotate("", end, start, arrowprops=look)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.8)
    ax.text(*middle, label, ha="center", va="bottom", fontsize=8, color=colour if both else "black")
