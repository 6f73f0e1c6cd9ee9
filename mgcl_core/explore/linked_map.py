"""Six maps of a run's clips, one per feature, linked: point at a clip on one, and see it on all, with its words.

One HTML page without dependencies; it needs no network, and no library that a notebook would have to trust.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Template

from ..experiments.directories import write_overrides
from ..experiments.predictor import UNIMODAL_COLUMNS
from ..experiments.runs import Run
from ..experiments.study import Study
from ..reporting.evaluation import embeddings
from ..reporting.figures import tsne
from ..reporting.figures.style import MODALITY_NAMES
from ..support.files import atomic
from ..trainer import correlation
from .showing import readable

#: t-SNE of thousands of clips takes minutes, and so many points cannot be told apart.
MOST_CLIPS = 480


@dataclass(frozen=True)
class LinkedMap:
    """The page, which a notebook shows in a frame; `save` writes it as a file, for a browser."""

    page: str
    study: Study

    def save(self, name: str = "11_map") -> LinkedMap:
        """Write ``figures/NAME.html`` among the study's artifacts."""
        write_overrides(self.study.artifacts, self.study.changes)
        with atomic(self.path(name)) as temporary:
            temporary.write_text(self.page, encoding="utf-8")
        return self

    def path(self, name: str = "11_map") -> Path:
        return self.study.artifacts / "figures" / f"{name}.html"

    def _repr_html_(self) -> str:
        # Scripts run in a frame of their own. In a notebook that is not trusted, Jupyter shows neither.
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" style="width: 100%; height: 900px; border: 0"></iframe>'
            "<p>Nothing to see above? Run this cell: Jupyter shows no frames of notebooks that it does not trust.</p>"
        )


def linked_map(
    study: Study, run: Run, split: str = "valid", *, clips: int = MOST_CLIPS, trained: bool = True
) -> LinkedMap:
    """Maps (t-SNE) of the six features of the first ``clips`` of a split, coloured by sentiment.

    Args:
        study: of the run.
        run: a finished run of MGCL.
        split: that the clips are of.
        clips: how many of it.
        trained: the features at the end of stage two, or at its start.
    """
    part = getattr(study.corpus, split).first(clips)
    table = run.predictions(split).head(clips)
    heads = [name for name in UNIMODAL_COLUMNS if name in table]
    maps = []
    for name, values in embeddings(study, run, trained=trained, split=split).items():
        frame = tsne({name: values[:clips]}, seed=run.seed)
        xy = frame[["x", "y"]].to_numpy()
        middle = (xy.min(axis=0) + xy.max(axis=0)) / 2
        xy = 50 + 100 * (xy - middle) / max(np.ptp(xy, axis=0).max(), 1e-9)
        granularity, modality = name.split("_")
        corr = correlation(table[f"{modality}_{granularity}"].to_numpy(), np.asarray(part.labels))
        note = f"(its head: Corr {corr:.2f})"
        maps.append({"name": f"{granularity} {MODALITY_NAMES[modality]}", "note": note, "points": xy.round(1).tolist()})
    numbers = np.column_stack([part.labels, table["prediction"], table[heads]]).astype(float).round(3).tolist()
    described = [
        {"id": readable(clip), "words": words, "y": y, "predicted": predicted, "heads": of_heads}
        for clip, words, (y, predicted, *of_heads) in zip(part.ids, part.raw_text, numbers, strict=True)
    ]
    data = {"bound": study.corpus.bound, "heads": [name.replace("_", " ") for name in heads],
            "clips": described, "maps": maps}  # fmt: skip
    when = "after" if trained else "before"
    title = f"{study.corpus.name}: six features of {len(part)} {split} clips {when} training, {run.name} (t-SNE)"
    title += " · synthetic data" if study.corpus.synthetic else ""
    template = Template(files(__package__).joinpath("linked_map.html").read_text(encoding="utf-8"))
    # "<" inside a script would end it where a clip says "</script>".
    return LinkedMap(template.render(title=html.escape(title), data=json.dumps(data).replace("<", "\\u003c")), study)
