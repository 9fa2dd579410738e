"""Norms and what they stand on: embeddings, and sums with a residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bertc.graph import UNUSED, Node
from bertc.reference import constant
from bertc.targets.cuda.elementwise import power
from bertc.targets.cuda.plan import Launch, Place, Size
from bertc.targets.cuda.views import product

if TYPE_CHECKING:
    from bertc.targets.cuda.lower import Lowering


def embed_norm(lowering: Lowering, node: Node) -> None:
    """With types or without, padded or packed: packed tokens bring their places along."""
    typed, packed = "untyped" not in node.op, node.op.startswith("packed")
    values = list(node.values)
    word, position, type = values.pop(0), values.pop(0), values.pop(0) if typed else ""
    ids, types, places = values.pop(0), values.pop(0) if typed else "", values.pop(0) if packed else ""
    scale, shift = (parameter(lowering, value) for value in values)
    norm, total = two(lowering, node)
    given: dict[str, Any] = {"word": lowering.weight(word), "position": lowering.weight(position)}
    given |= {"type": lowering.weight(type or word), "ids": lowering.layout(ids).place}
    given |= {"types": lowering.layout(types or ids).place, "places": lowering.layout(places or ids).place}
    given |= {"scale": scale, "shift": shift, "norm": norm, "total": total or norm}
    n = int(node.types[0].shape[-1])
    given |= {"seq": Size(1, ("seq",)), "n": n, "eps": node.attribute("eps"), "offset": node.attribute("offset")}
    given |= {"PACKED": packed, "HAS_TYPES": typed, "HAS_TOTAL": total is not None, "BLOCK": power(n)}
    writes = [place.name for place in (norm, total) if place]
    grid = [product(node.types[0].shape[:-1])]
    lowering.step(node.key, [lowering.launch("embed_norm", "embed_norm", grid, 4, writes, **given)])


def skip_norm(lowering: Lowering, node: Node) -> None:
    """norm = layer_norm(x + residual), where no product has taken it along."""
    x, residual = map(lowering.dense, node.values[:2])
    scale, shift = node.values[2:]
    norm, total = two(lowering, node)
    lowering.step(node.key, [normed(lowering, node, x, 1, None, residual, scale, shift, norm, total)])


def layer_norm(lowering: Lowering, node: Node) -> None:
    """scale · (x - mean x) / √(var x + eps) + shift"""
    x, scale, shift = node.values
    given = lowering.dense(x)
    norm = lowering.buffer(node.key, lowering.result_element(node.key))
    lowering.step(node.key, [normed(lowering, node, given, 1, None, None, scale, shift, norm, None)])


def two(lowering: Lowering, node: Node) -> tuple[Place, Place | None]:
    """Memory for a norm and, where it is used, for its sum."""
    norm, total = node.results
    if norm == UNUSED:
        raise lowering.refusal(node, "its norm is not used, and the kernel computes it")
    place = lowering.buffer(norm, lowering.result_element(norm))
    return place, None if total == UNUSED else lowering.buffer(total)


def normed(
    lowering: Lowering,
    node: Node,
    x: Place,
    parts: int,
    bias: Place | None,
    residual: Place | None,
    scale: str,
    shift: str,
    norm: Place,
    total: Place | None,
) -> Launch:
    """The kernel of a norm, of the sum of `parts` of x, a bias and a residual."""
    *rest, n = node.types[0].shape
    rows, n = product(rest), int(n)
    given: dict[str, Any] = {"x": x, "bias": bias or x, "residual": residual or x, "norm": norm, "total": total or norm}
    given |= {"scale": parameter(lowering, scale), "shift": parameter(lowering, shift), "rows": rows, "n": n}
    given |= {"eps": node.attribute("eps"), "PARTS": parts, "HAS_BIAS": bias is not None, "BLOCK": power(n)}
    given |= {"HAS_RESIDUAL": residual is not None, "HAS_TOTAL": total is not None}
    writes = [place.name for place in (norm, total) if place]
    return lowering.launch("skip_norm", "skip_norm", [rows], 4, writes, **given)


def parameter(lowering: Lowering, value: str) -> Place:
    """A norm's scale or shift, in float32 whatever the plan's type: rounded to bf16, they alone would take as much from
    the cosine of an embedding as the products' weights do."""
    name = f"{value}.f32"
    if name not in lowering.constants:
        lowering.constants[name] = ("f32", constant(lowering.graph, value, lowering.weights))
    return Place(name)


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(("embed_norm", "untyped_embed_norm", "packed_embed_norm", "packed_untyped_embed_norm"), embed_norm),
    "skip_norm": skip_norm,
    "layer_norm": layer_norm,
}
