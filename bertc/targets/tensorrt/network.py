"""A TensorRT network under construction: its tensors by the names of the graph's values, and the constants it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from bertc.graph import Graph, Node, Operand
from bertc.ops import Array
from bertc.reference import Weights, constant
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.log import demand
from bertc.types import Dim, Shape

ELEMENTS: dict[str, tuple[str, Any]] = {
    "f32": ("float32", np.float32),
    "f16": ("float16", np.float16),
    "bf16": ("bfloat16", ml_dtypes.bfloat16),
    "i32": ("int32", np.int32),
    "i64": ("int64", np.int64),
    "bool": ("bool", np.bool_),
}
"""Element type -> TensorRT's name of it and NumPy's type."""

LONGEST = 1 << 15
"""Places there are in tables of places."""


class Network:
    """An INetworkDefinition and what has been put into it so far."""

    def __init__(self, trt: Any, builder: Any, graph: Graph, weights: Weights, refit: bool) -> None:
        self.trt, self.builder = trt, builder
        self.refit = refit
        self.features = Features.of(trt)
        self.definition = builder.create_network(self._flags())
        self.graph = graph
        self.weights = weights
        self.tensors: dict[str, Any] = {}
        self.arrays: dict[str, Array] = {}
        """TensorRT reads weights where they lie until the engine is built."""
        self.sources: dict[str, str] = {}
        """Name of an array -> the graph's value that it is, where it is one."""

    def type(self, element: str) -> Any:
        """TensorRT's own value for an element type."""
        return getattr(self.trt, ELEMENTS[element][0])

    def add(self, kind: str, *operands: Any) -> Any:
        """A layer or an input: INetworkDefinition.add_softmax(x) is `add("softmax", x)`.

        Raises BertcError B0512 with TensorRT's own words when it adds none.
        """
        added = getattr(self.definition, f"add_{kind}")(*operands)
        self.demand(added is not None, f"add `{kind}` to the network")
        return added

    def demand(self, done: bool, what: str, help: str | None = None) -> None:
        """Raises BertcError B0512 with TensorRT's own words when it did not do something."""
        demand(done, "B0512", what, self.trt, self.builder.logger, help)

    def name(self, layer: Any, value: str) -> Any:
        """The layer's result, the layer named like the value."""
        layer.name = value
        return layer.get_output(0)

    def give(self, node: Node, layer: Any) -> None:
        """The layer's result is the node's."""
        self.keep(node.key, self.name(layer, node.key))

    def keep(self, value: str, tensor: Any) -> None:
        """The tensor is the value of that name."""
        tensor.name = value
        self.tensors[value] = tensor

    def constant(self, name: str, array: Array, element: str) -> Any:
        if name not in self.tensors:
            stored = np.ascontiguousarray(array.astype(ELEMENTS[element][1])).reshape(array.shape)
            self.arrays[name] = stored
            weights = self.trt.Weights(self.type(element), stored.ctypes.data, stored.size)
            self.tensors[name] = self.name(self.add("constant", stored.shape, weights), name)
            if self.refit:  # weights have a name once a layer has them
                self.demand(self.definition.set_weights_name(weights, name), f"name the weights `{name}`")
        return self.tensors[name]

    def operand(self, value: Operand, rank: int, element: str) -> Any:
        """A tensor of that rank; leading sizes of 1 are added to constants and values, as broadcasting has them."""
        if not isinstance(value, str):
            return self.constant(f"{value}.{element}.{rank}", np.full((1,) * rank, value), element)
        type = self.graph.type_of(value)
        missing = (1,) * (rank - len(type.shape))
        if self.graph.is_constant(value):
            name = f"{value}.{rank}" if missing else value
            array = constant(self.graph, value, self.weights) if name not in self.tensors else np.empty(0)
            self.sources[name] = value
            return self.constant(name, array.reshape(missing + array.shape) if missing else array, type.element)
        if not missing:
            return self.tensors[value]
        name = f"{value}.{rank}"
        if name not in self.tensors:
            layer = self.add("shuffle", self.tensors[value])
            layer.reshape_dims = (*missing, *(0 for _ in type.shape))
            layer.zero_is_placeholder = False
            layer.set_input(1, self.sizes(name, missing + type.shape))
            self.tensors[name] = self.name(layer, name)
        return self.tensors[name]

    def operands(self, values: Sequence[str]) -> list[Any]:
        """The tensors of several values, of the ranks and types that they have in the graph."""
        types = [self.graph.type_of(value) for value in values]
        return [self.operand(value, len(type.shape), type.element) for value, type in zip(values, types, strict=True)]

    def give_results(self, layer: Any, name: str, values: Sequence[str]) -> None:
        """The layer, under a name, and its results, each a value of the graph."""
        layer.name = name
        for place, value in enumerate(values):
            self.keep(value, layer.get_output(place))

    def size(self, size: Dim) -> Any:
        """A size as a tensor [1] of i64."""
        if isinstance(size, int):
            return self.constant(f"size.{size}", np.array([size]), "i64")
        if f"size.{size}" not in self.tensors:
            given = next(node for node in self.graph.inputs if size in node.types[0].shape)
            shape = self.name(self.add("shape", self.tensors[given.key]), f"size.{size}.shape")
            axis = given.types[0].shape.index(size)
            layer = self.add("slice", shape, (axis,), (1,), (1,))
            self.tensors[f"size.{size}"] = self.name(layer, f"size.{size}")
        return self.tensors[f"size.{size}"]

    def sizes(self, name: str, shape: Shape) -> Any:
        """A shape as a tensor of i64."""
        layer = self.add("concatenation", [self.size(size) for size in shape])
        return self.name(layer, f"{name}.shape")

    def combine(self, name: str, operation: str, x: Any, y: Any) -> Any:
        """x and y joined by an ElementWiseOperation, entry by entry."""
        return self.name(self.add("elementwise", x, y, getattr(self.trt.ElementWiseOperation, operation)), name)

    def cut(self, name: str, tensor: Any, starts: tuple[int, ...], shape: Shape, steps: tuple[int, ...] = ()) -> Any:
        """A piece of a tensor, of that shape from `starts` on; a step of 0 repeats one entry."""
        ones = (1,) * len(shape)
        layer = self.add("slice", tensor, starts, ones, steps or ones)
        layer.set_input(2, self.sizes(name, shape))
        self.tensors[name] = self.name(layer, name)
        return self.tensors[name]

    def places(self, size: Dim, axes: tuple[int, ...], element: str) -> Any:
        """0, 1, 2, ..., along the axis that is -1 of axes of 1, out of a table of all places."""
        name = f"places.{size}.{'x'.join(map(str, axes))}.{element}"
        if name not in self.tensors:
            table = self.constant(f"{name}.all", np.arange(LONGEST).reshape(axes), element)
            self.cut(name, table, (0,) * len(axes), tuple(size if axis == -1 else 1 for axis in axes))
        return self.tensors[name]

    def mark(self, name: str, value: str) -> None:
        """The value is the network's output of that name."""
        tensor = self.tensors[value]
        if tensor.is_network_output:
            tensor = self.name(self.add("identity", tensor), f"{name}.output")
        tensor.name = name
        self.definition.mark_output(tensor)

    def _flags(self) -> int:
        """Strong typing: 10 has a flag for it, 11 has nothing else."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if self.features.weak_typing else 0
