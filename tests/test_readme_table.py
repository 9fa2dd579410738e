"""The README's figures are those of the committed runs, and nothing else; each row says on which day it was measured.

Set BERTC_GOLDEN=write to write the table anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
START, END = "<!-- gpu table -->\n", "<!-- end of gpu table -->\n"


def table() -> str:
    document = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text("utf-8"))
    parts = [part for name, part in document["parts"].items() if "/" in name or name == "packed"]
    lines = ["| network | batch × seq | bertc | torch.compile | ratio | day |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {cells(row)} | {row['ratio']:.2f} | {part['run']['date']} |" for part in parts for row in part["found"]
    ]
    runs = dict.fromkeys(circumstances(part["run"]) for part in parts)
    return "\n".join([*lines, "", *runs]) + "\n"


def cells(row: Mapping[str, Any]) -> str:
    """Of one shape, or of sequences of many lengths without padding."""
    if "seq" in row:
        times = f"{row['milliseconds']:.3g} ms | {row['torch_compile']:.3g} ms"
        return f"{row['spec']} | {row['batch']} × {row['seq']} | {times}"
    rates = f"{row['sequences_per_second']:.0f}/s | {row['torch_compile_padded']:.0f}/s padded to 384"
    packed = f"{row['spec']}, packed, {row['mean_length']:.0f} tokens on average"
    return f"{packed} | {row['sequences']} sequences | {rates}"


def circumstances(run: Mapping[str, Any]) -> str:
    driver = {"driver": run["driver"]} if run.get("driver") else {}
    versions = ", ".join(f"{name} {version}" for name, version in {**driver, **run["versions"]}.items())
    return f"{run['date']}: {run['gpu']}, {versions}."


def test_the_table_is_the_committed_run() -> None:
    path = ROOT / "README.md"
    head, rest = path.read_text("utf-8").split(START)
    expected = head + START + table() + END + rest.split(END)[1]
    if os.environ.get("BERTC_GOLDEN") == "write":
        path.write_text(expected, "utf-8")
    assert path.read_text("utf-8") == expected


def test_parts_keep_their_own_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is run again replaces what it found, with the new run beside it, and leaves the others alone."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    merged = import_module("gpu").merged
    first = merged({}, {"packed": [{"a": 1}], "leaks": [{"b": 1}, {"b": 2}]}, {"date": "1"})
    second = merged(first, {"leaks": [{"b": 3}], "bert-base/1x128": [{"c": 1}]}, {"date": "2"})
    assert list(second["parts"].items()) == [
        ("leaks", {"run": {"date": "2"}, "found": [{"b": 3}]}),
        ("bert-base/1x128", {"run": {"date": "2"}, "found": [{"c": 1}]}),
        ("packed", {"run": {"date": "1"}, "found": [{"a": 1}]}),
    ]
