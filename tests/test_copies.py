"""Answers in memory of their own."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from bertc.targets import copies


@pytest.mark.parametrize(("rows", "parts"), [(0, 0), (7, 0), (8, 2), (11, 2), (100, 3)])
def test_rows_of_a_slice(rows: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row, as float32 and apart from what was copied; by other threads where two are worth it."""
    copied_there: list[threading.Thread] = []
    given = np.arange(rows * 6).reshape(rows, 6).astype(np.float16)[:, 2:5]

    def copyto(target: Any, source: Any) -> None:
        copied_there.append(threading.current_thread())
        target[:] = source

    monkeypatch.setattr(copies, "WORTH_A_THREAD", 4 * 3 * 4)
    monkeypatch.setattr(copies, "THREADS", 3)
    monkeypatch.setattr(copies.np, "copyto", copyto)
    found = copies.copied(given)
    assert (found.dtype, found.flags.c_contiguous, found.flags.owndata) == (np.float32, True, True)
    np.testing.assert_array_equal(found, given)
    assert len(copied_there) == max(parts, 1)
    assert (threading.main_thread() in copied_there) == (parts == 0)
