"""Answers in memory of their own, where what a GPU has filled is filled again by the next run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bertc.ops import Array

THREADS = 8

WORTH_A_THREAD = 16 << 20
"""Bytes: starting a thread takes up to as long as copying a tenth of that."""


def copied(rows: Array) -> Array:
    """[rows, ...] as a new float32 array. Large ones are copied by several threads: one thread fills 150 MB of new
    memory in 43 ms, eight in 9, and a GPU's copy engine brings them in 3."""
    answer = np.empty(rows.shape, np.float32)
    threads = min(THREADS, answer.nbytes // WORTH_A_THREAD)
    if threads < 2:
        np.copyto(answer, rows)
        return answer
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.copyto, np.array_split(answer, threads), np.array_split(rows, threads)))
    return answer
