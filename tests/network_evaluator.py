"""A NumPy evaluator over a finished INetworkDefinition: what TensorRT was told, computed layer by layer.

It reads the network through TensorRT's own interfaces and shares no code with the lowering. Every tensor is rounded to
its element type; products, norms and softmax are summed in float32. A layer it does not know is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import tensorrt_rtx as trt

Array = Any

DTYPES = {
    trt.float32: np.float32,
    trt.float16: np.float16,
    trt.bfloat16: ml_dtypes.bfloat16,
    trt.int32: np.int32,
    trt.int64: np.int64,
    trt.bool: np.bool_,
}


def evaluate(network: Any, inputs: Mapping[str, Array], bf16: Mapping[str, Array]) -> dict[str, Array]:
    """The network's outputs by name; `inputs` by name.

    `bf16` has the constants of that type by the name of their layer, since TensorRT's Python shows their size alone.
    """
    known: dict[str, Array] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        known[tensor.name] = np.asarray(inputs[tensor.name]).astype(DTYPES[tensor.dtype])
    waiting = [network.get_layer(index) for index in range(network.num_layers)]
    while waiting:
        later = []
        for layer in waiting:
            operands = [layer.get_input(place) for place in range(layer.num_inputs)]
            if any(operand is not None and operand.name not in known for operand in operands):
                later.append(layer)
                continue
            arrays = [None if operand is None else known[operand.name] for operand in operands]
            output = layer.get_output(0)
            value = constant(layer, bf16) if not operands else LAYERS[layer.type](layer, arrays)
            known[output.name] = np.asarray(value).astype(DTYPES[output.dtype])
        assert len(later) < len(waiting), f"nothing computes what {later[0].name} reads"
        waiting = later
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    return {name: known[name] for name in outputs}


def wide(array: Array) -> Array:
    return np.asarray(array).astype(np.float32) if np.asarray(array).dtype.kind not in "iub" else np.asarray(array)


def constant(layer: Any, bf16: Mapping[str, Array]) -> Array:
    assert layer.type == trt.LayerType.CONSTANT
    layer.__class__ = trt.IConstantLayer
    weights, shape = layer.weights, tuple(layer.shape)
    if isinstance(weights, np.ndarray):
        return weights.reshape(shape)
    array = bf16[layer.name]
    assert (weights.dtype, weights.size, array.dtype) == (trt.bfloat16, array.size, ml_dtypes.bfloat16)
    return array.reshape(shape)


def gather(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IGatherLayer
    assert arrays[1].min() >= 0
    if layer.mode == trt.GatherMode.ELEMENT:
        assert arrays[0].shape[:-1] == arrays[1].shape[:-1]
        assert layer.axis == arrays[0].ndim - 1
        return np.take_along_axis(arrays[0], arrays[1], layer.axis)
    assert layer.mode == trt.GatherMode.DEFAULT
    return np.take(arrays[0], arrays[1], layer.axis)


def elementwise(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IElementWiseLayer
    x, y = arrays
    assert x.dtype == y.dtype, "strongly typed networks mix no types"
    assert x.ndim == y.ndim, "TensorRT broadcasts sizes of 1, not ranks"
    operations: dict[Any, Callable[[Array, Array], Array]] = {
        trt.ElementWiseOperation.SUM: np.add,
        trt.ElementWiseOperation.SUB: np.subtract,
        trt.ElementWiseOperation.PROD: np.multiply,
        trt.ElementWiseOperation.DIV: np.divide,
        trt.ElementWiseOperation.MAX: np.maximum,
        trt.ElementWiseOperation.LESS: np.less,
    }
    return operations[layer.op](wide(x), wide(y))


def unary(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IUnaryLayer
    return {trt.UnaryOperation.SIN: np.sin, trt.UnaryOperation.COS: np.cos}[layer.op](wide(arrays[0]))


def activation(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IActivationLayer
    x = wide(arrays[0])
    functions: dict[Any, Callable[[Array], Array]] = {
        trt.ActivationType.RELU: lambda x: np.maximum(x, 0),
        trt.ActivationType.TANH: np.tanh,
        trt.ActivationType.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
        trt.ActivationType.GELU_ERF: lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
        trt.ActivationType.GELU_TANH: lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    }
    return functions[layer.type](x)


def shuffle(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IShuffleLayer
    first = tuple(layer.first_transpose)[: arrays[0].ndim]
    x = np.transpose(arrays[0], first)
    if len(arrays) > 1 and arrays[1] is not None:
        return x.reshape(tuple(arrays[1]))
    return x


def slicing(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.ISliceLayer
    start, stride = tuple(layer.start), tuple(layer.stride)
    size = tuple(arrays[2]) if len(arrays) > 2 and arrays[2] is not None else tuple(layer.shape)
    x = arrays[0]
    for axis, (at, count, step) in enumerate(zip(start, size, stride, strict=True)):
        assert step in (0, 1)
        assert at + (count - 1) * step < x.shape[axis]
        x = np.take(x, [at + index * step for index in range(count)], axis)
    return x


def matrix_multiply(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IMatrixMultiplyLayer
    assert layer.op0 == layer.op1 == trt.MatrixOperation.NONE
    assert arrays[0].dtype == arrays[1].dtype
    return np.matmul(wide(arrays[0]), wide(arrays[1]))


def normalization(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.INormalizationLayer
    x, scale, bias = map(wide, arrays)
    axes = tuple(axis for axis in range(x.ndim) if layer.axes >> axis & 1)
    variance = x.var(axes, keepdims=True)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(variance + layer.epsilon) * scale + bias


def softmax(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.ISoftMaxLayer
    return _softmax(wide(arrays[0]), layer.axes.bit_length() - 1)


def _softmax(x: Array, axis: int) -> Array:
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def reduce(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IReduceLayer
    assert layer.op == trt.ReduceOperation.SUM
    return arrays[0].sum(layer.axes.bit_length() - 1, keepdims=layer.keep_dims)


def concatenation(layer: Any, arrays: list[Array]) -> Array:
    layer.__class__ = trt.IConcatenationLayer
    return np.concatenate(arrays, layer.axis)


def attention(layer: Any, arrays: list[Array]) -> Array:
    """Query, key, value, mask, (scale), (query lengths), key lengths; the query is scaled already."""
    query, key, value, mask, lengths = (*arrays[:4], arrays[6] if len(arrays) > 6 else None)
    scores = wide(query) @ wide(key).swapaxes(2, 3)
    if mask is not None:
        scores = scores + wide(mask)
    if lengths is not None:
        scores = np.where(np.arange(key.shape[2]) < lengths[:, None, None, None], scores, -np.inf)
    return _softmax(scores, 3) @ wide(value)


LAYERS: dict[Any, Callable[[Any, list[Array]], Array]] = {
    trt.LayerType.GATHER: gather,
    trt.LayerType.ELEMENTWISE: elementwise,
    trt.LayerType.UNARY: unary,
    trt.LayerType.ACTIVATION: activation,
    trt.LayerType.SHUFFLE: shuffle,
    trt.LayerType.SLICE: slicing,
    trt.LayerType.MATRIX_MULTIPLY: matrix_multiply,
    trt.LayerType.NORMALIZATION: normalization,
    trt.LayerType.SOFTMAX: softmax,
    trt.LayerType.REDUCE: reduce,
    trt.LayerType.CONCATENATION: concatenation,
    trt.LayerType.ATTENTION_INPUT: attention,
    trt.LayerType.ATTENTION_OUTPUT: lambda layer, arrays: arrays[0],
    trt.LayerType.SHAPE: lambda layer, arrays: np.array(arrays[0].shape),
    trt.LayerType.SELECT: lambda layer, arrays: np.where(*arrays),
    trt.LayerType.CAST: lambda layer, arrays: arrays[0],
    trt.LayerType.IDENTITY: lambda layer, arrays: arrays[0],
}
