"""How far training is, read from histories on disk. All numbers here are made up."""

from __future__ import annotations

import io
import logging
import math
import threading
import time

import pytest

from mgcl_core.experiments import progress
from mgcl_core.experiments.claims import claim
from mgcl_core.experiments.progress import Progress, Watched, duration, shown
from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import ConfigError, Interrupted
from mgcl_core.support.files import write_json, write_json_lines
from mgcl_core.trainer import HISTORY, SELECTION


def training(folder, name, maes, *, kind="MGCL", epochs=4, seconds=10.0, finished=False):
    rows = [{"epoch": n, "valid_mae": mae, "seconds": seconds} for n, mae in enumerate(maes, 1)]
    (folder / name).mkdir(exist_ok=True)
    if rows:
        write_json_lines(folder / name / HISTORY, rows)
    if finished:
        write_json(folder / name / SELECTION, {"epoch": 1})
    return Watched(name, kind, folder / name, epochs)


def test_a_line_says_runs_epoch_error_best_and_time_left(tmp_path):
    watched = [
        training(tmp_path, "MGCL 1", [0.5, 0.4, 0.4, 0.4], finished=True),
        training(tmp_path, "MGCL 2", [0.5, 0.3, 0.35]),
        training(tmp_path, "MGCL 3", []),
    ]
    now = Progress(watched, workers=1)
    assert now.seconds_left() == (pytest.approx(10 * (1 + 4)), True)
    assert Progress(watched, workers=2).seconds_left() == (pytest.approx(25), True)
    assert str(now) == "1/3 runs · about 50 s left · MGCL 2 epoch 3/4 valid MAE 0.350, best 0.300"


def test_a_kind_that_has_no_epoch_yet_is_not_guessed_and_nothing_is_said_before_the_first(tmp_path):
    text = training(tmp_path, "text", [], kind="text")
    assert math.isnan(Progress([text], 1).seconds_left()[0])
    assert str(Progress([text], 1)) == "0/1 runs · time left not known yet"
    both = Progress([text, training(tmp_path, "a", [0.1], epochs=3)], 1)
    assert both.seconds_left() == (pytest.approx(20), False) and "at least 20 s left" in str(both)


def test_a_notebook_sees_a_bar_a_table_and_curves(tmp_path):
    watched = [training(tmp_path, "a<b", [0.5, None, 0.3]), training(tmp_path, "c", [0.6, 0.6], finished=True)]
    shown = Progress(watched, 1).to_html()
    assert "<b>1 of 2 runs</b>, about" in shown and 'value="7" max="8"' in shown
    assert "a&lt;b" in shown and "<td>3/4</td><td>0.300</td><td>0.300</td>" in shown
    assert shown.count("<polyline") == 2 and ">0.60</text>" in shown and ">0.30</text>" in shown
    nothing = Progress([training(tmp_path, "d", [None])], 1).to_html()
    assert "<td>nan</td>" in nothing and "<polyline" not in nothing


def test_a_history_that_grows_is_read_again(tmp_path):
    one = training(tmp_path, "a", [0.5])
    assert len(Progress([one], 1).running[0].history) == 1
    training(tmp_path, "a", [0.5, 0.4])
    assert len(Progress([one], 1).running[0].history) == 2


def test_lines_are_logged_where_there_is_no_screen_and_one_display_is_enough(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress.Lines, "seconds", 0.01)
    watched = [training(tmp_path, "a", [0.5])]
    with caplog.at_level("INFO", "mgcl_core"), shown(watched), shown([training(tmp_path, "b", [0.1])]):
        end = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)
    assert caplog.messages == ["0/1 runs · about 30 s left · a epoch 1/4 valid MAE 0.500, best 0.500"]


def test_a_terminal_has_one_line_that_makes_way_for_the_log(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress.Terminal, "seconds", 0.01)
    log = logging.getLogger("mgcl_core")
    handler = logging.StreamHandler(screen)
    log.addHandler(handler)
    try:
        with shown([training(tmp_path, "a", [0.5])]):
            end = time.monotonic() + 30
            while "1/4" not in screen.getvalue() and time.monotonic() < end:
                time.sleep(0.01)
            log.warning("a line")
    finally:
        log.removeHandler(handler)
    text = screen.getvalue()
    assert "\r\x1b[Ka line\n" in text and text.endswith("\r\x1b[K") and not handler.filters


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (200, "3 min"), (9000, "2.5 h"), (3 * 86400, "3 days")]
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_who_waits_says_for_whom(tmp_path, caplog):
    held, go_on, waited = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with claim(tmp_path / "run"):
            held.set()
            go_on.wait(30)

    def wait():
        with claim(tmp_path / "run"):
            waited.set()

    holder, waiter = threading.Thread(target=hold), threading.Thread(target=wait)
    with caplog.at_level("INFO", "mgcl_core"):
        holder.start()
        assert held.wait(30)
        waiter.start()
        end = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)
        assert not waited.is_set()
        go_on.set()
        holder.join()
        waiter.join()
    assert waited.is_set()
    (message,) = caplog.messages
    assert message.startswith("run is held by process ") and " since 20" in message


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(tiny_corpus, tiny_overrides, tmp_path, monkeypatch):
    study = Study(tiny_corpus, "demo", seeds=[1], overrides=tiny_overrides, results=tmp_path, device="cpu", workers=1)
    study.finish(study.pretrainings()[0])

    def stop(self, run, *more, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "fit", stop)
    with pytest.raises(Interrupted, match="stopped: 1 of 7 runs are finished and kept; the same call or command conti"):
        study.train()


def test_what_is_to_be_trained_and_how_long_it_took_before(tiny_corpus, tiny_overrides, tmp_path):
    study = Study(
        tiny_corpus, "demo", seeds=[1, 2], overrides=tiny_overrides, results=tmp_path, device="cpu", workers=1
    )
    runs = study.pretrainings()
    assert study.cost_ahead(runs[:1]) == "to train: 1 × macro_T; how long is known after the first epochs"
    study.finish(runs[0])
    said = study.cost_ahead([run for run in runs if run.stage.name == "macro_T"])
    assert said.startswith("to train: 2 × macro_T; about ") and said.endswith(" s, as finished runs here took")


def test_a_text_model_that_is_not_here_is_an_error_before_anything_is_trained(tiny_corpus, tiny_overrides, tmp_path):
    overrides = {**tiny_overrides, "text_model": str(tmp_path / "nowhere")}
    study = Study(tiny_corpus, "demo", seeds=[1], overrides=overrides, results=tmp_path, device="cpu", workers=1)
    with pytest.raises(ConfigError, match="nowhere' could not be loaded"):
        study.train()
    assert not list((tmp_path / "synthetic").rglob("*.jsonl"))
