"""How long each op of a bundle's graph takes, by the engine's own record of its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bertc.bench.workload import Workload
from bertc.engine import Engine
from bertc.errors import error
from bertc.graph import Graph
from bertc.timings import by_node


@dataclass(frozen=True)
class OpTime:
    """Of one node of the bundle's graph; of what an engine merged, the first one."""

    name: str
    """Of the node; the engine's own name where it is no node's."""
    op: str
    """Empty where it is no node's."""
    microseconds: float
    """In a run, on average."""
    share: float
    """Of all ops together."""


@dataclass(frozen=True)
class KindTime:
    """Of all nodes of one op together."""

    op: str
    count: int
    microseconds: float
    share: float


def op_times(engine: Engine, graph: Graph, load: Workload, runs: int) -> tuple[OpTime, ...]:
    """The slowest first. The record is of runs of its own, of the whole workload as one padded batch.

    Raises BertcError B0805 for a bundle whose engine does not tell.
    """
    measure = engine.runtime.step_times
    if measure is None:
        message = f"the times of ops are asked for, but engines of target {engine.bundle.manifest.target} do not tell"
        raise error("B0805", message, None, "leave `--ops` out; `bertc view --profile` takes what trtexec writes")
    timing = by_node(measure(engine.checked(load.inputs()), runs), graph)
    ops = {node.key: node.op for node in graph}
    total = sum(timing.milliseconds.values()) + sum(timing.others.values())
    rows = [
        OpTime(name, ops.get(name, ""), time * 1e3, time / total)
        for times in (timing.milliseconds, timing.others)
        for name, time in times.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.microseconds))


def by_kind(ops: Sequence[OpTime]) -> list[KindTime]:
    """The slowest first; what is no node's is of the op `others`."""
    counts = Counter(row.op for row in ops)
    kinds = [
        KindTime(
            op or "others",
            count,
            sum(row.microseconds for row in ops if row.op == op),
            sum(row.share for row in ops if row.op == op),
        )
        for op, count in counts.items()
    ]
    return sorted(kinds, key=lambda kind: -kind.microseconds)
