"""Copying features out of a file: every number is checked, and which steps are data is decided (decision 19)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from .padded import Padded
from .sources import size_of
from .validation import LENGTHS, Location

#: Features are copied in chunks of about this size.
CHUNK_BYTES = 1 << 24


class FeatureStream:
    """Copies the features of one split to float32 in chunks of clips, and checks every number.

    Args:
        source: (N, L, D), an array or `Padded`.
        key: "audio", "vision" or "text".
        location: Named in errors.
        nonfinite: "error" refuses NaN and infinity, "zero" replaces them. Minus infinity of audio and vision, a
            logarithm of silence, becomes 0 in either case, and its step counts as observed.
        lengths: (N,) steps that the file says are valid, or None.

    Attributes:
        negative_infinities: After all chunks: how many numbers of audio or vision were -inf and became 0.
        replaced: How many others were not finite and became 0.
        start: (N,) first step of each clip that is not zero; 0 where there is none.
        stop: (N,) one more than the last such step; 0 where there is none.
        beyond: (N,) steps that are not zero and lie at or after the clip's length.
    """

    def __init__(
        self,
        source: np.ndarray | Padded,
        key: str,
        location: Location,
        *,
        nonfinite: str = "error",
        lengths: np.ndarray | None = None,
    ):
        self.source, self.key, self.location, self.nonfinite = source, key, location, nonfinite
        self.negative_infinities = self.replaced = 0
        self.start, self.stop, self.beyond = (np.zeros(len(source), dtype=np.int64) for _ in range(3))
        self.lengths = np.full(len(source), source.shape[1]) if lengths is None else lengths

    def chunks(self) -> Iterator[np.ndarray]:
        """Iterate over (n, L, D) float32 chunks.

        Raises:
            CorpusError: A number is not finite in float32, and ``nonfinite`` is "error".
        """
        clips = max(1, CHUNK_BYTES // (self.source.itemsize * self.source[:1].size))
        size = size_of(self.location.file)
        for start in range(0, len(self.source), clips):
            # The features are views of the mapped file: to read where it was cut off would end the process by a signal.
            if (now := size_of(self.location.file)) != size:
                self.location.fail("the file changed while it was read", self.key, f"{size} bytes", f"{now} bytes")
            rows = slice(start, start + clips)
            chunk = self.source[rows]  # (n, L, D)
            with np.errstate(over="ignore", invalid="ignore"):
                features = np.array(chunk, dtype=np.float32, order="C")
            finite = np.isfinite(features)
            observed = features != 0
            if not finite.all():
                silent = ~finite & np.isneginf(chunk) if self.key != "text" else np.zeros_like(finite)
                self.negative_infinities += int(silent.sum())
                self._check(chunk, finite | silent, start)
                features[~finite] = 0
                observed &= finite | silent
            observed = observed.any(axis=2)  # (n, L)
            steps = np.arange(chunk.shape[1])
            self.start[rows] = observed.argmax(axis=1)
            self.stop[rows] = (observed * (steps + 1)).max(axis=1)
            self.beyond[rows] = (observed & (steps >= self.lengths[rows, None])).sum(axis=1)
            yield features

    def _check(self, chunk: np.ndarray, good: np.ndarray, start: int) -> None:
        bad = int((~good).sum())
        self.replaced += bad
        if bad and self.nonfinite == "error":
            clip, step, feature = np.argwhere(~good)[0]
            found = (
                f"{chunk[clip, step, feature]} at clip {start + clip}, step {step}, feature {feature}"
                f" ({bad} such numbers in {len(chunk)} clips from {start} on)"
            )
            expected = "finite numbers; nonfinite='zero' (--set nonfinite=zero) replaces all others by 0"
            self.location.fail("a feature is not finite in float32", self.key, expected, found)


def observed_span(
    lengths: Mapping[str, np.ndarray | None], streams: Mapping[str, FeatureStream], rule: str, notes: Counter[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decide which steps of a modality are data, for a whole file (decision 19).

    Where no length of the file cuts off a step that is not zero, a clip is its first ``length`` steps. Otherwise the
    lengths are not believed, and it runs from its first to its last such step. A clip without any is empty.

    Args:
        lengths: Of each split (N,), or None where the file has none.
        streams: Of each split, after all chunks.
        rule: "auto"; "file" believes the lengths whatever they cut off; "nonzero" never does.
        notes: Counts what was decided.

    Returns:
        First step and end (N,) of each split's clips.

    Raises:
        CorpusError: the lengths are to be believed, and the file has none.
    """
    key = next(iter(streams.values())).key
    known = all(values is not None for values in lengths.values())
    if rule == "file" and not known and any(stream.stop.any() for stream in streams.values()):
        location = next(iter(streams.values())).location
        location.fail("lengths='file' reads lengths that are not there", LENGTHS[key], "the key", "none")
    cut = {name: int((stream.beyond > 0).sum()) for name, stream in streams.items()}
    steps = sum(int(stream.beyond.sum()) for stream in streams.values())
    believed = known and (rule == "file" or (rule == "auto" and not steps))
    if known and steps:
        kind = "cut_by_length" if believed else "beyond_length"
        notes[f"{key}_clips_{kind}"] += sum(cut.values())
        notes[f"{key}_steps_{kind}"] += steps
    spans = {}
    for name, stream in streams.items():
        start, stop = stream.start, stream.stop
        if believed:
            start, stop = np.zeros_like(start), np.where(stop > 0, lengths[name], 0)
        notes[f"{key}_clips_absent"] += int((stop == 0).sum())
        spans[name] = start, stop
    return spans
