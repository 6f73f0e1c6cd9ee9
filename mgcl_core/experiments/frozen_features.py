"""Features of frozen encoders: computed once for all clips of a split, kept as arrays, memory-mapped afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..data.batches import DeviceSplit
from ..data.corpus import EncoderName
from ..encoders import MicroEnhancement, encode
from ..support.files import atomic, open_array, read_json, write_json
from ..support.runtime import matrix_precision


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
    folder: Path, name: str, compute: Callable[[], dict[str, Tensor]], *, half: bool = False
) -> dict[str, Tensor]:
    """What ``compute`` gives, kept as arrays in ``folder`` and memory-mapped from there.

    Args:
        folder: where the arrays are kept, each under ``name`` and its key.
        name: of this set of arrays.
        compute: called where they are not kept yet.
        half: keep numbers in half precision, for half the memory; batches give float32 again.
    """
    name = f"{name}-fp16" if half else name
    marker = folder / f"{name}.json"
    if not marker.exists():
        computed = compute()
        for key, values in computed.items():
            with atomic(folder / f"{name}-{key}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, (values.half() if half and values.is_floating_point() else values).numpy())
        write_json(marker, {"keys": list(computed)})  # last: what it lists is whole
    arrays = {key: open_array(folder / f"{name}-{key}.npy", writable=True) for key in read_json(marker)["keys"]}
    return {key: torch.from_numpy(values) for key, values in arrays.items()}


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
