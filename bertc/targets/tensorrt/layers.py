"""Each op as layers of TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bertc.graph import UNUSED, Node, Operand
from bertc.ops import rotary_factors
from bertc.targets.tensorrt.network import Network

Lowering = Callable[[Network, Node], None]


def elementwise(operation: str) -> Lowering:
    def lower(network: Network, node: Node) -> None:
        rank, element = len(node.types[0].shape), node.types[0].element
        x, y = (network.operand(value, rank, element) for value in node.inputs)
        network.keep(node.key, network.combine(node.key, operation, x, y))

    return lower


def activation(kind: str) -> Lowering:
    def lower(network: Network, node: Node) -> None:
        x = network.tensors[node.values[0]]
        network.give(node, network.add("activation", x, getattr(network.trt.ActivationType, kind)))

    return lower


def matmul(network: Network, node: Node) -> None:
    rank, element = len(node.types[0].shape), node.types[0].element
    x, y = (network.operand(value, rank, element) for value in node.inputs)
    none = network.trt.MatrixOperation.NONE
    network.give(node, network.add("matrix_multiply", x, none, y, none))


def transpose(network: Network, node: Node) -> None:
    layer = network.add("shuffle", network.tensors[node.values[0]])
    layer.first_transpose = network.trt.Permutation(node.attribute("axes"))
    network.give(node, layer)


def reshape(network: Network, node: Node) -> None:
    layer = network.add("shuffle", network.tensors[node.values[0]])
    layer.set_input(1, network.sizes(node.key, node.types[0].shape))
    network.give(node, layer)


def split(network: Network, node: Node) -> None:
    shape = network.graph.type_of(node.values[0]).shape
    axis, start = len(shape) + int(node.attribute("axis")), 0
    for result, type in zip(node.results, node.types, strict=True):
        starts = tuple(start if at == axis else 0 for at in range(len(shape)))
        network.cut(result, network.tensors[node.values[0]], starts, type.shape)
        start += int(type.shape[axis])


def slice(network: Network, node: Node) -> None:
    shape = node.types[0].shape
    axis = len(shape) + node.attribute("axis")
    starts = tuple(node.attribute("start") if at == axis else 0 for at in range(len(shape)))
    network.cut(node.key, network.operand(node.inputs[0], len(shape), node.types[0].element), starts, shape)


def select(network: Network, node: Node) -> None:
    index = network.constant(f"index.{node.attribute('index')}", np.array(node.attribute("index")), "i32")
    axis = len(network.graph.type_of(node.values[0]).shape) + node.attribute("axis")
    network.give(node, network.add("gather", network.tensors[node.values[0]], index, axis))


def sum(network: Network, node: Node) -> None:
    axis = len(network.graph.type_of(node.values[0]).shape) + node.attribute("axis")
    tensor = network.tensors[node.values[0]]
    network.give(node, network.add("reduce", tensor, network.trt.ReduceOperation.SUM, 1 << axis, False))


def embedding(network: Network, node: Node) -> None:
    table = network.operand(node.inputs[0], 2, node.types[0].element)
    network.give(node, network.add("gather", table, network.tensors[node.values[1]], 0))


def cast(network: Network, node: Node) -> None:
    x = network.tensors[node.values[0]]
    network.give(node, network.add("cast", x, network.type(node.attribute("element"))))


def softmax(network: Network, node: Node) -> None:
    layer = network.add("softmax", network.tensors[node.values[0]])
    layer.axes = 1 << (len(node.types[0].shape) - 1)
    network.give(node, layer)


def layer_norm(network: Network, node: Node) -> None:
    x, scale, bias = node.inputs
    rank, element = len(node.types[0].shape), node.types[0].element
    network.give(node, _normalization(network, node, network.operand(x, rank, element), scale, bias))


def _normalization(network: Network, node: Node, x: Any, scale: Operand, bias: Operand) -> Any:
    rank, element = len(node.types[0].shape), node.types[0].element
    factor, added = (network.operand(value, rank, element) for value in (scale, bias))
    kind = "normalization_v2" if network.features.normalization_v2 else "normalization"
    layer = network.add(kind, x, factor, added, 1 << (rank - 1))
    layer.epsilon = node.attribute("eps")
    return layer


def silu(network: Network, node: Node) -> None:
    x = network.tensors[node.values[0]]
    sigmoid = network.add("activation", x, network.trt.ActivationType.SIGMOID)
    gate = network.name(sigmoid, f"{node.key}.sigmoid")
    network.keep(node.key, network.combine(node.key, "PROD", x, gate))


def padding_mask(network: Network, node: Node) -> None:
    """Places below a length, out of a table of all places: [batch, 1, 1, seq]."""
    element = node.types[0].element
    places = network.places(node.attribute("size"), (1, 1, 1, -1), "i32")
    lengths = network.add("shuffle", network.tensors[node.values[0]])
    lengths.set_input(1, network.sizes(f"{node.key}.lengths", (node.types[0].shape[0], 1, 1, 1)))
    column = network.name(lengths, f"{node.key}.lengths")
    inside = network.combine(f"{node.key}.inside", "LESS", places, column)
    zero, masked = (network.operand(value, 4, element) for value in (0.0, -10000.0))
    network.give(node, network.add("select", inside, zero, masked))


def local_mask(network: Network, node: Node) -> None:
    """The squares of distances are compared, which needs no sign."""
    key, shape, element = node.key, node.types[0].shape, node.types[0].element
    ones, farthest = (1,) * (len(shape) - 2), int(node.attribute("window")) // 2
    rows, columns = network.places(shape[-1], (*ones, -1, 1), "i32"), network.places(shape[-1], (*ones, 1, -1), "i32")
    offsets = network.combine(f"{key}.offsets", "SUB", rows, columns)
    squares = network.combine(f"{key}.squares", "PROD", offsets, offsets)
    beyond = network.operand(farthest**2 + 1, len(shape), "i32")
    near = network.combine(f"{key}.near", "LESS", squares, beyond)
    far = network.operand(-10000.0, len(shape), element)
    network.give(node, network.add("select", near, network.tensors[node.values[0]], far))


def take_along(network: Network, node: Node) -> None:
    """The layer wants the columns for each of the leading sizes: a slice with steps of 0 repeats them."""
    shape, rank = node.types[0].shape, len(node.types[0].shape)
    columns = network.operand(node.inputs[1], rank, "i32")
    indices = network.cut(f"{node.key}.columns", columns, (0,) * rank, shape, (*(0,) * (rank - 2), 1, 1))
    x = network.tensors[node.values[0]]
    layer = network.add("gather_v2", x, indices, network.trt.GatherMode.ELEMENT)
    layer.axis = rank - 1
    network.give(node, layer)


def rotary(network: Network, node: Node) -> None:
    """y = x · cos + (x with its halves swapped) · sin, where sin has the sign that its half has in the equation."""
    key, shape, x = node.key, node.types[0].shape, network.tensors[node.values[0]]
    half, start = int(shape[-1]) // 2, (0,) * (len(shape) - 1)
    left = network.cut(f"{key}.left", x, (*start, 0), (*shape[:-1], half))
    right = network.cut(f"{key}.right", x, (*start, half), (*shape[:-1], half))
    halves = network.add("concatenation", [right, left])
    halves.axis = len(shape) - 1
    swapped = network.name(halves, f"{key}.swapped")
    cosines, sines = _turns(network, node)
    straight = network.combine(f"{key}.straight", "PROD", x, cosines)
    across = network.combine(f"{key}.across", "PROD", swapped, sines)
    network.keep(key, network.combine(key, "SUM", straight, across))


def _turns(network: Network, node: Node) -> tuple[Any, Any]:
    """The cosines and the sines of all places, [..., seq, size]; those of one base are computed once. Packed tokens
    bring their places along."""
    shape, element = node.types[0].shape, node.types[0].element
    seq, size, ones = shape[-2], int(shape[-1]), (1,) * (len(shape) - 2)
    name = f"rotary.{node.attribute('base')}.{size}.{seq}.{element}"
    if f"{name}.sines" not in network.tensors:
        frequencies, signs = (row.reshape((*ones, 1, size)) for row in rotary_factors(node.attribute("base"), size))
        rows = _places_of(network, node) if node.op == "packed_rotary" else network.places(seq, (*ones, -1, 1), "f32")
        steps = network.constant(f"{name}.steps", frequencies, "f32")
        angles = network.combine(f"{name}.angles", "PROD", rows, steps)
        operations = network.trt.UnaryOperation
        turned = network.name(network.add("unary", angles, operations.SIN), f"{name}.turned")
        sign = network.constant(f"{name}.signs", signs, "f32")
        signed = network.combine(f"{name}.signed", "PROD", turned, sign)
        cosine = network.name(network.add("unary", angles, operations.COS), f"{name}.cosine")
        for part, tensor in (("cosines", cosine), ("sines", signed)):
            typed = network.add("cast", tensor, network.type(element))
            network.tensors[f"{name}.{part}"] = network.name(typed, f"{name}.{part}")
    return network.tensors[f"{name}.cosines"], network.tensors[f"{name}.sines"]


def _places_of(network: Network, node: Node) -> Any:
    """The places of packed tokens as numbers to multiply with: [1, tokens, 1]."""
    places, name = node.values[1], f"{node.values[1]}.f32"
    if name not in network.tensors:
        column = network.add("shuffle", network.tensors[places])
        column.set_input(1, network.sizes(f"{name}.column", (1, node.types[0].shape[-2], 1)))
        cast = network.add("cast", network.name(column, f"{name}.column"), network.type("f32"))
        network.tensors[name] = network.name(cast, name)
    return network.tensors[name]


def packed_embed_norm(network: Network, node: Node) -> None:
    """Look-ups, their sum, which is the second result, and its norm. Places are counted from `offset` on."""
    *looked_up, scale, bias = node.inputs
    tables, (ids, *types, places) = looked_up[: len(looked_up) // 2], looked_up[len(looked_up) // 2 :]
    element, offset = node.types[0].element, network.operand(node.attribute("offset"), 1, "i32")
    shifted = network.combine(f"{node.key}.places", "SUM", network.operand(places, 1, "i32"), offset)
    total = None
    for name, table, index in zip(("words", "places", "types"), tables, (ids, shifted, *types), strict=False):
        rows = network.tensors[index] if isinstance(index, str) else index
        found = network.add("gather", network.operand(table, 2, element), rows, 0)
        row = network.name(found, f"{node.key}.{name}.rows")
        total = row if total is None else network.combine(f"{node.key}.{name}.sum", "SUM", total, row)
    if node.results[1] != UNUSED:
        network.keep(node.results[1], total)
    network.give(node, _normalization(network, node, total, scale, bias))


def first_tokens(network: Network, node: Node) -> None:
    x, starts = (network.tensors[value] for value in node.values)
    network.give(node, network.add("gather", x, starts, 0))


def attention(network: Network, node: Node) -> None:
    """IAttention takes the query scaled already, and gives [batch, heads, seq, size]."""
    query, key, value = (network.tensors[name] for name in node.values[:3])
    layer = _add_attention(network, _scaled_query(network, node, query), key, value)
    layer.decomposable = True
    mask = network.graph.producer(node.values[3])
    if not network.features.attention_lengths:
        layer.mask = _mask_of_every_query(network, node)
    elif mask.op == "padding_mask":
        layer.key_value_lengths = network.tensors[mask.values[0]]
    else:
        layer.mask = network.operand(node.values[3], 4, node.types[0].element)
    _merge_heads(network, node, network.name(layer, f"{node.key}.context"), (0, 2, 1, 3))


def packed_attention(network: Network, node: Node) -> None:
    """IAttention takes packed tokens as [tokens, heads, size], and where each sequence begins and the last one ends.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/transformers-fused-attention.html
    """
    rows = [_tokens_first(network, value) for value in node.values[:3]]
    layer = _add_attention(network, _scaled_query(network, node, rows[0]), *rows[1:])
    layer.query_form = layer.key_value_form = network.trt.AttentionIOForm.PACKED_NHD
    layer.query_lengths = layer.key_value_lengths = _ends(network, node.values[4])
    _merge_heads(network, node, network.name(layer, f"{node.key}.context"), (0, 1, 2))


def _scaled_query(network: Network, node: Node, query: Any) -> Any:
    rank, element = len(network.graph.type_of(node.values[0]).shape), node.types[0].element
    scale = network.operand(node.attribute("scale"), rank, element)
    return network.combine(f"{node.key}.scaled_query", "PROD", query, scale)


def _merge_heads(network: Network, node: Node, context: Any, axes: tuple[int, ...]) -> None:
    """The context as the node has it, its axes in the order [..., tokens, heads, size] at first."""
    merged = network.add("shuffle", context)
    merged.first_transpose = network.trt.Permutation(axes)
    merged.set_input(1, network.sizes(node.key, node.types[0].shape))
    network.give(node, merged)


def _tokens_first(network: Network, value: str) -> Any:
    """[heads, tokens, size] -> [tokens, heads, size]."""
    layer = network.add("shuffle", network.tensors[value])
    layer.first_transpose = network.trt.Permutation((1, 0, 2))
    return network.name(layer, f"{value}.tokens")


def _ends(network: Network, lengths: str) -> Any:
    """0, and where each sequence ends: the sums of the lengths up to it, [batch + 1]."""
    name, trt = f"{lengths}.ends", network.trt
    if name not in network.tensors:
        axis = network.constant("axis.0", np.array(0), "i32")
        sums = network.add("cumulative", network.tensors[lengths], axis, trt.CumulativeOperation.SUM, False, False)
        ends = network.name(sums, f"{name}.sums")
        layer = network.add("concatenation", [network.constant("begin", np.zeros(1), "i32"), ends])
        network.tensors[name] = network.name(layer, name)
    return network.tensors[name]


def _add_attention(network: Network, query: Any, key: Any, value: Any) -> Any:
    softmax = network.trt.AttentionNormalizationOp.SOFTMAX
    if network.features.attention_v2:
        return network.add("attention_v2", query, key, value, softmax, network.trt.CausalMaskKind.NONE)
    return network.add("attention", query, key, value, softmax, False)


def _mask_of_every_query(network: Network, node: Node) -> Any:
    """The mask [..., queries, keys]; one that is the same for all queries is repeated, once for all layers."""
    shape = network.graph.type_of(node.values[3]).shape
    mask = network.operand(node.values[3], 4, node.types[0].element)
    if shape[-2] != 1:
        return mask
    name, whole = f"{node.values[3]}.rows", (1,) * (4 - len(shape)) + shape
    if name not in network.tensors:
        rows = network.graph.type_of(node.values[0]).shape[2]
        network.cut(name, mask, (0,) * 4, (*whole[:2], rows, whole[3]), (1, 1, 0, 1))
    return network.tensors[name]


LOWERINGS: dict[str, Lowering] = {
    "add": elementwise("SUM"),
    "subtract": elementwise("SUB"),
    "multiply": elementwise("PROD"),
    "divide": elementwise("DIV"),
    "maximum": elementwise("MAX"),
    "gelu": activation("GELU_ERF"),
    "gelu_tanh": activation("GELU_TANH"),
    "relu": activation("RELU"),
    "sigmoid": activation("SIGMOID"),
    "tanh": activation("TANH"),
    "matmul": matmul,
    "transpose": transpose,
    "reshape": reshape,
    "split": split,
    "slice": slice,
    "select": select,
    "sum": sum,
    "embedding": embedding,
    "cast": cast,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "silu": silu,
    "padding_mask": padding_mask,
    "local_mask": local_mask,
    "rotary": rotary,
    "take_along": take_along,
    "attention": attention,
    "packed_attention": packed_attention,
    **dict.fromkeys(("packed_embed_norm", "packed_untyped_embed_norm"), packed_embed_norm),
    "packed_rotary": rotary,
    "first_tokens": first_tokens,
}
"""Op -> what adds its layers. Fused ops that stand here are layers of TensorRT's own."""
