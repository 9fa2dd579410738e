"""set_precision: every float gets its element type, and each change of type its cast.

Products, sums and activations run in the asked precision; norms and softmax that stand alone run in float32 (fused ones
do so inside); outputs are float32. A weight is stored in the type of the ops that read it.
"""

from __future__ import annotations

from dataclasses import replace

from bertc.graph import INPUT, WEIGHT, Attributes, Graph, Node, Operand
from bertc.ops import Op
from bertc.plugins import OPS
from bertc.types import Type

ELEMENTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def set_precision(graph: Graph, precision: str) -> tuple[Graph, int]:
    """The typed graph, and how many casts it took."""
    element = ELEMENTS[precision]
    if element == "f32":
        return graph, 0
    typed = _Typed(graph, element)
    for node in graph:
        typed.take(node)
    outputs = {name: typed.cast(value, "f32") for name, value in graph.outputs.items()}
    typed.graph.outputs = outputs
    return typed.graph, typed.casts


class _Typed:
    """The graph as it is written anew, node by node."""

    def __init__(self, source: Graph, element: str) -> None:
        self.source = source
        self.element = element
        self.graph = Graph()
        self.casts = 0
        self._cast: dict[tuple[str, str], str] = {}

    def take(self, node: Node) -> None:
        if node.op == INPUT:
            self.graph.insert(node)
        elif node.op == WEIGHT:
            self.graph.insert(replace(node, types=(Type(self._weight_element(node), node.types[0].shape),)))
        else:
            self._op(node, OPS[node.op])

    def cast(self, value: str, element: str) -> str:
        """The value in an element type; each cast is made once."""
        type = self.graph.type_of(value)
        if not type.is_float or type.element == element:
            return value
        if (value, element) not in self._cast:
            name = self.graph.unique(f"{value}.{element}")
            node = self.graph.add("cast", (value,), (("element", element),), (name,))
            self._cast[value, element] = node.key
            self.casts += 1
        return self._cast[value, element]

    def _op(self, node: Node, op: Op) -> None:
        element = "f32" if op.float32 else self.element
        inputs: tuple[Operand, ...] = tuple(
            self.cast(operand, element) if isinstance(operand, str) else operand for operand in node.inputs
        )
        attributes = node.attributes
        if "element" in op.attributes and node.types[0].is_float:
            attributes = _with_element(attributes, element)
        self.graph.add(node.op, inputs, attributes, node.results, node.span)

    def _weight_element(self, node: Node) -> str:
        """float32 for what only norms read, through constants too; the asked precision otherwise."""
        readers = self.source.users(node.key)
        alone = bool(readers) and all(reader.op in OPS and OPS[reader.op].float32 for reader in readers)
        return "f32" if alone else self.element


def _with_element(attributes: Attributes, element: str) -> Attributes:
    return tuple(sorted({**dict(attributes), "element": element}.items()))
