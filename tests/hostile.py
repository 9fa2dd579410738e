"""Hostile files are read here: in time, in memory, with nothing imported, executed, or opened outside their folder."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bertc.errors import BertcError
from bertc.weights_io import Tensor

SECONDS = 1.0
MEMORY = 64 << 20
"""Bytes, beyond four times the file."""

HARMLESS = {"mmap.__new__"}

_seen: list[tuple[str, str]] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event not in HARMLESS:
        _seen.append((event, str(arguments[0])[:200] if arguments else ""))


sys.addaudithook(_audit)


@contextmanager
def nothing_happens_outside(folder: Path) -> Iterator[None]:
    """Fails when anything is imported, compiled, executed or found by a pickle, or a file is opened elsewhere."""
    global _seen
    _seen = []
    try:
        yield
    finally:
        seen, _seen = _seen, None
    elsewhere = [(event, what) for event, what in seen if not (event == "open" and Path(what).parent == folder)]
    assert not elsewhere, elsewhere


def outcome(read: Callable[[Path], Mapping[str, Tensor]], path: Path) -> BertcError | None:
    """What reading every value of a file raises, other than which nothing may escape. None when all of it is read."""
    try:
        for tensor in read(path).values():
            tensor.read()
    except BertcError as refused:
        return refused
    return None


def assert_refused(read: Callable[[Path], Mapping[str, Tensor]], path: Path) -> BertcError:
    """The error of exit code 3 that a hostile file gives, within bounds and without effects."""
    started = time.process_time()
    with nothing_happens_outside(path.parent):
        refused = outcome(read, path)
    assert time.process_time() - started < SECONDS
    assert refused is not None, "the file was read"
    assert refused.exit_code == 3, refused
    assert refused.diagnostics[0].help
    tracemalloc.start()
    try:
        outcome(read, path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY + 4 * path.stat().st_size
    finally:
        tracemalloc.stop()
    return refused
