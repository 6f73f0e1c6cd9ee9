"""What each command of ``mgcl`` does with its options; it prints, and raises what ends it."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from .config import VARIANTS, Config, parse
from .experiments.presets import read_preset, read_system_overrides
from .notebooks.parameters import Parameters
from .support.errors import ConfigError, RunError
from .support.paths import project_root

STATES = {"finished": "done", "damaged": "damaged"}


def parameters_of(options: argparse.Namespace) -> Parameters:
    """The options of `run`, `status`, `search` and others as the parameters of notebooks."""
    overrides, systems = {}, {}
    for path in options.preset or ():
        overrides |= read_preset(path)
        systems |= read_system_overrides(path)
    given = {
        "profile": options.profile,
        "seeds": options.seeds,
        "device": options.device,
        "precision": options.precision,
        "dataset": options.dataset,
        "results": options.results,
        "overrides": {**overrides, **dict(parse(text) for text in options.overrides)},
        "system_overrides": systems,
    }
    given |= {name: getattr(options, name) for name in ("trials", "workers", "cluster") if name in options}
    if options.corpus:
        given["corpora"] = options.corpus
    return Parameters(**given)


def run(options: argparse.Namespace) -> None:
    from .notebooks.closing import closing_lines
    from .notebooks.runner import plan_notebooks, run_notebooks

    with parameters_of(options).on_one_cluster() as parameters:
        planned = plan_notebooks(parameters, options.notebook, everything=options.all)
        finished = run_notebooks(planned, verbose=not options.quiet)
    for item, seconds in finished:
        print(f"{seconds:6.0f} s  {item.label:<44} {item.executed_copy}")
    if planned[-1].assembles_tables:
        took = sum(seconds for _, seconds in finished)
        print(*closing_lines(planned[-1].executed_copy.parent, parameters.results, took), sep="\n")


def lab(options: argparse.Namespace) -> None:
    from .notebooks.lab import open_lab

    open_lab([option for option in options.options if option != "--"])


def status(options: argparse.Namespace) -> None:
    from .experiments.watching import pages

    parameters = parameters_of(options)
    if options.watch:
        clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
        for page in pages([parameters.study(corpus) for corpus in parameters.corpora], 5 if clear else 60):
            print(clear + page, flush=True)
        return
    for corpus in parameters.corpora:
        study = parameters.study(corpus)
        main = [*study.pretrainings(), *study.trainings(tuple(VARIANTS))]
        compared = study.comparisons()
        done, of_compared = (sum(run.state == "finished" for run in runs) for runs in (main, compared))
        print(
            f"{study.corpus.name}, profile {study.profile}, {study.base.precision}: {done} of {len(main)} runs done, "
            f"{of_compared} of {len(compared)} of compared systems ({study.directory / 'runs'})"
        )
        states: dict[str, list[str]] = {}
        for run in (*main, *compared):
            states.setdefault(run.stage.label, []).append(f"{run.seed} {STATES.get(run.state, 'missing')}")
        for label, of_seeds in states.items():
            print(f"  {label:<12} {'   '.join(of_seeds)}")


def runs(options: argparse.Namespace) -> None:
    import pandas as pd

    from .experiments.listing import experiments

    frames = [experiments(folder) for folder in sorted(results(options).glob("*/*/runs"))]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if frame.empty:
        print(f"nothing was tried in {results(options)}")
    else:
        print(frame.to_string(index=False, na_rep="", float_format="{:.3f}".format))


def clean(options: argparse.Namespace) -> None:
    from .experiments.cleaning import removable, remove

    found = removable(results(options), unfinished=options.unfinished, features=options.features, runs=options.run)
    gone, kept = remove(found) if options.yes else (found, [])
    for items, what in ((gone, "removed" if options.yes else "would go"), (kept, "in use, kept")):
        for item in items:
            print(f"{what}: {item.path} ({item.reason}, {item.bytes / 1e6:.1f} MB)")
    total = sum(item.bytes for item in gone) / 1e6
    print(f"{len(gone)} items, {total:.1f} MB" + ("" if options.yes or not gone else "; --yes removes them"))


def results(options: argparse.Namespace) -> Path:
    return Path(options.results) if options.results else project_root() / "results"


def search(options: argparse.Namespace) -> None:
    from .experiments.search import run_search

    parameters = parameters_of(options)
    study = parameters.study(parameters.corpora[0])
    systems = options.system or ["mgcl"]
    if options.out is not None and len(systems) > 1:
        raise ConfigError("--out names one preset, and several systems are to be searched: leave it out")
    for system in systems:
        result = run_search(study, parameters.trials, out=options.out, system=system)
        print(result.trials.to_string(index=False))
        mae = result.preset["from"]["validation_mae"]
        default = "not finite" if mae["default"] is None else f"{mae['default']:.4f}"
        print(f"{system}: validation MAE {mae['chosen']:.4f}, of the default settings {default}: {result.path}")


def multiverse(options: argparse.Namespace) -> None:
    from .reporting.multiverse import run_multiverse

    parameters = parameters_of(options)
    made = run_multiverse(parameters.study(parameters.corpora[0]))
    print(made.summary.to_string(index=False, float_format="{:.4f}".format), made.path, sep="\n")


def robustness(options: argparse.Namespace) -> None:
    from .data.absence import PROTOCOLS
    from .reporting.robustness import report

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # a line for each part of a font in a PDF
    parameters = parameters_of(options)
    for corpus in parameters.corpora:
        study = parameters.study(corpus)
        for table in report(study, options.protocol or PROTOCOLS):
            print(table.title, table.frame.to_string(), *table.footer, "", sep="\n")
        print(f"tables and figures: {study.artifacts}")


def bench(options: argparse.Namespace) -> None:
    from .bench.parts import Options, run_parts

    results = Path(options.results) if options.results else project_root() / "results"
    frame = run_parts(Options(options.device, options.corpus, results, options.mmsa, options.repeats), options.part)
    shown = [name for name in ("part", "what", "seconds", "low", "high", "floor", "ratio") if name in frame]
    print(frame[shown].to_string(index=False, float_format="{:.4g}".format))


def power(options: argparse.Namespace) -> None:
    from .bench.simulation import power
    from .statistics import MIN_SEEDS, MIN_VIDEOS

    frame = power(options.scheme, options.clips, options.videos, options.seeds, comparisons=options.comparisons)
    print(frame.to_string(float_format="{:.3f}".format))
    if frame.isna().any(axis=None):
        print(f"NaN: no p is given below {MIN_SEEDS} seeds or {MIN_VIDEOS:g} effective videos (docs/statistics.md)")


def floors(options: argparse.Namespace) -> None:
    from .reporting.floors import report

    print(report(options.source, options.text_model, options.device, options.out))


def statistics(options: argparse.Namespace) -> None:
    from .bench.simulation import as_markdown, simulate_all

    frame = simulate_all(options.data_sets, options.workers)
    if options.out is not None:
        frame.to_csv(options.out, index=False)
    print(as_markdown(frame))


def predict(options: argparse.Namespace) -> None:
    from .experiments.prediction import predict_file

    frame = predict_file(
        options.run,
        options.file,
        splits=options.split,
        device=options.device,
        out=options.out,
        tokens=options.tokens,
        download=options.download,
    )
    print(f"{len(frame)} clips predicted: {options.out}")


def cost(options: argparse.Namespace) -> None:
    from .reporting.costs import cost_lines

    parameters = parameters_of(options)
    for corpus in parameters.corpora:
        study = parameters.study(corpus)
        print(*cost_lines(study, systems=not options.no_systems, random=options.random_bert, out=options.out), sep="\n")


def distil(options: argparse.Namespace) -> None:
    from .reporting.costs import distil_lines

    changes = dict(text.partition("=")[::2] for text in options.changes)
    lines = distil_lines(options.run, changes, out=options.out, corpus=options.corpus, dataset=options.dataset,
                         device=options.device, workers=options.workers)  # fmt: skip
    print(*lines, sep="\n")


def export(options: argparse.Namespace) -> None:
    from .experiments.export import export
    from .experiments.runs import load_run

    print(f"exported to {export(load_run(options.run), options.folder)}")


def corpus(options: argparse.Namespace) -> None:
    from .data import load_corpus, table1
    from .data.corpus import describe_notes
    from .data.scaling import unusual_dimensions

    corpus = load_corpus(options.file, options.scheme, lengths=options.lengths, nonfinite=options.nonfinite)
    print(table1([corpus]).to_string(index=False))
    train = corpus.train
    text = "not tokenised" if train.text_bert is None else str(train.text_bert.shape[2])
    if corpus.text_dim is not None:
        text += f" (features {corpus.text_steps}×{corpus.text_dim})"
    print(f"form: {corpus.form}")
    if not corpus.has_words:
        print("the file has no words: its text is features alone, or absent (text_source='features')")
    print(
        f"scheme {corpus.scheme}, {'aligned' if corpus.aligned else 'unaligned'}, "
        f"text {text}, audio {train.audio.shape[1]}×{train.audio.shape[2]}, "
        f"vision {train.vision.shape[1]}×{train.vision.shape[2]}, "
        f"{'with' if train.unimodal_labels is not None else 'without'} y_T, y_V, y_A, SHA-256 {corpus.sha256}"
    )
    for line in describe_notes(corpus.notes):
        print(line)
    for row in unusual_dimensions(train).itertuples():
        print(f"{row.modality}: {row.count} of {row.of} dimensions are {row.kind} (from 0: {row.dimensions})")


def doctor(options: argparse.Namespace) -> None:
    from .notebooks.doctor import all_checks
    from .support.doctor import page

    checks = all_checks(options.results, verify=options.verify)
    print(page(checks))
    if problems := [check.name for check in checks if check.status == "problem"]:
        raise RunError(f"{len(problems)} of {len(checks)} checks found a problem: {', '.join(problems)}")


def settings(options: argparse.Namespace) -> None:
    from .config import meanings, preset

    chosen, default, does = preset(options.dataset, options.profile).as_dict(), Config().as_dict(), meanings()
    for name, value in chosen.items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        print(f"{f'{name}={shown}':<32} {' ' if value == default[name] else '*'} {does[name]}")
    print("*: differs from the paper's CH-SIMS settings; docs/decisions.md says why a decision is as it is")
