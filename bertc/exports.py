"""A graph for other programs: Graphviz's DOT, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bertc.graph import INPUT, WEIGHT, Graph, Node


def to_dot(graph: Graph) -> str:
    """The graph in DOT (https://graphviz.org/doc/info/lang.html): a box for each op, the types on the edges."""
    return "\n".join(["digraph bertc {", "  node [shape=box, fontname=monospace];", *_dot_lines(graph), "}", ""])


def _dot_lines(graph: Graph) -> Iterator[str]:
    for node in graph:
        if node.op == WEIGHT:
            continue
        shape = ", shape=ellipse" if node.op == INPUT else ""
        text = node.key if node.op == INPUT else f"{node.op}\n{node.key}"
        yield f"  {_quoted(node.key)} [label={_quoted(text)}{shape}];"
        for value in node.values:
            producer = graph.producer(value)
            if producer.op != WEIGHT:
                label = _quoted(str(graph.type_of(value)))
                yield f"  {_quoted(producer.key)} -> {_quoted(node.key)} [label={label}];"
    for name, value in graph.outputs.items():
        yield f"  {_quoted(f'output {name}')} [label={_quoted(name)}, shape=ellipse];"
        yield f"  {_quoted(graph.producer(value).key)} -> {_quoted(f'output {name}')};"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_json(graph: Graph) -> dict[str, Any]:
    """The graph as plain data: every node with its operands, attributes, results and their types, and its text."""
    return {
        "nodes": [_node(node) for node in graph],
        "outputs": dict(graph.outputs),
        "text": graph.to_text(),
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "op": node.op,
        "inputs": list(node.inputs),
        "attributes": json.loads(json.dumps(dict(node.attributes))),
        "results": {name: str(type) for name, type in zip(node.results, node.types, strict=True)},
        "source": str(node.span) if node.span else None,
    }
