"""The `onnx` target: ONNX for ONNX Runtime, its fused operators where it has them, standard operators otherwise.

Names of nodes and values are the graph's. Batch and sequence stay dynamic. com.microsoft operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bertc.errors import error
from bertc.graph import INPUT, UNUSED, Graph, Node, Operand
from bertc.ops import Array, rotary_factors
from bertc.passes.expand_unhosted import EXPANDED, Choice, Hosts
from bertc.plugins import PACKED
from bertc.reference import Weights, constant
from bertc.spec import Spec
from bertc.spec_fields import INPUT_NAMES
from bertc.targets import Runtime
from bertc.types import Dim, Shape, Type
from bertc.version import VERSION

FILE = "model.onnx"
OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"

EXTERNAL_OVER = 1_800_000_000
"""Bytes of weights from which they stand beside the file: a protobuf message ends at 2 GiB."""

ELEMENTS: dict[str, tuple[int, Any]] = {
    "f32": (TensorProto.FLOAT, np.float32),
    "f16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "i32": (TensorProto.INT32, np.int32),
    "i64": (TensorProto.INT64, np.int64),
    "bool": (TensorProto.BOOL, np.bool_),
}


def hosting(*, portable: bool = False, provider: str = "cpu") -> Hosts:
    """Which fused ops become ONNX Runtime's own operators: with `portable` none, else those that `provider`, `cpu` or
    `gpu`, runs fastest."""

    def hosts(graph: Graph, node: Node, precision: str) -> Choice:
        reason = _refusal(node.op, precision, portable, provider)
        return Choice("operator") if reason is None else Choice(EXPANDED, reason)

    return hosts


def _refusal(op: str, precision: str, portable: bool, provider: str) -> str | None:
    """Why ONNX Runtime has no operator for a fused op, or none that is worth it."""
    if portable:
        return "only standard operators were asked for"
    if op in PACKED:
        return "ONNX Runtime's operators take padded batches"
    if op == "skip_norm" and provider == "cpu":
        return "on the CPU ONNX Runtime's operator takes twice the time of the ops it fuses"
    if precision != "fp32":
        return "ONNX Runtime's CPU provider has the fused operators in float32 only"
    if op not in LOWERINGS:
        return "ONNX Runtime has no operator for it"
    return None


def write(
    graph: Graph,
    weights: Weights,
    folder: Path,
    *,
    spec: Spec,
    hashes: Mapping[str, str],
    portable: bool = False,
    provider: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write `model.onnx` (and `model.onnx.data` when the weights are large) into a folder."""
    lowering = _Lowering(graph, weights, spec, provider == "cpu" and not portable, progress)
    model = lowering.model({**hashes, "head": spec.network["head"].block})
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    external = size > EXTERNAL_OVER
    beside = f"{FILE}.data" if external else None
    cast(Any, onnx).save(model, folder / FILE, save_as_external_data=external, location=beside)


def why_not_here() -> str | None:
    """Why its engines do not run on this machine; ONNX Runtime's own CPU provider does everywhere."""
    return None


def open_session(folder: Path, names: Mapping[str, str], device: int = 0) -> Runtime:
    """ONNX Runtime on the CPU; `names` are those of the inputs in the model, by Hugging Face's.

    It may be called from several threads. Raises BertcError B0513 for any device but 0.
    """
    if device != 0:
        message = f"there is no device {device}: the engine is ONNX Runtime's on the CPU, which is device 0"
        raise error("B0513", message, None, "leave the device out")
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    outputs: dict[str, list[int | str]] = {output.name: output.shape for output in session.get_outputs()}

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = {names[name]: array for name, array in inputs.items()}
        return dict(zip(outputs, session.run(list(outputs), given), strict=True))

    token_outputs = frozenset(name for name, shape in outputs.items() if "seq" in shape)
    return Runtime(run, lambda: None, token_outputs)


class _Lowering:
    """One graph on its way to an ONNX model; a method for each op that needs more than its name."""

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        spec: Spec,
        for_cpu: bool,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.for_cpu = for_cpu
        self.progress = progress
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        inputs = dict(zip(INPUT_NAMES["hugging_face"], INPUT_NAMES[spec.input_names], strict=True))
        outputs = {value: name for name, value in graph.outputs.items()}
        self.renamed = {**inputs, **outputs}
        self.biases = dict(_absorbed_biases(graph))
        """skip_norm -> the addition of a bias that its operator does as well."""
        self.projections = set(_absorbed_projections(graph))
        """qkv_projections that the attention behind them does as well."""

    def model(self, properties: Mapping[str, str]) -> onnx.ModelProto:
        nodes = [node for node in self.graph if not self.graph.is_constant(node.key) and node.op != INPUT]
        for index, node in enumerate(nodes):
            if node.key not in self.biases.values() and node.key not in self.projections:
                LOWERINGS[node.op](self, node)
            if self.progress:
                self.progress("lowering to ONNX", index + 1, len(nodes))
        for name, value in self.graph.outputs.items():
            if self.renamed.get(value) != name:
                self.emit("Identity", [value], name)
        inputs = [self._info(self.name(node.key), node.types[0]) for node in self.graph.inputs]
        outputs = [self._info(name, self.graph.type_of(value)) for name, value in self.graph.outputs.items()]
        needed = _needed(self.nodes, self.graph.outputs)
        read = {name for node in needed for name in node.input}
        initializers = [tensor for name, tensor in self.initializers.items() if name in read]
        body = helper.make_graph(needed, "bertc", inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == MICROSOFT for node in needed):
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name, model.producer_version = "bertc", VERSION
        helper.set_model_props(model, dict(sorted(properties.items())))
        return model

    def _info(self, name: str, type: Type) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, ELEMENTS[type.element][0], type.shape)

    # ------------------------------------------------------------------------------------------------ emitting

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

    # ---------------------------------------------------------------------------------------------- primitives

    def call(self, node: Node, op: str, domain: str = "", **attributes: Any) -> None:
        """A node whose operands are the ONNX operator's."""
        element = next(self.graph.type_of(value).element for value in node.values)
        self.emit(op, [self.operand(value, element) for value in node.inputs], _results(node), domain, **attributes)

    def transpose(self, node: Node) -> None:
        self.call(node, "Transpose", perm=node.attribute("axes"))

    def reshape(self, node: Node) -> None:
        shape: Shape = node.attribute("shape")
        source = self.graph.type_of(node.values[0]).shape
        kept = [0 if isinstance(s, str) and source[i : i + 1] == (s,) else s for i, s in enumerate(shape)]
        sizes = [-1 if isinstance(size, str) else size for size in kept]
        self.emit("Reshape", [node.values[0], self.integers(*sizes)], node.key)

    def concat(self, node: Node) -> None:
        self.call(node, "Concat", axis=node.attribute("axis"))

    def split(self, node: Node) -> None:
        sizes = self.integers(*node.attribute("sizes"))
        self.emit("Split", [node.values[0], sizes], _results(node), axis=node.attribute("axis"))

    def slice(self, node: Node) -> None:
        start, axis = node.attribute("start"), self.integers(node.attribute("axis"))
        end = self.size(node.attribute("size"))
        if start:
            end = self.emit("Add", [end, self.integers(start)], f"{node.key}.end")
        data = self.operand(node.inputs[0], node.types[0].element)
        self.emit("Slice", [data, self.integers(start), end, axis], node.key)

    def select(self, node: Node) -> None:
        index = self.initializer(f"index.{node.attribute('index')}", np.asarray(node.attribute("index")), "i64")
        self.emit("Gather", [node.values[0], index], node.key, axis=node.attribute("axis"))

    def sum(self, node: Node) -> None:
        self.emit("ReduceSum", [node.values[0], self.integers(node.attribute("axis"))], node.key, keepdims=0)

    def cast(self, node: Node) -> None:
        self.call(node, "Cast", to=ELEMENTS[node.attribute("element")][0])

    def layer_norm(self, node: Node) -> None:
        """On the CPU as whole-array operators: ONNX Runtime's own one adds up a row in one scalar register, which takes
        two to three times as long."""
        if not self.for_cpu:
            self.call(node, "LayerNormalization", axis=-1, epsilon=node.attribute("eps"))
            return
        key, element, size = node.key, node.types[0].element, node.types[0].shape[-1]
        x, scale, bias = (self.operand(value, element) for value in node.inputs)
        average = self.initializer(f"average.{size}.{element}", np.full((int(size), 1), 1 / int(size)), element)
        mean = self.emit("ReduceMean", [x, self.integers(-1)], f"{key}.mean", keepdims=1)
        centred = self.emit("Sub", [x, mean], f"{key}.centred")
        squares = self.emit("Mul", [centred, centred], f"{key}.squares")
        variance = self.emit("MatMul", [squares, average], f"{key}.variance")
        raised = self.emit("Add", [variance, self.operand(node.attribute("eps"), element)], f"{key}.raised")
        deviation = self.emit("Sqrt", [raised], f"{key}.deviation")
        normal = self.emit("Div", [centred, deviation], f"{key}.normal")
        scaled = self.emit("Mul", [normal, scale], f"{key}.scaled")
        self.emit("Add", [scaled, bias], key)

    def silu(self, node: Node) -> None:
        gate = self.emit("Sigmoid", [node.values[0]], f"{node.key}.sigmoid")
        self.emit("Mul", [node.values[0], gate], node.key)

    def padding_mask(self, node: Node) -> None:
        key, element = node.key, node.types[0].element
        places = self.places(node.attribute("size"))
        lengths = self.emit("Unsqueeze", [node.values[0], self.integers(1, 2, 3)], f"{key}.lengths")
        inside = self.emit("Less", [places, lengths], f"{key}.inside")
        self.emit("Where", [inside, self.operand(0.0, element), self.operand(-10000.0, element)], key)

    def places(self, size: Dim) -> str:
        """0, 1, 2, ... as i32 [size]."""
        name = f"places.{size}"
        if all(node.output[0] != name for node in self.nodes):
            end = self.emit("Reshape", [self.size(size), self.integers()], f"{name}.end")
            zero, one = (self.initializer(f"index.{index}", np.asarray(index), "i64") for index in (0, 1))
            wide = self.emit("Range", [zero, end, one], f"{name}.range")
            self.emit("Cast", [wide], name, to=TensorProto.INT32)
        return name

    def local_mask(self, node: Node) -> None:
        key, (_, size), element = node.key, node.types[0].shape[-2:], node.types[0].element
        places = self.places(size)
        rows = self.emit("Unsqueeze", [places, self.integers(1)], f"{key}.rows")
        apart = self.emit("Abs", [self.emit("Sub", [rows, places], f"{key}.offsets")], f"{key}.apart")
        farthest = self.operand(node.attribute("window") // 2, "i32")
        near = self.emit("LessOrEqual", [apart, farthest], f"{key}.near")
        self.emit("Where", [near, node.values[0], self.operand(-10000.0, element)], key)

    def take_along(self, node: Node) -> None:
        """The operator wants the columns for each of the leading sizes."""
        key, x, columns = node.key, node.values[0], node.values[1]
        rank = len(node.types[0].shape)
        leading = self.emit("Shape", [x], f"{key}.leading", end=rank - 1)
        shape = self.emit("Concat", [leading, self.size(node.types[0].shape[-1])], f"{key}.shape", axis=0)
        spread = self.emit("Expand", [self.operand(columns, "i32"), shape], f"{key}.columns")
        self.emit("GatherElements", [x, spread], key, axis=-1)

    def rotary(self, node: Node) -> None:
        """y = x · cos + (x with its halves swapped) · sin, where sin has the sign that its half has in the equation."""
        key, x, half = node.key, node.values[0], int(node.types[0].shape[-1]) // 2
        cosines, sines = self._turns(node)
        self.emit("Split", [x, self.integers(half, half)], [f"{key}.left", f"{key}.right"], axis=-1)
        swapped = self.emit("Concat", [f"{key}.right", f"{key}.left"], f"{key}.swapped", axis=-1)
        straight = self.emit("Mul", [x, cosines], f"{key}.straight")
        self.emit("Add", [straight, self.emit("Mul", [swapped, sines], f"{key}.across")], key)

    def _turns(self, node: Node) -> tuple[str, str]:
        """The cosines and the sines of all places, [seq, size]; those of one base are computed once."""
        seq, size = node.types[0].shape[-2:]
        base, element = node.attribute("base"), node.types[0].element
        name = f"rotary.{base}.{size}.{seq}"
        cosines, sines = f"{name}.cosines.{element}", f"{name}.sines.{element}"
        if any(node.output[0] == sines for node in self.nodes):
            return cosines, sines
        frequencies, signs = rotary_factors(base, int(size))
        places = self.emit("Cast", [self.places(seq)], f"{name}.places", to=TensorProto.FLOAT)
        rows = self.emit("Unsqueeze", [places, self.integers(1)], f"{name}.rows")
        steps = self.initializer(f"{name}.frequencies", frequencies, "f32")
        angles = self.emit("Mul", [rows, steps], f"{name}.angles")
        turned = self.emit("Sin", [angles], f"{name}.sines")
        signed = self.emit("Mul", [turned, self.initializer(f"{name}.signs", signs, "f32")], f"{name}.signed")
        self.emit("Cast", [self.emit("Cos", [angles], f"{name}.cosines")], cosines, to=ELEMENTS[element][0])
        return cosines, self.emit("Cast", [signed], sines, to=ELEMENTS[element][0])

    # ----------------------------------------------------------------------------------------------- fused ops

    def embed_norm(self, node: Node) -> None:
        word, position, type, ids, types, scale, bias = node.values
        self._embed_norm(node, (ids, types), (word, position, type), (scale, bias))

    def untyped_embed_norm(self, node: Node) -> None:
        word, position, ids, scale, bias = node.values
        self._embed_norm(node, (ids, ""), (word, position, ""), (scale, bias))

    def _embed_norm(
        self, node: Node, ids: tuple[str, ...], tables: tuple[str, str, str], norm: tuple[str, ...]
    ) -> None:
        """An operand that the operator may go without is named by the empty text."""
        word, position, type = tables
        places = constant(self.graph, position, self.weights)[node.attribute("offset") :]
        arrays = [
            self.operand(word, "f32"),
            self.initializer(f"{node.key}.positions", places, "f32"),
            self.operand(type, "f32") if type else "",
            *(self.operand(value, "f32") for value in norm),
        ]
        result, total = _results(node)
        outputs = [result, f"{node.key}.mask_index", *([total] if total else [])]
        self.emit("EmbedLayerNormalization", [*ids, *arrays], outputs, MICROSOFT, epsilon=node.attribute("eps"))

    def skip_norm(self, node: Node) -> None:
        x, residual, scale, bias = node.values
        inputs = [x, residual, self.operand(scale, "f32"), self.operand(bias, "f32")]
        if node.key in self.biases:
            added = self.graph.producer(self.biases[node.key])
            inputs[inputs.index(added.key)] = added.values[0]
            inputs.append(self.operand(added.values[1], "f32"))
        norm, total = _results(node)
        outputs = [norm, "", "", total] if total else [norm]
        self.emit("SkipLayerNormalization", inputs, outputs, MICROSOFT, epsilon=node.attribute("eps"))

    def qkv_projection(self, node: Node) -> None:
        x, rows, bias = node.values
        heads, size = node.attribute("heads"), node.attribute("size")
        columns = self.initializer(f"{rows}.columns", constant(self.graph, rows, self.weights).T, "f32")
        product = self.emit("MatMul", [x, columns], f"{node.key}.product")
        merged = self.emit("Add", [product, self.operand(bias, "f32")], f"{node.key}.merged")
        parts = [f"{node.key}.part.{index}" for index in range(3)]
        self.emit("Split", [merged, self.integers(*[heads * size] * 3)], parts, axis=-1)
        for part, result in zip(parts, _results(node), strict=True):
            split = self.emit("Reshape", [part, self.integers(0, 0, heads, size)], f"{part}.heads")
            self.emit("Transpose", [split], result or f"{part}.unused", perm=[0, 2, 1, 3])

    def attention(self, node: Node) -> None:
        query, key, value, mask = node.values
        projection = self.graph.producer(query)
        if projection.key in self.projections:
            self._merged_attention(node, projection)
            return
        element = node.types[0].element
        turned = self.emit("Transpose", [key], f"{node.key}.key", perm=[0, 1, 3, 2])
        scores = self.emit("MatMul", [query, turned], f"{node.key}.scores")
        scaled = self.emit("Mul", [scores, self.operand(node.attribute("scale"), element)], f"{node.key}.scaled")
        masked = self.emit("Add", [scaled, self.operand(mask, element)], f"{node.key}.masked")
        weights = self.emit("Softmax", [masked], f"{node.key}.weights", axis=-1)
        context = self.emit("MatMul", [weights, value], f"{node.key}.context")
        merged = self.emit("Transpose", [context], f"{node.key}.merged", perm=[0, 2, 1, 3])
        self.emit("Reshape", [merged, self.integers(0, 0, -1)], node.key)

    def _merged_attention(self, node: Node, projection: Node) -> None:
        """Projection and attention as one operator; the mask is its key lengths."""
        x, rows, bias = projection.values
        columns = self.initializer(f"{rows}.columns", constant(self.graph, rows, self.weights).T, "f32")
        lengths = self.graph.producer(node.values[3]).values[0]
        width = projection.attribute("heads") * projection.attribute("size")
        self.emit(
            "Attention",
            [x, columns, self.operand(bias, "f32"), lengths],
            node.key,
            MICROSOFT,
            num_heads=projection.attribute("heads"),
            scale=node.attribute("scale"),
            qkv_hidden_sizes=[width, width, width],
        )


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that lead to an output: a mask that every attention takes as lengths leads nowhere."""
    wanted, needed = set(outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            needed.append(node)
    return needed[::-1]


def _results(node: Node) -> list[str]:
    return ["" if name == UNUSED else name for name in node.results]


def _absorbed_biases(graph: Graph) -> list[tuple[str, str]]:
    """Each skip_norm one of whose operands is a bias added for it alone, and that addition."""
    found: list[tuple[str, str]] = []
    for node in graph:
        if node.op != "skip_norm":
            continue
        for operand in node.values[:2]:
            added = graph.producer(operand)
            alone = len(graph.users(operand)) == 1 and not graph.is_output(operand)
            if added.op == "add" and alone and len(added.values) == 2 and _is_vector(graph, added.values[1]):
                found.append((node.key, added.key))
                break
    return found


def _is_vector(graph: Graph, value: str) -> bool:
    return graph.is_constant(value) and len(graph.type_of(value).shape) == 1


def _absorbed_projections(graph: Graph) -> list[str]:
    """Each qkv_projection whose three results one attention reads, in order, under a mask made of lengths."""
    found: list[str] = []
    for node in graph:
        if node.op != "attention":
            continue
        projection, mask = graph.producer(node.values[0]), graph.producer(node.values[3])
        alone = all(len(graph.users(name)) == 1 and not graph.is_output(name) for name in node.values[:3])
        if (
            projection.op == "qkv_projection"
            and projection.results == node.values[:3]
            and alone
            and mask.op == "padding_mask"
        ):
            found.append(projection.key)
    return found


def _plain(op: str, domain: str = "", **attributes: Any) -> Callable[[_Lowering, Node], None]:
    return lambda lowering, node: lowering.call(node, op, domain, **attributes)


LOWERINGS: dict[str, Callable[[_Lowering, Node], None]] = {
    "add": _plain("Add"),
    "subtract": _plain("Sub"),
    "multiply": _plain("Mul"),
    "divide": _plain("Div"),
    "maximum": _plain("Max"),
    "matmul": _plain("MatMul"),
    "embedding": _plain("Gather"),
    "softmax": _plain("Softmax", axis=-1),
    "gelu": _plain("Gelu", approximate="none"),
    "gelu_tanh": _plain("Gelu", approximate="tanh"),
    "relu": _plain("Relu"),
    "sigmoid": _plain("Sigmoid"),
    "tanh": _plain("Tanh"),
    "bias_gelu": _plain("BiasGelu", MICROSOFT),
    "bias_gelu_tanh": _plain("FastGelu", MICROSOFT),
    "transpose": _Lowering.transpose,
    "reshape": _Lowering.reshape,
    "concat": _Lowering.concat,
    "split": _Lowering.split,
    "slice": _Lowering.slice,
    "select": _Lowering.select,
    "sum": _Lowering.sum,
    "cast": _Lowering.cast,
    "layer_norm": _Lowering.layer_norm,
    "silu": _Lowering.silu,
    "padding_mask": _Lowering.padding_mask,
    "local_mask": _Lowering.local_mask,
    "rotary": _Lowering.rotary,
    "take_along": _Lowering.take_along,
    "embed_norm": _Lowering.embed_norm,
    "untyped_embed_norm": _Lowering.untyped_embed_norm,
    "skip_norm": _Lowering.skip_norm,
    "qkv_projection": _Lowering.qkv_projection,
    "attention": _Lowering.attention,
}
"""Op -> what it becomes. An op of the graph without an entry is one that `hosting` has let through by mistake."""
