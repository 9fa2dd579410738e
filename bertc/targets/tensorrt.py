"""The `rtx` target: a strongly typed TensorRT-RTX network and its engine, built with or without a GPU.

Layers and tensors are named as in the graph. Attention under a mask made of lengths is one IAttention with key lengths;
everything else is native layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bertc.errors import error
from bertc.graph import INPUT, Graph, Node, Operand
from bertc.ops import Array, rotary_factors
from bertc.passes.expand_unhosted import Hosts
from bertc.reference import Weights, constant
from bertc.spec import Spec
from bertc.spec_fields import INPUT_NAMES
from bertc.targets import Runtime
from bertc.types import Dim, Shape

trt: Any = import_module("tensorrt_rtx")

FILE = "model.plan"

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
"""What one engine is built for when the build names none."""

ELEMENTS: dict[str, tuple[Any, Any]] = {
    "f32": (trt.float32, np.float32),
    "f16": (trt.float16, np.float16),
    "bf16": (trt.bfloat16, ml_dtypes.bfloat16),
    "i32": (trt.int32, np.int32),
    "i64": (trt.int64, np.int64),
    "bool": (trt.bool, np.bool_),
}

OPERATIONS = trt.ElementWiseOperation

LONGEST = 1 << 15
"""Places there are in tables of places."""

Progress = Callable[[str, int, int], None]


def hosting() -> Hosts:
    """TensorRT-RTX has no plugins: attention is its own layer, every other fused op is expanded."""

    def hosts(op: str, precision: str) -> str | None:
        if op != "attention":
            return "TensorRT-RTX has no plugins; native layers take its place"
        return None if precision != "fp32" else "IAttention fuses in half precision only"

    return hosts


def write(
    graph: Graph,
    weights: Weights,
    folder: Path,
    *,
    spec: Spec,
    hashes: Mapping[str, str],
    architectures: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Build `model.plan`. Raises BertcError B0511 for an architecture it cannot build for, B0512 when that fails."""
    del hashes  # an engine has no room for them; the manifest has
    wanted = architectures or [name for name in ARCHITECTURES if _refusal(name, spec.precision) is None]
    for name in wanted:
        if reason := _refusal(name, spec.precision):
            raise error("B0511", f"TensorRT-RTX does not build {spec.precision} for `{name}`: {reason}")
    log = _Log()
    builder = trt.Builder(log)
    network = lower(builder, graph, weights, spec)
    config = builder.create_builder_config()
    for profile in spec.shapes:
        config.add_optimization_profile(_profile(builder, network, profile))
    _set_architectures(config, wanted)
    if progress is not None:
        config.progress_monitor = _Monitor(progress)
    plan = builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise error("B0512", f"TensorRT-RTX could not build the engine: {log.worst()}", None, "try another precision")
    with (folder / FILE).open("wb") as file:
        file.write(plan)


def why_not_here() -> str | None:
    """Why its engines do not run on this machine."""
    return "no, bertc builds engines for RTX GPUs and does not run them yet; TensorRT-RTX's own tools do"


def open_session(folder: Path, names: Mapping[str, str], device: int = 0) -> Runtime:
    """Raises BertcError B0513: running needs an RTX GPU and CUDA's Python package."""
    raise error(
        "B0513",
        f"{folder} is an engine for RTX GPUs, which bertc does not run yet",
        None,
        "run it with TensorRT-RTX's own tools",
    )


def lower(builder: Any, graph: Graph, weights: Weights, spec: Spec) -> _Network:
    """The network definition of a graph, and the arrays that must outlive the build."""
    network = _Network(
        builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)), graph, weights
    )
    inputs = dict(zip(INPUT_NAMES["hugging_face"], INPUT_NAMES[spec.input_names], strict=True))
    for node in graph:
        if node.op == INPUT:
            shape = tuple(-1 if isinstance(size, str) else size for size in node.types[0].shape)
            element = ELEMENTS[node.types[0].element][0]
            network.tensors[node.key] = network.definition.add_input(inputs.get(node.key, node.key), element, shape)
        elif not graph.is_constant(node.key):
            LOWERINGS[node.op](network, node)
    for name, value in graph.outputs.items():
        network.mark(name, value)
    return network


class _Network:
    """A network under construction; a method for each op that is more than one layer."""

    def __init__(self, definition: Any, graph: Graph, weights: Weights) -> None:
        self.definition = definition
        self.graph = graph
        self.weights = weights
        self.tensors: dict[str, Any] = {}
        self.arrays: dict[str, Array] = {}
        """TensorRT reads weights where they lie until the engine is built."""

    # ------------------------------------------------------------------------------------------------ pieces

    def name(self, layer: Any, value: str) -> Any:
        layer.name = value
        return layer.get_output(0)

    def give(self, node: Node, layer: Any) -> None:
        """The layer's result is the node's."""
        self.tensors[node.key] = self.name(layer, node.key)
        self.tensors[node.key].name = node.key

    def constant(self, name: str, array: Array, element: str) -> Any:
        if name not in self.tensors:
            kind, dtype = ELEMENTS[element]
            stored = np.ascontiguousarray(array.astype(dtype)).reshape(array.shape)
            self.arrays[name] = stored
            layer = self.definition.add_constant(stored.shape, trt.Weights(kind, stored.ctypes.data, stored.size))
            self.tensors[name] = self.name(layer, name)
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
            return self.constant(name, array.reshape(missing + array.shape) if missing else array, type.element)
        if not missing:
            return self.tensors[value]
        name = f"{value}.{rank}"
        if name not in self.tensors:
            layer = self.definition.add_shuffle(self.tensors[value])
            layer.reshape_dims = (*missing, *(0 for _ in type.shape))
            layer.zero_is_placeholder = False
            layer.set_input(1, self.sizes(name, missing + type.shape))
            self.tensors[name] = self.name(layer, name)
        return self.tensors[name]

    def size(self, size: Dim) -> Any:
        """A size as a tensor [1] of i64."""
        if isinstance(size, int):
            return self.constant(f"size.{size}", np.array([size]), "i64")
        if f"size.{size}" not in self.tensors:
            given = next(node for node in self.graph.inputs if size in node.types[0].shape)
            shape = self.name(self.definition.add_shape(self.tensors[given.key]), f"size.{size}.shape")
            axis = given.types[0].shape.index(size)
            layer = self.definition.add_slice(shape, (axis,), (1,), (1,))
            self.tensors[f"size.{size}"] = self.name(layer, f"size.{size}")
        return self.tensors[f"size.{size}"]

    def sizes(self, name: str, shape: Shape) -> Any:
        """A shape as a tensor of i64."""
        layer = self.definition.add_concatenation([self.size(size) for size in shape])
        return self.name(layer, f"{name}.shape")

    def mark(self, name: str, value: str) -> None:
        tensor = self.tensors[value]
        if tensor.is_network_output:
            tensor = self.name(self.definition.add_identity(tensor), f"{name}.output")
        tensor.name = name
        self.definition.mark_output(tensor)

    # ------------------------------------------------------------------------------------------------ ops

    def elementwise(self, node: Node, operation: Any) -> None:
        rank, element = len(node.types[0].shape), node.types[0].element
        x, y = (self.operand(value, rank, element) for value in node.inputs)
        self.give(node, self.definition.add_elementwise(x, y, operation))

    def activation(self, node: Node, kind: Any) -> None:
        self.give(node, self.definition.add_activation(self.tensors[node.values[0]], kind))

    def matmul(self, node: Node) -> None:
        rank, element = len(node.types[0].shape), node.types[0].element
        x, y = (self.operand(value, rank, element) for value in node.inputs)
        none = trt.MatrixOperation.NONE
        self.give(node, self.definition.add_matrix_multiply(x, none, y, none))

    def transpose(self, node: Node) -> None:
        layer = self.definition.add_shuffle(self.tensors[node.values[0]])
        layer.first_transpose = trt.Permutation(node.attribute("axes"))
        self.give(node, layer)

    def reshape(self, node: Node) -> None:
        layer = self.definition.add_shuffle(self.tensors[node.values[0]])
        layer.set_input(1, self.sizes(node.key, node.types[0].shape))
        self.give(node, layer)

    def split(self, node: Node) -> None:
        shape = self.graph.type_of(node.values[0]).shape
        axis, start = len(shape) + int(node.attribute("axis")), 0
        for result, type in zip(node.results, node.types, strict=True):
            starts = tuple(start if at == axis else 0 for at in range(len(shape)))
            self._slice(result, self.tensors[node.values[0]], starts, type.shape)
            start += int(type.shape[axis])

    def slice(self, node: Node) -> None:
        shape = node.types[0].shape
        axis = len(shape) + node.attribute("axis")
        starts = tuple(node.attribute("start") if at == axis else 0 for at in range(len(shape)))
        self._slice(node.key, self.operand(node.inputs[0], len(shape), node.types[0].element), starts, shape)

    def _slice(self, name: str, tensor: Any, starts: tuple[int, ...], shape: Shape) -> None:
        ones = (1,) * len(shape)
        layer = self.definition.add_slice(tensor, starts, ones, ones)
        layer.set_input(2, self.sizes(name, shape))
        self.tensors[name] = self.name(layer, name)

    def select(self, node: Node) -> None:
        index = self.constant(f"index.{node.attribute('index')}", np.array(node.attribute("index")), "i32")
        axis = len(self.graph.type_of(node.values[0]).shape) + node.attribute("axis")
        self.give(node, self.definition.add_gather(self.tensors[node.values[0]], index, axis))

    def sum(self, node: Node) -> None:
        axis = len(self.graph.type_of(node.values[0]).shape) + node.attribute("axis")
        tensor = self.tensors[node.values[0]]
        self.give(node, self.definition.add_reduce(tensor, trt.ReduceOperation.SUM, 1 << axis, False))

    def embedding(self, node: Node) -> None:
        table = self.operand(node.inputs[0], 2, node.types[0].element)
        self.give(node, self.definition.add_gather(table, self.tensors[node.values[1]], 0))

    def cast(self, node: Node) -> None:
        element = ELEMENTS[node.attribute("element")][0]
        self.give(node, self.definition.add_cast(self.tensors[node.values[0]], element))

    def softmax(self, node: Node) -> None:
        layer = self.definition.add_softmax(self.tensors[node.values[0]])
        layer.axes = 1 << (len(node.types[0].shape) - 1)
        self.give(node, layer)

    def layer_norm(self, node: Node) -> None:
        rank, element = len(node.types[0].shape), node.types[0].element
        x, scale, bias = (self.operand(value, rank, element) for value in node.inputs)
        layer = self.definition.add_normalization_v2(x, scale, bias, 1 << (rank - 1))
        layer.epsilon = node.attribute("eps")
        self.give(node, layer)

    def silu(self, node: Node) -> None:
        x = self.tensors[node.values[0]]
        gate = self.name(self.definition.add_activation(x, trt.ActivationType.SIGMOID), f"{node.key}.sigmoid")
        self.give(node, self.definition.add_elementwise(x, gate, OPERATIONS.PROD))

    def padding_mask(self, node: Node) -> None:
        """Places below a length, out of a table of all places: [batch, 1, 1, seq]."""
        element = node.types[0].element
        places = self.places(node.attribute("size"), (1, 1, 1, -1), "i32")
        lengths = self.definition.add_shuffle(self.tensors[node.values[0]])
        lengths.set_input(1, self.sizes(f"{node.key}.lengths", (node.types[0].shape[0], 1, 1, 1)))
        column = self.name(lengths, f"{node.key}.lengths")
        inside = self.definition.add_elementwise(places, column, OPERATIONS.LESS)
        zero, masked = (self.operand(value, 4, element) for value in (0.0, -10000.0))
        self.give(node, self.definition.add_select(self.name(inside, f"{node.key}.inside"), zero, masked))

    def places(self, size: Dim, axes: tuple[int, ...], element: str) -> Any:
        """0, 1, 2, ..., along the axis that is -1 of axes of 1, out of a table of all places."""
        name = f"places.{size}.{'x'.join(map(str, axes))}.{element}"
        if name not in self.tensors:
            table = self.constant(f"{name}.all", np.arange(LONGEST).reshape(axes), element)
            self._slice(name, table, (0,) * len(axes), tuple(size if axis == -1 else 1 for axis in axes))
        return self.tensors[name]

    def local_mask(self, node: Node) -> None:
        """The squares of distances are compared, which needs no sign."""
        shape, element = node.types[0].shape, node.types[0].element
        ones, farthest = (1,) * (len(shape) - 2), int(node.attribute("window")) // 2
        rows, columns = self.places(shape[-1], (*ones, -1, 1), "i32"), self.places(shape[-1], (*ones, 1, -1), "i32")
        offsets = self.name(self.definition.add_elementwise(rows, columns, OPERATIONS.SUB), f"{node.key}.offsets")
        squares = self.name(self.definition.add_elementwise(offsets, offsets, OPERATIONS.PROD), f"{node.key}.squares")
        beyond = self.operand(farthest**2 + 1, len(shape), "i32")
        near = self.name(self.definition.add_elementwise(squares, beyond, OPERATIONS.LESS), f"{node.key}.near")
        far = self.operand(-10000.0, len(shape), element)
        self.give(node, self.definition.add_select(near, self.tensors[node.values[0]], far))

    def take_along(self, node: Node) -> None:
        """The layer wants the columns for each of the leading sizes: a slice with steps of 0 repeats them."""
        shape, rank = node.types[0].shape, len(node.types[0].shape)
        columns = self.operand(node.inputs[1], rank, "i32")
        start, steps = (0,) * rank, (*(0,) * (rank - 2), 1, 1)
        spread = self.definition.add_slice(columns, start, (1,) * rank, steps)
        spread.set_input(2, self.sizes(f"{node.key}.columns", shape))
        indices = self.name(spread, f"{node.key}.columns")
        layer = self.definition.add_gather_v2(self.tensors[node.values[0]], indices, trt.GatherMode.ELEMENT)
        layer.axis = rank - 1
        self.give(node, layer)

    def rotary(self, node: Node) -> None:
        """y = x · cos + (x with its halves swapped) · sin, where sin has the sign that its half has in the equation."""
        key, shape, x = node.key, node.types[0].shape, self.tensors[node.values[0]]
        half, start = int(shape[-1]) // 2, (0,) * (len(shape) - 1)
        self._slice(f"{key}.left", x, (*start, 0), (*shape[:-1], half))
        self._slice(f"{key}.right", x, (*start, half), (*shape[:-1], half))
        halves = self.definition.add_concatenation([self.tensors[f"{key}.right"], self.tensors[f"{key}.left"]])
        halves.axis = len(shape) - 1
        cosines, sines = self._turns(node)
        straight = self.definition.add_elementwise(x, cosines, OPERATIONS.PROD)
        swapped = self.name(halves, f"{key}.swapped")
        across = self.name(self.definition.add_elementwise(swapped, sines, OPERATIONS.PROD), f"{key}.across")
        self.give(node, self.definition.add_elementwise(self.name(straight, f"{key}.straight"), across, OPERATIONS.SUM))

    def _turns(self, node: Node) -> tuple[Any, Any]:
        """The cosines and the sines of all places, [..., seq, size]; those of one base are computed once."""
        shape, element = node.types[0].shape, node.types[0].element
        seq, size, ones = shape[-2], int(shape[-1]), (1,) * (len(shape) - 2)
        name = f"rotary.{node.attribute('base')}.{size}.{seq}.{element}"
        if f"{name}.sines" not in self.tensors:
            frequencies, signs = (row.reshape((*ones, 1, size)) for row in rotary_factors(node.attribute("base"), size))
            rows, steps = self.places(seq, (*ones, -1, 1), "f32"), self.constant(f"{name}.steps", frequencies, "f32")
            angles = self.name(self.definition.add_elementwise(rows, steps, OPERATIONS.PROD), f"{name}.angles")
            turned = self.name(self.definition.add_unary(angles, trt.UnaryOperation.SIN), f"{name}.turned")
            sign = self.constant(f"{name}.signs", signs, "f32")
            signed = self.name(self.definition.add_elementwise(turned, sign, OPERATIONS.PROD), f"{name}.signed")
            cosine = self.name(self.definition.add_unary(angles, trt.UnaryOperation.COS), f"{name}.cosine")
            for part, tensor in (("cosines", cosine), ("sines", signed)):
                typed = self.definition.add_cast(tensor, ELEMENTS[element][0])
                self.tensors[f"{name}.{part}"] = self.name(typed, f"{name}.{part}")
        return self.tensors[f"{name}.cosines"], self.tensors[f"{name}.sines"]

    def attention(self, node: Node) -> None:
        """IAttention takes the query scaled already, and gives [batch, heads, seq, size]."""
        element = node.types[0].element
        query, key, value = (self.tensors[name] for name in node.values[:3])
        scale = self.operand(node.attribute("scale"), 4, element)
        product = self.definition.add_elementwise(query, scale, OPERATIONS.PROD)
        scaled = self.name(product, f"{node.key}.scaled_query")
        softmax, causal = trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE
        layer = self.definition.add_attention_v2(scaled, key, value, softmax, causal)
        layer.decomposable = True
        mask = self.graph.producer(node.values[3])
        if mask.op == "padding_mask":
            layer.key_value_lengths = self.tensors[mask.values[0]]
        else:
            layer.mask = self.operand(node.values[3], 4, element)
        context = self.name(layer, f"{node.key}.context")
        merged = self.definition.add_shuffle(context)
        merged.first_transpose = trt.Permutation([0, 2, 1, 3])
        merged.set_input(1, self.sizes(node.key, node.types[0].shape))
        self.give(node, merged)


def _profile(builder: Any, network: _Network, profile: Any) -> Any:
    made = builder.create_optimization_profile()
    batch, seq = profile.batch, profile.seq
    shapes = [(batch.smallest, seq.smallest), (batch.usual, seq.usual), (batch.largest, seq.largest)]
    for index in range(network.definition.num_inputs):
        made.set_shape(network.definition.get_input(index).name, *shapes)
    return made


def _refusal(architecture: str, precision: str) -> str | None:
    """Why TensorRT-RTX 1.7 cannot build a precision for an architecture, in its own builder's words."""
    if architecture == "sm_75" and precision == "fp32":
        return "FP32 GEMM is not supported on Turing; build fp16"
    if architecture == "sm_75" and precision == "bf16":
        return "Turing has no bf16; build fp16"
    return None


def _set_architectures(config: Any, architectures: Sequence[str]) -> None:
    config.num_compute_capabilities = len(architectures)
    known = {f"sm_{name[2:]}": value for name, value in trt.ComputeCapability.__members__.items() if name[:2] == "SM"}
    for index, name in enumerate(architectures):
        if name not in known:
            raise error("B0511", f"TensorRT-RTX does not build for `{name}`", None, f"it does for {', '.join(known)}")
        config.set_compute_capability(known[name], index)


class _Log(trt.ILogger):
    """Keeps what TensorRT says, so that a failure can tell its reason."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)

    def worst(self) -> str:
        return self.errors[0] if self.errors else "it gave no reason"


class _Monitor(trt.IProgressMonitor):
    """TensorRT's progress, passed on; steps of the innermost phase."""

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)
        self.progress = progress
        self.steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self.steps[phase_name] = num_steps

    def phase_finish(self, phase_name: str) -> None:
        self.steps.pop(phase_name, None)

    def step_complete(self, phase_name: str, step: int) -> bool:
        self.progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
        return True


def _binary(operation: Any) -> Callable[[_Network, Node], None]:
    return lambda network, node: network.elementwise(node, operation)


def _unary(kind: Any) -> Callable[[_Network, Node], None]:
    return lambda network, node: network.activation(node, kind)


LOWERINGS: dict[str, Callable[[_Network, Node], None]] = {
    "add": _binary(OPERATIONS.SUM),
    "subtract": _binary(OPERATIONS.SUB),
    "multiply": _binary(OPERATIONS.PROD),
    "divide": _binary(OPERATIONS.DIV),
    "maximum": _binary(OPERATIONS.MAX),
    "gelu": _unary(trt.ActivationType.GELU_ERF),
    "gelu_tanh": _unary(trt.ActivationType.GELU_TANH),
    "relu": _unary(trt.ActivationType.RELU),
    "sigmoid": _unary(trt.ActivationType.SIGMOID),
    "tanh": _unary(trt.ActivationType.TANH),
    "matmul": _Network.matmul,
    "transpose": _Network.transpose,
    "reshape": _Network.reshape,
    "split": _Network.split,
    "slice": _Network.slice,
    "select": _Network.select,
    "sum": _Network.sum,
    "embedding": _Network.embedding,
    "cast": _Network.cast,
    "softmax": _Network.softmax,
    "layer_norm": _Network.layer_norm,
    "silu": _Network.silu,
    "padding_mask": _Network.padding_mask,
    "local_mask": _Network.local_mask,
    "rotary": _Network.rotary,
    "take_along": _Network.take_along,
    "attention": _Network.attention,
}
