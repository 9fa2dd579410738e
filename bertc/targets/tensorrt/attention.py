"""Attention as a plugin: what its kernel reads in place of a mask and of copies.

The kernel takes lengths, a window and what is added to the scores, which is what masks are made of, and query, key and
value where one product has left them side by side, so that neither a mask nor a copy stands before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from bertc.attended import attended
from bertc.graph import Graph, Node
from bertc.targets.tensorrt.declarations import Launch, Plugin, Shape, Tactic, volume
from bertc.types import Dim

ATTENTION_OPS = ("attention", "packed_attention", "packed_biased_attention")

AXES = ("batch", "head", "query")
"""Of a bias [batch, heads, queries, keys], those along which it may be the same."""

TILES = ((64, 64, 2, 4), (32, 64, 2, 4), (128, 32, 2, 4), (64, 32, 1, 4))
FLOAT32_TILES = ((32, 32, 1, 4), (16, 16, 1, 4))
"""QUERIES, KEYS, STAGES and warps of the kernel; those that want too much shared memory are no tactics."""


def plugin_of(graph: Graph, node: Node) -> tuple[str, tuple[str, ...]]:
    """The name of the plugin that computes a node of attention, and the values of the graph that it reads, in the order
    of its inputs."""
    columns, found = _columns(graph, node.values[:3]), attended(graph, node)
    others = (found.starts, found.lengths, found.bias)
    packed, lengths, bias = (value is not None for value in others)
    operands = (*columns, *(value for value in others if value is not None))
    return _name(packed, lengths, bias, len(columns) == 1), operands


def _columns(graph: Graph, heads: Sequence[str]) -> tuple[str, ...]:
    """Query, key and value, or what they are thirds of: split, cut into heads, and the heads put before the tokens."""
    rows = tuple(_rows(graph, value) for value in heads)
    if rows[0] is None:
        return tuple(heads)
    split = graph.producer(rows[0])
    thirds = split.op == "split" and split.results == rows and len({type.shape for type in split.types}) == 1
    return split.values if thirds else tuple(heads)


def _rows(graph: Graph, value: str) -> str | None:
    """The value [..., seq, heads · size] of which another is the heads [..., heads, seq, size]."""
    axes = {4: (0, 2, 1, 3), 3: (1, 0, 2)}[len(graph.type_of(value).shape)]
    node = graph.producer(value)
    if node.op != "transpose" or node.attribute("axes") != axes:
        return None
    reshape = graph.producer(node.values[0])
    whole = (*reshape.types[0].shape[:-2], _width(reshape.types[0].shape))
    if reshape.op != "reshape" or graph.type_of(reshape.values[0]).shape != whole:
        return None
    return reshape.values[0]


def _width(shape: Sequence[Dim]) -> int:
    heads, size = shape[-2:]
    return int(heads) * int(size)


def attributes_of(graph: Graph, node: Node, longest: int) -> dict[str, Any]:
    """What is fixed in a node's kernel; packed sequences have at most `longest` tokens."""
    found = attended(graph, node)
    *_, heads, _, size = graph.type_of(node.values[0]).shape
    fixed: dict[str, Any] = {
        "heads": heads,
        "size": size,
        "scale": float(node.attribute("scale")),
        "window": found.window,
    }
    if found.starts is not None:
        fixed["longest"] = longest
    if found.bias is not None:
        shape = graph.type_of(found.bias).shape
        fixed["axes"] = [axis for axis, size in zip(AXES[4 - len(shape) :], shape, strict=False) if size != 1]
    return fixed


# ------------------------------------------------------------------------------------------------------- declarations


def _name(packed: bool, lengths: bool, bias: bool, merged: bool) -> str:
    """`attention`, `packed_attention_of_projection`, `attention_with_bias`, `attention_with_bias_alone`."""
    of = "_of_projection" if merged else ""
    with_bias = f"_with_bias{'' if lengths else '_alone'}" if bias else ""
    return f"{'packed_' if packed else ''}attention{of}{with_bias}"


def _tactics(given: Mapping[str, Any], element: str) -> list[Tactic]:
    precision, tiles = ("tf32x3", FLOAT32_TILES) if element == "f32" else ("ieee", TILES)
    fixed = {name: given[name] for name in ("heads", "size", "scale", "window")} | {"PRECISION": precision}
    return [
        Tactic({**fixed, "QUERIES": queries, "KEYS": keys, "STAGES": stages}, warps)
        for queries, keys, stages, warps in tiles
    ]


def _launch(trtp: Any, shapes: Mapping[str, Shape], given: Mapping[str, Any]) -> Launch:
    """A program for each block of queries. How long packed sequences are is not known when they are launched, so that
    there are blocks for the longest, and those beyond a sequence end at once."""
    seq = shapes["projected"][-2] if "projected" in shapes else shapes["query"][-2]
    batch = shapes["starts" if "starts" in shapes else "projected" if "projected" in shapes else "query"][0]
    most = trtp.min(seq, given["longest"]) if "starts" in shapes else seq
    numbers = {"seq": seq} | (_strides(shapes["bias"], given["axes"]) if "bias" in shapes else {})
    return Launch((trtp.cdiv(most, given["QUERIES"]), given["heads"], batch), numbers)


def _strides(bias: Shape, axes: Sequence[str]) -> dict[str, Any]:
    """How far apart a bias's entries lie along each axis; 0 where it is the same."""
    return {
        f"bias_{axis}": volume(bias[axis_at:]) if axis in axes else 0
        for axis, axis_at in zip(AXES, (-3, -2, -1), strict=True)
    }


def _context(shapes: Mapping[str, Shape]) -> Shape:
    if "projected" in shapes:
        *rows, width = shapes["projected"]
        return (*rows, width // 3)
    *batch, heads, seq, size = shapes["query"]
    return (*batch, seq, heads * size)


def _declared(packed: bool, lengths: bool, bias: bool, merged: bool) -> Plugin:
    columns = ("projected",) if merged else ("query", "key", "value")
    others = {"starts": packed, "lengths": lengths, "bias": bias}
    kinds: dict[str, type] = {"heads": int, "size": int, "scale": float, "window": int}
    kinds |= {"longest": int} if packed else {}
    kinds |= {"axes": list} if bias else {}
    return Plugin(
        _name(packed, lengths, bias, merged),
        "attention",
        (*columns, *(name for name, there in others.items() if there)),
        ("seq", *(f"bias_{axis}" for axis in AXES if bias)),
        ("context",),
        kinds,
        _context,
        _tactics,
        _launch,
    )


ATTENTIONS = tuple(
    _declared(packed, lengths, bias, merged)
    for packed, lengths, bias, merged in product((False, True), (True, False), (False, True), (False, True))
    if lengths or (bias and not packed)
)
"""Every combination that has a meaning."""
