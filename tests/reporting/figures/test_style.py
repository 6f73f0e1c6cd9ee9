"""All figures: they render, say what is synthetic, and leave matplotlib as it was. All data here is synthetic."""

from __future__ import annotations

import dataclasses
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers.figures import audit, coordinates, history, stage_one, table_cells, texts, three_splits, trials
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from mgcl_core.reporting import figures as plots
from mgcl_core.support.errors import ConfigError


@pytest.fixture
def corpus(make_split, make_corpus):
    return make_corpus(*three_splits(make_split))


def every_figure(corpus, synthetic: bool) -> dict[str, Figure]:
    """One figure of each function that shows data."""
    y = corpus.valid.labels
    points, grid = coordinates(), coordinates(len(y))
    xy = points[["x", "y"]].to_numpy()
    flag = {"synthetic": synthetic}
    return {
        "label_distributions": plots.label_distributions(corpus, **flag),
        "length_distributions": plots.length_distributions(corpus, **flag),
        "label_agreement": plots.label_agreement(corpus.train, **flag),
        "training_curves": plots.training_curves({"a": history()}, chosen={"a": 3}, **flag),
        "unimodal_scores": plots.unimodal_scores(stage_one(), **flag),
        "predicted_against_true": plots.predicted_against_true(y, np.stack([y / 2, y]), "sims", **flag),
        "embedding": plots.embedding(xy, points["modality"].to_numpy(), kind="modality", **flag),
        "embedding_grid": plots.embedding_grid(grid, grid, y, bound=1.0, **flag),
        "ablation_points": plots.ablation_points(table_cells(), **flag),
        "selection_audit": plots.selection_audit(audit(), **flag),
        "search_trials": plots.search_trials(trials(), ["alpha", "micro"], logarithmic=["alpha"], **flag),
    }


@pytest.mark.parametrize("synthetic", [True, False])
def test_every_figure_says_whether_it_is_synthetic(corpus, synthetic):
    figures = every_figure(dataclasses.replace(corpus, name="demo", synthetic=synthetic), synthetic)
    drawings = {"architecture", "cmgf_block"}
    others = {"NotebookFigure", "style", "tsne"}
    assert set(figures) == set(plots.__all__) - drawings - others
    for name, figure in figures.items():
        assert isinstance(figure, Figure), name
        assert ("synthetic" in figure.get_suptitle()) is synthetic, name


def test_all_render_and_no_setting_changes_and_no_figure_stays_registered(corpus):
    settings, registered = dict(mpl.rcParams), plt.get_fignums()
    for figure in [*every_figure(corpus, True).values(), plots.architecture(), plots.cmgf_block()]:
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == registered


def test_a_synthetic_corpus_is_labelled_whatever_the_caller_says(corpus):
    assert "synthetic" in plots.label_distributions(corpus, synthetic=False).get_suptitle()
    assert "synthetic" in plots.length_distributions(corpus, synthetic=False).get_suptitle()


def test_titles_stay_inside_narrow_figures(corpus):
    figure = plots.label_distributions(dataclasses.replace(corpus, name="a corpus with a name of many words " * 2))
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_figures_show_themselves_in_a_notebook():
    """Without pyplot's backend a plain Figure would appear as its repr."""
    figure = plots.ablation_points(table_cells(), synthetic=True)
    data, metadata = DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")
    width, height = figure.get_size_inches()
    assert metadata["image/png"] == {"width": round(100 * width), "height": round(100 * height)}


def test_style_is_undone_even_after_an_error():
    before = mpl.rcParams["font.size"]
    with pytest.raises(ConfigError), plots.style():
        assert mpl.rcParams["font.size"] == 9 != before
        raise ConfigError("any")
    assert mpl.rcParams["font.size"] == before


def test_the_drawings_name_every_part_inside_their_frame():
    overall, block = plots.architecture(), plots.cmgf_block()
    words = " ".join(texts(overall.axes[0]))
    names = [f"${m}_{g}^i$" for m in "TVA" for g in "ai"]
    for name in [*names, "C1:", "C2:", "C3:", "CMGF", "predictor", "unimodal heads", "$L_{con}$", "$L_{uni}$"]:
        assert name in words, name
    words = " ".join(texts(block.axes[0]))
    for name in [
        "multi-head",
        "query",
        "keys",
        "$F_{en}^1$",
        "$F_{en}^2$",
        "$F_{en}^3$",
        "V_a, T_i, A_i",
        "decision 6",
    ]:
        assert name in words, name
    for figure in (overall, block):
        assert "synthetic" not in figure.get_suptitle()
        figure.draw_without_rendering()
        frame = figure.axes[0].get_window_extent()
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1, text.get_text()
