"""What objects show of themselves: facts, never arrays."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from mgcl_core import Config, Study
from mgcl_core.config import meanings, preset


def test_a_corpus_and_its_splits_say_what_they_hold(tiny_corpus):
    text = repr(dataclasses.replace(tiny_corpus, notes={"audio_clips_absent": 3}))
    assert text.startswith("Corpus 'synthetic', synthetic\n  clips: train 40, valid 12, test 15\n")
    assert "audio: 9 steps × 4 dimensions" in text and "labels: y, y_T, y_V, y_A in [-1, 1]" in text
    assert "audio is absent in 3 clips" in text and len(text) < 600
    split = repr(tiny_corpus.valid)
    assert split.startswith("Split 'valid': 12 clips of 12 videos") and "first clip: valid0$_$0" in split
    assert "labels: none" in repr(dataclasses.replace(tiny_corpus.test, labels=None, unimodal_labels=None))


def test_a_batch_says_shapes(split):
    text = repr(split.batch([0, 1, 2]))
    assert text.startswith("Batch of 3 clips on cpu") and "unimodal_labels: 3×3" in text and "tensor" not in text


def test_a_study_and_its_runs_say_what_is_done(tiny_corpus, tiny_overrides, tmp_path):
    study = Study(tiny_corpus, "demo", seeds=[1], overrides=tiny_overrides, results=tmp_path, device="cpu", workers=1)
    run = study.finish(study.pretrainings()[0])
    text = repr(study)
    assert "Study of 'synthetic' (synthetic), profile 'demo'" in text and "1 of 6 stage one, 0 of 1 MGCL" in text
    assert "mgcl_epochs" in text
    assert "state: finished" in repr(run) and "epoch 1 of 1, valid MAE" in repr(run)
    (run.directory / "selection.json").unlink()
    assert "state: damaged" in repr(run) and "cannot be read" in repr(run)
    assert "0 of 6 stage one" in repr(study)
    assert "not trained yet" in repr(study.trainings()[0]) and run.name in repr(study.trainings()[0])
    blind = study.without_test()
    assert "test 15" in repr(blind.corpus)


def test_a_config_shows_what_differs_as_python_and_every_setting_in_a_notebook():
    assert repr(Config()) == "Config()"
    changed = preset("mosei", "demo")
    assert eval(repr(changed)) == changed and "layers=3" in repr(changed)
    page = changed._repr_html_()
    assert page.count("<tr>") == len(changed.as_dict()) and "layers = 3 *" in page and "alpha = 0.1<" in page


def test_html_is_escaped(tiny_corpus):
    page = dataclasses.replace(tiny_corpus, name="<b>")._repr_html_()
    assert "&lt;b&gt;" in page and "mathjax_ignore" in page


@pytest.mark.parametrize("name", sorted(typing.get_type_hints(Config)))
def test_every_setting_says_what_it_does(name):
    assert len(meanings()[name]) > 10
