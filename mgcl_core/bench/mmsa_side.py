"""The other side of `mgcl_core.bench.compared`: mmsa 2.2.1's own model and trainer, run in mmsa's environment.

    python -P mmsa_side.py self_mm clips.safetensors --clips 1368 --threads 2

It trains by mmsa's own ``do_train``, unchanged: its settings for CH-SIMS, its optimiser, its accumulation of gradients.
The first epoch warms up; then each line on standard input asks for one epoch. Each is answered by its seconds.

What is replaced, none of it at mmsa's cost: the loader, by one that takes its batches from memory; the evaluation after
an epoch, by the answer; and for MulT the scheduler, to which mmsa passes an argument that torch no longer has.
The working directory holds the folder ``bert-base-chinese``, which mmsa asks for by name.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import torch
from safetensors.torch import load_file
from torch import Tensor


class Clips:
    """Shuffled batches in the form of mmsa's loader; ``seconds`` is how long the last pass took, training included."""

    def __init__(self, values: dict[str, Tensor], batch_size: int):
        self.values, self.batch_size, self.seconds = values, batch_size, math.nan

    def __len__(self) -> int:
        return -(-len(self.values["labels"]) // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        started = time.perf_counter()
        for rows in torch.randperm(len(self.values["labels"])).split(self.batch_size):
            batch = {name: values[rows] for name, values in self.values.items()}
            yield {**batch, "labels": {"M": batch["labels"][:, None]}, "index": rows, "id": rows.tolist()}
        self.seconds = time.perf_counter() - started


def load(path: Path, count: int, *, tokens: bool, averaged: bool) -> dict[str, Tensor]:
    """The first ``count`` clips as mmsa's data set holds them, text under one name."""
    values = {name: value[:count].clone() for name, value in load_file(path).items()}
    values["text"] = values["tokens"].float() if tokens else values["text"]
    if averaged:  # mmsa does so once, when it reads the file
        values.update({name: values[name].mean(1, keepdim=True) for name in ("audio", "vision")})
    del values["tokens"]
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", help="mmsa's name of it")
    parser.add_argument("file", type=Path, help="tokens, text, audio, vision, audio_lengths, vision_lengths, labels")
    parser.add_argument("--clips", type=int, required=True, help="how many of the file to train on")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    torch.set_num_threads(options.threads)
    torch.manual_seed(1111)

    from MMSA.config import get_config_regression
    from MMSA.models.AMIO import AMIO
    from MMSA.trains.ATIO import ATIO

    args = get_config_regression(options.system, "sims")
    args.update(device="cpu", train_mode="regression", cur_seed=1, early_stop=math.inf, train_samples=options.clips)
    values = load(
        options.file, options.clips, tokens=bool(args.get("use_bert")), averaged=bool(args.get("need_normalized"))
    )
    args.feature_dims = [768, values["audio"].shape[2], values["vision"].shape[2]]
    args.seq_lens = [
        values["text"].shape[-1 if args.get("use_bert") else 1],
        *(values[name].shape[1] for name in ("audio", "vision")),
    ]
    # As an attribute of its package the module is hidden by the class of the same name.
    scheduling = importlib.import_module("MMSA.trains.singleTask.MULT")
    plateau = scheduling.ReduceLROnPlateau
    scheduling.ReduceLROnPlateau = lambda optimizer, verbose, **others: plateau(optimizer, **others)

    clips = Clips(values, args.batch_size)

    def answer(*_args, **_options) -> dict[str, float]:
        answers.write(f"{clips.seconds}\n")
        answers.flush()
        if not sys.stdin.readline():
            sys.exit()
        return {"Loss": math.inf}  # never better, so no weights are saved

    trainer = ATIO().getTrain(args)
    trainer.do_test = answer
    trainer.do_train(AMIO(args), {"train": clips, "valid": None})


if __name__ == "__main__":
    main()
