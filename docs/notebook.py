"""The notebook docs/question_answering.ipynb: the cells of examples/question_answering.py and what they print.

    python docs/notebook.py     runs them, where all-MiniLM-L6-v2 is, and writes the notebook anew; a test does the same

A line `# %%` begins a cell of code, `# %% [markdown]` one of text. The format of notebooks is nbformat 4.5:
https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "examples" / "question_answering.py"
NOTEBOOK = ROOT / "docs" / "question_answering.ipynb"

PYTHON = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


@dataclass(frozen=True)
class Cell:
    is_code: bool
    source: str


def cells(program: str) -> Iterator[Cell]:
    _, *parts = re.split(r"^# %%( \[markdown\])?\n", program, flags=re.MULTILINE)
    for mark, text in zip(parts[::2], parts[1::2], strict=True):
        source = re.sub(r"^# ?", "", text, flags=re.MULTILINE) if mark else text
        yield Cell(not mark, source.strip())


def printed(code: Sequence[Cell]) -> Iterator[str]:
    """What each cell prints, run in their order as one program."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code):
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(cell.source, f"cell {number}", "exec"), names)
        yield out.getvalue()


def notebook(program: str) -> dict[str, Any]:
    """A program's cells, with what they print now."""
    found = list(cells(program))
    outputs = printed([cell for cell in found if cell.is_code])
    made = [
        document(f"cell-{number}", cell, next(outputs) if cell.is_code else "") for number, cell in enumerate(found)
    ]
    return {"cells": made, "metadata": PYTHON, "nbformat": 4, "nbformat_minor": 5}


def document(name: str, cell: Cell, output: str) -> dict[str, Any]:
    common = {"id": name, "metadata": {}, "source": cell.source.splitlines(keepends=True)}
    if not cell.is_code:
        return {"cell_type": "markdown", **common}
    stream = {"name": "stdout", "output_type": "stream", "text": output.splitlines(keepends=True)}
    return {"cell_type": "code", "execution_count": None, **common, "outputs": [stream] if output else []}


def main() -> None:
    made = notebook(PROGRAM.read_text("utf-8"))
    NOTEBOOK.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
