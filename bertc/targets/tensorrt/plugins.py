"""Fused ops as plugins for TensorRT: what each takes and gives, the ways to compile its kernel, and how it is launched.

A plugin is declared once, here and in attention.py. Everything that TensorRT asks for is derived in registration.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertc.graph import UNUSED, Graph, Node
from bertc.targets.tensorrt.attention import ATTENTION_OPS, ATTENTIONS, attributes_of, plugin_of
from bertc.targets.tensorrt.declarations import Launch, Plugin, Shape, Tactic, volume


def _row_tactics(given: Mapping[str, Any], element: str) -> list[Tactic]:
    """One row of n entries a program."""
    block = 1 << (given["n"] - 1).bit_length()
    constants = {name: given[name] for name in ("n", "eps", "offset") if name in given}
    return [Tactic({**constants, "BLOCK": block}, warps) for warps in (4, 8)]


def _activation_launch(trtp: Any, shapes: Mapping[str, Shape], given: Mapping[str, Any]) -> Launch:
    count = volume(shapes["x"])
    return Launch((trtp.cdiv(count, given["BLOCK"]),), {"count": count})


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


def _embed_norm(name: str, outputs: int) -> Plugin:
    typed, packed = "untyped" not in name, "packed" in name
    tables = ("word", "position", "type") if typed else ("word", "position")
    ids = (*(("ids", "types") if typed else ("ids",)), *(("places",) if packed else ()))

    def launch(trtp: Any, shapes: Mapping[str, Shape], given: Mapping[str, Any]) -> Launch:
        return Launch((volume(shapes["ids"]),), {} if packed else {"seq": shapes["ids"][1]})

    return Plugin(
        _with_sum(name, outputs),
        "embed_norm",
        (*tables, *ids, "scale", "shift"),
        () if packed else ("seq",),
        ("norm", "total")[:outputs],
        {"n": int, "eps": float, "offset": int},
        lambda shapes: (*shapes["ids"], shapes["word"][1]),
        _row_tactics,
        launch,
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
        lambda trtp, shapes, given: Launch((volume(shapes["x"][:-1]),), {}),
    )


EMBEDDINGS = ("embed_norm", "untyped_embed_norm", "packed_embed_norm", "packed_untyped_embed_norm")

DECLARED: Mapping[str, Plugin] = {
    plugin.name: plugin
    for plugin in (
        *ATTENTIONS,
        _activation("bias_gelu", "gelu"),
        _activation("bias_gelu_tanh", "gelu_tanh"),
        *(_embed_norm(name, outputs) for name in EMBEDDINGS for outputs in (1, 2)),
        *(_skip_norm(outputs) for outputs in (1, 2)),
    )
}


@dataclass(frozen=True)
class Use:
    """A plugin in the place of a node."""

    plugin: Plugin
    operands: tuple[str, ...]
    """Values of the graph, in the order of the plugin's inputs."""
    attributes: Mapping[str, Any]


def use_of(graph: Graph, node: Node, longest: int) -> Use:
    """The plugin that computes a node, and what it is given; sequences have at most `longest` tokens."""
    if node.op in ATTENTION_OPS:
        name, operands = plugin_of(graph, node)
        return Use(DECLARED[name], operands, attributes_of(graph, node, longest))
    plugin = DECLARED[_with_sum(node.op, len(used_results(node)))]
    n = int(graph.type_of(node.values[0]).shape[-1])
    fixed = {name: kind(node.attribute(name)) for name, kind in plugin.attributes.items() if name != "n"}
    return Use(plugin, node.values, {"n": n, **fixed})


def used_results(node: Node) -> tuple[str, ...]:
    """The results that a plugin gives: all but a sum that nobody reads."""
    return node.results[:1] if node.results[-1] == UNUSED else node.results
