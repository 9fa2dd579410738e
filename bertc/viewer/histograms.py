"""How the values of a parameter are spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertc.weights_io import Tensor

BINS = 40

MOST = 1 << 20
"""Values that are looked at: of larger tensors every second one, every third one, and so on."""


@dataclass(frozen=True)
class Histogram:
    low: float
    high: float
    mean: float
    deviation: float
    every: int
    """1 where all values were looked at, 2 where every second one was."""
    counts: tuple[int, ...]
    """In bins of equal width from `low` to `high`."""


def histogram(tensor: Tensor) -> Histogram:
    """Of the finite values of a tensor, in float64."""
    flat = tensor.read().reshape(-1)
    every = -(-flat.size // MOST)
    values = flat[::every].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return Histogram(0.0, 0.0, 0.0, 0.0, every, (0,) * BINS)
    counts, _ = np.histogram(values, BINS)
    low, high, mean, deviation = (float(f(values)) for f in (np.min, np.max, np.mean, np.std))
    return Histogram(low, high, mean, deviation, every, tuple(map(int, counts)))
