"""A NumPy evaluator over a finished INetworkDefinition: what TensorRT was told, computed layer by layer.

It reads the network through TensorRT's own interfaces and shares no code with the lowering. Every tensor is rounded to
its element type; products, norms and softmax are summed in float32. A layer it does not know is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from tensorrt_plugins import computed

Array = Any

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def evaluate(
    trt: Any,
    network: Any,
    inputs: Mapping[str, Array],
    bf16: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    plugins: Callable[[Any, list[Array]], Any] | None = None,
) -> dict[str, Array]:
    """The outputs of a network of the module `trt` by name; `inputs` by name.

    `bf16` has the constants of that type by the name of their layer, since TensorRT's Python shows their size alone;
    `constants`, where given, stand for all of the network's own, and `plugins` computes layers that are plugins.
    """
    known: dict[str, Array] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        known[tensor.name] = np.asarray(inputs[tensor.name]).astype(DTYPES[tensor.dtype.name])
    waiting = [network.get_layer(index) for index in range(network.num_layers)]
    while waiting:
        later = []
        for layer in waiting:
            operands = [layer.get_input(place) for place in range(layer.num_inputs)]
            if any(operand is not None and operand.name not in known for operand in operands):
                later.append(layer)
                continue
            arrays = [None if operand is None else known[operand.name] for operand in operands]
            outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
            kind, function = LAYERS[layer.type.name]
            if plugins is not None and layer.type.name == "PLUGIN_V3":
                function = plugins
            layer.__class__ = getattr(trt, kind)
            if operands:
                values = function(layer, arrays)
            else:
                values = constants[layer.name] if constants else constant(layer, bf16)
            for output, value in zip(outputs, values if isinstance(values, tuple) else (values,), strict=True):
                known[output.name] = np.asarray(value).astype(DTYPES[output.dtype.name])
        assert len(later) < len(waiting), f"nothing computes what {later[0].name} reads"
        waiting = later
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    return {name: known[name] for name in outputs}


def wide(array: Array) -> Array:
    return np.asarray(array).astype(np.float32) if np.asarray(array).dtype.kind not in "iub" else np.asarray(array)


def constant(layer: Any, bf16: Mapping[str, Array]) -> Array:
    weights, shape = layer.weights, tuple(layer.shape)
    if isinstance(weights, np.ndarray):
        return weights.reshape(shape)
    array = bf16[layer.name]
    assert (weights.dtype.name, weights.size, array.dtype) == ("BF16", array.size, ml_dtypes.bfloat16)
    return array.reshape(shape)


def gather(layer: Any, arrays: list[Array]) -> Array:
    assert arrays[1].min() >= 0
    if layer.mode.name == "ELEMENT":
        assert arrays[0].shape[:-1] == arrays[1].shape[:-1]
        assert layer.axis == arrays[0].ndim - 1
        return np.take_along_axis(arrays[0], arrays[1], layer.axis)
    assert layer.mode.name == "DEFAULT"
    return np.take(arrays[0], arrays[1], layer.axis)


def elementwise(layer: Any, arrays: list[Array]) -> Array:
    x, y = arrays
    assert x.dtype == y.dtype, "strongly typed networks mix no types"
    assert x.ndim == y.ndim, "TensorRT broadcasts sizes of 1, not ranks"
    operations: dict[str, Callable[[Array, Array], Array]] = {
        "SUM": np.add,
        "SUB": np.subtract,
        "PROD": np.multiply,
        "DIV": np.divide,
        "MAX": np.maximum,
        "LESS": np.less,
    }
    return operations[layer.op.name](wide(x), wide(y))


def unary(layer: Any, arrays: list[Array]) -> Array:
    return {"SIN": np.sin, "COS": np.cos}[layer.op.name](wide(arrays[0]))


def activation(layer: Any, arrays: list[Array]) -> Array:
    x = wide(arrays[0])
    functions: dict[str, Callable[[Array], Array]] = {
        "RELU": lambda x: np.maximum(x, 0),
        "TANH": np.tanh,
        "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
        "GELU_ERF": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
        "GELU_TANH": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    }
    return functions[layer.type.name](x)


def shuffle(layer: Any, arrays: list[Array]) -> Array:
    first = tuple(layer.first_transpose)[: arrays[0].ndim]
    x = np.transpose(arrays[0], first)
    if len(arrays) > 1 and arrays[1] is not None:
        return x.reshape(tuple(arrays[1]))
    return x


def slicing(layer: Any, arrays: list[Array]) -> Array:
    start, stride = tuple(layer.start), tuple(layer.stride)
    size = tuple(arrays[2]) if len(arrays) > 2 and arrays[2] is not None else tuple(layer.shape)
    x = arrays[0]
    for axis, (at, count, step) in enumerate(zip(start, size, stride, strict=True)):
        assert step in (0, 1)
        assert at + (count - 1) * step < x.shape[axis]
        x = np.take(x, [at + index * step for index in range(count)], axis)
    return x


def matrix_multiply(layer: Any, arrays: list[Array]) -> Array:
    assert layer.op0.name == layer.op1.name == "NONE"
    assert arrays[0].dtype == arrays[1].dtype
    return np.matmul(wide(arrays[0]), wide(arrays[1]))


def normalization(layer: Any, arrays: list[Array]) -> Array:
    x, scale, bias = map(wide, arrays)
    axes = tuple(axis for axis in range(x.ndim) if layer.axes >> axis & 1)
    variance = x.var(axes, keepdims=True)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(variance + layer.epsilon) * scale + bias


def softmax(layer: Any, arrays: list[Array]) -> Array:
    return _softmax(wide(arrays[0]), layer.axes.bit_length() - 1)


def _softmax(x: Array, axis: int) -> Array:
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def reduce(layer: Any, arrays: list[Array]) -> Array:
    assert layer.op.name == "SUM"
    return arrays[0].sum(layer.axes.bit_length() - 1, keepdims=layer.keep_dims)


def concatenation(layer: Any, arrays: list[Array]) -> Array:
    return np.concatenate(arrays, layer.axis)


def attention(layer: Any, arrays: list[Array]) -> Array:
    """Query, key, value, mask, (scale), query lengths, key lengths; the query is scaled already. In the packed form the
    lengths say where sequences begin and where the last one ends."""
    query, key, value, mask = (*arrays[:3], arrays[3] if len(arrays) > 3 else None)
    query_lengths, lengths = (arrays[place] if len(arrays) > place else None for place in (5, 6))
    if query.ndim == 3:
        assert mask is None
        assert (query_lengths == lengths).all()
        assert (lengths[0], lengths[-1]) == (0, len(query))
        parts = [slice(*ends) for ends in pairwise(lengths)]
        turned = [[array[part].swapaxes(0, 1)[None] for array in (query, key, value)] for part in parts]
        return np.concatenate([attention(layer, part)[0].swapaxes(0, 1) for part in turned])
    scores = wide(query) @ wide(key).swapaxes(2, 3)
    if mask is not None:
        scores = scores + wide(mask)
    if lengths is not None:
        scores = np.where(np.arange(key.shape[2]) < lengths[:, None, None, None], scores, -np.inf)
    return _softmax(scores, 3) @ wide(value)


def cumulative(layer: Any, arrays: list[Array]) -> Array:
    assert (layer.op.name, layer.exclusive, layer.reverse) == ("SUM", False, False)
    return np.cumsum(arrays[0], int(arrays[1]))


def plugin(layer: Any, arrays: list[Array]) -> Any:
    """By the fused op's own reference, in float32."""
    made, arrays = layer.plugin, [array if array.dtype.kind == "i" else wide(array) for array in arrays]
    settings = json.loads(made.attrs["settings"]) if hasattr(made, "attrs") else made.settings
    results = computed(made.plugin_name, arrays, settings)
    return results if layer.num_outputs > 1 else results[0]


def first(layer: Any, arrays: list[Array]) -> Array:
    return arrays[0]


LAYERS: dict[str, tuple[str, Callable[[Any, list[Array]], Any]]] = {
    "ACTIVATION": ("IActivationLayer", activation),
    "ATTENTION_INPUT": ("IAttentionInputLayer", attention),
    "ATTENTION_OUTPUT": ("IAttentionOutputLayer", first),
    "CAST": ("ICastLayer", first),
    "CONCATENATION": ("IConcatenationLayer", concatenation),
    "CONSTANT": ("IConstantLayer", first),
    "CUMULATIVE": ("ICumulativeLayer", cumulative),
    "ELEMENTWISE": ("IElementWiseLayer", elementwise),
    "GATHER": ("IGatherLayer", gather),
    "IDENTITY": ("IIdentityLayer", first),
    "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", matrix_multiply),
    "NORMALIZATION": ("INormalizationLayer", normalization),
    "PLUGIN_V3": ("IPluginV3Layer", plugin),
    "REDUCE": ("IReduceLayer", reduce),
    "SELECT": ("ISelectLayer", lambda layer, arrays: np.where(*arrays)),
    "SHAPE": ("IShapeLayer", lambda layer, arrays: np.array(arrays[0].shape)),
    "SHUFFLE": ("IShuffleLayer", shuffle),
    "SLICE": ("ISliceLayer", slicing),
    "SOFTMAX": ("ISoftMaxLayer", softmax),
    "UNARY": ("IUnaryLayer", unary),
}
"""Kind of layer -> its class, which shows its settings, and what it computes."""
