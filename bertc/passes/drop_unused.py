"""drop_unused: what no output depends on goes, and results that nothing reads lose their name."""

from __future__ import annotations

from dataclasses import replace

from bertc.graph import INPUT, UNUSED, Graph, Node


def drop_unused(graph: Graph) -> tuple[Graph, int]:
    """Inputs stay, needed or not: they are what callers give."""
    nodes = tuple(graph)
    needed = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.op == INPUT or needed.intersection(node.results):
            needed.update(node.values)
            results = tuple(name if name in needed else UNUSED for name in node.results)
            kept.append(node if node.op == INPUT else replace(node, results=results))
    used = Graph()
    for node in reversed(kept):
        used.insert(node)
    used.outputs = dict(graph.outputs)
    return used, len(nodes) - len(kept)
