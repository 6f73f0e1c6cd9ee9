"""Where the fusion of a run looks: attention summed by modality, over the clips of a split."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.corpus import MODALITIES
from ..experiments.runs import Run
from ..experiments.study import Study
from ..reporting.figures.style import MODALITY_COLOURS, MODALITY_NAMES, NotebookFigure, finish, styled
from ..support.errors import RunError
from ..support.runtime import autocast, matrix_precision
from .showing import Finding

NOTE = (
    "How each macro feature divides its attention between the micro steps of the two others (equations 13-15), over "
    "clips. The open mark is what equal weight on every step would give: more steps, more attention. What differs "
    "from it the model has learned."
)


def attention(study: Study, run: Run, split: str = "valid") -> Finding:
    """Attention of MTM, summed over heads and steps, for every clip of ``split``.

    Returns:
        ``table`` has a row for each clip, query and source: clip, query (the macro feature that asks), source (the
        modality whose steps it looks at), share, and even (the share that equal weight on all steps would give).

    Raises:
        RunError: the run is none of MGCL, has no attention (w/o fusion), or is not finished.
    """
    if run.variant == "" or run.config.fusion != "cmgf":
        raise RunError(f"{run.name} has no attention to show: it is no MGCL, or the variant w/o fusion")
    system, data = study.build(run, trained=True), study.split(split, run)
    parts = []
    with matrix_precision(study.device, run.config.precision), autocast(study.device, run.config.precision):
        for batch in data.batches(64):
            explanation = system.explain(batch)
            steps = {modality: mask.sum(1) for modality, mask in explanation.masks.items()}
            for (query, source), weights in explanation.attention.items():
                (other,) = set(MODALITIES) - {query, source}
                columns = {
                    "clip": [data.ids[row] for row in batch.index.tolist()],
                    "query": query,
                    "source": source,
                    "share": weights.float().mean(1).sum(1).cpu().numpy(),
                    "even": (steps[source] / (steps[source] + steps[other]).clamp_min(1)).cpu().numpy(),
                }
                parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True).sort_values(["query", "source"], kind="stable", ignore_index=True)
    title = f"{study.corpus.name}: attention by modality, {split}, {run.name}"
    summary = table.groupby(["query", "source"], as_index=False)[["share", "even"]].mean()
    return Finding(table, _draw(table, title, synthetic=study.corpus.synthetic), NOTE, summary)


@styled()
def _draw(table: pd.DataFrame, title: str, *, synthetic: bool) -> Figure:
    figure = NotebookFigure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, query in zip(axes, MODALITIES, strict=True):
        sources = [modality for modality in MODALITIES if modality != query]
        for place, source in enumerate(sources):
            rows = table[(table["query"] == query) & (table["source"] == source)]
            parts = ax.violinplot(100 * rows["share"], [place], widths=0.7, showmedians=True)
            for part in (*parts["bodies"], *(parts[name] for name in ("cbars", "cmins", "cmaxes", "cmedians"))):
                part.set_color(MODALITY_COLOURS[source])
            ax.plot(place, 100 * np.median(rows["even"]), "o", markerfacecolor="white", markeredgecolor="black")
        ax.set_xticks(range(2), [MODALITY_NAMES[source] for source in sources])
        ax.set(title=f"macro {MODALITY_NAMES[query]} asks", ylim=(-3, 103))
        ax.grid(axis="y")
    axes[0].set_ylabel("share of its attention (%)")
    return finish(figure, title, synthetic=synthetic)
