"""Answers in memory of their own."""

from __future__ import annotations

import numpy as np
import pytest

from bertc.targets import copies


@pytest.mark.parametrize(("rows", "threads"), [(0, 0), (7, 0), (8, 2), (11, 2), (100, 3)])
def test_rows_of_a_slice(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row, as float32 and apart from what was copied; by threads from two that are worth it, THREADS at most."""
    started: list[int] = []
    given = np.arange(rows * 6).reshape(rows, 6).astype(np.float16)[:, 2:5]

    def pool(count: int) -> copies.ThreadPoolExecutor:
        started.append(count)
        return executor(count)

    executor = copies.ThreadPoolExecutor
    monkeypatch.setattr(copies, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(copies, "WORTH_A_THREAD", 4 * 3 * 4)
    monkeypatch.setattr(copies, "THREADS", 3)
    found = copies.copied(given)
    assert (found.dtype, found.flags.c_contiguous, found.flags.owndata) == (np.float32, True, True)
    np.testing.assert_array_equal(found, given)
    assert started == ([threads] if threads else [])
