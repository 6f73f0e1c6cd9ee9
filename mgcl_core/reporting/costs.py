"""What each system costs beside what it reaches, and what a student keeps of its teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.corpus import video_of
from ..data.synthetic.random_bert import VOCABULARY, save_random_bert
from ..experiments.costs import BATCH, costs
from ..experiments.distillation import ALONE, STUDENT, distil, lineage, students, study_of
from ..experiments.registry import system_entry
from ..experiments.runs import Run
from ..experiments.study import Study
from ..statistics import Estimate, LeaveOneOut
from ..support.devices import device_name
from ..support.files import atomic
from .cells import ALPHA, NAN, REFERENCE

#: What is cheaper or dearer than MGCL in one setting: the row's name and the setting.
VARIANTS = {
    "shared encoders": {"encoders": "shared"},
    "pooled micro": {"micro": "pooled"},
    "all frozen": {"trained_encoders": ()},
}
GOAL = 0.01  # of Corr, within which a student should stay

COLUMNS = {
    "parameters": ("parameters, M", 1e-6, "{:.2f}"),
    "trained": ("trained, M", 1e-6, "{:.2f}"),
    "text": ("text, M", 1e-6, "{:.2f}"),
    "gflop": ("GFLOP a clip", 1, "{:.3g}"),
    "latency": ("latency, ms", 1e3, "{:.1f}"),
    "latency_p95": ("95 %, ms", 1e3, "{:.1f}"),
    "clips_per_second": ("clips/s", 1, "{:.0f}"),
    "peak_bytes": ("peak, MiB", 2**-20, "{:.0f}"),
    "disk_bytes": ("disk, MiB", 2**-20, "{:.1f}"),
    "hours": ("training, h", 1, "{:.2f}"),
}


def cost_rows(study: Study, *, systems: bool = True) -> dict[str, list[Run]]:
    """What the table of costs compares: MGCL, the same in each of `VARIANTS`, students, and the compared systems.

    Runs are finished or not; nothing is trained here.
    """
    rows = students(study)
    precision = "fp32" if study.base.precision == "bf16" else "bf16"
    for name, changes in {**VARIANTS, precision: {"precision": precision}}.items():
        rows[f"{REFERENCE}, {name}"] = study.with_overrides(changes).trainings()
    if systems:
        for run in study.comparisons():
            rows.setdefault(system_entry(run.stage.name).title, []).append(run)
    return rows


def cost_table(study: Study, rows: Mapping[str, Sequence[Run]], *, reference: str = REFERENCE) -> pd.DataFrame:
    """A row for each of ``rows``: what a prediction costs, and what the finished runs among them reached on test.

    Returns:
        Columns ``system``, those of `experiments.costs.measure`, ``hours`` (of training, with all that the run starts
        from, the mean over seeds), ``seeds``, ``corr`` and ``mae`` with ``_low`` and ``_high``, and ``difference``,
        ``difference_low``, ``difference_high`` and ``detectable``: Corr minus the reference's over the seeds that both
        have. NaN where no run is finished, or too few for an interval.
    """
    same = {ALONE: STUDENT} if STUDENT in rows else {}  # one system, whoever taught it
    measured = costs(study, {name: runs[0] for name, runs in rows.items() if name not in same})
    measured |= {name: measured[other] for name, other in same.items()}
    table = []
    for name, runs in rows.items():
        done = [run for run in runs if run.done]
        row = {"system": name, **measured[name], "hours": _hours(done), "seeds": len(done)}
        scores = _scores(study, done)
        for metric in ("corr", "mae"):
            found = scores.estimate(metric) if scores else None
            low, high = found.interval() if found else (NAN, NAN)
            row |= {metric: float(found.value) if found else NAN, f"{metric}_low": low, f"{metric}_high": high}
        row |= _difference(paired_corr(study, runs, rows[reference]) if name != reference else None)
        table.append(row)
    return pd.DataFrame(table)


def paired_corr(study: Study, runs: Sequence[Run], others: Sequence[Run]) -> Estimate | None:
    """Corr of ``runs`` minus that of ``others`` on test, over the seeds that both have finished; None without any."""
    done, of_others = ({run.seed: run for run in group if run.done} for group in (runs, others))
    common = [seed for seed in done if seed in of_others]
    if not common:
        return None
    ours, theirs = (_scores(study, [group[seed] for seed in common]) for group in (done, of_others))
    return (ours - theirs).estimate("corr")


def readable(table: pd.DataFrame, *, reference: str = REFERENCE) -> pd.DataFrame:
    """The table of `cost_table` as a person reads it: units in the heads, "–" for what is not known."""
    shown = {
        head: [_text(value * scale, form) for value in table[name]] for name, (head, scale, form) in COLUMNS.items()
    }
    for metric, head in (("corr", "Corr"), ("mae", "MAE"), ("difference", f"Corr − {reference}")):
        rows = table[[metric, f"{metric}_low", f"{metric}_high"]].itertuples(index=False)
        shown[head] = [_with_interval(*row, signed=metric == "difference") for row in rows]
    shown["detectable"] = [_text(value, "{:.3f}") for value in table["detectable"]]
    trained = table["seeds"].map(lambda seeds: "" if seeds else "not trained")
    return pd.DataFrame({"system": table["system"], **shown, "": trained}).set_index("system")


def about(study: Study) -> str:
    """What stands below the table."""
    synthetic = " (synthetic)" if study.corpus.synthetic else ""
    return (
        f"{study.corpus.name}{synthetic}, validation clips, on {device_name(study.device)}, {study.base.precision}. "
        "Parameters, operations and memory are those of all that a prediction passes through; trained: in the last "
        f"stage. GFLOP: forward, a clip by itself, two for a multiplication and its addition. Clips/s in batches of "
        f"{BATCH}. Peak: beyond what the process held before, weights included. Corr and MAE: on test, mean over seeds "
        "with its 95 % interval; detectable: the smallest true difference that the paired test finds 4 times in 5."
    )


def distillation_lines(study: Study, rows: Mapping[str, Sequence[Run]], table: pd.DataFrame) -> list[str]:
    """What the rows of `experiments.distillation.students` say, in sentences; no verdict where none can be given."""
    teacher = next(iter(rows))
    gflop = table.set_index("system")["gflop"]
    lines = []
    for name in (STUDENT, ALONE):
        found, share = paired_corr(study, rows[name], rows[teacher]), gflop[name] / gflop[teacher]
        lines.append(f"{name}, {share:.0%} of the GFLOP of {teacher}: Corr − {teacher} {in_words(found)}")
    gain = paired_corr(study, rows[STUDENT], rows[ALONE])
    lines.append(f"what the teacher adds: Corr of the student − without a teacher {in_words(gain, goal=False)}")
    return [*lines, *anything_to_distil(paired_corr(study, rows[ALONE], rows[teacher]), teacher)]


def in_words(found: Estimate | None, *, goal: bool = True) -> str:
    """A paired difference of Corr with its interval, and what follows from it."""
    if found is None:
        return "unknown: no seed that both have finished"
    low, high = found.interval() if found.seeds > 1 else (NAN, NAN)
    value = f"{float(found.value):+.3f}"
    if np.isnan(low) or np.isnan(found.p):
        return f"{value}, without an interval: no verdict"
    verdict = []
    if found.p < ALPHA:
        verdict.append("higher" if found.value > 0 else "lower")
    if goal and low > -GOAL:
        verdict.append(f"not lower by {GOAL:g} or more")
    undecided = f"no verdict, since only a difference of {float(found.detectable()):.3f} could be detected"
    return f"{value} [{float(low):+.3f}, {float(high):+.3f}]: {' and '.join(verdict) or undecided}"


def anything_to_distil(alone: Estimate | None, teacher: str) -> list[str]:
    """From Corr of the student without a teacher minus the teacher's: whether there was anything to distil."""
    if alone is None or alone.seeds < 2 or np.isnan(alone.p):
        return []
    if alone.interval()[0] > -GOAL:
        return [f"Nothing to distil: without a teacher the student is not lower than {teacher} by {GOAL:g} or more."]
    if alone.p < ALPHA:
        return []
    least = f"{float(alone.detectable()):.3f}"
    return [
        f"Whether there is anything to distil is open: {least} is the least that could be detected between the two."
    ]


def cost_lines(study: Study, *, systems: bool = True, random: bool = False, out: Path | None = None) -> list[str]:
    """What ``mgcl cost`` prints.

    Args:
        study: Whose systems are measured.
        systems: The compared systems too.
        random: With a BERT-base of random weights in place of the study's text model: the cost of the paper's shapes.
        out: A CSV of the table's numbers.
    """
    if random:
        with tempfile.TemporaryDirectory() as folder:
            ids = (split.text_bert for split in study.corpus.splits if split.text_bert is not None)
            save_random_bert(Path(folder), words=max(VOCABULARY, *(1 + int(each[:, 0].max()) for each in ids)))
            changed = study.with_overrides({"text_model": folder, "check_vocabulary": False})
            return cost_lines(changed, systems=systems, out=out)
    rows = cost_rows(study, systems=systems)
    table = cost_table(study, rows)
    write_table(table, out)
    return [readable(table).T.to_string(), about(study)]


def distil_lines(
    directories: Sequence[Path], changes: Mapping[str, str], *, out: Path | None = None, **options: object
) -> list[str]:
    """What ``mgcl distil`` does and prints: students of the runs in ``directories``, beside what they cost."""
    study, variant = study_of(directories, **options)
    rows = distil(study, changes, variant=variant)
    table = cost_table(study, rows, reference=variant)
    write_table(table, out)
    folders = [f"{run.stage.label}: {run.directory}" for name in (STUDENT, ALONE) for run in rows[name]]
    return [
        *folders,
        readable(table, reference=variant).T.to_string(),
        about(study),
        *distillation_lines(study, rows, table),
    ]


def write_table(table: pd.DataFrame, path: Path | None) -> None:
    """Write the numbers of a table of costs as CSV, where a path is given."""
    if path is not None:
        with atomic(Path(path)) as temporary:
            table.to_csv(temporary, index=False)


def _scores(study: Study, runs: Sequence[Run]) -> LeaveOneOut | None:
    """Test scores of finished ``runs``, a seed each."""
    if not runs:
        return None
    frames = [study.predictions(run) for run in runs]
    predicted = np.stack([frame["prediction"].to_numpy() for frame in frames])
    videos = [video_of(clip) for clip in frames[0]["id"]]
    return LeaveOneOut.of(frames[0]["label"].to_numpy(), predicted, study.corpus.scheme, videos)


def _hours(runs: Sequence[Run]) -> float:
    seconds = [sum(one.record()["seconds"] for one in lineage(run)) for run in runs]
    return float(np.mean(seconds)) / 3600 if seconds else NAN


def _difference(found: Estimate | None) -> dict[str, float]:
    low, high = found.interval() if found and found.seeds > 1 else (NAN, NAN)
    value, detectable = (float(found.value), float(found.detectable())) if found else (NAN, NAN)
    return {"difference": value, "difference_low": low, "difference_high": high, "detectable": detectable}


def _text(value: float, form: str) -> str:
    return "–" if np.isnan(value) else form.format(value)


def _with_interval(value: float, low: float, high: float, *, signed: bool) -> str:
    form = "{:+.3f}" if signed else "{:.3f}"
    interval = "" if np.isnan(low) else f" [{form.format(low)}, {form.format(high)}]"
    return _text(value, form) + interval
