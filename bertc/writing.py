"""Files that appear whole or not at all: written beside their place and renamed into it (rename(2) is atomic), unless
the process has been asked to stop."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

from bertc.errors import error

_signals: list[int] = []
"""Those that asked the process to stop."""


def stop(signum: int, frame: FrameType | None) -> NoReturn:
    """A signal's handler: leave as on Ctrl-C, so that what is half written is taken away. Some code drops what is
    raised in it, as Cython's modules do while they are imported; then nothing is moved into its place any more."""
    _signals.append(signum)
    raise KeyboardInterrupt


def heed_signals() -> None:
    """Raises KeyboardInterrupt when the process has been asked to stop."""
    if _signals:
        raise KeyboardInterrupt


def move(written: Path, place: Path) -> None:
    """Rename what is whole into its place, whose folder is made if need be.

    Raises KeyboardInterrupt when the process has been asked to stop.
    """
    heed_signals()
    place.parent.mkdir(parents=True, exist_ok=True)
    written.replace(place)


def write_text(path: Path, text: str) -> None:
    """Write a text file. Raises BertcError as `replacing` does."""
    with replacing(path) as beside:
        beside.write_text(text, "utf-8")


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Where to write a file that takes the place of `path` once the body has ended; its folder is made if need be.

    When the body raises, what stood at `path` still does, and nothing else is left. Where `path` is a link, it stays
    one. Raises BertcError B0605 when something other than a file stands there, or the file system refuses.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise error("B0605", f"`{path}` cannot be written: {found} stands there", None, "name a file")
    with scratch_beside(path) as scratch:
        place, written = Path(os.path.realpath(path)), scratch / path.name
        yield written
        move(written, place)


@contextmanager
def scratch_beside(path: Path) -> Generator[Path]:
    """An empty folder, gone when the body ends, from which a rename can move to `path`; no folder above it is made.

    Raises BertcError B0605 for whatever the file system refuses, also in the body.
    """
    try:
        place = Path(os.path.realpath(path))
        above = next(parent for parent in place.parents if parent.exists())
        with TemporaryDirectory(dir=above, prefix=".bertc-") as scratch:
            yield Path(scratch)
    except OSError as problem:
        message = f"`{path}` cannot be written: {problem.strerror or problem}"
        raise error("B0605", message, None, "is there room, and may you write there?") from None
