"""What a command gives: documents on standard output, files, and bars on a terminal while it works."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertc.errors import error


def document(schema: str, **content: object) -> int:
    """Print one JSON document that names its schema; the exit code of a command that has done so."""
    print(json.dumps({"schema": f"bertc-{schema}/1", **content}, indent=2))
    return 0


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folder that it is to be in. Raises B0605 when the file system refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as problem:
        message = f"`{path}` cannot be written: {problem.strerror}"
        raise error("B0605", message, None, "is the folder there, and may you write in it?") from None


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
