"""The command line, ``mgcl``: its parser, and how a command ends. What commands do is in `commands`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from . import commands
from .config import DATASETS, PROFILES
from .data.loading import LENGTH_RULES, NONFINITE_RULES
from .experiments.study import SEEDS
from .notebooks.parameters import Parameters
from .support.ends import AGAIN, explain
from .support.errors import DEBUG
from .support.parallel import available_cores

DEFAULTS = Parameters()


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
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    run = subparsers.add_parser("run", help="run the notebooks in order, headlessly")
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
    run.set_defaults(command=commands.run)
    status = subparsers.add_parser("status", help="list what is done and what is missing")
    status.add_argument(
        "--watch", action="store_true", help="again and again until all is done: who trains what, where"
    )
    status.set_defaults(command=commands.status)
    search = subparsers.add_parser("search", help="search settings on validation, and write the best as a preset")
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
    search.set_defaults(command=commands.search, preset=None)
    multiverse = subparsers.add_parser("multiverse", help="hold Table 5's claims under every reading of the paper")
    multiverse.set_defaults(command=commands.multiverse, preset=None)
    for command in (search, multiverse):
        command.add_argument(
            "--corpus",
            type=lambda name: [name],
            default=[DEFAULTS.corpus],
            metavar="NAME_OR_FILE",
            help=f"default: {DEFAULTS.corpus}",
        )
    robustness = subparsers.add_parser(
        "robustness", help="finished runs on clips that lack modalities: tables and curves"
    )
    robustness.add_argument(
        "--protocol", action="append", default=[], metavar="NAME", help="sets, random-sets, random-steps; default: all"
    )
    robustness.set_defaults(command=commands.robustness)
    cost = subparsers.add_parser(
        "cost", help="what a prediction costs by each system, beside what it reached; no training"
    )
    cost.add_argument("--no-systems", action="store_true", help="MGCL, its cheaper forms and students alone")
    cost.add_argument("--random-bert", action="store_true", help="with BERT-base of random weights: the cost alone")
    cost.add_argument("--out", type=Path, default=None, metavar="CSV", help="the numbers")
    cost.set_defaults(command=commands.cost)
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

    lab = subparsers.add_parser("lab", help="JupyterLab on copies of the notebooks (lab/), with a page to start from")
    lab.add_argument("options", nargs=argparse.REMAINDER, help="of JupyterLab itself, after --: -- --no-browser")
    lab.set_defaults(command=commands.lab)

    bench = subparsers.add_parser("bench", help="measure speed; results/bench/ keeps a table and one JSON per part")
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
    bench.set_defaults(command=commands.bench)

    predict = subparsers.add_parser("predict", help="predict another feature file with a finished run")
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
    predict.set_defaults(command=commands.predict)

    distil = subparsers.add_parser("distil", help="train cheaper students of finished MGCL runs")
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
    distil.set_defaults(command=commands.distil)

    export = subparsers.add_parser("export", help="write a finished MGCL run to one folder, for load_model and predict")
    export.add_argument("run", type=Path, help="directory of a finished run of MGCL or of a student")
    export.add_argument("folder", type=Path, help="new or empty")
    export.set_defaults(command=commands.export)

    power = subparsers.add_parser("power", help="what a test set could show, before anything is trained on it")
    power.add_argument("--clips", type=int, required=True, metavar="N", help="of the test set")
    power.add_argument("--videos", type=int, required=True, metavar="N", help="that the clips come from")
    power.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="default: %(default)s")
    power.add_argument("--scheme", choices=["sims", "mosi"], default="mosi", help="of the labels; default: %(default)s")
    power.add_argument(
        "--comparisons", type=int, default=1, metavar="N", help="of the table, for Holm; default: %(default)s"
    )
    power.set_defaults(command=commands.power)

    floors = subparsers.add_parser("floors", help="what a linear model on frozen text reaches: the least to beat")
    floors.add_argument("source", help="feature file, known name, or a CSV: video_id, clip_id, text, label, mode")
    floors.add_argument(
        "--text-model", action="append", default=[], metavar="NAME",
        help="frozen encoder of the text's language: hub id, folder or minilm (may be repeated); default: minilm",
    )  # fmt: skip
    floors.add_argument("--out", type=Path, default=None, metavar="CSV", help="the numbers, in full")
    floors.add_argument("--device", default="auto")
    floors.set_defaults(command=commands.floors)

    simulation = subparsers.add_parser("statistics", help="check intervals and tests on simulated data")
    simulation.add_argument(
        "--data-sets", type=int, default=2000, metavar="N", help="of each cell; default: %(default)s"
    )
    simulation.add_argument("--workers", type=int, default=available_cores(), metavar="N", help="default: one per core")
    simulation.add_argument("--out", type=Path, default=None, metavar="CSV", help="every cell, in full")
    simulation.set_defaults(command=commands.statistics)

    corpus = subparsers.add_parser("corpus", help="read and check a feature file")
    corpus.add_argument("file", help="feature file, or a known name")
    corpus.add_argument("--scheme", choices=["sims", "mosi"], default=None)
    corpus.add_argument("--lengths", choices=LENGTH_RULES, default="auto", help="which steps are data; default: auto")
    corpus.add_argument(
        "--nonfinite", choices=NONFINITE_RULES, default="error", help="zero: read NaN and infinity as 0"
    )
    corpus.set_defaults(command=commands.corpus)

    tried = subparsers.add_parser("runs", help="list what was tried: settings, validation score, age, size")
    tried.set_defaults(command=commands.runs)
    clean = subparsers.add_parser("clean", help="remove runs of another version, damaged ones, and what is asked for")
    clean.add_argument("--unfinished", action="store_true", help="runs that were stopped and could go on")
    clean.add_argument("--features", action="store_true", help="kept features, which are computed again where needed")
    clean.add_argument(
        "--run", action="append", default=[], metavar="NAME", help="this run, or those that a pattern fits ('MGCL-*')"
    )
    clean.add_argument("--yes", action="store_true", help="remove; without it they are only listed")
    clean.set_defaults(command=commands.clean)
    for command in (tried, clean):
        command.add_argument("--results", default=None, metavar="FOLDER", help="default: results/ of the project")

    listing = subparsers.add_parser("settings", help="list every setting: its value under a profile, and what it does")
    listing.add_argument("--dataset", default="sims", choices=["sims", "mosi", "mosei"])
    listing.add_argument("--profile", default="paper", choices=list(PROFILES))
    listing.set_defaults(command=commands.settings)

    doctor = subparsers.add_parser("doctor", help="check this machine: one page that a bug report can hold")
    doctor.add_argument("--results", type=Path, default=None, metavar="FOLDER", help="default: results/ of the project")
    doctor.add_argument("--verify", action="store_true", help="compare the contents of every result and cache, too")
    doctor.set_defaults(command=commands.doctor)
    for command in subparsers.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _workers(text: str) -> int | str:
    return text if text == "auto" else int(text)
