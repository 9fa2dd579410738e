"""Networks whose layers can be looked at: what leaves the embeddings and each layer, as further outputs.

They are called by the groups of parameters that they come from, in any network: `embeddings`, `encoder.0`, `encoder.1`.
"""

from __future__ import annotations

import re
from pathlib import Path

from bertc.bench.peers import bundle_graph
from bertc.bundle import read_bundle
from bertc.compiler import RUNNING, target_module
from bertc.engine import Engine
from bertc.errors import error
from bertc.graph import Graph, Node

INSIDE = "onnx"
"""The target whose engines show what is inside them."""

EMBEDDINGS, LAYER, FINAL = "embeddings", "encoder.{}", "final"

_GROUP = re.compile(r"embeddings\.|encoder\.([0-9]+)\.")


def layers_of(graph: Graph) -> dict[str, str]:
    """What leaves the embeddings and each layer, in their order: group -> value, [batch, seq, hidden].

    A fused op may stand in two layers: the one in front of a norm adds what the layer before gives.
    """
    leaving: dict[int, str] = {}
    for node in graph:
        for value, type in zip(node.results, node.types, strict=True):
            place = _place(value)
            if place is not None and type.is_float and type.shape[:-1] == ("batch", "seq") and _leaves(graph, value):
                leaving[place] = value
    return {LAYER.format(place) if place >= 0 else EMBEDDINGS: leaving[place] for place in sorted(leaving)}


def hidden_states(graph: Graph) -> list[str]:
    """What transformers' hidden states are called: the last stands behind the final norm, where there is one."""
    groups = list(layers_of(graph))
    has_final = any(node.key.startswith(f"{FINAL}.") for node in graph)
    return [*groups[:-1], FINAL] if has_final else groups


def _place(value: str) -> int | None:
    """The number of its layer; the embeddings stand before the first."""
    match = _GROUP.match(value)
    return None if match is None else int(match[1] or -1)


def _leaves(graph: Graph, value: str) -> bool:
    return graph.is_output(value) or any(_first_place(user) != _place(value) for user in graph.users(value))


def _first_place(node: Node) -> int | None:
    places = [place for value in node.results if (place := _place(value)) is not None]
    return min(places, default=None)


def open_with_layers(path: Path, device: int) -> Engine:
    """A bundle that gives what leaves its layers as well.

    Raises B0909 for an engine that does not show it, and what opening a bundle raises.
    """
    bundle = read_bundle(path)
    if bundle.manifest.target != INSIDE:
        message = f"`--layers` needs what is inside an engine, and those of target {bundle.manifest.target} keep it"
        raise error("B0909", message, None, f"build the same spec with `--target {INSIDE}`, or leave `--layers` out")
    graph = bundle_graph(bundle)
    module = target_module(INSIDE, RUNNING)
    return Engine(bundle, module.open_with_values(path, bundle.manifest.inputs, graph, layers_of(graph)))
