"""Packed projections as the ops that they are made of.

The rule that makes qkv_projection tells batch from sequence, so that run backwards it fits no packed tokens. TensorRT
fuses a product and its sum by itself, and attention as a plugin reads what they give as it is.
"""

from __future__ import annotations

from typing import Any

from bertc.graph import Graph, Node, Operand


def is_packed_projection(graph: Graph, node: Node) -> bool:
    """Whether a node is the qkv_projection of tokens [tokens, n]."""
    return node.op == "qkv_projection" and len(graph.type_of(node.values[0]).shape) == 2


def expand_packed_projections(graph: Graph) -> Graph:
    """The graph with a product, its sum, thirds and heads in the place of each packed qkv_projection."""
    if not any(is_packed_projection(graph, node) for node in graph):
        return graph
    expanded = Graph()
    for node in graph:
        if is_packed_projection(graph, node):
            _expand(expanded, node)
        else:
            expanded.insert(node)
    expanded.outputs = dict(graph.outputs)
    return expanded


def _expand(graph: Graph, node: Node) -> None:
    x, rows, bias = node.inputs
    heads, size, name = node.attribute("heads"), node.attribute("size"), node.key
    tokens = node.types[0].shape[1]

    def add(op: str, inputs: tuple[Operand, ...], results: tuple[str, ...], **attributes: Any) -> None:
        graph.add(op, inputs, tuple(attributes.items()), results, node.span)

    add("transpose", (rows,), (f"{name}.columns",), axes=(1, 0))
    add("matmul", (x, f"{name}.columns"), (f"{name}.product",))
    add("add", (f"{name}.product", bias), (f"{name}.projected",))
    thirds = tuple(f"{result}.third" for result in node.results)
    add("split", (f"{name}.projected",), thirds, axis=-1, sizes=(heads * size,) * 3)
    for third, result in zip(thirds, node.results, strict=True):
        add("reshape", (third,), (f"{result}.heads",), shape=(tokens, heads, size))
        add("transpose", (f"{result}.heads",), (result,), axes=(1, 0, 2))
