"""Distillation: from finished runs of MGCL to students of them, and to the same students without a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import VARIANTS, Config
from ..data import load_corpus
from ..data.text_model import text_config
from ..support.errors import RunError
from ..support.typed_values import read_fields
from .registry import config_for
from .run_records import DONE
from .runs import Run, load_run
from .stages import MGCLStage, StudentStage
from .student import StudentSettings
from .study import READING, Study

#: What makes a student cheaper, beside fewer layers of text: one encoder per modality, and no micro sequences.
CHEAPER: dict[str, Any] = {"encoders": "shared", "micro": "pooled", "trained_encoders": ("T", "V", "A")}
#: Names of the rows, as variants of MGCL.
STUDENT, ALONE = "student", "student w/o teacher"


def student_settings(config: Config, teacher: str | None, changes: Mapping[str, Any] | None = None) -> StudentSettings:
    """Settings of a student of a run with the settings ``config``.

    By default it keeps half of the text model's layers, which is a quarter of what two text encoders compute, has as
    many epochs as both stages give audio and vision encoders, and weights both distances to the teacher by 1.

    Args:
        config: Of the teacher.
        teacher: Name of its run; None for the student without a teacher.
        changes: Settings that differ, by name.

    Raises:
        ConfigError: An unknown name, or a value that it may not have.
    """
    layers = getattr(text_config(config.text_model), "num_hidden_layers", 2) if config.reads_words else 2
    usual = {"text_layers": max(1, layers // 2), "epochs": config.sequence_epochs + config.mgcl_epochs}
    values = {**usual, "prediction_weight": 1.0, "feature_weight": 1.0, **(changes or {}), "teacher": teacher}
    if teacher is None:  # they weigh nothing then, and must not give the run other names
        values |= {"prediction_weight": 0.0, "feature_weight": 0.0}
    return StudentSettings(**read_fields(StudentSettings, values, "setting of a student"))


def student_run(study: Study, teacher: Run, changes: Mapping[str, Any] | None = None, *, alone: bool = False) -> Run:
    """The student of ``teacher``, a run of ``study``; ``alone``: the same without a teacher."""
    own = student_settings(teacher.config, None if alone else teacher.name, changes)
    return study.run_of(StudentStage(teacher.config.override(CHEAPER), ALONE if alone else STUDENT, own=own))


def students(study: Study, changes: Mapping[str, Any] | None = None, *, variant: str = "MGCL") -> dict[str, list[Run]]:
    """Teachers, students, and students without a teacher, a run each for every seed of ``study``, finished or not."""
    teachers = study.trainings([variant])
    rows = {name: [student_run(study, t, changes, alone=name == ALONE) for t in teachers] for name in (STUDENT, ALONE)}
    return {variant: teachers, **rows}


def distil(study: Study, changes: Mapping[str, Any] | None = None, *, variant: str = "MGCL") -> dict[str, list[Run]]:
    """Finish all runs of `students`, the teachers first."""
    rows = students(study, changes, variant=variant)
    study.finish_all(rows[variant])
    study.finish_all([run for name, runs in rows.items() if name != variant for run in runs])
    return rows


def lineage(run: Run) -> list[Run]:
    """The run and all that were trained for it: those it starts from, and its teacher's where that lies beside it."""
    teacher = run.directory.parent / run.stage.teacher if run.stage.teacher else None
    taught = lineage(load_run(teacher)) if teacher is not None and (teacher / DONE).exists() else []
    return [run, *run.parents, *taught]


def study_of(
    directories: Sequence[Path], *, corpus: str | Path | None = None, dataset: str | None = None, **options: Any
) -> tuple[Study, str]:
    """The study that finished runs of MGCL belong to, and their variant; they differ in their seeds alone.

    Args:
        directories: Of the runs, in a folder of results.
        corpus: The feature file that they were trained on, where it is no known name.
        dataset: Whose settings of the paper a file takes, as for `Study`.
        **options: Of `Study`: ``device``, ``workers``.

    Raises:
        RunError: They are no runs of MGCL, of more than one study, or not of this corpus.
    """
    runs = [load_run(Path(directory).resolve()) for directory in directories]
    first = runs[0]
    for run in runs:
        if type(run.stage) is not MGCLStage or run.stage.whole:
            raise RunError(f"{run.directory}: a teacher is a run of MGCL in the results that it was trained in")
    record, config = first.record(), first.config
    source, scheme = corpus or record["corpus"]["name"], record["corpus"]["scheme"]
    read = load_corpus(source, scheme, dataset=dataset, lengths=config.lengths, nonfinite=config.nonfinite)
    usual, reading = config_for(read, record["profile"]).as_dict(), Config().as_dict()
    usual |= {name: reading[name] for name in READING}  # as a study reads a file that is not told otherwise
    fixed = {"seed", "precision", *VARIANTS.get(first.variant, ())}
    overrides = {name: value for name, value in config.as_dict().items() if value != usual[name] and name not in fixed}
    if record["profile"] == "paper" and read.dataset is None:
        overrides["text_model"] = config.text_model  # says whose settings these are
    study = Study(
        source,
        record["profile"],
        seeds=[run.seed for run in runs],
        overrides=overrides,
        precision=config.precision,
        results=first.directory.parents[3],
        scheme=scheme,
        dataset=dataset,
        **options,
    )
    for run in runs:
        expected = study.system_run("mgcl", run.seed, run.variant)
        if expected.directory.resolve() != run.directory or run.variant != first.variant:
            raise RunError(f"{run.directory} does not belong to the study of {first.name} on {read.name}: "
                           f"expected {expected.directory}")  # fmt: skip
    return study, first.variant
