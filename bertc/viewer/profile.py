"""How long each op took: profiles as engines write them, put to the nodes of a graph by name.

trtexec's --exportProfile: [{"count": 100}, {"name": ..., "averageMs": ...}, ...]. ONNX Runtime's, which is a Chrome
trace: [{"cat": "Node", "name": "NAME_kernel_time", "dur": microseconds}, ...], an event for each run.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertc.errors import BertcError, error
from bertc.graph import Graph
from bertc.tree import read_source
from bertc.weights_io.strict_json import Json, JsonError, parse_json

LARGEST = 1 << 26
"""Bytes of a profile."""

_PARTS = re.compile(r"\s\+\s|\s*,\s*")
_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Profile:
    milliseconds: Mapping[str, float]
    """By the key of a node: of one run, on average."""
    others: float
    """Of what has no node."""


def read_profile(path: Path, graph: Graph) -> Profile:
    """Raises BertcError B0803 for a file that is no profile, or none of this graph."""
    source = read_source(path, largest=LARGEST)
    try:
        content = parse_json(source.text.encode())
    except JsonError as problem:
        raise _refusal(path, str(problem)) from None
    layers = _layers(content)
    if not layers:
        raise _refusal(path, "has no times of layers")
    keys = {result: node.key for node in graph for result in node.results}
    milliseconds: defaultdict[str, float] = defaultdict(float)
    others = 0.0
    for name, time in layers.items():
        key = _node(name, keys)
        if key is None:
            others += time
        else:
            milliseconds[key] += time
    if not milliseconds:
        raise _refusal(path, f"has times of {len(layers)} layers, none of them named as in this graph")
    return Profile(dict(milliseconds), others)


def _refusal(path: Path, reason: str) -> BertcError:
    help = "give what trtexec's --exportProfile or ONNX Runtime's profiling wrote for this network"
    return error("B0803", f"`{path}` {reason}", None, help)


def _layers(content: Json) -> dict[str, float]:
    """Milliseconds of one run, by the engine's name of a layer."""
    entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
    return _of_trtexec(entries) or _of_onnxruntime(entries)


def _of_trtexec(entries: Sequence[Mapping[str, Json]]) -> dict[str, float]:
    times = ((entry.get("name"), _number(entry.get("averageMs"))) for entry in entries)
    return {name: time for name, time in times if isinstance(name, str) and time is not None}


def _of_onnxruntime(entries: Sequence[Mapping[str, Json]]) -> dict[str, float]:
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for entry in entries:
        name, time = entry.get("name"), _number(entry.get("dur"))
        if isinstance(name, str) and name.endswith(_KERNEL) and time is not None:
            totals[name.removesuffix(_KERNEL)].append(time / 1e3)
    runs = max(map(len, totals.values()), default=1)
    return {name: sum(times) / runs for name, times in totals.items()}


def _number(value: Json) -> float | None:
    """A time, if it is one: finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value)


def _node(name: str, keys: Mapping[str, str]) -> str | None:
    """The node that a layer is of: engines join the names of what they merged, and add endings."""
    return next((keys[known] for part in _PARTS.split(name) for known in _shorter(part.strip()) if known in keys), None)


def _shorter(name: str) -> Iterator[str]:
    """A name, then the name without its last part, and so on."""
    while name:
        yield name
        name = name[: max(map(name.rfind, "./_:"))] if any(mark in name for mark in "./_:") else ""
