"""Nodes and initializers of ONNX, for one graph. Names of nodes and values are the graph's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bertc.graph import UNUSED, Graph, Node, Operand
from bertc.ops import Array
from bertc.reference import Weights, constant
from bertc.targets.onnx.absorbed import absorbed_biases, absorbed_projections
from bertc.types import Dim

MICROSOFT = "com.microsoft"

ELEMENTS: dict[str, tuple[int, Any]] = {
    "f32": (TensorProto.FLOAT, np.float32),
    "f16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "i32": (TensorProto.INT32, np.int32),
    "i64": (TensorProto.INT64, np.int64),
    "bool": (TensorProto.BOOL, np.bool_),
}


class Lowering:
    """One graph on its way to an ONNX model: nodes and initializers so far."""

    def __init__(self, graph: Graph, weights: Weights, names: Mapping[str, str], for_cpu: bool) -> None:
        self.graph = graph
        self.weights = weights
        self.for_cpu = for_cpu
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        outputs = {value: name for name, value in graph.outputs.items()}
        self.renamed = {**names, **outputs}
        self.biases = dict(absorbed_biases(graph))
        """skip_norm -> the addition of a bias that its operator does as well."""
        self.projections = set(absorbed_projections(graph))
        """qkv_projections that the attention behind them does as well."""

    def name(self, value: str) -> str:
        return self.renamed.get(value, value)

    def emit(
        self, op: str, inputs: Sequence[str], output: str | Sequence[str], domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; operands and results are given by the names they have in the graph."""
        outputs = [output] if isinstance(output, str) else list(output)
        names = [self.name(value) if value else "" for value in outputs]
        read = [self.name(value) if value in self.renamed else value for value in inputs]
        self.nodes.append(helper.make_node(op, read, names, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def operand(self, value: Operand, element: str) -> str:
        """The name of an operand; a constant becomes an initializer on first use."""
        if not isinstance(value, str):
            return self.initializer(f"{value}.{element}", np.asarray(value), element)
        if not self.graph.is_constant(value):
            return value
        if value not in self.initializers:
            self.initializer(value, constant(self.graph, value, self.weights), self.graph.type_of(value).element)
        return value

    def initializer(self, name: str, array: Array, element: str) -> str:
        if name not in self.initializers:
            stored = array.astype(ELEMENTS[element][1], order="C")
            self.initializers[name] = numpy_helper.from_array(stored, name)
        return name

    def integers(self, *values: int) -> str:
        return self.initializer(f"integers.{'.'.join(map(str, values))}", np.asarray(values), "i64")

    def size(self, size: Dim) -> str:
        """A size as a tensor [1] of i64, read off an input when it is dynamic."""
        if isinstance(size, int):
            return self.integers(size)
        name = f"size.{size}"
        if all(node.output[0] != name for node in self.nodes):
            given = next(node for node in self.graph.inputs if size in node.types[0].shape)
            axis = given.types[0].shape.index(size)
            self.emit("Shape", [given.key], name, start=axis, end=axis + 1)
        return name

    def call(self, node: Node, op: str, domain: str = "", **attributes: Any) -> None:
        """A node whose operands are the ONNX operator's."""
        element = next(self.graph.type_of(value).element for value in node.values)
        self.emit(op, [self.operand(value, element) for value in node.inputs], results(node), domain, **attributes)


def results(node: Node) -> list[str]:
    """What a node gives; a result that nothing reads is named by the empty text."""
    return ["" if name == UNUSED else name for name in node.results]


Lower = Callable[[Lowering, Node], None]


def plain(op: str, domain: str = "", **attributes: Any) -> Lower:
    """For an op that is one operator with the same operands."""
    return lambda lowering, node: lowering.call(node, op, domain, **attributes)
