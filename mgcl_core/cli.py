"""The command line, ``mgcl``: a parser of its commands, and a function for each."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .config import DATASETS, PROFILES, VARIANTS, Config, parse
from .data.loading import LENGTH_RULES, NONFINITE_RULES
from .experiments.presets import read_preset, read_system_overrides
from .experiments.study import SEEDS
from .notebooks.parameters import Parameters
from .support.ends import AGAIN, explain
from .support.errors import DEBUG, ConfigError, RunError
from .support.parallel import available_cores
from .support.paths import project_root

DEFAULTS = Parameters()


_STATES = {"finished": "done", "damaged": "damaged"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``mgcl``; 0 when all went well, 2 on an error that the user can mend."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or a file of an encoding that lacks a name's characters
            stream.reconfigure(errors="backslashreplace")
    options = build_parser().parse_args(arguments)
    if options.debug:
        os.environ[DEBUG] = "1"  # for kernels and workers too
    logging.raiseExceptions = bool(os.environ.get(DEBUG))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has enough, as `| head` does
        _discard_output()
        return 0
    except KeyboardInterrupt as stopped:
        print(f"mgcl: {str(stopped) or f'stopped; {AGAIN}'}", file=sys.stderr)
        return 130
    except Exception as error:
        return _ended(error)
    return 0


def _ended(error: Exception) -> int:
    """Say in one sentence why a command ended; with ``--debug`` its traceback before. Gives the exit code."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    sentence = explain(error) or (
        f"unexpected {type(error).__name__}: {str(error).strip() or 'no message'} (a fault of this package; --debug "
        "shows where, `mgcl doctor` prints what a report needs)"
    )
    print("mgcl: " + " ".join(sentence.split()), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk under the output too
        _discard_output()
    return 2


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; `command` of what it gives is the function to call."""
    parser = argparse.ArgumentParser(prog="mgcl", description="Regenerate the tables and figures of the MGCL paper.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the notebooks in order, headlessly")
    run.add_argument(
        "--notebook",
        action="append",
        default=[],
        metavar="NUMBER",
        help="only this notebook, by number (may be repeated); default: the main job",
    )
    run.add_argument(
        "--all", action="store_true", help="the main job, the selection audit, the ten systems, missing modalities"
    )
    run.add_argument("--quiet", action="store_true", help="do not show what the notebooks log")
    run.set_defaults(command=_run)
    status = commands.add_parser("status", help="list what is done and what is missing")
    status.add_argument(
        "--watch", action="store_true", help="again and again until all is done: who trains what, where"
    )
    status.set_defaults(command=_status)
    search = commands.add_parser("search", help="search settings on validation, and write the best as a preset")
    search.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME",
        help="what is searched, each with the same budget (may be repeated): mgcl, or a compared system; default: mgcl",
    )
    search.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="PRESET",
        help="default: search/preset.json in the study's folder of results",
    )
    search.set_defaults(command=_search, preset=None)
    multiverse = commands.add_parser("multiverse", help="hold Table 5's claims under every reading of the paper")
    multiverse.set_defaults(command=_multiverse, preset=None)
    for command in (search, multiverse):
        command.add_argument(
            "--corpus",
            type=lambda name: [name],
            default=[DEFAULTS.corpus],
            metavar="NAME_OR_FILE",
            help=f"default: {DEFAULTS.corpus}",
        )
    robustness = commands.add_parser(
        "robustness", help="finished runs on clips that lack modalities: tables and curves"
    )
    robustness.add_argument(
        "--protocol", action="append", default=[], metavar="NAME", help="sets, random-sets, random-steps; default: all"
    )
    robustness.set_defaults(command=_robustness)
    cost = commands.add_parser(
        "cost", help="what a prediction costs by each system, beside what it reached; no training"
    )
    cost.add_argument("--no-systems", action="store_true", help="MGCL, its cheaper forms and students alone")
    cost.add_argument("--random-bert", action="store_true", help="with BERT-base of random weights: the cost alone")
    cost.add_argument("--out", type=Path, default=None, metavar="CSV", help="the numbers")
    cost.set_defaults(command=_cost)
    for command in (run, status, robustness, cost):
        command.add_argument(
            "--corpus",
            action="append",
            metavar="NAME_OR_FILE",
            help=f"may be repeated; default: {' and '.join(DEFAULTS.corpora)}",
        )
        command.add_argument(
            "--preset",
            action="append",
            metavar="FILE",
            help="settings of a preset file, as `mgcl search` writes it (may be repeated, a system each); --set goes "
            "before them",
        )
    for command, where in ((run, "of notebook 7: "), (search, "")):
        command.add_argument(
            "--trials",
            type=int,
            default=DEFAULTS.trials,
            metavar="N",
            help=f"{where}trials to be completed or pruned in all, earlier ones counted; default: %(default)s",
        )
    for command in (run, search, multiverse):
        command.add_argument(
            "--workers",
            default=DEFAULTS.workers,
            metavar="N",
            help="runs side by side on the device; default: one per core on a CPU with the profiles "
            "'demo' and 'small', else 1",
        )
        command.add_argument(
            "--cluster",
            default=None,
            metavar="CLUSTER",
            help="train there: tcp://HOST:PORT of a Dask scheduler, local (a worker a GPU, or a share of the cores), "
            "slurm:partition=gpu,gres=gpu:1,jobs=8,time=4:00:00 (docs/cluster.md)",
        )
    for command in (run, status, search, multiverse, robustness, cost):
        command.add_argument("--profile", default="auto", choices=["auto", *PROFILES])
        command.add_argument(
            "--dataset",
            default=None,
            choices=list(DATASETS),
            help="whose settings of the paper a file takes that is not known by its SHA-256",
        )
        command.add_argument("--seeds", default=",".join(map(str, DEFAULTS.seeds)), help="default: %(default)s")
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 …")
        command.add_argument(
            "--precision", default="auto", choices=["auto", "fp32", "bf16"], help="default: the profile's"
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            dest="overrides",
            help="change a setting (may be repeated); `mgcl settings` lists them",
        )
        command.add_argument("--results", default=None, metavar="FOLDER", help="default: results/ of the project")

    lab = commands.add_parser("lab", help="JupyterLab on copies of the notebooks (lab/), with a page to start from")
    lab.add_argument("options", nargs=argparse.REMAINDER, help="of JupyterLab itself, after --: -- --no-browser")
    lab.set_defaults(command=_lab)

    bench = commands.add_parser("bench", help="measure speed; results/bench/ keeps a table and one JSON per part")
    bench.add_argument("--part", action="append", default=[], metavar="NAME", help="only this part (may be repeated)")
    bench.add_argument("--corpus", default="synthetic-sims", choices=[f"synthetic-{name}" for name in DATASETS])
    bench.add_argument(
        "--mmsa",
        type=Path,
        default=None,
        metavar="PYTHON",
        help="interpreter of an environment with mmsa 2.2.1, for the part 'compared'",
    )
    bench.add_argument("--repeats", type=int, default=3, help="timed runs of each; default: %(default)s")
    bench.add_argument("--device", default="auto")
    bench.add_argument("--results", default=None, metavar="FOLDER", help="default: results/ of the project")
    bench.set_defaults(command=_bench)

    predict = commands.add_parser("predict", help="predict another feature file with a finished run")
    predict.add_argument("run", type=Path, help="directory of a finished MGCL run")
    predict.add_argument("file", help="feature file, or a known name; labels are not needed")
    predict.add_argument(
        "--out", type=Path, required=True, metavar="CSV", help="id, prediction and six unimodal predictions"
    )
    predict.add_argument("--split", action="append", default=[], metavar="NAME", help="default: every split")
    predict.add_argument("--device", default="auto")
    predict.add_argument(
        "--tokens",
        default=None,
        choices=["file", "raw_text"],
        help="the file's own token ids, or its sentences tokenised; default: as in the run",
    )
    predict.add_argument(
        "--download", action="store_true", help="fetch the text model from the hub where it is not on this machine"
    )
    predict.set_defaults(command=_predict)

    distil = commands.add_parser("distil", help="train a cheaper student of finished MGCL runs, and the same untaught")
    distil.add_argument(
        "run", type=Path, nargs="+", help="directories of finished MGCL runs that differ in their seeds"
    )
    distil.add_argument(
        "--corpus", default=None, metavar="FILE", help="that the runs were trained on, if no known name"
    )
    distil.add_argument("--dataset", default=None, choices=list(DATASETS), help="as for `mgcl run`")
    distil.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes",
                        help="text_layers, epochs, prediction_weight or feature_weight of the student")  # fmt: skip
    distil.add_argument("--out", type=Path, default=None, metavar="CSV", help="the numbers")
    distil.add_argument("--device", default="auto")
    distil.add_argument("--workers", type=_workers, default="auto", metavar="N", help="as for `mgcl run`")
    distil.set_defaults(command=_distil)

    export = commands.add_parser("export", help="write a finished MGCL run to one folder, for load_model and predict")
    export.add_argument("run", type=Path, help="directory of a finished run of MGCL or of a student")
    export.add_argument("folder", type=Path, help="new or empty")
    export.set_defaults(command=_export)

    power = commands.add_parser("power", help="what a test set could show, before anything is trained on it")
    power.add_argument("--clips", type=int, required=True, metavar="N", help="of the test set")
    power.add_argument("--videos", type=int, required=True, metavar="N", help="that the clips come from")
    power.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="default: %(default)s")
    power.add_argument("--scheme", choices=["sims", "mosi"], default="mosi", help="of the labels; default: %(default)s")
    power.add_argument(
        "--comparisons", type=int, default=1, metavar="N", help="of the table, for Holm; default: %(default)s"
    )
    power.set_defaults(command=_power)

    floors = commands.add_parser("floors", help="what a linear model on frozen text reaches: the least to beat")
    floors.add_argument("source", help="feature file, known name, or a CSV: video_id, clip_id, text, label, mode")
    floors.add_argument(
        "--text-model", action="append", default=[], metavar="NAME",
        help="frozen encoder of the text's language: hub id, folder or minilm (may be repeated); default: minilm",
    )  # fmt: skip
    floors.add_argument("--out", type=Path, default=None, metavar="CSV", help="the numbers, in full")
    floors.add_argument("--device", default="auto")
    floors.set_defaults(command=_floors)

    simulation = commands.add_parser("statistics", help="hold intervals and tests against a known truth: a simulation")
    simulation.add_argument(
        "--data-sets", type=int, default=2000, metavar="N", help="of each cell; default: %(default)s"
    )
    simulation.add_argument("--workers", type=int, default=available_cores(), metavar="N", help="default: one per core")
    simulation.add_argument("--out", type=Path, default=None, metavar="CSV", help="every cell, in full")
    simulation.set_defaults(command=_statistics)

    corpus = commands.add_parser("corpus", help="read and check a feature file")
    corpus.add_argument("file", help="feature file, or a known name")
    corpus.add_argument("--scheme", choices=["sims", "mosi"], default=None)
    corpus.add_argument("--lengths", choices=LENGTH_RULES, default="auto", help="which steps are data; default: auto")
    corpus.add_argument(
        "--nonfinite", choices=NONFINITE_RULES, default="error", help="zero: read NaN and infinity as 0"
    )
    corpus.set_defaults(command=_corpus)

    tried = commands.add_parser("runs", help="list what was tried: settings, validation score, age, size")
    tried.set_defaults(command=_runs)
    clean = commands.add_parser("clean", help="remove runs of another version, damaged ones, and what is asked for")
    clean.add_argument("--unfinished", action="store_true", help="runs that were stopped and could go on")
    clean.add_argument("--features", action="store_true", help="kept features, which are computed again where needed")
    clean.add_argument(
        "--run", action="append", default=[], metavar="NAME", help="this run, or those that a pattern fits ('MGCL-*')"
    )
    clean.add_argument("--yes", action="store_true", help="remove; without it they are only listed")
    clean.set_defaults(command=_clean)
    for command in (tried, clean):
        command.add_argument("--results", default=None, metavar="FOLDER", help="default: results/ of the project")

    listing = commands.add_parser("settings", help="list every setting: its value under a profile, and what it does")
    listing.add_argument("--dataset", default="sims", choices=["sims", "mosi", "mosei"])
    listing.add_argument("--profile", default="paper", choices=list(PROFILES))
    listing.set_defaults(command=_settings)

    doctor = commands.add_parser("doctor", help="check this machine: one page that a bug report can hold")
    doctor.add_argument("--results", type=Path, default=None, metavar="FOLDER", help="default: results/ of the project")
    doctor.add_argument("--verify", action="store_true", help="compare the contents of every result and cache, too")
    doctor.set_defaults(command=_doctor)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _workers(text: str) -> int | str:
    return text if text == "auto" else int(text)


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


def _run(options: argparse.Namespace) -> None:
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


def _lab(options: argparse.Namespace) -> None:
    from .notebooks.lab import open_lab

    open_lab([option for option in options.options if option != "--"])


def _status(options: argparse.Namespace) -> None:
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
            states.setdefault(run.stage.label, []).append(f"{run.seed} {_STATES.get(run.state, 'missing')}")
        for label, of_seeds in states.items():
            print(f"  {label:<12} {'   '.join(of_seeds)}")


def _runs(options: argparse.Namespace) -> None:
    import pandas as pd

    from .experiments.listing import experiments

    frames = [experiments(folder) for folder in sorted(_results(options).glob("*/*/runs"))]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if frame.empty:
        print(f"nothing was tried in {_results(options)}")
    else:
        print(frame.to_string(index=False, na_rep="", float_format="{:.3f}".format))


def _clean(options: argparse.Namespace) -> None:
    from .experiments.cleaning import removable, remove

    found = removable(_results(options), unfinished=options.unfinished, features=options.features, runs=options.run)
    gone, kept = remove(found) if options.yes else (found, [])
    for items, what in ((gone, "removed" if options.yes else "would go"), (kept, "in use, kept")):
        for item in items:
            print(f"{what}: {item.path} ({item.reason}, {item.bytes / 1e6:.1f} MB)")
    total = sum(item.bytes for item in gone) / 1e6
    print(f"{len(gone)} items, {total:.1f} MB" + ("" if options.yes or not gone else "; --yes removes them"))


def _results(options: argparse.Namespace) -> Path:
    return Path(options.results) if options.results else project_root() / "results"


def _search(options: argparse.Namespace) -> None:
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


def _multiverse(options: argparse.Namespace) -> None:
    from .reporting.multiverse import run_multiverse

    parameters = parameters_of(options)
    made = run_multiverse(parameters.study(parameters.corpora[0]))
    print(made.summary.to_string(index=False, float_format="{:.4f}".format), made.path, sep="\n")


def _robustness(options: argparse.Namespace) -> None:
    from .data.absence import PROTOCOLS
    from .reporting.robustness import report

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # a line for each part of a font in a PDF
    parameters = parameters_of(options)
    for corpus in parameters.corpora:
        study = parameters.study(corpus)
        for table in report(study, options.protocol or PROTOCOLS):
            print(table.title, table.frame.to_string(), *table.footer, "", sep="\n")
        print(f"tables and figures: {study.artifacts}")


def _bench(options: argparse.Namespace) -> None:
    from .bench.parts import Options, run_parts

    results = Path(options.results) if options.results else project_root() / "results"
    frame = run_parts(Options(options.device, options.corpus, results, options.mmsa, options.repeats), options.part)
    shown = [name for name in ("part", "what", "seconds", "low", "high", "floor", "ratio") if name in frame]
    print(frame[shown].to_string(index=False, float_format="{:.4g}".format))


def _power(options: argparse.Namespace) -> None:
    from .bench.simulation import power
    from .statistics import MIN_SEEDS, MIN_VIDEOS

    frame = power(options.scheme, options.clips, options.videos, options.seeds, comparisons=options.comparisons)
    print(frame.to_string(float_format="{:.3f}".format))
    if frame.isna().any(axis=None):
        print(f"NaN: no p is given below {MIN_SEEDS} seeds or {MIN_VIDEOS:g} effective videos (docs/statistics.md)")


def _floors(options: argparse.Namespace) -> None:
    from .reporting.floors import report

    print(report(options.source, options.text_model, options.device, options.out))


def _statistics(options: argparse.Namespace) -> None:
    from .bench.simulation import as_markdown, simulate_all

    frame = simulate_all(options.data_sets, options.workers)
    if options.out is not None:
        frame.to_csv(options.out, index=False)
    print(as_markdown(frame))


def _predict(options: argparse.Namespace) -> None:
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


def _cost(options: argparse.Namespace) -> None:
    from .reporting.costs import cost_lines

    parameters = parameters_of(options)
    for corpus in parameters.corpora:
        study = parameters.study(corpus)
        print(*cost_lines(study, systems=not options.no_systems, random=options.random_bert, out=options.out), sep="\n")


def _distil(options: argparse.Namespace) -> None:
    from .reporting.costs import distil_lines

    changes = dict(text.partition("=")[::2] for text in options.changes)
    lines = distil_lines(options.run, changes, out=options.out, corpus=options.corpus, dataset=options.dataset,
                         device=options.device, workers=options.workers)  # fmt: skip
    print(*lines, sep="\n")


def _export(options: argparse.Namespace) -> None:
    from .experiments.export import export
    from .experiments.runs import load_run

    print(f"exported to {export(load_run(options.run), options.folder)}")


def _corpus(options: argparse.Namespace) -> None:
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


def _doctor(options: argparse.Namespace) -> None:
    from .notebooks.doctor import all_checks
    from .support.doctor import page

    checks = all_checks(options.results, verify=options.verify)
    print(page(checks))
    if problems := [check.name for check in checks if check.status == "problem"]:
        raise RunError(f"{len(problems)} of {len(checks)} checks found a problem: {', '.join(problems)}")


def _settings(options: argparse.Namespace) -> None:
    from .config import meanings, preset

    chosen, default, does = preset(options.dataset, options.profile).as_dict(), Config().as_dict(), meanings()
    for name, value in chosen.items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        print(f"{f'{name}={shown}':<32} {' ' if value == default[name] else '*'} {does[name]}")
    print("*: differs from the paper's CH-SIMS settings; docs/decisions.md says why a decision is as it is")
