"""What is said about times: percentiles, ratios of pairs, whether they settled, and what a million requests cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOWS, TOLERANCE = 3, 0.1
"""Times are stable when the medians of so many windows, one after the other, lie within so much of each other
(https://docs.nvidia.com/deeplearning/triton-inference-server, Performance Analyzer)."""


@dataclass(frozen=True)
class Summary:
    """Milliseconds. A percentile is the smallest time that so many of a hundred runs do not exceed, as in trtexec."""

    runs: int
    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Quartiles:
    low: float
    median: float
    high: float


def summary(times: Sequence[float]) -> Summary:
    """A summary of times in milliseconds, at least one."""
    array = np.sort(np.asarray(times))
    p90, p95, p99 = (float(np.percentile(array, part, method="inverted_cdf")) for part in (90, 95, 99))
    low, high, middle = float(array[0]), float(array[-1]), float(np.median(array))
    return Summary(len(times), low, high, float(array.mean()), middle, p90, p95, p99)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Quartiles:
    """theirs / ours of runs that were taken in turn, pair by pair: above 1, ours is that many times as fast."""
    low, median, high = np.quantile(np.asarray(theirs) / np.asarray(ours), (0.25, 0.5, 0.75)).tolist()
    return Quartiles(low, median, high)


def is_stable(times: Sequence[float]) -> bool:
    """Whether the windows' medians agree; too few runs for windows are not stable."""
    if len(times) < WINDOWS:
        return False
    medians = [float(np.median(window)) for window in np.array_split(np.asarray(times), WINDOWS)]
    return max(medians) <= (1 + TOLERANCE) * min(medians)


def dollars_per_million(price: float, sequences_per_second: float) -> float:
    """What a million sequences cost at `price` dollars an hour of the machine: 10⁶ · price / 3600 / rate."""
    return 1e6 * price / 3600 / sequences_per_second
