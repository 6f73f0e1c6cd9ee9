"""Speed of the compared systems against those of mmsa 2.2.1: training epochs by turns, on the same clips."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from transformers import BertConfig, BertModel

from ..baselines import SYSTEMS
from ..data import Corpus, Split, load_corpus
from ..data.batches import DeviceSplit
from ..support.errors import RunError, nearest
from ..support.parallel import cpu_threads
from ..system import Shapes, System
from ..trainer import Schedule, fit

#: The systems that mmsa holds, under its names. Its settings for CH-SIMS, which are also ours, include some for
#: BERT_MAG, although neither its authors nor the paper's Table 3 report results there.
MMSA_NAMES = {
    "lf_dnn": "lf_dnn",
    "mfn": "mfn",
    "lmf": "lmf",
    "tfn": "tfn",
    "mult": "mult",
    "misa": "misa",
    "mag_bert": "bert_mag",
    "self_mm": "self_mm",
}
#: Clips of an epoch where mmsa takes more than about 15 seconds for all 1368, in whole batches of both sides.
CLIPS = {"tfn": 256, "mult": 128, "misa": 128, "mag_bert": 256, "self_mm": 256}
SIDE = Path(__file__).with_name("mmsa_side.py")
BERT = "bert-base-chinese"  # the name by which mmsa asks for it
TEXT_DIM, WORDS = 768, 21128
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


def compared(
    mmsa_python: Path,
    *,
    systems: Sequence[str] = tuple(MMSA_NAMES),
    repeats: int = 3,
    corpus: Corpus | str = "synthetic-sims",
    threads: int = 2,
) -> pd.DataFrame:
    """Seconds of one training epoch on the CPU, ours and mmsa's.

    Ours is an epoch of `mgcl_core.trainer.fit` with the published settings, one clip of validation included; mmsa's is
    one of its own trainers (``mmsa_side.py``). Each side first warms up for an epoch; then they take turns, so that
    whatever else the machine does falls on both. Frozen text is random numbers of width 768; a fine-tuned encoder is a
    random BERT of two layers, of width 768.

    Args:
        mmsa_python: the interpreter of an environment with mmsa 2.2.1 (``make .venv-mmsa/.installed``).
        systems: which of `MMSA_NAMES`.
        repeats: timed epochs of each side.
        corpus: a corpus, or the name of one, with token ids of a vocabulary of 21,128.
        threads: of each side.

    Returns:
        A row a system: ``system``, ``clips`` of an epoch (`CLIPS`), ``batch_size`` in clips of a step (the MulT,
        MISA and Self-MM of mmsa accumulate it from smaller batches), ``ours_seconds`` (the median), ``ours_low`` and
        ``ours_high``, likewise for ``mmsa``, and ``ratio``, mmsa's median over ours.

    Raises:
        RunError: a system that mmsa does not hold, or mmsa's process ended.
    """
    for system in systems:
        if system not in MMSA_NAMES:
            raise RunError(f"mmsa holds no system {system!r}: {nearest(system, MMSA_NAMES)}")
    corpus = load_corpus(corpus) if isinstance(corpus, str) else corpus
    train, rows = with_text(corpus.train), []
    with tempfile.TemporaryDirectory() as name, cpu_threads(threads):
        folder = Path(name)
        save_random_bert(folder / BERT)
        save_clips(train, folder / "clips.safetensors")
        for system in systems:
            clips = min(CLIPS.get(system, len(train)), len(train))
            command = [
                str(mmsa_python.absolute()),
                "-P",
                str(SIDE),
                MMSA_NAMES[system],
                "clips.safetensors",
                "--clips",
                str(clips),
                "--threads",
                str(threads),
            ]
            with _process(command, folder) as mmsa_epoch:
                ours, theirs = _take_turns(system, train.first(clips), corpus.bound, folder, repeats, mmsa_epoch)
            rows.append(
                {
                    "system": system,
                    "clips": clips,
                    "batch_size": SYSTEMS[system].published["sims"].batch_size,
                    **_spread("ours", ours),
                    **_spread("mmsa", theirs),
                    "ratio": float(np.median(theirs) / np.median(ours)),
                }
            )
    return pd.DataFrame(rows)


def _take_turns(
    system: str, train: Split, bound: float, folder: Path, repeats: int, mmsa_epoch: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of ``repeats`` epochs of each side, ours after an epoch of warming up."""
    spec = SYSTEMS[system]
    settings = spec.published["sims"]
    (audio_steps, audio_dim), (vision_steps, vision_dim) = train.audio.shape[1:], train.vision.shape[1:]
    torch.manual_seed(1111)
    built = spec.build(
        settings,
        Shapes(
            TEXT_DIM,
            train.text_bert.shape[2],
            audio_dim,
            audio_steps,
            vision_dim,
            vision_steps,
            bound,
            len(train),
            str(folder / BERT),
        ),
    )
    schedule = Schedule(
        1 + repeats, settings.batch_size, settings.weight_decay, settings.warmup_epochs, settings.clip_norm
    )
    splits = [DeviceSplit(split, torch.device("cpu")) for split in (train, train.first(1))]
    theirs: list[float] = []

    def take_turn(epoch: int, _system: System) -> None:
        if epoch > 1:
            theirs.append(mmsa_epoch())

    with tempfile.TemporaryDirectory() as runs:
        history = fit(built, *splits, schedule, seed=1111, directory=Path(runs), after_epoch=take_turn).history
    return [row["seconds"] for row in history[1:]], theirs


def _spread(side: str, seconds: list[float]) -> dict[str, float]:
    return {f"{side}_seconds": float(np.median(seconds)), f"{side}_low": min(seconds), f"{side}_high": max(seconds)}


@contextlib.contextmanager
def _process(command: Sequence[str], folder: Path) -> Iterator[Callable[[], float]]:
    """mmsa's process, warmed up: each call is an epoch, and gives its seconds."""
    with (folder / "mmsa.log").open("w+", errors="replace") as log, contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(
                subprocess.Popen(
                    command, cwd=folder, stdin=subprocess.PIPE, bufsize=0, stdout=subprocess.PIPE, stderr=log
                )
            )
        except OSError as error:
            raise RunError(f"mmsa's interpreter cannot be started: {error}") from error

        def answer() -> float:
            line = process.stdout.readline()
            if not line:
                code = process.wait()
                log.seek(0)
                last = log.read().strip().splitlines()[-1:] or ["it said nothing"]
                raise RunError(f"mmsa's process ended with code {code}: {last[0]}")
            return float(line)

        def epoch() -> float:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and the missing answer says why
                process.stdin.write(b"\n")
            return answer()

        answer()  # of the warm-up
        yield epoch


def with_text(split: Split) -> Split:
    """The split with random text embeddings (N, L, 768); a clip's depend on its place alone."""
    shape = (len(split), split.text_bert.shape[2], TEXT_DIM)
    return dataclasses.replace(split, text=np.random.default_rng(1).standard_normal(shape, np.float32))


def save_clips(split: Split, path: Path) -> None:
    """Write what mmsa's side reads."""
    arrays = {
        "tokens": split.text_bert,
        "text": split.text,
        "audio": split.audio,
        "vision": split.vision,
        "audio_lengths": split.audio_mask.sum(1),
        "vision_lengths": split.vision_mask.sum(1),
        "labels": split.labels,
    }
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path)


def save_random_bert(folder: Path, layers: int = 2, size: int = WORDS) -> None:
    """Write a BERT with random weights, and a vocabulary of placeholders, as long as BERT's Chinese one."""
    BertModel(BertConfig(vocab_size=size, num_hidden_layers=layers)).save_pretrained(folder)
    words = [SPECIAL.get(place, f"[unused{place}]") for place in range(size)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
