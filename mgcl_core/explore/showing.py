"""What this room's answers have in common: how they show themselves, and finding a clip."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..data.corpus import Split
from ..support.errors import RunError, nearest


@dataclass(frozen=True)
class Finding:
    """An answer with its numbers and its picture; a notebook shows both.

    Attributes:
        table: the numbers, unrounded.
        figure: the picture.
        note: how to read it.
        summary: what a notebook shows of the table, where that is long.
        clips: one row per clip, where the answer is about clips too.
    """

    table: pd.DataFrame
    figure: Figure
    note: str
    summary: pd.DataFrame | None = None
    clips: pd.DataFrame | None = None

    def _repr_html_(self) -> str:
        shown = self.table if self.summary is None else self.summary
        return f"<p>{html.escape(self.note)}</p>{image(self.figure)}{as_html(shown)}"


def image(figure: Figure) -> str:
    """The figure as an HTML image that needs no file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    width = round(100 * figure.get_size_inches()[0])
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" style="max-width: 100%" width="{width}" src="data:image/png;base64,{data}">'


def as_html(table: pd.DataFrame, digits: int = 3) -> str:
    """The table with rounded numbers."""
    index = not isinstance(table.index, pd.RangeIndex)
    return table.round(digits).to_html(index=index, na_rep="–", max_rows=40)


def row_of(split: Split, clip: int | str) -> int:
    """The row of a clip by its id, or by its number from 0.

    Raises:
        RunError: there is no such clip.
    """
    if isinstance(clip, str):
        if clip not in split.ids:
            raise RunError(f"no clip of {split.name!r} has the id {clip!r}: {nearest(clip, split.ids)}")
        return split.ids.index(clip)
    if not -len(split) <= clip < len(split):
        raise RunError(f"clip {clip}: {split.name!r} has {len(split)} clips, counted from 0")
    return clip % len(split)


def readable(clip: str) -> str:
    """An id without the dollars that a notebook would take for mathematics."""
    return clip.replace("$_$", " / ")
