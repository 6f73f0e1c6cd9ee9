"""Shared fixtures. Every corpus in them is synthetic; tests of real data are skipped where there is none."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import subprocess
import warnings
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
if "PYTEST_XDIST_WORKER" in os.environ:  # of this process alone: what it starts would warn of other packages' files
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)

import numpy as np
import pytest
import torch

from mgcl_core.config import Config
from mgcl_core.data.batches import DeviceSplit
from mgcl_core.data.corpus import Corpus, Split
from mgcl_core.data.scaling import Scaler

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("good", "bad", "film", "plot", "a", "the", "very", "dull", "##s", "##ly")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, from MGCL_SHARED_DATA or beside the project."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("MGCL_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data is absent ({folder}); set MGCL_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> str:
    """Folder of a randomly initialised BERT of width 16 with a vocabulary of 15."""
    from transformers import BertConfig, BertModel, BertTokenizer  # slow, and few tests need it

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join((*SPECIAL, *WORDS)) + "\n")
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=24,
            initializer_range=0.3,
        )
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_config(tiny_bert) -> Config:
    """A configuration small in every width, for the splits of ``make_split``."""
    return Config(
        text_model=tiny_bert,
        audio_dim=4,
        audio_steps=9,
        vision_dim=3,
        vision_steps=7,
        width=8,
        heads=2,
        feedforward=12,
        common_width=12,
        micro_hidden=10,
        predictor_hidden=(10, 6),
        head_hidden=5,
        fusion_heads=3,
        fusion_feedforward=14,
    )


@pytest.fixture(scope="session")
def make_split():
    """Function of a number of clips: a synthetic split of 9 audio, 7 vision and 10 text steps."""
    return _make_split


@pytest.fixture(scope="module")
def split(make_split) -> DeviceSplit:
    """A synthetic split of 12 clips on the CPU, scaled."""
    split = make_split(12)
    return DeviceSplit(split, torch.device("cpu"), scaler=Scaler.fit(split))


@pytest.fixture(scope="session")
def make_corpus():
    """Function of three splits: a synthetic corpus of the CH-SIMS scheme."""

    def make(train: Split, valid: Split, test: Split) -> Corpus:
        return Corpus(
            "synthetic", "sims", train, valid, test, path=Path("synthetic.pkl"), sha256="0" * 64, synthetic=True
        )

    return make


def _make_split(clips: int = 6, *, seed: int = 0, unimodal: bool = True, scale: float = 1.0) -> Split:
    random = np.random.default_rng(seed)

    def steps(length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = random.integers(1, length + 1, clips)
        mask = np.arange(length) < lengths[:, None]
        values = random.normal(size=(clips, length, width)).astype(np.float32) * mask[:, :, None]
        return values, mask

    audio, audio_mask = steps(9, 4)
    vision, vision_mask = steps(7, 3)
    words = random.integers(len(SPECIAL), len(SPECIAL) + len(WORDS), (clips, 10))
    counts = random.integers(1, 9, clips)  # word pieces between [CLS] and [SEP]
    step = np.arange(10)
    ids = np.where(step <= counts[:, None], words, 0)
    ids[:, 0] = SPECIAL.index("[CLS]")
    ids[np.arange(clips), counts + 1] = SPECIAL.index("[SEP]")
    text_bert = np.stack([ids, step <= counts[:, None] + 1, np.zeros_like(ids)], 1).astype(np.int64)
    labels = (random.integers(-5, 6, (4, clips)) / 5 * scale).astype(np.float32)
    return Split(
        "train",
        tuple(f"video$_${clip}" for clip in range(clips)),
        ("a good film",) * clips,
        text_bert,
        None,
        audio,
        audio_mask,
        vision,
        vision_mask,
        labels[0],
        labels[1:] if unimodal else None,
    )


@pytest.fixture(scope="session")
def tiny_corpus(make_corpus) -> Corpus:
    """A synthetic corpus of 40, 12 and 15 clips with ids of their own."""

    def split(name: str, clips: int, seed: int) -> Split:
        ids = tuple(f"{name}{clip}$_$0" for clip in range(clips))
        return dataclasses.replace(_make_split(clips, seed=seed), name=name, ids=ids)

    return make_corpus(split("train", 40, 1), split("valid", 12, 2), split("test", 15, 3))


@pytest.fixture(scope="session")
def tiny_overrides(tiny_bert) -> dict:
    """Overrides of the profile "demo" that make every run of ``tiny_corpus`` a matter of a second."""
    return {
        "text_model": tiny_bert,
        "check_vocabulary": False,
        "text_epochs": 1,
        "sequence_epochs": 1,
        "mgcl_epochs": 3,
        "width": 16,
        "feedforward": 16,
        "heads": 2,
        "common_width": 16,
        "fusion_heads": 2,
    }


@pytest.fixture(scope="session")
def taught(tiny_corpus, tiny_overrides, tmp_path_factory):
    """The study, and by row the run of its only seed: "MGCL", "student", "student w/o teacher"."""
    from mgcl_core.experiments.distillation import distil  # slow to import, and few tests need it
    from mgcl_core.experiments.study import Study

    folder = tmp_path_factory.mktemp("taught")
    study = Study(tiny_corpus, "demo", seeds=[7], overrides=tiny_overrides, results=folder, device="cpu", workers=1)
    return study, {name: run for name, (run,) in distil(study).items()}


@pytest.fixture
def small_disk(tmp_path):
    """Function of a number of bytes: a folder on a file system of that size, or one where no file may be larger.

    The first needs root on Linux; the second is a limit of this process, which ends with the test.
    """
    before, mounted = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0:
            mounted.append(folder)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        return folder

    yield make
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def gpu(monkeypatch, tmp_path_factory):
    """Function that pretends a GPU: whether torch finds CUDA, whether bf16 is native, and what the driver lists."""

    def pretend(*, available: bool, native: bool = True, listed: str = "GPU 0: NVIDIA Example"):
        def is_available():
            if not available:
                warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2)
            return available

        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Example")
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
        )
        driver = tmp_path_factory.mktemp("bin") / "nvidia-smi"
        driver.write_text(f"#!/bin/sh\necho '{listed}'\n")
        driver.chmod(0o755)
        monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")

    return pretend
