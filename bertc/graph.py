"""The graph that every stage works on: nodes with named, typed values, held in a networkx.MultiDiGraph.

A node computes one or more values from values and literal numbers. Values have one producer; a graph prints as text in
the notation, and `bertc.elaborate.read_graph` reads that text back to an equal graph.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx

from bertc import notation
from bertc.errors import Span, did_you_mean, error
from bertc.inference import infer
from bertc.plugins import OPS
from bertc.types import Type, TypeMismatch, is_tuple

INPUT, WEIGHT = "input", "weight"
"""The two leaves, which are no ops: a value given when the engine runs, and a trained parameter."""

UNUSED = "_"
"""The name of a result that nothing uses."""

MAXIMUM_NODES = 200_000
"""Far above any encoder; stops specs that repeat themselves without end."""

Operand = str | int | float
"""The name of a value, or a literal number."""

Attributes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Node:
    op: str
    inputs: tuple[Operand, ...]
    attributes: Attributes
    results: tuple[str, ...]
    types: tuple[Type, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """The name of the first result that is used: what the graph knows the node by."""
        return next(name for name in self.results if name != UNUSED)

    @property
    def values(self) -> tuple[str, ...]:
        """The operands that are values, literals left out."""
        return tuple(operand for operand in self.inputs if isinstance(operand, str))

    def attribute(self, name: str) -> Any:
        """The attribute of that name, or its default from the op's declaration."""
        return dict(self.attributes).get(name, OPS[self.op].attributes[name].default)


class Graph:
    """A directed acyclic graph of nodes; edges carry the operand's index as their key.

    Passes work on a `copy()`, so that a graph that was handed out never changes.
    """

    def __init__(self) -> None:
        self._net: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self._producers: dict[str, str] = {}
        self._order: tuple[Node, ...] | None = None
        self._next_place = 0.0
        self.outputs: dict[str, str] = {}
        """Name of an output -> name of its value, in order."""

    # ------------------------------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """The number of ops; inputs and weights are not counted."""
        return sum(1 for node in self if node.op not in (INPUT, WEIGHT))

    def __iter__(self) -> Iterator[Node]:
        """All nodes, each after its operands; nodes that do not depend on each other in the order they were written."""
        if self._order is None:
            self._order = tuple(self._sorted())
        return iter(self._order)

    def __contains__(self, value: str) -> bool:
        return value in self._producers

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        mine, theirs = ({node.key: node for node in graph} for graph in (self, other))
        same_outputs = list(self.outputs.items()) == list(other.outputs.items())
        return mine == theirs and same_outputs and self.inputs == other.inputs

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(node for node in self if node.op == INPUT)

    @property
    def weights(self) -> tuple[Node, ...]:
        return tuple(node for node in self if node.op == WEIGHT)

    def producer(self, value: str) -> Node:
        return self._net.nodes[self._producers[value]]["node"]

    def type_of(self, value: str) -> Type:
        node = self.producer(value)
        return node.types[node.results.index(value)]

    def is_constant(self, value: Operand) -> bool:
        """Whether the value is known when the engine is built: a literal, a weight, or computed from those alone."""
        return not isinstance(value, str) or self._net.nodes[self._producers[value]]["constant"]

    def users(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value, each once, in the order they were written."""
        key = self._producers[value]
        nodes = self._net.nodes
        readers = {reader for reader in self._net.successors(key) if value in nodes[reader]["node"].inputs}
        return tuple(nodes[reader]["node"] for reader in sorted(readers, key=lambda r: (nodes[r]["place"], r)))

    def is_output(self, value: str) -> bool:
        return value in self.outputs.values()

    def reenters(self, keys: set[str]) -> bool:
        """Whether a path leaves a set of nodes, given by their keys, and comes back into it."""
        stack = [reader for key in keys for reader in self._net.successors(key) if reader not in keys]
        seen: set[str] = set()
        while stack:
            key = stack.pop()
            if key in keys:
                return True
            if key not in seen:
                seen.add(key)
                stack.extend(self._net.successors(key))
        return False

    def _sorted(self) -> Iterator[Node]:
        nodes = self._net.nodes
        waiting = {key: len(set(self._net.predecessors(key))) for key in nodes}
        ready = [(nodes[key]["place"], key) for key, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        while ready:
            _, key = heapq.heappop(ready)
            yield nodes[key]["node"]
            for reader in self._net.successors(key):
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    heapq.heappush(ready, (nodes[reader]["place"], reader))

    # ------------------------------------------------------------------------------------------------ changing

    def copy(self) -> Graph:
        """A graph of the same nodes that can be changed on its own."""
        twin = Graph()
        for node in self:
            twin.insert(node)
        twin.outputs = dict(self.outputs)
        return twin

    def insert(self, node: Node, place: float | None = None) -> None:
        """Add a node whose operands are there already; `place` orders nodes that do not depend on each other."""
        if len(self._net) >= MAXIMUM_NODES:
            raise error("B0102", f"the network has more than {MAXIMUM_NODES} nodes", node.span, "repeat fewer layers")
        self._order = None
        known = all(isinstance(size, int) for type in node.types for size in type.shape)
        constant = node.op == WEIGHT or (node.op != INPUT and known and all(map(self.is_constant, node.inputs)))
        self._next_place += 1.0
        self._net.add_node(node.key, node=node, constant=constant, place=self._next_place if place is None else place)
        for result in node.results:
            if result != UNUSED:
                self._producers[result] = node.key
        for index, operand in enumerate(node.inputs):
            if isinstance(operand, str):
                self._net.add_edge(self._producers[operand], node.key, index)

    def add(
        self,
        op: str,
        inputs: Sequence[Operand],
        attributes: Attributes = (),
        results: Sequence[str] = (),
        span: Span | None = None,
        place: float | None = None,
    ) -> Node:
        """Add an op, its types inferred. Raises BertcError B0106 when the operands do not fit its signature."""
        operands = tuple(self.type_of(value) if isinstance(value, str) else None for value in inputs)
        attributes = tuple(sorted(attributes))
        try:
            types = infer(OPS[op], operands, attributes)
        except TypeMismatch as problem:
            raise error("B0106", str(problem), span) from None
        if results and len(results) != len(types):
            raise error("B0105", f"{op} gives {len(types)} values, but {len(results)} names stand for them", span)
        names = tuple(results) or tuple(self.unique(f"{op}.{index}") for index in range(len(types)))
        node = Node(op, tuple(inputs), attributes, names, types, span)
        self.insert(node, place)
        return node

    def leaf(self, op: str, name: str, type: Type, span: Span | None = None) -> Node:
        """Add an input or a weight."""
        node = Node(op, (), (), (name,), (type,), span)
        self.insert(node)
        return node

    def remove(self, nodes: Iterable[Node]) -> None:
        """Take nodes out; what still reads their values must be given others with `redirect`."""
        self._order = None
        for node in nodes:
            self._net.remove_node(node.key)
            for result in node.results:
                self._producers.pop(result, None)

    def place_of(self, node: Node) -> float:
        return self._net.nodes[node.key]["place"]

    def redirect(self, readers: Iterable[Node], old: str, new: str) -> None:
        """Let these nodes, and every output that was `old`, read `new`."""
        self._order = None
        for reader in readers:
            data = self._net.nodes[reader.key]
            before: Node = data["node"]
            inputs = tuple(new if operand == old else operand for operand in before.inputs)
            data["node"] = replace(before, inputs=inputs)
            for index, operand in enumerate(before.inputs):
                if operand == old:
                    if old in self and self._net.has_edge(self._producers[old], reader.key, index):
                        self._net.remove_edge(self._producers[old], reader.key, index)
                    self._net.add_edge(self._producers[new], reader.key, index)
        self.outputs = {name: new if value == old else value for name, value in self.outputs.items()}

    def unique(self, name: str) -> str:
        """The name, or with a number behind it when it is taken."""
        if name not in self:
            return name
        number = 1
        while f"{name}_{number}" in self:
            number += 1
        return f"{name}_{number}"

    # ------------------------------------------------------------------------------------------------ checking

    def verify(self) -> None:
        """Types, uses, names and acyclicity, recomputed from nothing. Raises BertcError B0108 or B0106."""
        nodes = tuple(self)
        if len(nodes) != len(self._net):
            stuck = sorted(self._net.nodes.keys() - {node.key for node in nodes})
            raise error("B0108", f"`{stuck[0]}` depends on itself", self._net.nodes[stuck[0]]["node"].span)
        known: dict[str, Type] = {}
        for node in nodes:
            for operand in node.values:
                if operand not in known:
                    raise error("B0108", f"`{node.key}` reads `{operand}`, which nothing computes before it", node.span)
            if node.op not in (INPUT, WEIGHT):
                self._verify_types(node, known)
            for name, type in zip(node.results, node.types, strict=True):
                if name != UNUSED and known.setdefault(name, type) is not type:
                    raise error("B0108", f"`{name}` is computed twice", node.span)
        for name, value in self.outputs.items():
            if value not in known:
                raise error("B0108", f"output `{name}` is `{value}`, which nothing computes", None)

    def _verify_types(self, node: Node, known: dict[str, Type]) -> None:
        if node.op not in OPS:
            raise error("B0103", f"`{node.op}` is no op", node.span, did_you_mean(node.op, OPS))
        operands = tuple(known[value] if isinstance(value, str) else None for value in node.inputs)
        try:
            types = infer(OPS[node.op], operands, node.attributes)
        except TypeMismatch as problem:
            raise error("B0106", str(problem), node.span) from None
        if types != node.types:
            found, expected = ", ".join(map(str, node.types)), ", ".join(map(str, types))
            raise error("B0106", f"`{node.key}` is marked {found}, but {node.op} gives {expected}", node.span)

    # ------------------------------------------------------------------------------------------------ printing

    def default_element(self) -> str:
        return default_element(node.types[0] for node in self.inputs)

    def to_tree(self) -> notation.GraphTree:
        default = self.default_element()
        leaves = [node for node in self if node.op == INPUT or (node.op == WEIGHT and "." not in node.key)]
        parameters = tuple(notation.Parameter(node.key, _type_tree(node, default)) for node in leaves)
        assigns = tuple(
            notation.Assign(node.results, self._call(node, default)) for node in self if node.op not in (INPUT, WEIGHT)
        )
        returned = tuple(
            notation.Returned(notation.Name(value), None if name == value else name)
            for name, value in self.outputs.items()
        )
        return notation.GraphTree(parameters, notation.Body(assigns, notation.Return(returned)))

    def to_text(self) -> str:
        """The graph in the notation, the types of each line as a comment. `read_graph(to_text()) == self`."""
        signature, *lines = notation.to_text(self.to_tree()).splitlines()
        nodes = [node for node in self if node.op not in (INPUT, WEIGHT)]
        typed = (f"{line}  # {', '.join(map(str, node.types))}" for line, node in zip(lines, nodes, strict=False))
        return "\n".join([signature, *typed, lines[-1], ""])

    def _call(self, node: Node, default: str) -> notation.Call:
        arguments = tuple(self._operand(operand, default) for operand in node.inputs)
        keywords = tuple((name, _attribute_tree(value)) for name, value in node.attributes)
        return notation.Call(node.op, arguments, keywords)

    def _operand(self, operand: Operand, default: str) -> notation.Expression:
        if not isinstance(operand, str):
            return notation.Number(operand)
        node = self.producer(operand)
        if node.op != WEIGHT or "." not in operand:
            return notation.Name(operand)
        type = node.types[0]
        element = None if type.element == default else type.element
        return notation.Weight(operand, element, tuple(map(_attribute_tree, type.shape)))


def default_element(types: Iterable[Type]) -> str:
    """The element type of weights that name none: that of the first float input, else f32."""
    return next((type.element for type in types if type.is_float), "f32")


def _type_tree(node: Node, default: str) -> notation.TypeTree:
    type = node.types[0]
    dims = tuple(map(_attribute_tree, type.shape))
    if node.op == INPUT:
        return notation.TypeTree("value", type.element, dims)
    return notation.TypeTree("weight", None if type.element == default else type.element, dims)


def _attribute_tree(value: Any) -> notation.Expression:
    if isinstance(value, str):
        return notation.Name(value)
    if is_tuple(value):
        return notation.List(tuple(map(_attribute_tree, value)))
    return notation.Number(value)
