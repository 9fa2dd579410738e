"""Ops that an operator of ONNX Runtime's does besides the one it is for."""

from __future__ import annotations

from bertc.graph import Graph


def absorbed_biases(graph: Graph) -> list[tuple[str, str]]:
    """Each skip_norm one of whose operands is a bias added for it alone, and that addition."""
    found: list[tuple[str, str]] = []
    for node in graph:
        if node.op != "skip_norm":
            continue
        for operand in node.values[:2]:
            added = graph.producer(operand)
            alone = len(graph.users(operand)) == 1 and not graph.is_output(operand)
            if added.op == "add" and alone and len(added.values) == 2 and _is_vector(graph, added.values[1]):
                found.append((node.key, added.key))
                break
    return found


def absorbed_projections(graph: Graph) -> list[str]:
    """Each qkv_projection whose three results one attention reads, in order, under a mask made of lengths."""
    found: list[str] = []
    for node in graph:
        if node.op != "attention":
            continue
        projection, mask = graph.producer(node.values[0]), graph.producer(node.values[3])
        alone = all(len(graph.users(name)) == 1 and not graph.is_output(name) for name in node.values[:3])
        if (
            projection.op == "qkv_projection"
            and projection.results == node.values[:3]
            and alone
            and mask.op == "padding_mask"
        ):
            found.append(projection.key)
    return found


def _is_vector(graph: Graph, value: str) -> bool:
    return graph.is_constant(value) and len(graph.type_of(value).shape) == 1
