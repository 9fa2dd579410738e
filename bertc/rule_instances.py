"""A rule as graphs: each side elaborated for sizes, numbers and values that are drawn at random.

A draw is a function of the rule, the name and the trial, so that a failed check fails again. Sizes may depend on each
other: `split(x, sizes=[a, a])` wants x [..., 2a]. No equation is solved for that: where the left side does not type,
one size after the other is tried at other values, and what lets elaboration come further is kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from bertc.elaborator import Elaborator, Frame
from bertc.errors import BertcError, Diagnostic, error
from bertc.graph import INPUT, WEIGHT, Graph, Node
from bertc.meanings import Value
from bertc.notation import Body, Parameter, Star, names_in
from bertc.plugins import OPS
from bertc.reference import evaluate
from bertc.rule import Rule
from bertc.types import Shape, Type

TRIED = range(2, 128)
"""Sizes that are tried; 1 is not, since it would fit by broadcasting what is not equal."""

MAXIMUM_ELEMENTS = 1 << 22
"""The largest value that is computed; names give it thousands, only numbers written into a rule can give it more."""


@dataclass(frozen=True)
class Instance:
    """One side of a rule as a graph, its parameters inputs and weights, and the names of what it returns."""

    graph: Graph
    results: tuple[str, ...]


def instance(rule: Rule, side: Body, trial: int) -> Instance:
    """A side as a graph; both sides of a rule get the same parameters in the same trial.

    Raises BertcError when no sizes that were tried let the side type.
    """
    return _elaborated(rule, side, _fitting_numbers(rule, trial), trial, Graph())


def answers(graph: Graph, seed: int) -> list[Any]:
    """The outputs of a graph in float64 on random values for its inputs and weights; sizes known only later are 3.

    Raises BertcError B0301 for a value too large to be computed.
    """
    sizes = {node.key: [_known(type.shape) for type in node.types] for node in graph}
    for name, shapes in sizes.items():
        if max(map(math.prod, shapes)) > MAXIMUM_ELEMENTS:
            raise error("B0301", f"`{name}` has too many elements to be checked", None, "give its sizes names")
    generator = np.random.default_rng(seed)
    values: dict[str, Any] = {}
    for node in sorted((*graph.inputs, *graph.weights), key=lambda node: node.key):
        (shape,) = sizes[node.key]
        ids = not node.types[0].is_float
        values[node.key] = generator.integers(0, 2, shape) if ids else generator.standard_normal(shape)
    weights = {node.key: _Given(values[node.key]) for node in graph.weights}
    with np.errstate(all="ignore"):  # random values may lie where a function has none: NaN differs from everything
        return list(evaluate(graph, values, weights).values())


def _known(shape: Shape) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 3 for size in shape)


@dataclass(frozen=True)
class _Given:
    array: Any

    def read(self) -> Any:
        return self.array


def _elaborated(rule: Rule, side: Body, numbers: Mapping[str, float], trial: int, graph: Graph) -> Instance:
    elaborator = Elaborator(graph)
    frame = Frame(dict(numbers))
    for parameter in rule.parameters:
        if _kind(parameter) == "number":
            continue
        shape = _shape(parameter, elaborator, frame, trial)
        element = (parameter.type.element if parameter.type else None) or "f32"
        graph.leaf(WEIGHT if _kind(parameter) == "weight" else INPUT, parameter.name, Type(element, shape))
        frame.environment[parameter.name] = Value(parameter.name)
    results = elaborator.body(side, frame)
    names = tuple(value.name for value in results.values)
    graph.outputs = {f"result.{index}": name for index, name in enumerate(names)}
    return Instance(graph, names)


def _shape(parameter: Parameter, elaborator: Elaborator, frame: Frame, trial: int) -> Shape:
    """The shape of a parameter; `*` stands for none, one or two sizes, what is broadcast has some sizes of 1."""
    dims = parameter.type.dims if parameter.type else None
    leading = (2, 3)[: trial % 3]
    shape: Shape = ()
    for dim in dims or ():
        shape += leading if isinstance(dim, Star) else elaborator.dims((dim,), frame)
    if _kind(parameter) != "broadcast":
        return shape
    return tuple(1 if (axis + trial) % 2 else size for axis, size in enumerate(shape))


@cache
def _fitting_numbers(rule: Rule, trial: int) -> Mapping[str, float]:
    """A number for every size and number of the rule, such that its left side types where that can be had."""
    numbers = _drawn_numbers(rule, trial)
    whole = [name for name, value in numbers.items() if isinstance(value, int)]
    reached = _reach(rule, numbers, trial)
    while reached < math.inf:
        for value, name in ((value, name) for value in TRIED for name in whole):
            changed = {**numbers, name: value}
            if (further := _reach(rule, changed, trial)) > reached:
                numbers, reached = changed, further
                break
        else:
            return numbers
    return numbers


def equal_sizes(rule: Rule) -> tuple[tuple[str, str], Diagnostic] | None:
    """Two sizes that must be the same number for the left side to type, though they have two names, and what is wrong
    where they are not; None where every size is free or follows from others by arithmetic."""
    numbers = _fitting_numbers(rule, 0)
    named = dict.fromkeys(name.path for dim in rule.dims for name in names_in(dim))
    for first, second in combinations(named, 2):
        if numbers[first] != numbers[second]:
            continue
        other = next(size for size in TRIED if size not in numbers.values())
        apart = _reason(rule, {**numbers, first: other}), _reason(rule, {**numbers, second: other})
        if all(apart) and _reason(rule, {**numbers, first: other, second: other}) is None and apart[0]:
            return (first, second), apart[0]
    return None


def _reason(rule: Rule, numbers: Mapping[str, float]) -> Diagnostic | None:
    """Why the left side does not type with these numbers, or None where it does."""
    try:
        _elaborated(rule, rule.left, numbers, 0, Graph())
    except BertcError as problem:
        return problem.diagnostics[0]
    return None


def _reach(rule: Rule, numbers: Mapping[str, float], trial: int) -> float:
    """How many nodes of the left side type before one does not; infinity when all do."""
    graph = Graph()
    try:
        _elaborated(rule, rule.left, numbers, trial, graph)
    except BertcError:
        return len(tuple(graph))
    return math.inf


def _drawn_numbers(rule: Rule, trial: int) -> dict[str, float]:
    """Sizes from 2 to 6, numbers from 0 to 2; whole where the rule needs them whole."""
    whole = _whole_names(rule)
    drawn: dict[str, float] = {}
    for name in sorted(rule.bound_names()):
        parameter = rule.types.get(name)
        if parameter is not None and _kind(parameter) != "number":
            continue
        if name not in whole:
            drawn[name] = 0.25 + _draw(rule, name, trial, 0, 1000) / 512
        else:
            drawn[name] = _draw(rule, name, trial, 2, 6) if parameter is None else _draw(rule, name, trial, 0, 2)
    return drawn


def _whole_names(rule: Rule) -> set[str]:
    """The names that stand in types, or in attributes that are not of floating point."""
    attributes = (
        tree
        for node in rule.pattern
        for name, tree in node.attributes
        if OPS[node.op].attributes[name].annotation != "float"
    )
    return {name.path for tree in (*rule.dims, *attributes) for name in names_in(tree)}


def _draw(rule: Rule, name: str, trial: int, low: int, high: int) -> int:
    digest = hashlib.sha256(f"{rule.name} {name} {trial}".encode()).digest()
    return low + int.from_bytes(digest[:4], "big") % (high - low + 1)


def _kind(parameter: Parameter) -> str:
    return parameter.type.kind if parameter.type else "value"


def near_misses(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The left side with one thing wrong: another op of the same signature, swapped operands, another attribute."""
    for node in computed(graph):
        op = OPS[node.op]
        for other in OPS.values():
            if other is not op and op.has_signature_of(other):
                yield f"{other.name} for {op.name}", _with(graph, node, replace(node, op=other.name))
        if len(node.inputs) == 2 and not op.commutative:
            yield f"the operands of {op.name} swapped", _with(graph, node, replace(node, inputs=node.inputs[::-1]))
        for name, value in node.attributes:
            if isinstance(value, float | int):
                changed = tuple(sorted({**dict(node.attributes), name: value + 1}.items()))
                yield f"another {name} of {op.name}", _with(graph, node, replace(node, attributes=changed))


def _with(graph: Graph, old: Node, new: Node) -> Graph:
    """The graph with one node changed; unchanged where that does not type."""
    changed = Graph()
    try:
        for node in graph:
            if node.op in (INPUT, WEIGHT):
                changed.insert(node)
            else:
                made = new if node == old else node
                changed.add(made.op, made.inputs, made.attributes, made.results)
    except BertcError:
        return graph
    changed.outputs = dict(graph.outputs)
    return changed


def computed(graph: Graph) -> list[Node]:
    """The nodes that are ops."""
    return [node for node in graph if node.op not in (INPUT, WEIGHT)]
