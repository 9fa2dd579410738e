"""fold_constants: steps that change nothing go, and equal constants are computed once.

A value that depends on weights alone is a constant already: targets compute it when they build. So no weight is read
here.
"""

from __future__ import annotations

from dataclasses import replace

from bertc.graph import INPUT, WEIGHT, Graph, Node


def fold_constants(graph: Graph) -> tuple[Graph, int]:
    """x · 1, x + 0, x / 1, transposes and reshapes to the same, and constants that were spelt out before."""
    folded = Graph()
    same: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    count = 0
    for node in graph:
        node = replace(node, inputs=tuple(same.get(v, v) if isinstance(v, str) else v for v in node.inputs))
        kept = _unchanged(folded, node)
        if kept is None and node.op not in (INPUT, WEIGHT) and all(folded.is_constant(v) for v in node.inputs):
            kept = seen.setdefault((node.op, node.inputs, node.attributes), node.key)
            kept = None if kept == node.key else kept
        if kept is not None:
            same[node.key] = kept
            count += 1
            continue
        folded.insert(node)
    folded.outputs = {name: same.get(value, value) for name, value in graph.outputs.items()}
    return folded, count


def _unchanged(graph: Graph, node: Node) -> str | None:
    """The operand that the node merely repeats."""
    if not node.values or len(node.results) > 1 or graph.type_of(node.values[0]) != node.types[0]:
        return None
    match node.op, node.inputs[1:]:
        case ("multiply" | "divide", (1,)) | ("add" | "subtract", (0,)) | ("reshape" | "cast", ()):
            return node.values[0]
        case "transpose", () if node.attribute("axes") == tuple(range(len(node.types[0].shape))):
            return node.values[0]
        case _:
            return None
