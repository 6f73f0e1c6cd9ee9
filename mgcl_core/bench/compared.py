"""Speed of the compared systems against those of mmsa 2.2.1: training epochs by turns, on the same clips."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from ..baselines import COMPARED_SYSTEMS
from ..data import Corpus, Split, load_corpus
from ..data.batches import DeviceSplit
from ..data.synthetic.random_bert import save_random_bert
from ..support.errors import RunError, nearest
from ..support.parallel import cpu_threads
from ..system import Shapes, System
from ..trainer import Schedule, fit
from .measure import Row

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
#: Clips of an epoch where mmsa takes more than about 15 seconds for all 1,368, in whole batches of both sides.
CLIPS = {"tfn": 256, "mult": 128, "misa": 128, "mag_bert": 256, "self_mm": 256}
SCRIPT = Path(__file__).with_name("mmsa_side.py")
BERT = "bert-base-chinese"  # the name by which mmsa asks for it
TEXT_WIDTH = 768


def compare_with_mmsa(
    mmsa_python: Path,
    *,
    systems: Sequence[str] = tuple(MMSA_NAMES),
    repeats: int = 3,
    corpus: Corpus | str = "synthetic-sims",
    threads: int = 2,
) -> Iterator[Row]:
    """Time one training epoch on the CPU, ours and mmsa's.

    Ours is an epoch of `mgcl_core.trainer.fit` with the published settings, one clip of validation included; mmsa's is
    one of its own trainers (``mmsa_side.py``). Each side first warms up for an epoch; then they take turns, so that
    whatever else the machine does falls on both. Frozen text is random numbers of width 768; a fine-tuned encoder is a
    random BERT of two layers, of width 768.

    Args:
        mmsa_python: The interpreter of an environment with mmsa 2.2.1 (``make .venv-mmsa/.installed``).
        systems: Which of `MMSA_NAMES`.
        repeats: Timed epochs of each side.
        corpus: A corpus, or the name of one, with token ids of a vocabulary of 21,128.
        threads: Of each side.

    Yields:
        One row per system: ``clips`` of an epoch (`CLIPS`), ``batch_size`` in clips of a step (the MulT, MISA and
        Self-MM of mmsa accumulate it from smaller batches), ``ours_seconds`` (the median), ``ours_low`` and
        ``ours_high``, likewise for ``mmsa``, and ``ratio``, mmsa's median over ours.

    Raises:
        RunError: A system that mmsa does not hold, or mmsa's process ended.
    """
    for system in systems:
        if system not in MMSA_NAMES:
            raise RunError(f"mmsa holds no system {system!r}: {nearest(system, MMSA_NAMES)}")
    corpus = load_corpus(corpus) if isinstance(corpus, str) else corpus
    train = with_random_text(corpus.train)
    with tempfile.TemporaryDirectory() as name, cpu_threads(threads):
        folder = Path(name)
        save_random_bert(folder / BERT, layers=2)
        save_clips(train, folder / "clips.safetensors")
        for system in systems:
            clips = train.first(CLIPS.get(system, len(train)))
            command = [mmsa_python.absolute(), "-P", SCRIPT, MMSA_NAMES[system], "clips.safetensors"]
            command += ["--clips", len(clips), "--threads", threads]
            with _mmsa_process([str(word) for word in command], folder) as mmsa_epoch:
                ours, mmsa = _take_turns(system, clips, corpus.bound, str(folder / BERT), repeats, mmsa_epoch)
            values: Row = {"what": f"{system}, epoch", "corpus": corpus.name, "system": system, "clips": len(clips)}
            values["batch_size"] = COMPARED_SYSTEMS[system].published["sims"].batch_size
            for side, seconds in (("ours", ours), ("mmsa", mmsa)):
                values |= {f"{side}_seconds": float(np.median(seconds)), f"{side}_low": min(seconds)}
                values[f"{side}_high"] = max(seconds)
            yield values | {"ratio": values["mmsa_seconds"] / values["ours_seconds"]}


def with_random_text(split: Split) -> Split:
    """Give the split random text embeddings (N, L, 768)."""
    shape = (len(split), split.text_bert.shape[2], TEXT_WIDTH)
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


def _take_turns(
    system: str, clips: Split, bound: float, text_model: str, repeats: int, mmsa_epoch: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Return the seconds of ``repeats`` epochs of each side, ours after an epoch of warming up."""
    entry = COMPARED_SYSTEMS[system]
    settings = entry.published["sims"]
    (audio_steps, audio_dim), (vision_steps, vision_dim) = clips.audio.shape[1:], clips.vision.shape[1:]
    shapes = Shapes(TEXT_WIDTH, clips.text_bert.shape[2], audio_dim, audio_steps, vision_dim, vision_steps,
                    bound=bound, clips=len(clips), text_model=text_model)  # fmt: skip
    schedule = Schedule(
        1 + repeats, settings.batch_size, settings.weight_decay, settings.warmup_epochs, settings.clip_norm
    )
    train, valid = (DeviceSplit(split, torch.device("cpu")) for split in (clips, clips.first(1)))
    if entry.reads_means:  # once, as mmsa does when it reads the file
        train, valid = train.averaged(), valid.averaged()
    mmsa: list[float] = []

    def take_turn(epoch: int, _system: System) -> None:
        if epoch > 1:
            mmsa.append(mmsa_epoch())

    torch.manual_seed(1111)
    built = entry.build(settings, shapes)
    with tempfile.TemporaryDirectory() as runs:
        history = fit(built, train, valid, schedule, seed=1111, directory=Path(runs), after_epoch=take_turn).history
    return [epoch["seconds"] for epoch in history[1:]], mmsa


@contextlib.contextmanager
def _mmsa_process(command: Sequence[str], folder: Path) -> Iterator[Callable[[], float]]:
    """Start mmsa's process and let it warm up; each call of what this gives is an epoch, and returns its seconds."""
    with (
        (folder / "mmsa.log").open("w+", encoding="utf-8", errors="replace") as errors,
        contextlib.ExitStack() as stack,
    ):
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, bufsize=0, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise RunError(f"mmsa's interpreter cannot be started: {error}") from error
        stack.enter_context(process)

        def answer() -> float:
            line = process.stdout.readline()
            if not line:
                code = process.wait()
                errors.seek(0)
                last = errors.read().strip().splitlines()[-1:] or ["it said nothing"]
                raise RunError(f"mmsa's process ended with code {code}: {last[0]}")
            return float(line)

        def epoch() -> float:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and the missing answer says why
                process.stdin.write(b"\n")
            return answer()

        answer()  # of the warm-up
        yield epoch
