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
_FOLDED = "The whole table: the paper's numbers, intervals, paired differences, p-values"


@dataclass(frozen=True, eq=False)
class Table:
    """Table ``number`` of the paper beside ours, or a table of ours alone, whose ``number`` is its name.

    - ``frame``: what is displayed, strings; ``bold``: the same shape, True where a cell is bold
    - ``cells``: one row per (dataset, model, metric), numbers in the units of `regression_metrics`
    - ``seed_rows``: one row per (dataset, model, seed), every metric of that run
    - ``footer``: sentences that belong under the table
    - ``verdicts``: for each corpus, whether it says anything about a replication of the paper
    - ``suffix``: of its label in LaTeX, where it is not the whole table
    - ``compact``: what a reader sees first, one row per model that was run; the table itself is then folded below it
    """

    number: int | str
    title: str
    frame: pd.DataFrame
    bold: pd.DataFrame
    footer: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    suffix: str = ""
    compact: Table | None = None
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    seed_rows: pd.DataFrame = field(default_factory=pd.DataFrame)

    def save(self, directory: Path) -> Table:
        """Write the table under ``directory/tables``.

        ``tableN.csv`` and ``tableN.tex`` are as displayed, ``tableN_notes.txt`` holds title and footer; where there are
        any, ``tableN_compact.tex`` is the compact table, and ``tableN_cells.csv`` and ``tableN_seeds.csv`` hold the
        numbers.

        Returns:
            The table, for a notebook to show.
        """
        shown = self.frame.reset_index() if self._labels else self.frame
        texts = {
            ".csv": shown.to_csv(index=False),
            ".tex": self.to_latex(),
            "_notes.txt": "\n".join([self.title, *self.footer, ""]),
        }
        if self.compact is not None and len(self.compact.frame):
            texts["_compact.tex"] = self.compact.to_latex()
        for ending, frame in (("_cells.csv", self.cells), ("_seeds.csv", self.seed_rows)):
            if len(frame):
                texts[ending] = frame.to_csv(index=False)
        stem = f"table{self.number}" if isinstance(self.number, int) else self.number
        for ending, text in texts.items():
            with atomic(Path(directory) / "tables" / f"{stem}{ending}") as temporary:
                temporary.write_text(text, encoding="utf-8")
        return self

    def rows_of(self, model: str) -> pd.DataFrame:
        """The displayed rows of one model."""
        return self.frame[self.frame.index.get_level_values("Model") == model]

    def to_latex(self) -> str:
        """A ``table*`` environment (packages booktabs and adjustbox): cells, bold and footer as on screen.

        Its number is LaTeX's own, and its label says which of the paper's tables it is. A table that is wider than the
        text, or higher than seven tenths of it, is scaled down.
        """
        tabular = self._styler(_latex, r"\textbf{{{}}}").to_latex(
            column_format="l" * len(self._labels) + "r" * len(self.frame.columns),
            hrules=True,
            clines="skip-last;data" if len(self._labels) > 1 else None,
            multirow_align="naive",
        )
        notes = "".join(rf"\smallskip {_latex(sentence)}\par" + "\n" for sentence in self.footer)
        caption = _latex(self.title.removeprefix(f"Table {self.number}. "))
        label = f"tab:mgcl-{self.number}{self.suffix}"
        # Letters of other scripts are written as they are, which pdfLaTeX has no fonts for.
        other = _OTHER_SCRIPTS.search(tabular + notes)
        return "\n".join([
            *(["% XeLaTeX or LuaLaTeX, and a font of this script"] if other else []),
            r"% \usepackage{booktabs,adjustbox}",
            rf"\begin{{table*}}\centering\footnotesize\caption{{{caption}}}\label{{{label}}}",
            r"\begin{adjustbox}{max width=\textwidth, max totalheight=.7\textheight}",
            tabular.strip(),
            r"\end{adjustbox}",
            rf"{{\scriptsize\raggedright {notes}}}\end{{table*}}",
            "",
        ])  # fmt: skip

    def to_html(self) -> str:
        """An HTML table with its title as caption and the footer as paragraphs below."""
        title = html.escape(self.title)
        table = self._styler(html.escape, "<b>{}</b>").set_caption(title).to_html(exclude_styles=True)
        if self.frame.empty:
            table = f"<p><b>{title}</b></p>"
        notes = "".join(f'<p class="table-note">{html.escape(sentence)}</p>\n' for sentence in self.footer)
        # These classes keep MathJax, 2 and later ones, from what looks like mathematics.
        return f'<div class="tex2jax_ignore mathjax_ignore"><div class="wide">\n{table}</div>{notes}</div>\n'

    def _repr_html_(self) -> str:
        """What a notebook and the report show: the compact table, and the whole one folded below it."""
        if self.compact is None:
            return self.to_html()
        # A deviation may stand below its mean where the screen is narrow.
        short = re.sub(r" (± [\d.]+†?)", r' <span class="sd">\1</span>', self.compact.to_html())
        return f"{short}<details><summary>{_FOLDED}</summary>{self.to_html()}</details>\n"

    @property
    def _labels(self) -> list[str]:
        """Names of the index columns; none where the frame has a plain counting index."""
        return [] if self.frame.index.names == [None] else list(self.frame.index.names)

    def _styler(self, escape: Callable[[str], str], bold: str) -> Styler:
        """The displayed frame with every text escaped, and the bold cells put into the format ``bold``."""
        texts = self.frame.map(escape)
        texts = texts.mask(self.bold, texts.map(bold.format)).rename(columns=escape)
        if not self._labels:
            return texts.style.hide(axis="index")
        return texts.rename(index=escape).style.hide(
            axis="index", names=True
        )  # names of levels take a line of their own


def _latex(text: str) -> str:
    return re.sub(
        r"(?<![\w.])([+-])(?=\d)", r"$\1$", printable(text).translate(_LATEX)
    )  # a sign, not the hyphen of "Acc-2"
