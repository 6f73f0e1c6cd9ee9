"""Figures 1 and 2 of the paper, drawn from its text (sections 3.1 to 3.4): they hold no data."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ..corpus.data import MODALITIES
from .style import HUES, MODALITY_COLOURS, MODALITY_NAMES, NotebookFigure, finish, style

CONTRASTS = {"C1": HUES[3], "C2": HUES[4], "C3": HUES[5]}
NEUTRAL = (0.45, 0.45, 0.45)


@style()
def architecture() -> Figure:
    """Figure 1: from three modalities to six features, and from these to the three losses (equation 22)."""
    figure, ax = _canvas(12.6, 6.6, "MGCL: overall structure (drawn from sections 3.1 to 3.4)")
    rows = {"T": (57, 48), "V": (37, 28), "A": (17, 8)}  # heights of the macro and the micro lane
    for x, heading in ((5, "input"), (22, "pretrained encoders"), (38.5, "enhancement"), (52, "projections")):
        ax.text(x, 63.5, heading, ha="center", style="italic")
    for modality in MODALITIES:
        _modality_lanes(ax, modality, *rows[modality])
    _feature_columns(ax, rows)

    _box(ax, 108, 51, 33, 17, "", NEUTRAL)
    ax.text(108, 57, "collaborative contrastive learning", ha="center", va="center", weight="bold", fontsize=8.5)
    texts = (
        "C1  same modality, same granularity",
        "C2  cross modality, same granularity",
        "C3  same modality, cross granularity",
    )
    for y, colour, text in zip((53.5, 50.3, 47.1), CONTRASTS.values(), texts, strict=True):
        ax.text(93, y, text, color=colour, va="center", fontsize=8)
    ax.text(93, 44.1, "pairs and weights by $E_{(i,j)} = |y_i - y_j|$", va="center", fontsize=7.5)

    _box(ax, 98.5, 32.5, 14, 9, "CMGF\nthree MTM blocks\n(Figure 2)", NEUTRAL)
    _box(ax, 117.5, 32.5, 12, 9, "predictor\n3-layer MLP", NEUTRAL)
    _arrow(ax, (105.5, 32.5), (111.5, 32.5), label="$F$")
    _box(ax, 108, 13, 33, 9, "six unimodal heads (MLP)\n$T_a, V_a, A_a$: label $y$\n$T_i, V_i, A_i$: $y_T, y_V, y_A$", NEUTRAL)
    for y, x, loss, output in (
        (51, 124.5, "$L_{con}$", ""),
        (32.5, 123.5, "$L_{pred}$", r"$\hat{y}$"),
        (13, 124.5, "$L_{uni}$", r"$\hat{u}$"),
    ):
        _arrow(ax, (85, y), (91.5, y))
        _arrow(ax, (x, y), (132, y), label=output)
        _box(ax, 135.5, y, 7, 6, loss, HUES[7])
    for start, end in ((48, 35.5), (16, 29.5)):
        _arrow(ax, (135.5, start), (135.5, end))
    return finish(figure, figure.get_suptitle(), synthetic=False)
