"""A graph for other programs and for documents: DOT, JSON, Google's Model Explorer, SVG, PNG."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from bertc.costs import cost, evaluate
from bertc.drawing.items import drawn
from bertc.drawing.png import to_png
from bertc.drawing.scene import Scene, scene
from bertc.drawing.svg import to_svg
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


# ------------------------------------------------------------------------------------------------------ Model Explorer
# https://github.com/google-ai-edge/model-explorer, src/ui/src/components/visualizer/common/input_graph.ts

TYPICAL = {"batch": 1, "seq": 128, "tokens": 128}
"""The sizes for which costs are given there, where they are plain numbers."""


def to_model_explorer(graph: Graph) -> str:
    """A graph collection with one graph: a node for each node, in the namespace of its name; `bertc` is its id."""
    nodes = [_explorer_node(graph, node) for node in graph]
    for name, value in graph.outputs.items():
        edges = [_explorer_edge(graph, value, 0)]
        nodes.append({"id": f"output {name}", "label": name, "namespace": "", "incomingEdges": edges})
    return json.dumps({"label": "bertc", "graphs": [{"id": "bertc", "nodes": nodes}]}, indent=2) + "\n"


def to_node_data(graph: Graph) -> str:
    """Node data to load beside it: the operations of each node at the typical sizes."""
    spent = {node.key: cost(graph, node).flops for node in graph if not graph.is_constant(node.key)}
    results = {key: {"value": evaluate(flops, TYPICAL)} for key, flops in spent.items()}
    gradient = [{"stop": 0, "bgColor": "white"}, {"stop": 1, "bgColor": "orange"}]
    return json.dumps({"bertc": {"name": "FLOPs", "results": results, "gradient": gradient}}, indent=2) + "\n"


def _explorer_node(graph: Graph, node: Node) -> dict[str, Any]:
    namespace = node.key.split(".")[:-1]
    spent = {name: f"{evaluate(polynomial, TYPICAL):,}" for name, polynomial in vars(cost(graph, node)).items()}
    attributes = {**dict(node.attributes), **spent, **({"source": str(node.span)} if node.span else {})}
    return {
        "id": node.key,
        "label": node.op if node.op not in (INPUT, WEIGHT) else node.key.rpartition(".")[2],
        "namespace": "/".join(namespace),
        "attrs": [{"key": name, "value": str(value)} for name, value in attributes.items()],
        "incomingEdges": [_explorer_edge(graph, value, index) for index, value in enumerate(node.values)],
        "outputsMetadata": [
            {"id": str(index), "attrs": [{"key": "name", "value": name}, {"key": "tensor_shape", "value": str(type)}]}
            for index, (name, type) in enumerate(zip(node.results, node.types, strict=True))
        ],
    }


def _explorer_edge(graph: Graph, value: str, index: int) -> dict[str, str]:
    producer = graph.producer(value)
    output = producer.results.index(value)
    return {"sourceNodeId": producer.key, "sourceNodeOutputId": str(output), "targetNodeInputId": str(index)}


def _scene(graph: Graph) -> Scene:
    return scene(drawn(graph, constants=False))


EXPORTS: dict[str, Callable[[Graph], str | bytes]] = {
    "text": Graph.to_text,
    "dot": to_dot,
    "svg": lambda graph: to_svg(_scene(graph), "graph"),
    "png": lambda graph: to_png(_scene(graph), "graph"),
    "model-explorer": to_model_explorer,
    "model-explorer-data": to_node_data,
}
"""Format -> what writes it."""
