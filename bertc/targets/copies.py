"""Answers in memory of their own, where what a GPU has filled is filled again by the next run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import numpy as np

from bertc.ops import Array

THREADS = 8

WORTH_A_THREAD = 16 << 20
"""Bytes. What several threads bring (docs/performance.md) was measured with so many a thread."""

BLOCK = 1 << 18
"""Elements that are widened at a time: few enough to stay in a core's cache, enough for threads not to meet often."""

SIGN_EXPONENT_FRACTION, HIGHEST_EXPONENT = np.int32(-1 << 31 | 0x0FFFE000), np.int32(0x7F800000)
"""Bits of a float: those that a half has as well, 13 lower; and the exponent of what is no number."""


def copied(rows: Array) -> Array:
    """An array as a new one of float32. Large ones are copied by several threads: beside an H200, one takes 41 ms for
    151 MB, eight 13, and the copy engine brings them in 3."""
    answer = np.empty(rows.shape, np.float32)
    parts = min(THREADS, answer.nbytes // WORTH_A_THREAD)
    if parts < 2:
        fill(answer, rows)
        return answer
    permits, longest = Semaphore(parts), int(np.argmax(rows.shape))

    def copy(target: Array, source: Array) -> None:
        if permits.acquire(blocking=False):
            try:
                fill(target, source)
            finally:
                permits.release()

    try:
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(copy, *(np.array_split(whole, parts, longest) for whole in (answer, rows))))
    except RuntimeError:  # no more threads: the interpreter is ending
        fill(answer, rows)
    finally:  # a signal may leave threads behind, and what they would read may be gone
        for _ in range(parts):
            permits.acquire()
    return answer


def fill(target: Array, source: Array) -> None:
    """target [rows, ...] of float32 becomes source. Of f16 NumPy takes one at a time, at 2 to 4 times what this does
    (`python benchmarks/answers.py`).

    A half's exponent and fraction, 13 bits higher, are a float's, but for the exponents' biases, 15 and 127: the value
    is 2¹¹² times that float, subnormal or not. Halves that are no numbers come out at 2¹⁶ and above, where no half is,
    and lack the float's highest exponent alone.
    """
    if source.dtype != np.float16:
        np.copyto(target, source)
        return
    step = max(1, BLOCK * len(source) // max(1, source.size))
    for start in range(0, len(source), step):
        value, halves = target[start : start + step], source[start : start + step].view(np.int16)
        bits = value.view(np.int32)
        np.left_shift(halves, 13, out=bits, dtype=np.int32)
        np.bitwise_and(bits, SIGN_EXPONENT_FRACTION, out=bits)
        np.multiply(value, np.float32(2.0**112), out=value)
        if value.size and (value.max() >= 2**16 or value.min() <= -(2**16)):
            bits[np.abs(value) >= 2**16] |= HIGHEST_EXPONENT
