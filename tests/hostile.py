"""Hostile files are read here: in time, in memory, with nothing imported, executed, or opened outside their folder.

Python's audit events tell what Python does. The HDF5 library opens files without one, so that the kernel's inotify
tells of those in OUTSIDE. Memory is the process's peak of resident pages, which the kernel keeps and forgets when asked
to: tracemalloc would make each case several times slower and sees nothing of what a library allocates in C.
"""

from __future__ import annotations

import ctypes
import mmap  # noqa: F401 - NumPy imports it when it first maps a file
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from bertc.errors import BertcError
from bertc.weights_io import Tensor

SECONDS = 3.0
"""Of processor time: five times what the slowest file takes, since a second of a shared processor's does as little as
half of another's. What grows as the square of these files, or faster, takes minutes."""
WAITING_SECONDS = 20.0
"""Of real time: for a pipe to which nobody writes, say."""
MEMORY = 64 << 20
"""Bytes, beyond four times the files."""
MAX_SENTENCE = 2000
OUTSIDE = "outside"
"""The folder beside a checkpoint's own in which its bait lies."""

Build = Callable[[Path], Path]
"""Writes a checkpoint into an empty folder, and what it reaches for into OUTSIDE beside; gives the path to open."""
Read = Callable[[Path], Mapping[str, Tensor]]

HARMLESS = {"mmap.__new__", "builtins.id"}
LOOKING = {"open", "os.listdir", "os.scandir", "pathlib.Path.glob"}
"""What a reader may do in the checkpoint's own folder."""
PACKAGE = Path(sys.modules["bertc"].__file__ or "").parent
IN_ACCESS, IN_OPEN = 0x1, 0x20
"""Of <sys/inotify.h>."""

_seen: list[tuple[str, str]] | None = None
_libc = ctypes.CDLL(None, use_errno=True)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event not in HARMLESS:
        _seen.append((event, str(arguments[0])[:200] if arguments else ""))


sys.addaudithook(_audit)


class TookTooLongError(BaseException):
    """Not an Exception, so that no reader catches it."""


def file(content: bytes, name: str = "file") -> Build:
    """A checkpoint of one file."""

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def built(build: Build, folder: Path) -> Path:
    """What `build` writes in a folder of its own, beside which OUTSIDE lies."""
    (folder / OUTSIDE).mkdir()
    (folder / "model").mkdir()
    return build(folder / "model")


@contextmanager
def nothing_happens_outside(folder: Path) -> Iterator[None]:
    """Fails when anything is imported, compiled, executed or found by a pickle, or a file is opened elsewhere.

    Bertc's own files do not count: what it knows of networks is in some of them.
    """
    global _seen
    bait = folder.parent / OUTSIDE
    watch = _watch(bait) if bait.is_dir() else None
    _seen = []
    try:
        yield
    finally:
        seen, _seen = _seen, None
        opened = _opened(watch) if watch is not None else ()
    elsewhere = [(event, what) for event, what in seen if not (event in LOOKING and _is_inside(Path(what), folder))]
    assert not elsewhere, elsewhere
    assert not opened, opened


def _is_inside(path: Path, folder: Path) -> bool:
    return folder in (path, path.parent) or PACKAGE in path.parents


def _watch(folder: Path) -> int:
    handle = _libc.inotify_init1(os.O_NONBLOCK)
    assert _libc.inotify_add_watch(handle, os.fsencode(folder), IN_ACCESS | IN_OPEN) > 0, ctypes.get_errno()
    return handle


def _opened(watch: int) -> bytes:
    """The kernel's records of what was opened, which hold the names of files."""
    try:
        return os.read(watch, 1 << 16)
    except BlockingIOError:
        return b""
    finally:
        os.close(watch)


@contextmanager
def within_bounds(files: int) -> Iterator[None]:
    """Fails beyond SECONDS, where it stops what runs, and beyond MEMORY and four times the bytes of the `files`."""
    _libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # 5: forget the peak
    before = _peak()
    previous = [signal.signal(number, _took_too_long) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), previous, strict=True):
            signal.signal(number, handler)
    taken = _peak() - before
    assert taken <= MEMORY + 4 * files, f"{taken} bytes of memory for {files} of files"


def _took_too_long(*_: object) -> NoReturn:
    raise TookTooLongError(f"more than {SECONDS} seconds of work or {WAITING_SECONDS} of waiting")


def _peak() -> int:
    """Bytes: the most that was resident since the peak was forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def outcome(read: Read, path: Path) -> BertcError | None:
    """What reading every value of a file raises, other than which nothing may escape. None when all of it is read."""
    try:
        for tensor in read(path).values():
            tensor.read()
    except BertcError as refused:
        return refused
    return None


def guarded_outcome(read: Read, path: Path) -> BertcError | None:
    """`outcome`, held to the bounds and to the folder that `path` is in."""
    folder = path if path.is_dir() else path.parent
    files = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    with within_bounds(files), nothing_happens_outside(folder):
        return outcome(read, path)


def assert_refused(read: Read, path: Path, exit_code: int = 3) -> BertcError:
    """The error that a hostile file gives: of `exit_code`, and one sentence of a place and a remedy."""
    refused = guarded_outcome(read, path)
    assert refused is not None, "the file was read"
    assert refused.exit_code == exit_code, refused
    first = refused.diagnostics[0]
    assert first.span is not None or str(path.parent) in first.message or f"/{path.name}" in first.message, first
    assert first.help, first
    for problem in refused.diagnostics:
        assert len(problem.message) < MAX_SENTENCE, problem
        assert not re.search(r"[\x00-\x1f\x7f]", problem.message), problem
    return refused
