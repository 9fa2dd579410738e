"""Fused ops as operators of ONNX Runtime's own, of the domain com.microsoft.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from bertc.graph import Node
from bertc.reference import constant
from bertc.targets.onnx.lowering import MICROSOFT, Lower, Lowering, plain, results


def embed_norm(lowering: Lowering, node: Node) -> None:
    word, position, type, ids, types, scale, bias = node.values
    _embed_norm(lowering, node, (ids, types), (word, position, type), (scale, bias))


def untyped_embed_norm(lowering: Lowering, node: Node) -> None:
    word, position, ids, scale, bias = node.values
    _embed_norm(lowering, node, (ids, ""), (word, position, ""), (scale, bias))


def _embed_norm(
    lowering: Lowering, node: Node, ids: tuple[str, ...], tables: tuple[str, str, str], norm: tuple[str, ...]
) -> None:
    """An operand that the operator may go without is named by the empty text."""
    word, position, type = tables
    places = constant(lowering.graph, position, lowering.weights)[node.attribute("offset") :]
    arrays = [
        lowering.operand(word, "f32"),
        lowering.initializer(f"{node.key}.positions", places, "f32"),
        lowering.operand(type, "f32") if type else "",
        *(lowering.operand(value, "f32") for value in norm),
    ]
    result, total = results(node)
    outputs = [result, f"{node.key}.mask_index", *([total] if total else [])]
    lowering.emit("EmbedLayerNormalization", [*ids, *arrays], outputs, MICROSOFT, epsilon=node.attribute("eps"))


def skip_norm(lowering: Lowering, node: Node) -> None:
    x, residual, scale, bias = node.values
    inputs = [x, residual, lowering.operand(scale, "f32"), lowering.operand(bias, "f32")]
    if node.key in lowering.biases:
        added = lowering.graph.producer(lowering.biases[node.key])
        inputs[inputs.index(added.key)] = added.values[0]
        inputs.append(lowering.operand(added.values[1], "f32"))
    norm, total = results(node)
    outputs = [norm, "", "", total] if total else [norm]
    lowering.emit("SkipLayerNormalization", inputs, outputs, MICROSOFT, epsilon=node.attribute("eps"))


def qkv_projection(lowering: Lowering, node: Node) -> None:
    x, rows, bias = node.values
    heads, size = node.attribute("heads"), node.attribute("size")
    columns = lowering.initializer(f"{rows}.columns", constant(lowering.graph, rows, lowering.weights).T, "f32")
    product = lowering.emit("MatMul", [x, columns], f"{node.key}.product")
    merged = lowering.emit("Add", [product, lowering.operand(bias, "f32")], f"{node.key}.merged")
    parts = [f"{node.key}.part.{index}" for index in range(3)]
    lowering.emit("Split", [merged, lowering.integers(*[heads * size] * 3)], parts, axis=-1)
    for part, result in zip(parts, results(node), strict=True):
        split = lowering.emit("Reshape", [part, lowering.integers(0, 0, heads, size)], f"{part}.heads")
        lowering.emit("Transpose", [split], result or f"{part}.unused", perm=[0, 2, 1, 3])


def attention(lowering: Lowering, node: Node) -> None:
    query, key, value, mask = node.values
    projection = lowering.graph.producer(query)
    if projection.key in lowering.projections:
        _merged_attention(lowering, node, projection)
        return
    element = node.types[0].element
    turned = lowering.emit("Transpose", [key], f"{node.key}.key", perm=[0, 1, 3, 2])
    scores = lowering.emit("MatMul", [query, turned], f"{node.key}.scores")
    scaled = lowering.emit("Mul", [scores, lowering.operand(node.attribute("scale"), element)], f"{node.key}.scaled")
    masked = lowering.emit("Add", [scaled, lowering.operand(mask, element)], f"{node.key}.masked")
    weights = lowering.emit("Softmax", [masked], f"{node.key}.weights", axis=-1)
    context = lowering.emit("MatMul", [weights, value], f"{node.key}.context")
    merged = lowering.emit("Transpose", [context], f"{node.key}.merged", perm=[0, 2, 1, 3])
    lowering.emit("Reshape", [merged, lowering.integers(0, 0, -1)], node.key)


def _merged_attention(lowering: Lowering, node: Node, projection: Node) -> None:
    """Projection and attention as one operator; the mask is its key lengths."""
    x, rows, bias = projection.values
    columns = lowering.initializer(f"{rows}.columns", constant(lowering.graph, rows, lowering.weights).T, "f32")
    lengths = lowering.graph.producer(node.values[3]).values[0]
    width = projection.attribute("heads") * projection.attribute("size")
    lowering.emit(
        "Attention",
        [x, columns, lowering.operand(bias, "f32"), lengths],
        node.key,
        MICROSOFT,
        num_heads=projection.attribute("heads"),
        scale=node.attribute("scale"),
        qkv_hidden_sizes=[width, width, width],
    )


FUSED: dict[str, Lower] = {
    "bias_gelu": plain("BiasGelu", MICROSOFT),
    "bias_gelu_tanh": plain("FastGelu", MICROSOFT),
    "embed_norm": embed_norm,
    "untyped_embed_norm": untyped_embed_norm,
    "skip_norm": skip_norm,
    "qkv_projection": qkv_projection,
    "attention": attention,
}
