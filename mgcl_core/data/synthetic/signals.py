"""Synthetic audio and vision sequences with sentiment planted in them.

The macro cue is a constant level over all steps of a clip in some dimensions. The micro cue is a burst of three steps
in other dimensions. Its sign and size carry the sentiment; a marker dimension rises with it, whatever the sign; the
other steps balance it, so that the mean over a clip says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BURST = 3  # steps
_AUTOREGRESSION = 0.4  # noise of neighbouring steps
_CUE_OFFSET, _NOISE_OFFSET = 0.25, 1.0  # spread of the dimensions over videos, in units of the noise


@dataclass(frozen=True)
class SignalLayout:
    """The dimensions of a modality, in this order: macro, micro, one marker, then noise only.

    Attributes:
        min_steps: Steps of the shortest clip.
        max_steps: Steps of the longest clip.
        macro_signs: Sign of the macro cue in each macro dimension.
        micro_signs: Sign of the micro cue in each micro dimension.
        scales: For each dimension; it is stored as offset + scale · x, where x has noise of variance 1.
        offsets: For each dimension.
        macro_gain: Size of the macro cue, in units of x.
        micro_gain: Size of the micro cue, in units of x.
        marker_gain: Size of the marker, in units of x.
        p_zero: Probability that a step inside a clip is all zero (a lost face, a silent frame).
        p_inf: Share of -inf in the last dimension.
    """

    min_steps: int
    max_steps: int
    macro_signs: tuple[int, ...]
    micro_signs: tuple[int, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    macro_gain: float
    micro_gain: float
    marker_gain: float
    p_zero: float
    p_inf: float = 0.0

    @property
    def dims(self) -> int:
        return len(self.scales)

    @property
    def macro(self) -> slice:
        return slice(0, len(self.macro_signs))

    @property
    def micro(self) -> slice:
        return slice(self.macro.stop, self.macro.stop + len(self.micro_signs))

    @property
    def marker(self) -> int:
        return self.micro.stop


AUDIO = SignalLayout(
    min_steps=10,
    max_steps=24,
    macro_signs=(1, -1, 1, 1),
    micro_signs=(1, 1, -1),
    scales=(50.0, 0.02, 1.0, 8.0, 0.3, 2.0, 15.0, 0.1, 1.0, 120.0, 0.005, 4.0),
    offsets=(120.0, 0.03, 0.0, -10.0, 0.2, 0.0, 20.0, 0.15, -1.0, 60.0, 0.01, -6.0),
    macro_gain=0.9,
    micro_gain=2.5,
    marker_gain=3.5,
    p_zero=0.15,
    p_inf=0.01,
)
VISION = SignalLayout(
    min_steps=7,
    max_steps=16,
    macro_signs=(1, 1, -1),
    micro_signs=(-1, 1, 1),
    scales=(0.5, 3.0, 20.0, 1.0, 0.05, 200.0, 6.0, 0.3, 40.0, 1.0),
    offsets=(0.4, -2.0, 25.0, 0.0, 0.04, 150.0, 4.0, 0.0, -30.0, 1.0),
    macro_gain=1.0,
    micro_gain=2.5,
    marker_gain=3.5,
    p_zero=0.3,
)


def make_sequences(
    rng: np.random.Generator, layout: SignalLayout, macro: np.ndarray, micro: np.ndarray, video: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sequences with planted cues.

    Args:
        rng: Source of random numbers.
        layout: The modality.
        macro: (N,) macro cues.
        micro: (N,) micro cues.
        video: (N,) numbers of the videos.

    Returns:
        Features (N, L, D) float32, zero beyond their lengths, and lengths (N,).
    """
    clips, steps, dims = len(macro), layout.max_steps, layout.dims
    lengths = rng.integers(layout.min_steps, steps + 1, clips)
    time = np.arange(steps)
    valid = time < lengths[:, None]  # (N, L)

    x = rng.standard_normal((clips, steps, dims))
    for step in range(1, steps):
        x[:, step] = _AUTOREGRESSION * x[:, step - 1] + (1 - _AUTOREGRESSION**2) ** 0.5 * x[:, step]
    spread = np.where(np.arange(dims) > layout.marker, _NOISE_OFFSET, _CUE_OFFSET)
    x += (spread * rng.standard_normal((video.max() + 1, dims)))[video][:, None]

    x[:, :, layout.macro] += layout.macro_gain * macro[:, None, None] * np.array(layout.macro_signs)

    start = rng.integers(1, lengths - BURST)  # never at an edge
    burst = (time >= start[:, None]) & (time < start[:, None] + BURST)  # (N, L)
    balance = BURST / (lengths - BURST)
    shape = np.where(burst, 1.0, -balance[:, None])  # sums to 0 over the valid steps
    x[:, :, layout.micro] += layout.micro_gain * (micro[:, None] * shape)[:, :, None] * np.array(layout.micro_signs)
    x[:, :, layout.marker] += layout.marker_gain * burst

    x = np.array(layout.offsets) + np.array(layout.scales) * x
    x[:, :, -1][rng.random((clips, steps)) < layout.p_inf] = -np.inf
    lost = (rng.random(clips) < layout.p_zero)[:, None] & (time == rng.integers(1, lengths - 1)[:, None])
    x[(lost & ~burst) | ~valid] = 0
    return x.astype(np.float32), lengths
