"""Each primitive op as operators of the ONNX standard.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from bertc.graph import Node
from bertc.ops import rotary_factors
from bertc.targets.onnx.lowering import ELEMENTS, Lower, Lowering, plain, results
from bertc.types import Dim, Shape


def transpose(lowering: Lowering, node: Node) -> None:
    lowering.call(node, "Transpose", perm=node.attribute("axes"))


def reshape(lowering: Lowering, node: Node) -> None:
    shape: Shape = node.attribute("shape")
    source = lowering.graph.type_of(node.values[0]).shape
    kept = [0 if isinstance(s, str) and source[i : i + 1] == (s,) else s for i, s in enumerate(shape)]
    sizes = [-1 if isinstance(size, str) else size for size in kept]
    lowering.emit("Reshape", [node.values[0], lowering.integers(*sizes)], node.key)


def concat(lowering: Lowering, node: Node) -> None:
    lowering.call(node, "Concat", axis=node.attribute("axis"))


def split(lowering: Lowering, node: Node) -> None:
    sizes = lowering.integers(*node.attribute("sizes"))
    lowering.emit("Split", [node.values[0], sizes], results(node), axis=node.attribute("axis"))


def slice_(lowering: Lowering, node: Node) -> None:
    start, axis = node.attribute("start"), lowering.integers(node.attribute("axis"))
    end = lowering.size(node.attribute("size"))
    if start:
        end = lowering.emit("Add", [end, lowering.integers(start)], f"{node.key}.end")
    data = lowering.operand(node.inputs[0], node.types[0].element)
    lowering.emit("Slice", [data, lowering.integers(start), end, axis], node.key)


def select(lowering: Lowering, node: Node) -> None:
    index = lowering.initializer(f"index.{node.attribute('index')}", np.asarray(node.attribute("index")), "i64")
    lowering.emit("Gather", [node.values[0], index], node.key, axis=node.attribute("axis"))


def sum_(lowering: Lowering, node: Node) -> None:
    lowering.emit("ReduceSum", [node.values[0], lowering.integers(node.attribute("axis"))], node.key, keepdims=0)


def cast(lowering: Lowering, node: Node) -> None:
    lowering.call(node, "Cast", to=ELEMENTS[node.attribute("element")][0])


def layer_norm(lowering: Lowering, node: Node) -> None:
    """On the CPU as whole-array operators: ONNX Runtime's own one adds up a row in one scalar register, which takes
    two to three times as long."""
    if not lowering.for_cpu:
        lowering.call(node, "LayerNormalization", axis=-1, epsilon=node.attribute("eps"))
        return
    key, element, size = node.key, node.types[0].element, node.types[0].shape[-1]
    x, scale, bias = (lowering.operand(value, element) for value in node.inputs)
    average = lowering.initializer(f"average.{size}.{element}", np.full((int(size), 1), 1 / int(size)), element)
    mean = lowering.emit("ReduceMean", [x, lowering.integers(-1)], f"{key}.mean", keepdims=1)
    centred = lowering.emit("Sub", [x, mean], f"{key}.centred")
    squares = lowering.emit("Mul", [centred, centred], f"{key}.squares")
    variance = lowering.emit("MatMul", [squares, average], f"{key}.variance")
    raised = lowering.emit("Add", [variance, lowering.operand(node.attribute("eps"), element)], f"{key}.raised")
    deviation = lowering.emit("Sqrt", [raised], f"{key}.deviation")
    normal = lowering.emit("Div", [centred, deviation], f"{key}.normal")
    scaled = lowering.emit("Mul", [normal, scale], f"{key}.scaled")
    lowering.emit("Add", [scaled, bias], key)


def silu(lowering: Lowering, node: Node) -> None:
    gate = lowering.emit("Sigmoid", [node.values[0]], f"{node.key}.sigmoid")
    lowering.emit("Mul", [node.values[0], gate], node.key)


def padding_mask(lowering: Lowering, node: Node) -> None:
    key, element = node.key, node.types[0].element
    places = _places(lowering, node.attribute("size"))
    lengths = lowering.emit("Unsqueeze", [node.values[0], lowering.integers(1, 2, 3)], f"{key}.lengths")
    inside = lowering.emit("Less", [places, lengths], f"{key}.inside")
    lowering.emit("Where", [inside, lowering.operand(0.0, element), lowering.operand(-10000.0, element)], key)


def _places(lowering: Lowering, size: Dim) -> str:
    """0, 1, 2, ... as i32 [size]."""
    name = f"places.{size}"
    if all(node.output[0] != name for node in lowering.nodes):
        end = lowering.emit("Reshape", [lowering.size(size), lowering.integers()], f"{name}.end")
        zero, one = (lowering.initializer(f"index.{index}", np.asarray(index), "i64") for index in (0, 1))
        wide = lowering.emit("Range", [zero, end, one], f"{name}.range")
        lowering.emit("Cast", [wide], name, to=TensorProto.INT32)
    return name


def local_mask(lowering: Lowering, node: Node) -> None:
    key, (_, size), element = node.key, node.types[0].shape[-2:], node.types[0].element
    places = _places(lowering, size)
    rows = lowering.emit("Unsqueeze", [places, lowering.integers(1)], f"{key}.rows")
    apart = lowering.emit("Abs", [lowering.emit("Sub", [rows, places], f"{key}.offsets")], f"{key}.apart")
    farthest = lowering.operand(node.attribute("window") // 2, "i32")
    near = lowering.emit("LessOrEqual", [apart, farthest], f"{key}.near")
    lowering.emit("Where", [near, node.values[0], lowering.operand(-10000.0, element)], key)


def take_along(lowering: Lowering, node: Node) -> None:
    """The operator wants the columns for each of the leading sizes."""
    key, x, columns = node.key, node.values[0], node.values[1]
    rank = len(node.types[0].shape)
    leading = lowering.emit("Shape", [x], f"{key}.leading", end=rank - 1)
    shape = lowering.emit("Concat", [leading, lowering.size(node.types[0].shape[-1])], f"{key}.shape", axis=0)
    spread = lowering.emit("Expand", [lowering.operand(columns, "i32"), shape], f"{key}.columns")
    lowering.emit("GatherElements", [x, spread], key, axis=-1)


def rotary(lowering: Lowering, node: Node) -> None:
    """y = x · cos + (x with its halves swapped) · sin, where sin has the sign that its half has in the equation."""
    key, x, half = node.key, node.values[0], int(node.types[0].shape[-1]) // 2
    cosines, sines = _turns(lowering, node)
    lowering.emit("Split", [x, lowering.integers(half, half)], [f"{key}.left", f"{key}.right"], axis=-1)
    swapped = lowering.emit("Concat", [f"{key}.right", f"{key}.left"], f"{key}.swapped", axis=-1)
    straight = lowering.emit("Mul", [x, cosines], f"{key}.straight")
    lowering.emit("Add", [straight, lowering.emit("Mul", [swapped, sines], f"{key}.across")], key)


def _turns(lowering: Lowering, node: Node) -> tuple[str, str]:
    """The cosines and the sines of all places, [seq, size]; those of one base are computed once."""
    seq, size = node.types[0].shape[-2:]
    base, element = node.attribute("base"), node.types[0].element
    name = f"rotary.{base}.{size}.{seq}"
    cosines, sines = f"{name}.cosines.{element}", f"{name}.sines.{element}"
    if any(node.output[0] == sines for node in lowering.nodes):
        return cosines, sines
    frequencies, signs = rotary_factors(base, int(size))
    places = lowering.emit("Cast", [_places(lowering, seq)], f"{name}.places", to=TensorProto.FLOAT)
    rows = lowering.emit("Unsqueeze", [places, lowering.integers(1)], f"{name}.rows")
    steps = lowering.initializer(f"{name}.frequencies", frequencies, "f32")
    angles = lowering.emit("Mul", [rows, steps], f"{name}.angles")
    turned = lowering.emit("Sin", [angles], f"{name}.sines")
    signed = lowering.emit("Mul", [turned, lowering.initializer(f"{name}.signs", signs, "f32")], f"{name}.signed")
    lowering.emit("Cast", [lowering.emit("Cos", [angles], f"{name}.cosines")], cosines, to=ELEMENTS[element][0])
    return cosines, lowering.emit("Cast", [signed], sines, to=ELEMENTS[element][0])


PRIMITIVES: dict[str, Lower] = {
    "add": plain("Add"),
    "subtract": plain("Sub"),
    "multiply": plain("Mul"),
    "divide": plain("Div"),
    "maximum": plain("Max"),
    "matmul": plain("MatMul"),
    "embedding": plain("Gather"),
    "softmax": plain("Softmax", axis=-1),
    "gelu": plain("Gelu", approximate="none"),
    "gelu_tanh": plain("Gelu", approximate="tanh"),
    "relu": plain("Relu"),
    "sigmoid": plain("Sigmoid"),
    "tanh": plain("Tanh"),
    "transpose": transpose,
    "reshape": reshape,
    "concat": concat,
    "split": split,
    "slice": slice_,
    "select": select,
    "sum": sum_,
    "cast": cast,
    "layer_norm": layer_norm,
    "silu": silu,
    "padding_mask": padding_mask,
    "local_mask": local_mask,
    "rotary": rotary,
    "take_along": take_along,
}
