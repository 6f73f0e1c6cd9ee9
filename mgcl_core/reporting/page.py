"""What a reader opens: figures on disk, and one HTML page with all tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from ..experiments.directories import write_overrides
from ..experiments.study import Study
from ..support.files import atomic
from .published import paper_notes
from .records import differences_from_paper, total_compute
from .rendering import Table
from .tables import corpus_label

#: The report's figures, by the name they are saved under.
FIGURES = {
    "01_labels": "Labels of the training and validation clips",
    "01_lengths": "Valid steps of each modality",
    "01_signals": "Audio and vision of three training clips, scaled",
    "01_agreement": "Agreement of the labels",
    "02_curves": "Stage one: curves",
    "02_scores": "Stage one: scores of the encoders on validation",
    "03_curves": "Stage two: curves of MGCL",
    "03_predicted": "MGCL: predicted against true, on test",
    "04_ablations": "Ablations",
    "05_embeddings": "Macro and micro features before and after training",
    "06_audit": "What picking on the test set would gain",
    "08_systems": "All systems",
    "07_search": "Search on validation",
}

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .4em; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { text-align: left; vertical-align: top; } thead tr:last-child th { border-bottom: 2px solid #888; }
figure { margin: 1.5em 0; } img { max-width: 100%; } figcaption, .table-note { color: #555; font-size: 13px; }
.wide { overflow-x: auto; } .table-note { margin: .2em 0; }
</style></head><body>
<h1>{{ title }}</h1>
{% for line in head %}<p><b>{{ line }}</b></p>{% endfor %}
{% for name, parts in sections %}<h2>{{ name }}</h2>
{% for part in parts %}<div class="wide">{{ part | safe }}</div>{% endfor %}
{% endfor %}
<h2>Notes on the paper</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
</body></html>
""",
    autoescape=True,
)


def save_figure(figure: Figure, study: Study, name: str) -> Figure:
    """Write ``figures/NAME.png`` among the study's artifacts.

    Returns:
        The figure, for a notebook to show.
    """
    write_overrides(study.artifacts, study.changes)
    with atomic(study.artifacts / "figures" / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=150)
    return figure


def write_page(path: Path, studies: Sequence[Study], tables: Sequence[Table], provenance: pd.DataFrame) -> Path:
    """One HTML page that needs nothing beside it.

    Args:
        path: of the page.
        studies: whose saved figures and settings it shows.
        tables: Tables 1 to 6.
        provenance: a row a run, of `records.provenance`.

    Returns:
        ``path``.
    """
    sections: list[tuple[str, list[str]]] = [("Tables", [table.to_html() for table in tables])]
    for study in studies:
        label = corpus_label(study.corpus)
        sections.append((f"Figures: {label}", _saved_figures(study) or ["<p>No figure was made yet.</p>"]))
        settings = f"Settings that differ from the paper's: {label}, profile {study.profile}"
        sections.append((settings, [differences_from_paper(study).to_html(index=False)]))
    compute = total_compute(studies).to_html(index=False)
    sections.append(("Total compute: everything that was trained, stopped and failed runs included", [compute]))
    sections.append(("Where the numbers come from", [provenance.to_html(index=False)]))
    write_overrides(path.parent, studies[0].changes)
    with atomic(path) as temporary:
        text = _PAGE.render(
            title="MGCL: tables and figures", head=_head(tables), sections=sections, notes=paper_notes()
        )
        temporary.write_text(text, encoding="utf-8")
    return path


def _head(tables: Sequence[Table]) -> list[str]:
    """What the results rest on, a line a corpus: "synthetic", "other data, no verdict", or the paper's own file."""
    return list(dict.fromkeys(line for table in tables for line in table.verdicts))


def _saved_figures(study: Study) -> list[str]:
    images = []
    for name, caption in FIGURES.items():
        # Notebook 01 is about the data alone, which no setting changes.
        folder = study.directory if name.startswith("01") else study.artifacts
        file = folder / "figures" / f"{name}.png"
        if file.exists():
            data = base64.b64encode(file.read_bytes()).decode()
            images.append(
                f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    return images
