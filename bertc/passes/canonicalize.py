"""canonicalize, first part: literals and weights stand on the right of ops that commute.

The rest of it is rules, canonicalize.net.
"""

from __future__ import annotations

from dataclasses import replace

from bertc.graph import INPUT, WEIGHT, Graph
from bertc.plugins import OPS


def canonicalize(graph: Graph) -> Graph:
    """c + x -> x + c and w · x -> x · w, where c is a literal and w is known at build time."""
    ordered = Graph()
    for node in graph:
        swap = (
            node.op not in (INPUT, WEIGHT)
            and OPS[node.op].commutative
            and graph.is_constant(node.inputs[0])
            and not graph.is_constant(node.inputs[1])
        )
        ordered.insert(replace(node, inputs=node.inputs[::-1]) if swap else node)
    ordered.outputs = dict(graph.outputs)
    return ordered
