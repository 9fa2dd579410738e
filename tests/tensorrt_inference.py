"""The type and shape that TensorRT gives each layer's results in a strongly typed network, and what it refuses.

A size that is not known before the engine runs is -1. Sizes that come as a tensor are followed back to the constants
they are made of, as TensorRT does. Source: the operators' pages of TensorRT's documentation
(https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/operators/index.html).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

State = dict[str, Any]
Shape = tuple[int, ...]
Results = list[tuple[Any, Shape]]


def settle(layer: State) -> list[dict[str, Any]]:
    """The results of a layer, computed when they are first used; the layer does not change after that."""
    if "settled" not in layer:
        results = LAYERS[layer["kind"]](layer, layer["inputs"])
        layer["settled"] = [{"dtype": dtype, "shape": shape} for dtype, shape in results]
    return layer["settled"]


def same_type(layer: State, *tensors: Any) -> Any:
    types = {tensor.dtype for tensor in tensors}
    assert len(types) == 1, f"{layer['name']} mixes {sorted(type.name for type in types)}"
    return types.pop()


def same_shape(x: Any) -> Results:
    return [(x.dtype, x.shape)]


def broadcast(layer: State, *shapes: Shape) -> Shape:
    assert len({len(shape) for shape in shapes}) == 1, f"{layer['name']} takes one rank, not {shapes}"
    found = []
    for sizes in zip(*shapes, strict=True):
        known = {size for size in sizes if size != 1} or {1}
        assert len(known - {-1}) <= 1, f"{layer['name']} cannot broadcast {shapes}"
        found.append(max(known))
    return tuple(found)


def sizes(tensor: Any) -> Shape:
    """The values of a tensor of sizes, as far as they are known."""
    layer = tensor._state["layer"]
    assert tensor.dtype.name in ("INT64", "INT32")
    assert len(tensor.shape) == 1, f"{tensor.name} has shape {tensor.shape}, and sizes are one row"
    if layer is not None and layer["kind"] == "CONSTANT":
        return tuple(int(size) for size in layer["module"].IConstantLayer.weights.fget(_view(layer)))
    if layer is not None and layer["kind"] == "CONCATENATION":
        return tuple(size for operand in layer["inputs"] for size in sizes(operand))
    return (-1,) * tensor.shape[0]


def _view(layer: State) -> Any:
    view = object.__new__(layer["module"].IConstantLayer)
    object.__setattr__(view, "_state", layer)
    return view


def constant(layer: State, inputs: Sequence[Any]) -> Results:
    given = layer["given"]
    return [(given.dtype, layer["shape"])]


def elementwise(layer: State, inputs: Sequence[Any]) -> Results:
    dtype = same_type(layer, *inputs)
    comparing = layer["op"].name in ("LESS", "GREATER", "EQUAL")
    shape = broadcast(layer, *(x.shape for x in inputs))
    return [(layer["module"].DataType.BOOL if comparing else dtype, shape)]


def floating(layer: State, inputs: Sequence[Any]) -> Results:
    assert inputs[0].dtype.name in ("FLOAT", "HALF", "BF16"), f"{layer['name']} takes floats"
    return same_shape(inputs[0])


def select(layer: State, inputs: Sequence[Any]) -> Results:
    condition, *values = inputs
    assert condition.dtype.name == "BOOL"
    return [(same_type(layer, *values), broadcast(layer, *(x.shape for x in inputs)))]


def matrix_multiply(layer: State, inputs: Sequence[Any]) -> Results:
    x, y = inputs
    assert x.shape[-1] == y.shape[-2] or -1 in (x.shape[-1], y.shape[-2]), f"{layer['name']}: {x.shape} · {y.shape}"
    return [(same_type(layer, x, y), (*broadcast(layer, x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]))]


def shuffle(layer: State, inputs: Sequence[Any]) -> Results:
    shape = inputs[0].shape
    order = tuple(layer["first_transpose"])[: len(shape)]
    assert sorted(order) == list(range(len(shape))), f"{layer['name']} permutes {shape} by {order}"
    shape = tuple(shape[axis] for axis in order)
    if len(inputs) > 1:
        shape = sizes(inputs[1])
    assert not (len(inputs) > 1 and 0 in shape and layer["zero_is_placeholder"])
    return [(inputs[0].dtype, shape)]


def slicing(layer: State, inputs: Sequence[Any]) -> Results:
    given = inputs[2] if len(inputs) > 2 else None
    shape = sizes(given) if given is not None else tuple(layer["shape"])
    rank = len(inputs[0].shape)
    assert len(shape) == len(layer["start"]) == len(layer["stride"]) == rank, f"{layer['name']} has mixed ranks"
    return [(inputs[0].dtype, shape)]


def gather(layer: State, inputs: Sequence[Any]) -> Results:
    data, indices = inputs
    assert indices.dtype.name in ("INT32", "INT64")
    if layer["mode"].name == "ELEMENT":
        assert len(data.shape) == len(indices.shape)
        return [(data.dtype, indices.shape)]
    axis = layer["axis"]
    return [(data.dtype, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))]


def normalization(layer: State, inputs: Sequence[Any]) -> Results:
    x, scale, bias = inputs
    dtype = same_type(layer, x, scale, bias)
    broadcast(layer, x.shape, scale.shape, bias.shape)
    assert 0 < layer["axes"] < 1 << len(x.shape)
    return [(dtype, x.shape)]


def reduce(layer: State, inputs: Sequence[Any]) -> Results:
    assert not layer["keep_dims"]
    left = [size for axis, size in enumerate(inputs[0].shape) if not layer["axes"] >> axis & 1]
    return [(inputs[0].dtype, tuple(left))]


def concatenation(layer: State, inputs: Sequence[Any]) -> Results:
    axis = layer["axis"]
    dtype = same_type(layer, *inputs)
    parts = [x.shape[axis] for x in inputs]
    others = broadcast(layer, *((*x.shape[:axis], *x.shape[axis + 1 :]) for x in inputs))
    return [(dtype, (*others[:axis], -1 if -1 in parts else sum(parts), *others[axis:]))]


def attention(layer: State, inputs: Sequence[Any]) -> Results:
    """IAttention: query, key, value [batch, heads, seq, size] or packed [tokens, heads, size]; a mask whose last two
    sizes are whole, or lengths."""
    query, key, value = inputs[:3]
    dtype = same_type(layer, query, key, value)
    mask, query_lengths, lengths = (inputs[place] if place < len(inputs) else None for place in (3, 5, 6))
    for given in (query_lengths, lengths):
        assert given is None or (given.dtype.name == "INT32" and len(given.shape) == 1)
    forms = {layer[f"{of}_form"].name if f"{of}_form" in layer else "PADDED_BHND" for of in ("query", "key_value")}
    if forms == {"PACKED_NHD"}:
        assert len(query.shape) == 3
        assert mask is None
        assert query_lengths is not None
        assert lengths is not None
        return [(dtype, (*query.shape[:2], value.shape[2]))]
    assert forms == {"PADDED_BHND"}
    assert len(query.shape) == 4
    lengths_known = hasattr(layer["module"].IAttention, "key_value_lengths")
    if mask is not None:
        assert mask.dtype in (dtype, layer["module"].DataType.BOOL)
        assert len(mask.shape) == 4
        assert lengths_known or mask.shape[2] != 1, "before it took lengths, IAttention wanted a row for every query"
    return [(dtype, (*query.shape[:3], value.shape[3]))]


def cumulative(layer: State, inputs: Sequence[Any]) -> Results:
    x, axis = inputs
    assert (axis.dtype.name, axis.shape, axis._state["layer"]["kind"]) == ("INT32", (), "CONSTANT")
    return same_shape(x)


def plugin(layer: State, inputs: Sequence[Any]) -> Results:
    module, made = layer["module"], layer["plugin"]
    given = [x.dtype for x in inputs]
    quick = hasattr(made, "get_num_outputs")
    types = (
        made.get_output_data_types(given, [len(x.shape) for x in inputs])
        if quick
        else made.get_output_data_types(given)
    )
    expressions = [
        module.DimsExprs([symbol(module, place, axis, size) for axis, size in enumerate(x.shape)])
        for place, x in enumerate(inputs)
    ]
    layer["expressions"] = expressions
    shapes = made.get_output_shapes(expressions, [], module.IExprBuilder())
    return [
        (dtype, tuple(e._state["value"] if e._state["value"] is not None else -1 for e in shape))
        for dtype, shape in zip(types, shapes, strict=True)
    ]


def symbol(module: Any, place: int, axis: int, size: int) -> Any:
    """The size of an input as an expression: a constant where it is known."""
    made = object.__new__(module.IDimensionExpr)
    known = {"value": size} if size >= 0 else {"value": None, "size_of": (place, axis)}
    object.__setattr__(made, "_state", known)
    return made


LAYERS: dict[str, Callable[[State, Sequence[Any]], Results]] = {
    "ACTIVATION": floating,
    "ATTENTION_INPUT": attention,
    "ATTENTION_OUTPUT": lambda layer, inputs: same_shape(inputs[0]),
    "CAST": lambda layer, inputs: [(layer["to_type"], inputs[0].shape)],
    "CONCATENATION": concatenation,
    "CONSTANT": constant,
    "CUMULATIVE": cumulative,
    "ELEMENTWISE": elementwise,
    "GATHER": gather,
    "IDENTITY": lambda layer, inputs: same_shape(inputs[0]),
    "MATRIX_MULTIPLY": matrix_multiply,
    "NORMALIZATION": normalization,
    "PLUGIN_V3": plugin,
    "REDUCE": reduce,
    "SELECT": select,
    "SHAPE": lambda layer, inputs: [(layer["module"].DataType.INT64, (len(inputs[0].shape),))],
    "SHUFFLE": shuffle,
    "SLICE": slicing,
    "SOFTMAX": floating,
    "UNARY": floating,
}
