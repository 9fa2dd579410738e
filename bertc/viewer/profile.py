"""How long each op took, from files: what `bertc bench --ops --json`, trtexec and ONNX Runtime write.

`bertc bench`: {"schema": "bertc-bench/1", "rows": [{"ops": [{"name": ..., "microseconds": ...}, ...]}, ...]}; trtexec's
--exportProfile: [{"count": 100}, {"name": ..., "averageMs": ...}, ...]; ONNX Runtime's is a trace (bertc/timings.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bertc.errors import BertcError, error
from bertc.graph import Graph
from bertc.timings import Timing, amount, by_node, of_onnxruntime
from bertc.tree import read_source
from bertc.weights_io.strict_json import Json, JsonError, parse_json

LARGEST = 1 << 26
"""Bytes of a profile."""

PUNCTUATION = 1 << 22
"""Quotes, commas, colons and brackets in it: ONNX Runtime's has about 130 for each op of each run."""


def read_profile(path: Path, graph: Graph) -> Timing:
    """Raises BertcError B0803 for a file that is no profile, or none of this graph."""
    source = read_source(path, largest=LARGEST)
    try:
        content = parse_json(source.text.encode(), PUNCTUATION)
    except JsonError as problem:
        raise _refusal(path, str(problem)) from None
    layers = _layers(content)
    if not layers:
        raise _refusal(path, "has no times of ops or layers")
    timing = by_node(layers, graph)
    if not timing.milliseconds:
        raise _refusal(path, f"has times of {len(layers)} layers, none of them named as in this graph")
    return timing


def _refusal(path: Path, reason: str) -> BertcError:
    help = "give what `bertc bench --ops --json`, trtexec --exportProfile or ONNX Runtime wrote of a few runs of it"
    return error("B0803", f"`{path}` {reason}", None, help)


def _layers(content: Json) -> dict[str, float]:
    """Milliseconds of one run, by the engine's name of a layer."""
    if isinstance(content, dict):
        return _of_bench(content)
    entries = _objects(content)
    return _times(entries, "averageMs") or of_onnxruntime(entries)


def _of_bench(report: Mapping[str, Json]) -> dict[str, float]:
    """Of the first shape that was measured."""
    rows = _objects(report.get("rows"))
    microseconds = _times(_objects(rows[0].get("ops")), "microseconds") if rows else {}
    return {name: time / 1e3 for name, time in microseconds.items()}


def _objects(content: Json) -> list[Mapping[str, Json]]:
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def _times(entries: Sequence[Mapping[str, Json]], key: str) -> dict[str, float]:
    times = ((entry.get("name"), amount(entry.get(key))) for entry in entries)
    return {name: time for name, time in times if isinstance(name, str) and time is not None}
