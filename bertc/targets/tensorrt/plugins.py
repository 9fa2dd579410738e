"""Fused ops as plugins for TensorRT: what each takes and gives, the ways to compile its kernel, and how it is launched.

A plugin is declared once, here. Everything that TensorRT asks for is derived in registration.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertc.graph import UNUSED, Graph, Node

Shape = Sequence[Any]
"""Sizes of a tensor: numbers and symbolic expressions."""


@dataclass(frozen=True)
class Tactic:
    """One way to compile a kernel."""

    constants: Mapping[str, Any]
    warps: int = 4


@dataclass(frozen=True)
class Launch:
    """The sizes to run a kernel with, which are known when the engine runs."""

    grid: tuple[Any, ...]
    numbers: Mapping[str, Any]
    """Parameter of the kernel -> its value, in the kernel's order."""


@dataclass(frozen=True)
class Plugin:
    """A fused op with a certain number of results."""

    name: str
    kernel: str
    inputs: tuple[str, ...]
    numbers: tuple[str, ...]
    outputs: tuple[str, ...]
    """Parameters of the kernel, as TensorRT passes them. Others are constants; what no tactic names is None."""
    attributes: Mapping[str, type]
    shapes: Callable[[Mapping[str, Shape]], Shape]
    """Sizes of the inputs -> sizes of each output."""
    tactics: Callable[[Mapping[str, Any], str], Sequence[Tactic]]
    """(attributes, element type) -> the ways to compile it."""
    launch: Callable[[Any, Mapping[str, Shape], Mapping[str, Any]], Launch]
    """(tensorrt.plugin, sizes of the inputs, attributes and the tactic's constants) -> how to launch it."""


# ------------------------------------------------------------------------------------------------------- declarations

TILES = ((64, 64, 2, 4), (32, 64, 2, 4), (128, 32, 2, 4), (64, 32, 1, 4))
FLOAT32_TILES = ((32, 32, 1, 4), (16, 16, 1, 4))
"""QUERIES, KEYS, STAGES and warps of attention's kernel; those that want too much shared memory are no tactics."""


def _attention_tactics(given: Mapping[str, Any], element: str) -> list[Tactic]:
    precision, tiles = ("tf32x3", FLOAT32_TILES) if element == "f32" else ("ieee", TILES)
    fixed = {name: given[name] for name in ("heads", "size", "scale")} | {"PRECISION": precision}
    return [
        Tactic({**fixed, "QUERIES": queries, "KEYS": keys, "STAGES": stages}, warps)
        for queries, keys, stages, warps in tiles
    ]


def _attention_launch(trtp: Any, shapes: Mapping[str, Shape], given: Mapping[str, Any]) -> Launch:
    batch, _, seq, _ = shapes["query"]
    return Launch((trtp.cdiv(seq, given["QUERIES"]), given["heads"], batch), {"seq": seq})


def _context_shape(shapes: Mapping[str, Shape]) -> Shape:
    batch, heads, seq, size = shapes["query"]
    return batch, seq, heads * size


def _row_tactics(given: Mapping[str, Any], element: str) -> list[Tactic]:
    """One row of n entries a program."""
    block = 1 << (given["n"] - 1).bit_length()
    constants = {name: given[name] for name in ("n", "eps", "offset") if name in given}
    return [Tactic({**constants, "BLOCK": block}, warps) for warps in (4, 8)]


def _activation_launch(trtp: Any, shapes: Mapping[str, Shape], given: Mapping[str, Any]) -> Launch:
    count = _product(shapes["x"])
    return Launch((trtp.cdiv(count, given["BLOCK"]),), {"count": count})


def _product(sizes: Shape) -> Any:
    first, *rest = sizes
    for size in rest:
        first = first * size
    return first


def _activation(name: str, activation: str) -> Plugin:
    def tactics(given: Mapping[str, Any], element: str) -> list[Tactic]:
        return [Tactic({"n": given["n"], "ACTIVATION": activation, "BLOCK": block}) for block in (1024, 2048)]

    return Plugin(
        name,
        "bias_activation",
        ("x", "bias"),
        ("count",),
        ("y",),
        {"n": int},
        lambda shapes: shapes["x"],
        tactics,
        _activation_launch,
    )


def _with_sum(name: str, outputs: int) -> str:
    return name if outputs == 1 else f"{name}_and_sum"


def _embed_norm(name: str, tables: tuple[str, ...], ids: tuple[str, ...], outputs: int) -> Plugin:
    return Plugin(
        _with_sum(name, outputs),
        "embed_norm",
        (*tables, *ids, "scale", "shift"),
        ("seq",),
        ("norm", "total")[:outputs],
        {"n": int, "eps": float, "offset": int},
        lambda shapes: (*shapes["ids"], shapes["word"][1]),
        _row_tactics,
        lambda trtp, shapes, given: Launch((_product(shapes["ids"]),), {"seq": shapes["ids"][1]}),
    )


def _skip_norm(outputs: int) -> Plugin:
    return Plugin(
        _with_sum("skip_norm", outputs),
        "skip_norm",
        ("x", "residual", "scale", "shift"),
        (),
        ("norm", "total")[:outputs],
        {"n": int, "eps": float},
        lambda shapes: shapes["x"],
        _row_tactics,
        lambda trtp, shapes, given: Launch((_product(shapes["x"][:-1]),), {}),
    )


ATTENTION = Plugin(
    "attention",
    "attention",
    ("query", "key", "value", "lengths"),
    ("seq",),
    ("context",),
    {"heads": int, "size": int, "scale": float},
    _context_shape,
    _attention_tactics,
    _attention_launch,
)

DECLARED: Mapping[str, Plugin] = {
    plugin.name: plugin
    for plugin in (
        ATTENTION,
        _activation("bias_gelu", "gelu"),
        _activation("bias_gelu_tanh", "gelu_tanh"),
        *(_embed_norm("embed_norm", ("word", "position", "type"), ("ids", "types"), outputs) for outputs in (1, 2)),
        *(_embed_norm("untyped_embed_norm", ("word", "position"), ("ids",), outputs) for outputs in (1, 2)),
        *(_skip_norm(outputs) for outputs in (1, 2)),
    )
}


def plugin_of(graph: Graph, node: Node) -> tuple[Plugin, dict[str, Any]]:
    """The plugin that computes a node, and its attributes there."""
    n = int(graph.type_of(node.values[0]).shape[-1])
    if node.op == "attention":
        heads = int(graph.type_of(node.values[0]).shape[1])
        return DECLARED["attention"], {"heads": heads, "size": n, "scale": float(node.attribute("scale"))}
    plugin = DECLARED[_with_sum(node.op, len(used_results(node)))]
    return plugin, {"n": n} | {
        name: kind(node.attribute(name)) for name, kind in plugin.attributes.items() if name != "n"
    }


def used_results(node: Node) -> tuple[str, ...]:
    """The results that a plugin gives: all but a sum that nobody reads."""
    return node.results[:1] if node.results[-1] == UNUSED else node.results
