"""From finished runs to what the notebooks show: results, scores, features, saved figures and the HTML report."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ..config import VARIANTS, Config, preset
from ..data import table1
from ..experiments.directories import write_note
from ..experiments.registry import SYSTEMS
from ..experiments.runs import Run, schedule_of
from ..experiments.study import Study, role
from ..losses import intensity_pairs
from ..metrics import regression_metrics
from ..model import GRANULARITIES
from ..support.files import atomic
from ..support.paths import project_root
from ..trainer import correlation, predict
from . import tables
from .table import Table
from .tables import Result

#: The paper prints "MuT" for MulT; its row is found under that name.
AS_PRINTED = {"MulT": "MuT"}


def results(study: Study, runs: Iterable[Run]) -> list[Result]:
    """Test predictions of the finished ones among ``runs``, as the tables take them."""
    found = []
    for run in runs:
        if run.done:
            frame = run.predictions("test")
            title = SYSTEMS[run.stage].title if run.stage in SYSTEMS else run.stage
            found.append(
                Result(
                    corpus=study.corpus.name,
                    role=role(study.corpus),
                    scheme=study.corpus.scheme,
                    synthetic=study.corpus.synthetic,
                    system=AS_PRINTED.get(title, title),
                    variant=run.variant,
                    seed=run.seed,
                    ids=tuple(frame["id"]),
                    y_true=frame["label"].to_numpy(),
                    y_pred=frame["prediction"].to_numpy(),
                    run=run.name,
                    profile=study.profile,
                )
            )
    return found


def counts(studies: Sequence[Study]) -> Table:
    """Table 1 with the corpora of ``studies`` below the paper's."""
    return tables.table1(
        table1([study.corpus for study in studies]), [study.corpus.name for study in studies if study.corpus.synthetic]
    )


def stage_one_scores(study: Study, split: str = "valid") -> pd.DataFrame:
    """Scores of every stage-one encoder and seed, a row each.

    ``mae`` and ``corr`` are against the label that the encoder learned; ``mae_y`` and ``corr_y`` against
    the multimodal label y.
    """
    y = getattr(study.corpus, split).labels.astype(np.float64)
    rows = []
    for run in study.pretrainings():
        if run.done:
            frame = run.predictions(split)
            predicted, label = frame["prediction"].to_numpy(), frame["label"].to_numpy()
            granularity, modality = run.stage.split("_")
            rows.append(
                {
                    "encoder": run.stage,
                    "granularity": granularity,
                    "modality": modality,
                    "seed": run.seed,
                    "epoch": run.chosen_epoch,
                    "mae": np.abs(predicted - label).mean(),
                    "corr": correlation(predicted, label),
                    "mae_y": np.abs(predicted - y).mean(),
                    "corr_y": correlation(predicted, y),
                }
            )
    return pd.DataFrame(rows)


def curves(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    """Arguments of `plots.training_curves`: histories, groups and chosen epochs of ``runs``."""
    return {
        "histories": {run.name: run.history for run in runs},
        "groups": {run.name: run.variant or run.stage for run in runs},
        "chosen": {run.name: run.chosen_epoch for run in runs},
    }


def embeddings(study: Study, run: Run, *, trained: bool, split: str = "test") -> dict[str, np.ndarray]:
    """The six features of every clip, "macro_T" … "micro_A", each (N, d), at the start of stage two or at its end."""
    system = study.build(run, trained=trained)
    outputs = predict(system, study.split(split, run), schedule_of(run))
    return {
        f"{granularity}_{modality}": outputs[granularity][place]
        for granularity in GRANULARITIES
        for place, modality in enumerate("TVA")
    }


def contrast(
    study: Study, run: Run, features: Mapping[str, Mapping[str, np.ndarray]], split: str = "test"
) -> pd.DataFrame:
    """Mean cosine of positive pairs of clips minus that of negative pairs, for each feature: what L_con should raise.

    ``features`` maps a name (a row) to the six features of `embeddings`.
    """
    from sklearn.metrics.pairwise import cosine_similarity  # slow to import, and only one notebook asks

    labels = torch.from_numpy(getattr(study.corpus, split).labels / study.corpus.bound)
    positive = intensity_pairs(labels, run.config.delta)[0].numpy()
    other = ~np.eye(len(labels), dtype=bool)
    rows = {}
    for name, six in features.items():
        cosines = {feature: cosine_similarity(values) for feature, values in six.items()}
        rows[name] = {
            feature: cosine[positive & other].mean() - cosine[~positive].mean() for feature, cosine in cosines.items()
        }
    return pd.DataFrame(rows).T


def all_runs(study: Study) -> list[Run]:
    """Every run that some table needs, finished or not."""
    return [*study.pretrainings(), *study.trainings(tuple(VARIANTS)), *study.comparisons()]


def all_results(study: Study) -> list[Result]:
    """Test predictions of every finished run that a table shows."""
    return results(study, [*study.trainings(tuple(VARIANTS)), *study.comparisons()])


def scores(study: Study, runs: Sequence[Run], split: str = "test") -> pd.DataFrame:
    """The metrics of each finished run on ``split``, a row a run."""
    rows = []
    for run in runs:
        frame = run.predictions(split)
        metrics = regression_metrics(frame["label"].to_numpy(), frame["prediction"].to_numpy(), study.corpus.scheme)
        rows.append({"variant": run.variant, "seed": run.seed, "epoch": run.chosen_epoch, **metrics})
    return pd.DataFrame(rows)


def settings_used(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Rows of Table 2, under the paper's column names, for the settings that each study used."""
    rows = []
    for study in studies:
        config = study.base
        layers = f"{config.layers}-layer Transformer (V/A)"
        for stage, model, prefix in (
            ("Unimodal", config.text_model, "text"),
            ("Unimodal", layers, "sequence"),
            ("Multimodal", "MGCL", "mgcl"),
        ):
            rate, epochs, batch = (getattr(config, f"{prefix}_{name}") for name in ("lr", "epochs", "batch_size"))
            rows.append(
                {
                    "Stage": stage,
                    "Dataset": _title(study),
                    "Model / Encoder": model,
                    "Learning Rate": f"{rate:g}",
                    "Epochs": epochs,
                    "Batch Size": batch,
                    "Profile": study.profile,
                }
            )
    return rows


def differences_from_paper(study: Study) -> pd.DataFrame:
    """Settings that differ from the paper's for this dataset: name, the paper's value, ours."""
    paper, ours = preset(role(study.corpus)).as_dict(), study.base.as_dict()
    shapes = {name for name in Config().as_dict() if name.endswith(("_dim", "_steps"))}
    rows = [(name, paper[name], ours[name]) for name in ours if ours[name] != paper[name] and name not in shapes]
    return pd.DataFrame(rows, columns=["setting", "paper", "ours"])


def provenance(runs: Iterable[Run]) -> pd.DataFrame:
    """A row a finished run: data, code, machine and cost."""
    rows = []
    for run in runs:
        if run.done:
            record = run.record()
            environment = record["environment"]
            rows.append(
                {
                    "run": run.name,
                    "stage": run.stage,
                    "variant": run.variant,
                    "seed": run.seed,
                    "data": record["corpus"]["sha256"][:12],
                    "commit": (environment["git"]["commit"] or "unknown")[:12],
                    "dirty": environment["git"]["dirty"],
                    "python": environment["python"],
                    "torch": environment["packages"]["torch"],
                    "device": environment["device"],
                    "parameters": record["parameters"],
                    "trained": record["trained_parameters"],
                    "seconds": round(record["seconds"], 1),
                    "s/epoch": round(record["seconds_per_epoch"], 2),
                    "peak GiB": round(
                        float("nan") if (peak := record["peak_memory"]["process_gib"]) is None else peak, 2
                    ),
                }
            )
    return pd.DataFrame(rows)


def save_figure(figure: Figure, study: Study, name: str) -> Figure:
    """Write ``figures/NAME.png`` of the study at 150 dpi, and hand the figure back to be shown."""
    write_note(study.output, study.changes)
    with atomic(study.output / "figures" / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=150)
    return figure


def save_table(table: Table, directory: Path) -> Table:
    """Write a table as CSV and LaTeX under ``tables/``, and hand it back to be shown."""
    table.to_csv(directory / "tables")
    with atomic(directory / "tables" / f"table{table.number}.tex") as temporary:
        temporary.write_text(table.to_latex())
    return table


#: The report's figures, by the name they are saved under.
FIGURES = {
    "01_labels": "Labels of the training and validation clips",
    "01_lengths": "Valid steps of each modality",
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
th { text-align: left; } thead th { border-bottom: 2px solid #888; }
figure { margin: 1.5em 0; } img { max-width: 100%; } figcaption, .table-note { color: #555; font-size: 13px; }
.wide { overflow-x: auto; } .table-note { margin: .2em 0; }
</style></head><body>
<h1>{{ title }}</h1>
{% for name, parts in sections %}<h2>{{ name }}</h2>
{% for part in parts %}<div class="wide">{{ part | safe }}</div>{% endfor %}
{% endfor %}
</body></html>
""",
    autoescape=True,
)


def write_report(path: Path, studies: Sequence[Study], made: Sequence[Table], origin: pd.DataFrame) -> Path:
    """One HTML page that needs nothing beside it: tables, all figures that were made, and their runs."""
    sections: list[tuple[str, list[str]]] = [("Tables", [table.to_html() for table in made])]
    for study in studies:
        images = []
        for name, caption in FIGURES.items():
            # Notebook 01 is about the data alone, which no setting changes.
            folder = study.directory if name.startswith("01") else study.output
            file = folder / "figures" / f"{name}.png"
            if file.exists():
                data = base64.b64encode(file.read_bytes()).decode()
                images.append(
                    f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                    f"<figcaption>{caption}</figcaption></figure>"
                )
        label = _title(study)
        sections.append((f"Figures: {label}", images or ["<p>No figure was made yet.</p>"]))
        sections.append(
            (
                f"Settings that differ from the paper's: {label}, profile {study.profile}",
                [differences_from_paper(study).to_html(index=False)],
            )
        )
    sections.append(("Where the numbers come from", [origin.to_html(index=False)]))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in paper_notes())
    sections.append(("Notes on the paper", [f"<ul>{notes}</ul>"]))
    write_note(path.parent, studies[0].changes)
    with atomic(path) as temporary:
        temporary.write_text(_PAGE.render(title="MGCL: tables and figures", sections=sections), encoding="utf-8")
    return path


def paper_notes() -> list[str]:
    """Where the paper disagrees with itself, from ``data/paper/notes.md``."""
    lines = (project_root() / "data" / "paper" / "notes.md").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def _title(study: Study) -> str:
    return f"{study.corpus.name} (synthetic)" if study.corpus.synthetic else study.corpus.name


def drawn_cells(study: Study, *made: Table) -> pd.DataFrame:
    """Cells of tables for `plots.ablation_points`, each once; without the paper's values on a synthetic corpus."""
    cells = pd.concat([table.cells for table in made]).drop_duplicates(["model", "metric"])
    return cells.drop(columns="paper") if study.corpus.synthetic else cells


def rows(table: Table, model: str) -> pd.DataFrame:
    """The displayed rows of one model."""
    return table.frame[table.frame.index.get_level_values("Model") == model]
