"""A finished run of MGCL as one folder for use elsewhere, and loading it.

The folder is a run directory that starts from no other run: weights of all encoders, scaling, tokeniser, settings, and
a record and `done` that list every file with its SHA-256. So it is read by what reads a run directory, under the same
rules: nothing in it is run, nothing is fetched, and what is not as it was written is an error. Predictions stay behind,
since they hold labels of the data.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ..data.batches import DeviceSplit
from ..data.corpus import BOUNDS
from ..data.text_model import copy_tokenizer, local_files_only, text_config
from ..support.devices import device_name
from ..support.errors import RunError
from ..support.files import atomic, write_json
from ..support.integrity import list_files, write_sealed
from ..support.provenance import timestamp
from ..trainer import HISTORY, SELECTION, WEIGHTS, save_weights
from .costs import full_clips, measure
from .distillation import lineage
from .model_card import model_card
from .run_records import DONE, RECORD, SCALER, TEXT_MODEL
from .runs import Run, load_run
from .stages import MGCLStage, shapes_of
from .text_input import encoded_width

CARD = "README.md"
TIMES = 10  # that a clip is timed for the card


def export(run: Run, folder: Path | str) -> Path:
    """Write a finished run of MGCL, or of a student of it, to ``folder``, which `load_model` reads.

    Returns:
        The folder.

    Raises:
        RunError: no run of MGCL, one that is not finished or is damaged, or the folder holds something.
        ConfigError: the text model is not the one that the run was trained with, or is not on this machine.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is no empty folder: export to another, or remove it")
    if not isinstance(run.stage, MGCLStage) or run.stage.whole:
        raise RunError(f"{run.name} is no run of MGCL in its results: there is nothing to export")
    with local_files_only():
        loaded = run.predictor("cpu")
        folder.mkdir(parents=True, exist_ok=True)
        if run.config.reads_words:
            copy_tokenizer(run.config.text_model, folder / TEXT_MODEL)
    weights = loaded.system.state_dict()
    for name, encoder in loaded.frozen.items():
        weights |= {f"encoders.{name}.{key}": values for key, values in encoder.state_dict().items()}
    save_weights(weights, folder / WEIGHTS)
    for name in (HISTORY, SELECTION, *([SCALER] if loaded.scaler is not None else [])):
        shutil.copyfile(run.file(name), folder / name)
    record = _own_record(run.record())
    write_json(folder / "config.json", record["config"])
    hours = sum(one.record()["seconds"] for one in lineage(run)) / 3600
    with atomic(folder / CARD) as temporary:
        temporary.write_text(_card(run, record, folder.name, hours), encoding="utf-8")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_sealed(folder / RECORD, {**record, "files": list_files(folder, files)})
    write_sealed(folder / DONE, {"finished": timestamp(), "files": list_files(folder, [*files, RECORD])})
    return folder


def load_model(folder: Path | str) -> Run:
    """The model that `export` wrote to ``folder``, which may be a stranger's; ``predict`` of it is `Run.predict`.

    Raises:
        RunError: there is none, or a file of it is not as it was written.
    """
    run = load_run(Path(folder))
    if not (isinstance(run.stage, MGCLStage) and run.stage.whole):
        raise RunError(f"{folder} is a run in a folder of results: load_run reads it, mgcl export makes a model of it")
    return run


def _own_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that starts from no other and names no folder of this machine."""
    name = record["config"]["text_model"]
    name = Path(name).name if Path(name).is_dir() else name
    text_model = {**record["text_model"], "name": name} if record["text_model"] else {}
    config = {**record["config"], "text_model": name}
    return {**record, "whole": True, "parents": [], "parent_weights": {}, "config": config, "text_model": text_model}


def _card(run: Run, record: dict[str, Any], folder: str, hours: float) -> str:
    config, source = run.config, record["corpus"]
    device, steps = torch.device("cpu"), config.text_steps
    if config.reads_words:
        steps = min(steps, text_config(config.text_model).max_position_embeddings)
    clips = full_clips(config, steps, clips=TIMES)
    bound = BOUNDS[source["scheme"]]
    shapes = shapes_of(config, bound=bound, clips=source["clips"][0], text_dim=encoded_width(config), text_steps=0)
    cost = measure(run.stage, shapes, DeviceSplit(clips, device, labelled=False))
    cost |= {"threads": torch.get_num_threads(), "repeats": TIMES, "tokens": steps}
    return model_card(run, record, cost, folder=folder, hours=hours, bound=bound, device=device_name(device))
