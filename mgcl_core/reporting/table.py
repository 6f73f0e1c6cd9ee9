"""One finished table: what is displayed, the numbers behind it, and its CSV, LaTeX and HTML."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..support.files import atomic

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$", "α": r"$\alpha$", "β": r"$\beta$",
}  # fmt: skip

#: Classes that keep MathJax, 2 and later ones, from what looks like mathematics.
_PLAIN = "tex2jax_ignore mathjax_ignore"


@dataclass(frozen=True, eq=False)
class Table:
    """Table ``number`` of the paper beside ours.

    - ``frame``: what is displayed, strings; ``bold``: the same shape, True where a cell is bold
    - ``cells``: one row a (dataset, model, metric), numbers in the units of `regression_metrics`
    - ``seed_rows``: one row a (dataset, model, seed), every metric of that run
    - ``footer``: sentences that belong under the table
    """

    number: int
    title: str
    frame: pd.DataFrame
    bold: pd.DataFrame
    footer: tuple[str, ...] = ()
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    seed_rows: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_csv(self, directory: Path | str) -> list[Path]:
        """Write ``tableN.csv`` (as displayed), ``tableN_notes.txt`` (title and footer) and, where there are
        any, ``tableN_cells.csv`` and ``tableN_seeds.csv``; returns their paths."""
        shown = self.frame.reset_index() if self._levels else self.frame
        texts = {".csv": shown.to_csv(index=False), "_notes.txt": "\n".join([self.title, *self.footer, ""])}
        for ending, frame in (("_cells.csv", self.cells), ("_seeds.csv", self.seed_rows)):
            if len(frame):
                texts[ending] = frame.to_csv(index=False)
        paths = [Path(directory) / f"table{self.number}{ending}" for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return paths

    def to_latex(self) -> str:
        """A ``table*`` environment (packages booktabs and graphicx): the same cells, bold and footer as on screen."""
        header = [*self._levels, *self.frame.columns]
        lines = [
            r"\begin{table*}",
            r"\centering\footnotesize",
            rf"\caption{{{_latex(self.title)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(self._levels)}{'r' * len(self.frame.columns)}}}",
            r"\toprule",
            " & ".join(_latex(name) for name in header) + r" \\",
        ]
        previous: tuple[str, ...] | None = None
        for labels, cells in self._rows():
            if labels[:-1] != previous:
                lines.append(r"\midrule")
            shown = _without_repeats(labels, previous)
            previous = labels[:-1]
            texts = [rf"\textbf{{{_latex(text)}}}" if bold else _latex(text) for text, bold in cells]
            lines.append(" & ".join([*map(_latex, shown), *texts]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}}"]
        lines += [rf"\par\smallskip\raggedright {_latex(sentence)}" for sentence in self.footer]
        return "\n".join([*lines, r"\end{table*}", ""])

    def to_html(self) -> str:
        """An HTML table with its title as caption and the footer as paragraphs below."""
        header = "".join(f"<th>{html.escape(name)}</th>" for name in (*self._levels, *self.frame.columns))
        lines = [f'<table class="paper-table {_PLAIN}">', f"<caption>{html.escape(self.title)}</caption>"]
        lines += [f"<thead><tr>{header}</tr></thead>", "<tbody>"]
        previous: tuple[str, ...] | None = None
        for labels, cells in self._rows():
            shown = _without_repeats(labels, previous)
            previous = labels[:-1]
            row = "".join(f"<th>{html.escape(label)}</th>" for label in shown)
            for text, bold in cells:
                text = html.escape(text)
                row += f"<td><b>{text}</b></td>" if bold else f"<td>{text}</td>"
            lines.append(f"<tr>{row}</tr>")
        lines += ["</tbody>", "</table>"]
        lines += [f'<p class="table-note {_PLAIN}">{html.escape(sentence)}</p>' for sentence in self.footer]
        return "\n".join([*lines, ""])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.to_html()

    @property
    def _levels(self) -> list[str]:
        """Names of the index columns; none where the frame has a plain counting index."""
        return [] if self.frame.index.names == [None] else list(self.frame.index.names)

    def _rows(self):
        """Each row's labels (strings) and its cells as (text, bold)."""
        for position, label in enumerate(self.frame.index):
            labels = () if not self._levels else label if isinstance(label, tuple) else (label,)
            yield labels, list(zip(self.frame.iloc[position], self.bold.iloc[position], strict=True))


def _without_repeats(labels: tuple[str, ...], previous: tuple[str, ...] | None) -> list[str]:
    """Row labels, the outer ones blank where the row above has the same."""
    previous, same = previous or (), 0
    while same < min(len(previous), len(labels)) and labels[same] == previous[same]:
        same += 1
    return ["" if position < same else label for position, label in enumerate(labels)]


def _latex(text: str) -> str:
    text = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", text)  # a sign, not the hyphen of "Acc-2"
