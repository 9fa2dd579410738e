"""The slow interpreter that is the definition of right: every op by its NumPy reference.

In float64 it is exact enough to prove algebra with: rounding casts are left out, so that what differs is the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from bertc.errors import error
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node
from bertc.ops import Array
from bertc.plugins import OPS
from bertc.types import bind_sizes, is_tuple


class Readable(Protocol):
    """A weight that is read when it is needed."""

    def read(self) -> Array: ...


Weights = Mapping[str, Readable]


def evaluate(
    graph: Graph, inputs: Mapping[str, Array], weights: Weights, dtype: DTypeLike = np.float64
) -> dict[str, Array]:
    """The outputs of a graph, by name, every float computed in `dtype`.

    Raises BertcError B0701 when an input is missing or its shape does not fit the graph's.
    """
    known: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for node in graph.inputs:
        known[node.key] = _input(node, inputs, sizes, dtype)
    remaining = {node.key: len(graph.users(node.key)) for node in graph if node.op not in (INPUT, WEIGHT)}
    for node in graph:
        if node.op == INPUT:
            continue
        known.update(_results(node, known, weights, sizes, dtype))
        for value in node.values:
            key = graph.producer(value).key
            if value == key and key in remaining and not graph.is_output(value):
                remaining[key] -= 1
                if remaining[key] == 0:
                    del known[value]
    return {name: known[value] for name, value in graph.outputs.items()}


def constant(graph: Graph, value: str, weights: Weights, dtype: DTypeLike = np.float32) -> Array:
    """A value that depends on weights alone, in `dtype`."""
    node = graph.producer(value)
    known = {operand: constant(graph, operand, weights, dtype) for operand in node.values}
    return _results(node, known, weights, {}, dtype)[value]


def _input(node: Node, inputs: Mapping[str, Array], sizes: dict[str, int], dtype: DTypeLike) -> Array:
    type = node.types[0]
    if node.key not in inputs:
        raise error("B0701", f"input `{node.key}` of type {type} is missing", None, "give an array for every input")
    array = np.asarray(inputs[node.key])
    fits = array.ndim == len(type.shape) and all(
        (sizes.setdefault(size, found) if isinstance(size, str) else size) == found
        for size, found in zip(type.shape, array.shape, strict=True)
    )
    if not fits:
        raise error("B0701", f"input `{node.key}` has type {type}, but an array of {list(array.shape)} was given")
    return array.astype(dtype if type.is_float else np.int64)


def _results(
    node: Node, known: Mapping[str, Array], weights: Weights, sizes: Mapping[str, int], dtype: DTypeLike
) -> dict[str, Array]:
    if node.op == WEIGHT:
        return {node.key: np.asarray(weights[node.key].read(), dtype)}
    op = OPS[node.op]
    operands = [known[operand] if isinstance(operand, str) else operand for operand in node.inputs]
    attributes = {name: _bound(value, sizes) for name, value in node.attributes}
    given = op.reference(*operands, **attributes)
    arrays = given if is_tuple(given) else (given,)
    typed = (
        np.asarray(array, dtype) if type.is_float else np.asarray(array)
        for array, type in zip(arrays, node.types, strict=True)
    )
    return {name: array for name, array in zip(node.results, typed, strict=True) if name != UNUSED}


def _bound(value: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with the names of sizes replaced by their numbers."""
    if is_tuple(value):
        return bind_sizes(value, sizes)
    return sizes.get(value, value) if isinstance(value, str) else value
