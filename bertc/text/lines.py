"""Texts from a file, one a line, in blocks, so that a file of any size takes the same memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TextIO

from bertc.errors import error

BLOCK = 1024
"""Lines that are answered together: enough that those of one length find each other."""

LONGEST_LINE = 1 << 20
"""In characters."""

STANDARD_INPUT = Path("-")


def blocks_of_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file, or of standard input for `-`, and the number of the first in each block.

    What is not UTF-8 comes as halves of characters, which the tasks refuse by the number of its line. Raises B0002 when
    the file cannot be read, B0904 for a line that is too long to be one.
    """
    try:
        with nullcontext(sys.stdin) if path == STANDARD_INPUT else _opened(path) as file:
            lines = _lines(file, path)
            for first in range(1, sys.maxsize, BLOCK):
                block = list(islice(lines, BLOCK))
                if not block:
                    return
                yield first, block
    except OSError as problem:
        raise error("B0002", f"`{path}` cannot be read: {problem.strerror}", None, "check the path") from None


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="surrogateescape")


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            message = f"expected lines of at most {LONGEST_LINE} characters, but line {number} of `{path}` is longer"
            raise error("B0904", message, None, "write one text a line")
        yield line.removesuffix("\n")
