"""Answers in memory of their own, where what a GPU has filled is filled again by the next run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import numpy as np

from bertc.ops import Array

THREADS = 8

WORTH_A_THREAD = 16 << 20
"""Bytes. What several threads bring (docs/performance.md) was measured with so many a thread."""


def copied(rows: Array) -> Array:
    """An array as a new one of float32. Large ones are copied by several threads: beside an H200, one takes 41 ms for
    151 MB, eight 13, and the copy engine brings them in 3."""
    answer = np.empty(rows.shape, np.float32)
    parts = min(THREADS, answer.nbytes // WORTH_A_THREAD)
    if parts < 2:
        np.copyto(answer, rows)
        return answer
    permits, longest = Semaphore(parts), int(np.argmax(rows.shape))

    def copy(target: Array, source: Array) -> None:
        if permits.acquire(blocking=False):
            try:
                np.copyto(target, source)
            finally:
                permits.release()

    try:
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(copy, *(np.array_split(whole, parts, longest) for whole in (answer, rows))))
    except RuntimeError:  # no more threads: the interpreter is ending
        np.copyto(answer, rows)
    finally:  # a signal may leave threads behind, and what they would read may be gone
        for _ in range(parts):
            permits.acquire()
    return answer
