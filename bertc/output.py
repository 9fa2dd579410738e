"""What a command says: documents on standard output, and bars on a terminal while it works."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertc.errors import error
from bertc.writing import replacing


def to_document(schema: str, **content: object) -> str:
    """One JSON document that names its schema."""
    return json.dumps({"schema": f"bertc-{schema}/1", **content}, indent=2) + "\n"


def document(schema: str, **content: object) -> int:
    """Print a document; the exit code of a command that has done so."""
    print(to_document(schema, **content), end="")
    return 0


def write(content: str | bytes, path: Path | None) -> None:
    """Write to a file, or to standard output where there is none.

    Raises BertcError B0605 when the file system refuses, B0212 for a picture that would go to a terminal.
    """
    if path is not None:
        with replacing(path) as beside:
            beside.write_bytes(content.encode() if isinstance(content, str) else content)
    elif isinstance(content, str):
        print(content, end="")
    elif sys.stdout.isatty():
        raise error("B0212", "a picture is nothing for a terminal to show", None, "name a file with `-o`")
    else:
        sys.stdout.buffer.write(content)


Progress = Callable[[str, int, int], None]


@contextmanager
def progress_bars() -> Generator[tuple[Progress | None, Callable[[str], None]]]:
    """A bar for what takes long, on a terminal only, and a way to print a line beside it."""
    if not sys.stderr.isatty() or os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        yield None, lambda text: print(text, file=sys.stderr)
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done, total=of)

        yield progress, lambda text: bars.console.print(text, highlight=False, markup=False)
