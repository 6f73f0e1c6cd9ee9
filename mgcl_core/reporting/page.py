"""What a reader opens: figures on disk, and one HTML page with all tables and figures."""

from __future__ import annotations

import base64
import html
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ..data.known_files import known_name
from ..experiments.directories import write_overrides
from ..experiments.study import Study
from ..support.files import atomic
from ..support.provenance import git_state
from .layout import FIGURE, PAGE, STYLE
from .published import paper_notes
from .records import differences_from_paper, total_compute
from .rendering import Table
from .tables import corpus_label

#: The report's figures, by the name they are saved under: what each is, and what to look for.
FIGURES = {
    "01_labels": ("Labels", "The training and validation splits should look the same; test labels are not shown."),
    "01_lengths": ("Lengths", "Valid steps of each clip; a modality whose clips are all of one length may be padded."),
    "01_signals": ("Signals", "Audio and vision of three training clips as the encoders get them: rows of one colour "
                   "are constant dimensions, columns of one colour lost steps."),
    "01_agreement": ("Agreement of the labels", "How often, and how closely, text, vision and audio are labelled as "
                     "the whole clip is."),
    "02_curves": ("Stage one, curves", "A line is one encoder and seed; the ring is the epoch that validation chose."),
    "02_scores": ("Stage one, scores", "Each encoder on validation, against the label that it learned; a point is a "
                  "seed."),
    "03_curves": ("Stage two, curves", "The terms of equation 22 and validation, one line per seed; the ring is the "
                  "epoch that validation chose."),
    "03_predicted": ("Predicted against true, on test", "On the dashed line a prediction is right; a flatter line of "
                     "means shrinks towards the middle."),
    "04_ablations": ("Ablations", "The difference of each variant from MGCL over the same seeds and clips, with its "
                     "95 % interval; an interval over 0 shows no difference."),
    "05_embeddings": ("Features before and after training", "A map for each feature: what to look for is colours that "
                      "come apart; trust says how far neighbours on a map are neighbours in the feature."),
    "06_audit": ("What picking on the test set would gain", "The first rule is the reported one; two more choose the "
                 "epoch on validation too; the others look at test labels, and no table uses them."),
    "08_systems": ("All systems", "Means with 95 % intervals on the same clips; overlapping intervals do not say that "
                   "two systems are equal, the paired differences of the table do."),
    "07_search": ("Search on validation", "Validation MAE of each trial, and where in the space it lay."),
    "11_errors": ("Where MGCL errs", "On validation, by how far the modalities' labels contradict each other, by "
                  "intensity and by length: groups whose intervals do not overlap."),
    "11_attention": ("Where the attention goes", "On validation, by query and source: a median far from the open mark "
                     "is more, or less, than equal weight on every step."),
    "11_compare": ("Two variants, clip by clip", "On validation: clips far from the diagonal are where the variants "
                   "part."),
    "13_pareto": ("Corr and what it costs", "On test, over the operations of a clip: the line joins what nothing "
                  "cheaper reaches; intervals are of each system by itself."),
    "11_alpha": ("The weight of L_con", "On validation: paired differences from the default value, a thin line for "
                 "each seed."),
    "12_sets": ("Fixed sets of modalities", "Each system with what is left; grey are floors, to be exceeded."),
    "12_random-sets": ("Random sets of modalities", "Over the share that is missing, masks the same for all systems."),
    "12_random-steps": ("Missing steps", "Over the rate at which steps of all modalities are lost."),
    "14_multiverse": ("Multiverse, Acc-2", "The claims of Table 5 under every reading of what the paper leaves open, "
                      "each a point; above 0 it agrees. They share trainings and clips: counting them is no test."),
    "14_multiverse_mae": ("Multiverse, MAE", "The same for MAE."),
}  # fmt: skip
#: Beside the PNG that a screen shows: vector files for a paper, with fonts that publishers take (Type 42).
FORMATS = {"png": {"dpi": 150}, "pdf": {"metadata": {"CreationDate": None}}, "svg": {"metadata": {"Date": None}}}


@dataclass(frozen=True)
class Section:
    """A part of the page: its title, its HTML, and the entries that stand under it in the contents (anchor, name)."""

    anchor: str
    title: str
    parts: list[str]
    entries: list[tuple[str, str]] = field(default_factory=list)


def save_figure(figure: Figure, study: Study, name: str) -> Figure:
    """Write ``figures/NAME`` as PNG, PDF and SVG among the study's artifacts.

    Returns:
        The figure, for a notebook to show.
    """
    write_overrides(study.artifacts, study.changes)
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": name}):
        for ending, settings in FORMATS.items():
            with atomic(study.artifacts / "figures" / f"{name}.{ending}") as temporary:
                figure.savefig(temporary, **settings)
    return figure


def write_page(path: Path, studies: Sequence[Study], tables: Sequence[Table], provenance: pd.DataFrame) -> Path:
    """One HTML page that needs nothing beside it.

    Args:
        path: of the page.
        studies: whose saved figures and settings it shows.
        tables: Tables 1 to 6.
        provenance: one row per run, of `records.provenance`.

    Returns:
        ``path``.
    """
    # What was run comes before the counts and settings of Tables 1 and 2.
    ordered = sorted(tables, key=lambda table: not table.verdicts)
    shown = [f'<div id="table{table.number}">{table._repr_html_()}</div>' for table in ordered]
    entries = [(f"table{table.number}", f"Table {table.number}") for table in ordered]
    sections = [Section("tables", "Tables", shown, entries)]
    for position, study in enumerate(studies):
        label, images = corpus_label(study.corpus), _saved_figures(study, position)
        parts = [image for _, _, image in images] or ["<p>No figure was made yet.</p>"]
        names = [(anchor, name) for anchor, name, _ in images]
        sections.append(Section(f"figures{position}", f"Figures: {label}", parts, names))
    settings = [_differences(study) for study in studies]
    sections.append(Section("settings", "Settings that differ from the paper's", settings))
    sections.append(Section("runs", "Where the numbers come from", _origin(studies, provenance)))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in paper_notes())
    sections.append(Section("notes", "Notes on the paper", [f"<ul>{notes}</ul>"]))
    write_overrides(path.parent, studies[0].changes)
    verdicts = list(dict.fromkeys(line for table in tables for line in table.verdicts))
    with atomic(path) as temporary:
        text = PAGE.render(title="MGCL: tables and figures", style=STYLE, verdicts=verdicts, sections=sections,
                           facts=_facts(studies, provenance))  # fmt: skip
        temporary.write_text(text, encoding="utf-8")
    return path


def command(studies: Sequence[Study]) -> str:
    """The command that makes the report of ``studies``; device, workers and folders decide no run and are left out."""
    words = ["mgcl", "run"]
    for study in studies:
        known = known_name(study.corpus.name) is not None
        words += ["--corpus", study.corpus.name if known else str(study.corpus.path)]
    first = studies[0]
    words += ["--profile", first.profile, "--seeds", ",".join(map(str, first.seeds))]
    if first.corpus.dataset and known_name(first.corpus.name) is None:
        words += ["--dataset", first.corpus.dataset]
    for name, value in first.changes.get("overrides", {}).items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        words += ["--precision", str(value)] if name == "precision" else ["--set", f"{name}={shown}"]
    return shlex.join(words)


def _facts(studies: Sequence[Study], provenance: pd.DataFrame) -> list[tuple[str, str]]:
    """What the head says beside the verdicts."""
    synthetic = [study.corpus.name for study in studies if study.corpus.synthetic]
    real = [study.corpus.name for study in studies if not study.corpus.synthetic]
    words = [f"{', '.join(synthetic)}: generated by this package, so nothing here is a result on real data" if not real
             else f"{', '.join(synthetic)}; not {', '.join(real)}"] if synthetic else ["nothing"]  # fmt: skip
    facts = [("made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())), ("command", command(studies)),
             ("synthetic", words[0]), ("report's code", _code(**git_state()))]  # fmt: skip
    if changed := studies[0].changes.get("system_overrides"):
        facts.append(("changed beside the command", f"system_overrides={changed}"))
    if len(provenance):
        commits = provenance[["commit", "dirty"]].drop_duplicates().itertuples(index=False)
        facts.append(("runs' code", "; ".join(_code(commit, dirty) for commit, dirty in commits)))
        facts.append(("runs", f"{len(provenance)} finished, seeds {', '.join(map(str, studies[0].seeds))}"))
    return facts


def _code(commit: str | None, dirty: bool | None) -> str:
    state = {True: " with changes that were not committed", False: ""}.get(dirty, "")
    return f"commit {commit[:12]}{state}" if commit and commit != "unknown" else "no commit known"


def _differences(study: Study) -> str:
    frame, label = differences_from_paper(study), html.escape(f"{corpus_label(study.corpus)}, profile {study.profile}")
    if frame.empty:
        return f"<p>{label}: none.</p>"
    return _folded(f"{label}: {len(frame)} settings differ", frame.to_html(index=False))


def _origin(studies: Sequence[Study], provenance: pd.DataFrame) -> list[str]:
    total = total_compute(studies)
    hours, trained = total.iloc[-1][["hours", "runs"]]
    summary = (
        f"<p>Everything that was trained, stopped and failed runs included: {trained} runs, {hours:.2f} hours.</p>"
    )
    runs = provenance.to_html(index=False, classes="runs")
    return [
        summary,
        _folded("Compute by corpus and kind", total.to_html(index=False)),
        _folded(f"All {len(provenance)} runs: data, commit, versions, machine, cost", runs),
    ]


def _folded(summary: str, inside: str) -> str:
    return f'<details><summary>{summary}</summary><div class="wide">{inside}</div></details>'


def _saved_figures(study: Study, position: int) -> list[tuple[str, str, str]]:
    """Anchor, title and HTML of each figure that was saved."""
    images = []
    for name, (title, sentence) in FIGURES.items():
        # Notebook 01 is about the data alone, which no setting changes.
        folder = study.directory if name.startswith("01") else study.artifacts
        file = folder / "figures" / f"{name}.png"
        if file.exists():
            anchor, content = f"figure{position}-{name}", file.read_bytes()
            width = int.from_bytes(content[16:20]) * 100 // FORMATS["png"]["dpi"]  # 100 px an inch, as in a notebook
            data = base64.b64encode(content).decode()
            shown = FIGURE.render(anchor=anchor, title=title, sentence=sentence, data=data, width=width)
            images.append((anchor, title, shown))
    linked = study.artifacts / "figures" / "11_map.html"
    if linked.exists():
        anchor, title = f"figure{position}-11_map", "The six features, linked"
        # A sandbox: the page runs its own script and reaches nothing of this one.
        frame = (f'<iframe sandbox="allow-scripts" loading="lazy" title="{title}" style="width: 100%; height: 900px; '
                 f'border: 0" srcdoc="{html.escape(linked.read_text(encoding="utf-8"))}"></iframe>')  # fmt: skip
        folded = _folded(f"{title}: point at a clip to see it on all maps, with its words", frame)
        images.append((anchor, title, f'<div id="{anchor}">{folded}</div>'))
    return images
