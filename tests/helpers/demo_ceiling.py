"""How well a demo corpus can be predicted at best.

The cues are read from the data as a model has to: from the grades of the words, and from the sequences. The posterior
mean of y given these readings, by the law of the generator, is then the best predictor on average.
"""

from __future__ import annotations

import numpy as np

from mgcl_core.data.corpus import SPLITS
from mgcl_core.data.synthetic.demo import LEVELS_PER_CUE, Clips, DemoCorpus
from mgcl_core.data.synthetic.sentences import ADJECTIVES, INTERJECTIONS
from mgcl_core.data.synthetic.signals import AUDIO, BURST, VISION, SignalLayout

DRAWS = 300  # from the posterior, the same ones for every clip
GRADES = {word: grade for grade, words in ADJECTIVES.items() for word in words}
#: The cues that a predictor sees, as (granularity, modality) of (2, 3) in the orders macro, micro and T, V, A.
SEEN = {
    "all": np.ones((2, 3), bool),
    "text": np.array([[1, 0, 0], [1, 0, 0]], bool),
    "audio": np.array([[0, 0, 1], [0, 0, 1]], bool),
    "vision": np.array([[0, 1, 0], [0, 1, 0]], bool),
    "without_text": np.array([[0, 1, 1], [0, 1, 1]], bool),
    "without_micro": np.array([[1, 1, 1], [0, 0, 0]], bool),
    "without_macro": np.array([[0, 0, 0], [1, 1, 1]], bool),
    "text_macro": np.array([[1, 0, 0], [0, 0, 0]], bool),
    "audio_macro": np.array([[0, 0, 1], [0, 0, 0]], bool),
    "vision_macro": np.array([[0, 1, 0], [0, 0, 0]], bool),
}


def best_correlations(corpus: DemoCorpus, split: str = "test") -> dict[str, float]:
    """Corr with y on ``split`` of the best predictor that sees the cues of each entry of ``SEEN``.

    How far a reading lies from the planted cue (slope, intercept, variance) is fitted on train. Given the readings the
    cues are taken as Gaussian: those of text lie on a grid, and short clips read worse than long ones, which this
    neglects. y is averaged over seeded draws of the cues and of the annotators' error.
    """
    train, clips = corpus.draw("train"), corpus.draw(split)
    slope, intercept, variance = _reading_law(train)
    readings = (read_cues(clips) - intercept[..., None]) / slope[..., None]  # (2, 3, N)
    error = variance / slope**2  # (2, 3)
    prior = np.full((6, 6), corpus.shared) + (1 - corpus.shared) * np.eye(6)
    rng = np.random.default_rng([corpus.seed, len(SPLITS)])
    corr = {}
    for name, seen in SEEN.items():
        at = np.flatnonzero(seen)
        gain = np.linalg.solve(prior[np.ix_(at, at)] + np.diag(error.ravel()[at]), prior[at]).T  # (6, seen)
        mean = gain @ readings.reshape(6, -1)[at]  # (6, N)
        covariance = prior - gain @ prior[at]
        draws = rng.multivariate_normal(np.zeros(6), covariance, DRAWS, method="eigh").T  # (6, draws)
        cues = (mean[:, :, None] + draws[:, None]).reshape(2, 3, -1, DRAWS)
        labels, _ = corpus.annotate(cues, rng.standard_normal(DRAWS))  # (N, draws)
        corr[name] = float(np.corrcoef(labels.mean(axis=1), clips.labels)[0, 1])
    return corr


def read_cues(clips: Clips) -> np.ndarray:
    """Readings (2, 3, N) of the cues from sentences and sequences only."""
    text = np.array([read_levels(sentence) for sentence in clips.raw_text]).T / LEVELS_PER_CUE
    return np.stack([text, read_sequences(VISION, *clips.vision), read_sequences(AUDIO, *clips.audio)], axis=1)


def read_levels(sentence: str) -> tuple[int, int]:
    """The macro and the micro level of a sentence, from its words."""
    macro = sum(GRADES.get(word, 0) for word in sentence.split())
    clauses = sentence.split(" , ")
    (micro,) = (grade for grade, words in INTERJECTIONS.items() for clause in clauses if clause in words)
    return macro, micro


def read_sequences(layout: SignalLayout, x: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What sequences (N, L, D) show of the macro and the micro cue, (N,) each.

    The mean of the macro dimensions over steps that are not lost; and, in the window where the marker is highest, the
    mean of the micro dimensions against the rest.
    """
    known = (np.arange(x.shape[1]) < lengths[:, None]) & (x != 0).any(axis=2)  # (N, L)
    cues = slice(0, layout.marker + 1)  # no -inf there
    x = (x[:, :, cues] - np.array(layout.offsets)[cues]) / np.array(layout.scales)[cues]
    x *= known[:, :, None]

    count = known.sum(axis=1)
    macro = (x[:, :, layout.macro] * np.array(layout.macro_signs)).mean(axis=2).sum(axis=1) / count

    level = (x[:, :, layout.micro] * np.array(layout.micro_signs)).mean(axis=2)  # (N, L)
    windows = np.lib.stride_tricks.sliding_window_view(x[:, :, layout.marker], BURST, axis=1).sum(axis=2)
    start = windows.argmax(axis=1)[:, None]
    inside = (np.arange(x.shape[1]) >= start) & (np.arange(x.shape[1]) < start + BURST)
    within = (level * inside).sum(axis=1) / BURST
    outside = (level * ~inside).sum(axis=1) / (count - BURST)
    micro = (within - outside) * (1 - BURST / lengths)
    return macro / layout.macro_gain, micro / layout.micro_gain


def _reading_law(clips: Clips) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, intercept and residual variance (2, 3) of each reading on its planted cue, by least squares."""
    readings, cues = read_cues(clips), clips.cues
    centred = cues - cues.mean(axis=2, keepdims=True)
    slope = (centred * readings).sum(axis=2) / (centred**2).sum(axis=2)
    intercept = readings.mean(axis=2) - slope * cues.mean(axis=2)
    residual = readings - slope[..., None] * cues - intercept[..., None]
    return slope, intercept, residual.var(axis=2)
