"""What all figures share: sizes, colours, titles, and the check of a tidy frame."""

from __future__ import annotations

import functools
import io
import logging
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...data.corpus import GRANULARITIES, MODALITIES
from ...support.errors import RunError
from ...support.names import printable

log = logging.getLogger(__name__)

#: Looked for in this order, for what DejaVu Sans does not have.
_MORE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei"),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Droid Sans Fallback", "Noto Emoji"),
    *("Symbola", "Unifont"),
)
_FOUND = {font.name for font in font_manager.fontManager.ttflist}
RC = {
    "font.family": ["DejaVu Sans", *(name for name in _MORE_FONTS if name in _FOUND)],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": ".9",
    "grid.linewidth": 0.8,
}
#: Ten hues that colour-blind readers tell apart.
HUES = sns.color_palette("colorblind")
#: Width of a class of labels: CH-SIMS's grid, and the classes of Acc-7 (rounding as there, half to even). A width
#: that does not fit the annotators' grid would show combs that are not in the data.
LABEL_STEP = {"sims": 0.2, "mosi": 1.0}
MODALITY_NAMES = {"T": "text", "V": "vision", "A": "audio"}
MODALITY_COLOURS = dict(zip(MODALITIES, HUES, strict=False))
MODALITY_MARKERS = dict(zip(MODALITIES, "os^", strict=True))
GRANULARITY_COLOURS = dict(zip(GRANULARITIES, (HUES[3], HUES[9]), strict=True))
GRANULARITY_MARKERS = dict(zip(GRANULARITIES, "o^", strict=True))


class NotebookFigure(Figure):
    """A Figure that a notebook shows by itself.

    A Figure made without pyplot appears as bare text unless ``%matplotlib inline`` ran before; one made with pyplot
    stays registered there. This one carries its own PNG representation: 150 dpi, shown at 100 px an inch.
    """

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():  # one for each glyph; `finish` has said it
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=150)
        width, height = self.get_size_inches()
        return buffer.getvalue(), {"width": round(100 * width), "height": round(100 * height)}


@contextmanager
def styled() -> Iterator[None]:
    """Context (and decorator) in which figures are built; the previous settings return on leaving."""
    with mpl.rc_context(RC):
        yield


def panels(count: int, *, columns: int, width: float, height: float, **shared) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` axes, at most ``columns`` a row, each ``width`` × ``height`` inches."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = NotebookFigure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def finish(figure: Figure, title: str, *, synthetic: bool) -> Figure:
    """Set the title, marked where the data are synthetic, and the sizes of the ticks; returns the figure."""
    title = printable(f"{title} · synthetic data" if synthetic else title)
    all(map(_has_a_font, title))  # the first that has none is said
    # No mathematics: names of files and clips hold dollars.
    figure.suptitle(textwrap.fill(title, int(11 * figure.get_figwidth())), parse_math=False)
    for ax in figure.axes:
        # Ticks are made when the figure is drawn, after the style has gone.
        ax.tick_params(axis="x", labelsize=RC["xtick.labelsize"])
        ax.tick_params(axis="y", labelsize=RC["ytick.labelsize"])
    return figure


@functools.cache
def _has_a_font(letter: str) -> bool:
    """Whether a font of this machine shows ``letter``; where none does, a logged warning says so, once."""
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in RC["font.family"])
    if any(font.get_char_index(ord(letter)) for font in fonts):
        return True
    log.warning(
        "no font here shows %r, so figures have a box in its place: install one, such as Noto Sans CJK "
        "(fonts-noto-cjk on Debian), and start again",
        letter,
    )
    return False


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 seed, 3 seeds."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def require_columns(frame: pd.DataFrame, needed: Iterable[str], what: str) -> None:
    """Refuse a frame of ``what`` that is empty or lacks a column.

    Raises:
        RunError: it does.
    """
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise RunError(f"{what}: expected columns {list(needed)}, missing {missing}, found {list(frame.columns)}")
    if frame.empty:
        raise RunError(f"{what}: expected at least one row, found none")


def require_finite(array: np.ndarray, what: str) -> None:
    """Refuse an array of ``what`` that holds NaN or infinity.

    Raises:
        RunError: it does.
    """
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise RunError(f"{what}: expected finite values, found {bad} of {array.size} NaN or infinite")
