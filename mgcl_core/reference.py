"""Reference implementations, written from the paper's equations as loops over Python floats (float64).

Slow and meant to be read; nothing else of mgcl_core is used. Vectors, matrices and masks are nested lists or arrays.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

Vector = Sequence[float]
Matrix = Sequence[Vector]
Mask = Sequence[bool]

EPSILON = 1e-6  # decision 7: labels of a 0.2 grid meet δ up to rounding


def difference(labels: Vector, i: int, j: int) -> float:
    """E of samples i and j: eq. 3."""
    return abs(float(labels[i]) - float(labels[j]))


def weight(labels: Vector, i: int, j: int, delta: float, weights: str = "printed") -> float:
    """W of samples i and j: eq. 2, with the pairs of eq. 1; or its other readings of decision 8."""
    if weights == "mean":
        return _mean_weight(labels, i, j, delta)
    e = difference(labels, i, j)
    if e > delta + EPSILON:
        return 1.5 * abs(math.tanh(e))
    return 1.5 * (math.tanh(2 * delta - e) if weights == "clgsi" else abs(math.tanh(e - delta)))


def _mean_weight(labels: Vector, i: int, j: int, delta: float) -> float:
    """Mean of eq. 2 over all pairs that are positive as (i, j) is, or negative as it is."""
    same_kind = []
    for k in range(len(labels)):
        for m in range(len(labels)):
            if (difference(labels, k, m) <= delta + EPSILON) == (difference(labels, i, j) <= delta + EPSILON):
                same_kind.append(weight(labels, k, m, delta))
    return sum(same_kind) / len(same_kind)


def pairs(i: int, labels: Vector, delta: float, components: Collection[str]) -> tuple[list, list]:
    """P_i and N_i (eqs 4-11): lists of (feature of sample i, feature of sample j, j)."""
    others = [j for j in range(len(labels)) if j != i]
    similar = [j for j in others if difference(labels, i, j) <= delta + EPSILON]
    distant = [j for j in others if difference(labels, i, j) > delta + EPSILON]
    positives, negatives = [], []
    if "C1" in components:
        for j in similar:  # eq. 4
            positives += [("T_a", "T_a", j), ("V_a", "V_a", j), ("A_a", "A_a", j)]
        for k in distant:  # eq. 5
            negatives += [("T_a", "T_a", k), ("V_a", "V_a", k), ("A_a", "A_a", k)]
    if "C2" in components:
        positives += [("T_a", "A_a", i), ("T_a", "V_a", i), ("V_a", "A_a", i)]  # eq. 6
        for j in similar:
            positives += [("T_a", "A_a", j), ("T_a", "V_a", j), ("V_a", "A_a", j)]
            positives += [("A_a", "T_a", j), ("V_a", "T_a", j), ("A_a", "V_a", j)]
        for k in distant:  # eq. 7
            negatives += [("T_a", "V_a", k), ("V_a", "A_a", k), ("T_a", "A_a", k)]
            negatives += [("V_a", "T_a", k), ("A_a", "V_a", k), ("A_a", "T_a", k)]
    if "C3" in components:
        positives += [("T_a", "T_i", i), ("V_a", "V_i", i), ("A_a", "A_i", i)]  # eq. 8
        for k in distant:  # eq. 9
            negatives += [("T_a", "T_i", k), ("V_a", "V_i", k), ("A_a", "A_i", k)]
    return positives, negatives


def cosine(a: Vector, b: Vector) -> float:
    """sim of equation 12; 0 for a vector of norm 0."""
    norm = math.sqrt(sum(float(x) ** 2 for x in a)) * math.sqrt(sum(float(x) ** 2 for x in b))
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def contrastive_loss(
    macro: Sequence[Matrix],
    micro: Sequence[Matrix],
    labels: Vector,
    *,
    delta: float = 0.4,
    temperature: float = 0.5,
    components: Collection[str] = ("C1", "C2", "C3"),
    weighted: bool = True,
    weights: str = "printed",
    reduction: str = "mean",
    present: Sequence[Mask] | None = None,
) -> float:
    """L_con (eq. 12): macro and micro (3, n, d), labels (n,). A sample without a positive or a negative gives 0.

    ``present`` (3, n) is false where a sample lacks T, V, A: no pair has such a feature (decision 19).
    """
    features = {f"{m}_a": macro[k] for k, m in enumerate("TVA")} | {f"{m}_i": micro[k] for k, m in enumerate("TVA")}
    total = 0.0
    for i in range(len(labels)):
        positives, negatives = (
            [pair for pair in side if present is None or _both_present(pair, i, present)]
            for side in pairs(i, labels, delta, components)
        )
        if not positives or not negatives:
            continue

        def exponential(pair, i=i):
            anchor, other, j = pair
            w = weight(labels, i, j, delta, weights) if weighted else 1.0
            return math.exp(w * cosine(features[anchor][i], features[other][j]) / temperature)

        numerator = sum(exponential(pair) for pair in positives)
        denominator = sum(exponential(pair) for pair in positives + negatives)
        total -= math.log(numerator / denominator)
    return total / len(labels) if reduction == "mean" else total


def _both_present(pair: tuple[str, str, int], i: int, present: Sequence[Mask]) -> bool:
    anchor, other, j = pair
    return bool(present["TVA".index(anchor[0])][i] and present["TVA".index(other[0])][j])


def unimodal_loss(
    predictions: Matrix,
    labels: Vector,
    unimodal_labels: Matrix,
    present: Sequence[Mask] | None = None,
    reduction: str = "sum",
) -> float:
    """L_uni (eq. 21): predictions (6, n), labels (n,), unimodal labels (3, n), ``present`` (3, n) as for L_con."""
    total = 0.0
    for i in range(len(labels)):
        targets = [labels[i]] * 3 + [unimodal_labels[k][i] for k in range(3)]  # eq. 20
        total += sum(
            (float(u) - float(predictions[k][i])) ** 2
            for k, u in enumerate(targets)
            if present is None or present[k % 3][i]
        )
    return total / len(labels) / (6 if reduction == "mean" else 1)


def squared_error(predictions: Vector, labels: Vector) -> float:
    """L_pred (eq. 18): predictions (n,) and labels (n,)."""
    return sum((float(y) - float(p)) ** 2 for p, y in zip(predictions, labels, strict=True)) / len(labels)


def enhancement(states: Matrix, mask: Mask, window: int) -> list[list[float] | None]:
    """Micro enhancement of one clip (decision 4).

    Args:
        states: (L, d).
        mask: (L,), true at valid steps.
        window: steps of the centred mean.

    Returns:
        L rows of h_t, the mean of the valid steps in the window, and h_t − h_{t−1}; None where not valid.
    """
    rows = []
    for t in range(len(states)):
        if not mask[t]:
            rows.append(None)
            continue
        near = [u for u in range(t - window // 2, t + window // 2 + 1) if 0 <= u < len(states) and mask[u]]
        width = range(len(states[t]))
        own = [float(states[t][k]) for k in width]
        average = [sum(float(states[u][k]) for u in near) / len(near) for k in width]
        before = t > 0 and mask[t - 1]
        change = [float(states[t][k]) - float(states[t - 1][k]) if before else 0.0 for k in width]
        rows.append(own + average + change)
    return rows


def pooled_enhancement(states: Matrix, mask: Mask) -> list[float]:
    """Option micro="pooled" of decision 4 for one clip: mean of h_t, then mean of abs(h_t − h_{t−1})."""
    d, valid = len(states[0]), [t for t in range(len(states)) if mask[t]]
    rows = [row for row in enhancement(states, mask, 1) if row is not None]
    count = max(len(valid), 1)
    return [sum(row[k] for row in rows) / count for k in range(d)] + [
        sum(abs(row[2 * d + k]) for row in rows) / count for k in range(d)
    ]


def softmax(scores: Vector) -> list[float]:
    """Shares of exp(score), which sum to 1."""
    highest = max(scores)
    exponentials = [math.exp(score - highest) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def attention_pooling(states: Matrix, mask: Mask, query: Vector) -> list[float]:
    """Decision 3 for one clip: states (L, d) weighted by the softmax of their scaled products with the query."""
    valid = [t for t in range(len(states)) if mask[t]]
    scores = [
        sum(float(x) * float(q) for x, q in zip(states[t], query, strict=True)) / math.sqrt(len(query)) for t in valid
    ]
    weights = softmax(scores)
    return [sum(w * float(states[t][k]) for w, t in zip(weights, valid, strict=True)) for k in range(len(query))]


def linear(vector: Vector, matrix: Matrix, bias: Vector) -> list[float]:
    """matrix · vector + bias."""
    return [
        sum(float(w) * float(x) for w, x in zip(row, vector, strict=True)) + float(b)
        for row, b in zip(matrix, bias, strict=True)
    ]


def layer_norm(vector: Vector, gain: Vector, bias: Vector, epsilon: float = 1e-5) -> list[float]:
    """Layer normalisation of one vector."""
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    return [
        (x - mean) / math.sqrt(variance + epsilon) * float(g) + float(b)
        for x, g, b in zip(vector, gain, bias, strict=True)
    ]


def attention(query: Vector, keys: Matrix, mask: Mask, heads: int, weights: Mapping[str, Sequence]) -> list[float]:
    """Multi-head attention of one query (d,) over keys (L, d) that are the values too.

    ``weights``: in_proj_weight (3d, d), in_proj_bias (3d,), out_proj.weight (d, d), out_proj.bias (d,).
    """
    d = len(query)
    matrix, bias = weights["in_proj_weight"], weights["in_proj_bias"]
    q = linear(query, matrix[:d], bias[:d])
    valid = [t for t in range(len(keys)) if mask[t]]
    k = [linear(keys[t], matrix[d : 2 * d], bias[d : 2 * d]) for t in valid]
    v = [linear(keys[t], matrix[2 * d :], bias[2 * d :]) for t in valid]
    size, joined = d // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [sum(a * b for a, b in zip(q[part], key[part], strict=True)) / math.sqrt(size) for key in k]
        shares = softmax(scores)
        joined += [sum(share * value[part][c] for share, value in zip(shares, v, strict=True)) for c in range(size)]
    return linear(joined, weights["out_proj.weight"], weights["out_proj.bias"])


def fuse(
    macro: Vector,
    sources: Sequence[Matrix],
    masks: Sequence[Mask],
    modality: Matrix,
    heads: int,
    weights: Mapping[str, Sequence],
) -> list[float]:
    """MTM for one clip (eqs 13-15, decision 6): attention and feed-forward, each with residual and norm.

    Args:
        macro: (d,), the query.
        sources: two micro sequences (L, d).
        masks: theirs, (L,).
        modality: (2, d), an embedding for each source.
        heads: of the attention.
        weights: by the names of `mgcl_core.fusion.MTM`.
    """
    keys = [
        [float(x) + float(e) for x, e in zip(step, embedding, strict=True)]
        for source, embedding in zip(sources, modality, strict=True)
        for step in source
    ]
    mask = [valid for part in masks for valid in part]
    attended = attention(
        macro, keys, mask, heads, {name.removeprefix("attention."): value for name, value in weights.items()}
    )
    hidden = layer_norm(
        [float(a) + b for a, b in zip(macro, attended, strict=True)],
        weights["attention_norm.weight"],
        weights["attention_norm.bias"],
    )
    inner = [max(0.0, x) for x in linear(hidden, weights["feedforward.0.weight"], weights["feedforward.0.bias"])]
    outer = linear(inner, weights["feedforward.3.weight"], weights["feedforward.3.bias"])
    return layer_norm(
        [a + b for a, b in zip(hidden, outer, strict=True)],
        weights["feedforward_norm.weight"],
        weights["feedforward_norm.bias"],
    )


def moments(values: Sequence[Matrix], mask: Sequence[Mask]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each dimension over the valid steps of (N, L, D)."""
    steps = [step for clip, valid in zip(values, mask, strict=True) for step, v in zip(clip, valid, strict=True) if v]
    means = [sum(float(s[k]) for s in steps) / len(steps) for k in range(len(steps[0]))]
    return means, [math.sqrt(sum((float(s[k]) - m) ** 2 for s in steps) / len(steps)) for k, m in enumerate(means)]
