"""All figures: they render, say what is synthetic, and leave matplotlib as it was. All data here is synthetic."""

from __future__ import annotations

import dataclasses
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers.figures import (
    audit,
    coordinates,
    costs,
    difference_cells,
    history,
    lost_modalities,
    specifications,
    stage_one,
    table_cells,
    three_splits,
    trials,
)
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from mgcl_core.reporting import figures
from mgcl_core.reporting.figures.style import styled
from mgcl_core.support.errors import ConfigError


@pytest.fixture
def corpus(make_split, make_corpus):
    return make_corpus(*three_splits(make_split))


def every_figure(corpus, synthetic: bool) -> dict[str, Figure]:
    """One figure of each function that shows data."""
    y = corpus.valid.labels
    grid = coordinates(len(y))
    flag = {"synthetic": synthetic}
    return {
        "label_distributions": figures.label_distributions(corpus),
        "length_distributions": figures.length_distributions(corpus),
        "clip_signals": figures.clip_signals(corpus),
        "label_agreement": figures.label_agreement(corpus.train, **flag),
        "training_curves": figures.training_curves({"a": history()}, chosen={"a": 3}, **flag),
        "unimodal_scores": figures.unimodal_scores(stage_one(), **flag),
        "predicted_against_true": figures.predicted_against_true(y, np.stack([y / 2, y]), "sims", **flag),
        "embedding_grid": figures.embedding_grid(grid, grid, y, **flag),
        "paired_differences": figures.paired_differences(difference_cells(), **flag),
        "score_intervals": figures.score_intervals(table_cells(), **flag),
        "selection_rules": figures.selection_rules(audit(), **flag),
        "specification_curve": figures.specification_curve(specifications(), ["micro"], "acc2", **flag),
        "absence_curves": figures.absence_curves(lost_modalities(), metrics=["mae"], **flag),
        "pareto": figures.pareto(costs(), **flag),
        "search_trials": figures.search_trials(trials(), ["alpha", "micro"], logarithmic=["alpha"], **flag),
    }


@pytest.mark.parametrize("synthetic", [True, False])
def test_every_figure_says_whether_it_is_synthetic(corpus, synthetic):
    drawn = every_figure(dataclasses.replace(corpus, name="demo", synthetic=synthetic), synthetic)
    assert set(drawn) == set(figures.__all__) - {"tsne"}
    for name, figure in drawn.items():
        assert isinstance(figure, Figure), name
        assert ("synthetic" in figure.get_suptitle()) is synthetic, name


def test_all_render_and_no_setting_changes_and_no_figure_stays_registered(corpus):
    settings, registered = dict(mpl.rcParams), plt.get_fignums()
    for figure in every_figure(corpus, True).values():
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == registered


def test_titles_stay_inside_narrow_figures(corpus):
    figure = figures.label_distributions(dataclasses.replace(corpus, name="a corpus with a name of many words " * 2))
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_figures_show_themselves_in_a_notebook():
    """Without pyplot's backend a plain Figure would appear as its repr."""
    figure = figures.score_intervals(table_cells(), synthetic=True)
    data, metadata = DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")
    width, height = figure.get_size_inches()
    assert metadata["image/png"] == {"width": round(100 * width), "height": round(100 * height)}


def test_style_is_undone_even_after_an_error():
    before = mpl.rcParams["font.size"]
    with pytest.raises(ConfigError), styled():
        assert mpl.rcParams["font.size"] == 9 != before
        raise ConfigError("any")
    assert mpl.rcParams["font.size"] == before
