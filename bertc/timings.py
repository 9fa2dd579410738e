"""How long each op took: an engine's own record of its layers, put to the nodes of a graph by name.

ONNX Runtime's record is a Chrome trace: [{"cat": "Node", "name": "NAME_kernel_time", "dur": microseconds}, ...], an
event for each run (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertc.graph import Graph

_PARTS = re.compile(r"\s\+\s|\s*,\s*")
_KERNEL = "_kernel_time"
_FUSED = "fused "
"""What ONNX Runtime puts before the names of products that it gave a bias."""


@dataclass(frozen=True)
class Timing:
    """Of one run, on average."""

    milliseconds: Mapping[str, float]
    """By the key of a node."""
    others: Mapping[str, float]
    """By the engine's name, of layers that are no node's."""


def by_node(layers: Mapping[str, float], graph: Graph) -> Timing:
    """The milliseconds of an engine's layers, those of one node together.

    A layer that is of several nodes counts for the first that its name has.
    """
    keys = {result: node.key for node in graph for result in node.results}
    milliseconds: defaultdict[str, float] = defaultdict(float)
    others: dict[str, float] = {}
    for name, time in layers.items():
        key = _node(name, keys)
        if key is None:
            others[name] = time
        else:
            milliseconds[key] += time
    return Timing(dict(milliseconds), others)


def of_onnxruntime(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds of one run by the name of a layer, from a trace of several runs."""
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        name, time = event.get("name"), amount(event.get("dur"))
        if isinstance(name, str) and name.endswith(_KERNEL) and time is not None:
            totals[name.removesuffix(_KERNEL)].append(time / 1e3)
    runs = max(map(len, totals.values()), default=1)
    return {name: sum(times) / runs for name, times in totals.items()}


def amount(value: object) -> float | None:
    """A time, if it is one: finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value)


def _node(name: str, keys: Mapping[str, str]) -> str | None:
    """The node that a layer is of: engines join the names of what they merged, and add endings."""
    parts = _PARTS.split(name.removeprefix(_FUSED))
    return next((keys[known] for part in parts for known in _shorter(part.strip()) if known in keys), None)


def _shorter(name: str) -> Iterator[str]:
    """A name, then the name without its last part, and so on."""
    while name:
        yield name
        name = name[: max(map(name.rfind, "./_:"))] if any(mark in name for mark in "./_:") else ""
