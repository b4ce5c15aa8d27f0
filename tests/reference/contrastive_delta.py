"""Darknet's [contrastive] layer in training, pair by pair in float64: the measure for the loss."""

from __future__ import annotations

import math

import numpy as np


def contrastive_delta(
    vectors: np.ndarray, tracks: list[int], labels: list[int], temperature: float, negatives: int
) -> np.ndarray:
    """What the layer writes for N embeddings (N, F), before normaliser and limit."""
    count = len(vectors)
    pairs = {
        (i, j): similarity(vectors[i], vectors[j])
        for i in range(count)
        for j in range(count)
        if i != j and labels[i] == labels[j]
    }
    likely = {pair: probability(pair, pairs, temperature) for pair in pairs}
    delta = np.zeros_like(vectors)
    for i in range(count):
        own = [j for j in range(count) if j != i and tracks[j] == tracks[i]]
        length = math.sqrt(float(vectors[i] @ vectors[i]))
        if not own or not length:
            continue
        scale = 1 / (len(own) * temperature * length)
        for j in own:
            delta[i] -= scale * (pairs[i, j] * vectors[i] - vectors[j]) * (1 - likely[i, j])
        met = 0
        for j in own:
            for k in range(count):
                if tracks[k] == tracks[i] or labels[k] != labels[j] or met >= max(1, negatives):
                    continue
                met += 1
                delta[i] -= scale * (vectors[k] - pairs[i, k] * vectors[i]) * likely[i, k]
    return delta


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    outer = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / outer if outer > 0 else 0.0


def probability(pair: tuple[int, int], pairs: dict[tuple[int, int], float], temperature: float) -> float:
    others = sum(math.exp(sim / temperature) for (i, j), sim in pairs.items() if j == pair[1] and i != pair[0])
    if others == 0:
        return 0.9999
    found = math.exp(pairs[pair] / temperature) / others
    return 0.9999 if found > 1 else found
