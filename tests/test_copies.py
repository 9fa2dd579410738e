"""Answers in memory of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
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


def test_the_longest_axis_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of one long sequence, [1, tokens, width]."""
    cut: list[tuple[int, ...]] = []
    given = np.arange(3 * 40 * 5).reshape(3, 40, 5)
    monkeypatch.setattr(copies, "WORTH_A_THREAD", 4 * 3 * 10 * 5)
    monkeypatch.setattr(copies.np, "copyto", lambda target, source: cut.append(source.shape) or target.fill(7))
    assert (copies.copied(given) == 7).all()
    assert cut == [(3, 10, 5)] * 4


def test_nothing_is_read_behind_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's memory may then be given back: what runs is waited for, and what begins later reads nothing."""
    running, ended, late = threading.Event(), list[int](), list[Callable[[], None]]()

    class Left:
        """A pool that a signal leaves while one thread runs and another is about to."""

        def __init__(self, threads: int) -> None:
            self.threads = threads

        def __enter__(self) -> Left:
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def map(self, copy: Callable[..., None], *pieces: Any) -> None:
            first, second, *_ = zip(*pieces, strict=True)
            threading.Thread(target=copy, args=first).start()
            running.wait()
            late.append(partial(copy, *second))
            raise KeyboardInterrupt

    def copyto(target: Any, source: Any) -> None:
        running.set()
        time.sleep(0.2)
        ended.append(len(source))

    monkeypatch.setattr(copies, "WORTH_A_THREAD", 8)
    monkeypatch.setattr(copies, "ThreadPoolExecutor", Left)
    monkeypatch.setattr(copies.np, "copyto", copyto)
    with pytest.raises(KeyboardInterrupt):
        copies.copied(np.zeros((4, 2)))
    assert ended == [1]
    late[0]()
    assert ended == [1]


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends it starts none; then one copies."""
    given = np.arange(8).reshape(4, 2)
    monkeypatch.setattr(copies, "WORTH_A_THREAD", 8)
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    np.testing.assert_array_equal(copies.copied(given), given)
