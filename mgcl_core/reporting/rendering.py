"""The class of all tables: what is displayed, the numbers behind it, and its CSV, LaTeX and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from ..support.files import atomic
from ..support.names import printable

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$", "α": r"$\alpha$", "β": r"$\beta$",
})  # fmt: skip

_OTHER_SCRIPTS = re.compile("[\u0370-\u1dff\u2e80-\ud7ff\U00010000-\U0010ffff]")


@dataclass(frozen=True, eq=False)
class Table:
    """Table ``number`` of the paper beside ours.

    - ``frame``: what is displayed, strings; ``bold``: the same shape, True where a cell is bold
    - ``cells``: one row a (dataset, model, metric), numbers in the units of `regression_metrics`
    - ``seed_rows``: one row a (dataset, model, seed), every metric of that run
    - ``footer``: sentences that belong under the table
    - ``verdicts``: for each corpus, whether it says anything about a replication of the paper
    """

    number: int
    title: str
    frame: pd.DataFrame
    bold: pd.DataFrame
    footer: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    seed_rows: pd.DataFrame = field(default_factory=pd.DataFrame)

    def save(self, directory: Path) -> Table:
        """Write the table under ``directory/tables``.

        ``tableN.csv`` and ``tableN.tex`` are as displayed, ``tableN_notes.txt`` holds title and footer; where there are
        any, ``tableN_cells.csv`` and ``tableN_seeds.csv`` hold the numbers.

        Returns:
            The table, for a notebook to show.
        """
        shown = self.frame.reset_index() if self._labels else self.frame
        texts = {
            ".csv": shown.to_csv(index=False),
            ".tex": self.to_latex(),
            "_notes.txt": "\n".join([self.title, *self.footer, ""]),
        }
        for ending, frame in (("_cells.csv", self.cells), ("_seeds.csv", self.seed_rows)):
            if len(frame):
                texts[ending] = frame.to_csv(index=False)
        for ending, text in texts.items():
            with atomic(Path(directory) / "tables" / f"table{self.number}{ending}") as temporary:
                temporary.write_text(text, encoding="utf-8")
        return self

    def rows_of(self, model: str) -> pd.DataFrame:
        """The displayed rows of one model."""
        return self.frame[self.frame.index.get_level_values("Model") == model]

    def to_latex(self) -> str:
        """A ``table*`` environment (packages booktabs and graphicx): the same cells, bold and footer as on screen."""
        tabular = self._styler(_latex, r"\textbf{{{}}}").to_latex(
            column_format="l" * len(self._labels) + "r" * len(self.frame.columns),
            hrules=True,
            clines="skip-last;data" if self._labels else None,
            multirow_align="naive",
        )
        notes = "".join(rf"\par\smallskip\raggedright {_latex(sentence)}" + "\n" for sentence in self.footer)
        # Letters of other scripts are written as they are, which pdfLaTeX has no fonts for.
        engine = "% XeLaTeX or LuaLaTeX, and a font of this script\n" if _OTHER_SCRIPTS.search(tabular + notes) else ""
        return engine + (
            rf"\begin{{table*}}\centering\footnotesize\caption{{{_latex(self.title)}}}" + "\n"
            rf"\resizebox{{\textwidth}}{{!}}{{{tabular.strip()}}}" + f"\n{notes}" + r"\end{table*}" + "\n"
        )

    def to_html(self) -> str:
        """An HTML table with its title as caption and the footer as paragraphs below."""
        table = self._styler(html.escape, "<b>{}</b>").set_caption(html.escape(self.title)).to_html(exclude_styles=True)
        notes = "".join(f'<p class="table-note">{html.escape(sentence)}</p>\n' for sentence in self.footer)
        # These classes keep MathJax, 2 and later ones, from what looks like mathematics.
        return f'<div class="tex2jax_ignore mathjax_ignore">\n{table}{notes}</div>\n'

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.to_html()

    @property
    def _labels(self) -> list[str]:
        """Names of the index columns; none where the frame has a plain counting index."""
        return [] if self.frame.index.names == [None] else list(self.frame.index.names)

    def _styler(self, escape: Callable[[str], str], bold: str) -> Styler:
        """The displayed frame with every text escaped, and the bold cells put into the format ``bold``."""
        texts = self.frame.map(escape)
        texts = texts.mask(self.bold, texts.map(bold.format)).rename(columns=escape)
        return texts.rename(index=escape).style if self._labels else texts.style.hide(axis="index")


def _latex(text: str) -> str:
    return re.sub(
        r"(?<![\w.])([+-])(?=\d)", r"$\1$", printable(text).translate(_LATEX)
    )  # a sign, not the hyphen of "Acc-2"
