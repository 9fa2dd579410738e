"""docs/question_answering.ipynb: its cells are those of the example, its outputs what they print now.

Set BERTC_GOLDEN=write to write it anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from notebook import NOTEBOOK, PROGRAM, main, notebook

from bertc.cli import run

CHANCE = 5
"""Percent: probabilities move a little where sums are in another order, what is answered does not."""


def percentages(cell: Any) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+)%", json.dumps(cell["outputs"]))]


def without_percentages(cell: Any) -> str:
    return re.sub(r" *\d+%", "%", json.dumps(cell))


def test_the_notebook_is_current(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all-MiniLM-L6-v2").symlink_to(minilm)
    if os.environ.get("BERTC_GOLDEN") == "write":
        main()
    found, kept = notebook(PROGRAM.read_text("utf-8")), json.loads(NOTEBOOK.read_text("utf-8"))
    assert found.keys() == kept.keys()
    for ours, theirs in zip(found.pop("cells"), kept.pop("cells"), strict=True):
        assert without_percentages(ours) == without_percentages(theirs)
        if ours["cell_type"] == "code":
            assert ours["outputs"]
            assert percentages(ours) == pytest.approx(percentages(theirs), abs=CHANCE)
    assert found == kept
    capsys.readouterr()
    assert run(["eval", "out/ask", "squad", "out/articles.json", "--window=64", "--stride=32", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert str({name: round(score, 1) for name, score in scores.items()}) in NOTEBOOK.read_text("utf-8")
