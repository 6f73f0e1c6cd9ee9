"""Features of frozen encoders: computed once for all clips of a split, kept as arrays, memory-mapped afterwards."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..data.batches import DeviceSplit
from ..data.corpus import EncoderName
from ..encoders import MicroEnhancement, encode
from ..support.errors import DamagedFile
from ..support.files import atomic, open_array
from ..support.integrity import check_file, identify, read_sealed, same_file, write_sealed
from ..support.runtime import matrix_precision
from .claims import claim, look_again

log = logging.getLogger(__name__)

_DAMAGE = (DamagedFile, OSError, ValueError, KeyError, TypeError, AttributeError)  # of what is read here
CLAIMED = "features-kept"  # what stands for all features of a folder where one process writes them


@torch.no_grad()
def encode_frozen(
    encoder: nn.Module, name: EncoderName, split: DeviceSplit, config: Config, batch_size: int = 64
) -> dict[str, Tensor]:
    """Features of the frozen encoder ``name`` for every clip of ``split``.

    Returns:
        On the CPU, by the keys of `Batch.features`: ``macro_m`` (N, H), ``micro_m`` (N, L, H) and ``micro_m_mask``
        (N, L); those of its granularities.
    """
    enhancement = MicroEnhancement(config.micro, config.window)
    encoder.eval()
    parts: dict[str, list[Tensor]] = {}
    with matrix_precision(split.device, config.precision):
        for batch in split.batches(batch_size):
            for key, values in encode(encoder, name, batch, enhancement).items():
                parts.setdefault(key, []).append(values.cpu())
    return {key: _concatenate(values) for key, values in parts.items()}


def kept_on_disk(
    folder: Path, name: str, compute: Callable[[], dict[str, Tensor]], *, clips: int, origin: str, half: bool = False
) -> dict[str, Tensor]:
    """What ``compute`` gives, kept as arrays in ``folder`` and memory-mapped from there.

    Arrays that are not as they were written, or of another origin, are computed again.

    Args:
        folder: where the arrays are kept, each under ``name`` and its key.
        name: of this set of arrays.
        compute: called where they are not kept yet.
        clips: length of each array.
        origin: of the arrays: what identifies the weights that they come from.
        half: keep numbers in half precision, for half the memory; batches give float32 again.
    """
    name = f"{name}-fp16" if half else name
    marker = folder / f"{name}.json"
    with contextlib.suppress(*_DAMAGE):
        return _open(marker, clips, origin)
    with claim(folder / CLAIMED, f"{name} of {folder.name}"):
        look_again(folder)
        if marker.exists():
            try:
                return _open(marker, clips, origin)  # another process computed them
            except _DAMAGE as error:
                log.warning("the features %s are damaged (%s): they are computed again", marker, error)
        marker.unlink(missing_ok=True)  # first: what it lists is about to change
        files = {}
        for key, values in compute().items():
            path = folder / f"{name}-{key}.npy"
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.save(file, (values.half() if half and values.is_floating_point() else values).numpy())
            files[path.name] = identify(path)
        write_sealed(marker, {"origin": origin, "files": files})  # last: what it lists is whole
        return _open(marker, clips, origin)


def check_features(marker: Path) -> None:
    """Compare the contents of every array that ``marker`` lists.

    Raises:
        DamagedFile: one is missing or not as it was written.
    """
    remedy = f"Delete {marker}, and they are computed again where they are needed"
    for name, known in read_sealed(marker, remedy)["files"].items():
        check_file(marker.parent / name, known, remedy)


def _open(marker: Path, clips: int, origin: str) -> dict[str, Tensor]:
    kept = read_sealed(marker)
    if kept["origin"] != origin:
        raise ValueError("they come from other weights")
    arrays = {}
    for name, known in kept["files"].items():
        path = marker.parent / name
        if not same_file(path, known):
            raise ValueError(f"{name} is not as it was written")
        array = open_array(path, writable=True)
        if len(array) != clips:
            raise ValueError(f"{name} has {len(array)} clips, not {clips}")
        arrays[path.stem.removeprefix(f"{marker.stem}-")] = torch.from_numpy(array)
    return arrays


def _concatenate(parts: list[Tensor]) -> Tensor:
    """Concatenate along the clips; steps that a trimmed batch left out are zero (or False)."""
    if parts[0].dim() == 2 and parts[0].dtype != torch.bool:
        return torch.cat(parts)
    steps = max(part.shape[1] for part in parts)
    whole = parts[0].new_zeros((sum(map(len, parts)), steps, *parts[0].shape[2:]))
    start = 0
    for part in parts:
        whole[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return whole
