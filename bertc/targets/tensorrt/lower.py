"""A graph as a TensorRT network: the same lowering for TensorRT and TensorRT for RTX.

Layers and tensors are named as in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bertc.graph import INPUT, Graph
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.spec_fields import INPUT_NAMES
from bertc.targets.tensorrt.layers import LOWERINGS
from bertc.targets.tensorrt.network import Network


@dataclass(frozen=True)
class Substitute:
    """What stands in a network in place of a node's own layers."""

    reads: tuple[str, ...]
    """Values of the graph, which need not be those that the node reads."""
    add: Callable[[Network], None]


def lower(
    trt: Any,
    builder: Any,
    graph: Graph,
    weights: Weights,
    spec: Spec,
    *,
    plugins: Mapping[str, Substitute] = MappingProxyType({}),
    refit: bool = False,
) -> Network:
    """The network definition of a graph, and the arrays that must outlive the build; `plugins` by node. What nobody
    reads is left out. With `refit` each array has a name that it can be replaced by.

    Raises BertcError B0512 with TensorRT's own words for a layer that it does not take.
    """
    network = Network(trt, builder, graph, weights, refit)
    inputs = dict(zip(INPUT_NAMES["hugging_face"], INPUT_NAMES[spec.input_names], strict=True))
    needed = _needed(graph, plugins)
    for node in graph:
        if node.op == INPUT:
            shape = tuple(-1 if isinstance(size, str) else size for size in node.types[0].shape)
            name, element = inputs.get(node.key, node.key), network.type(node.types[0].element)
            network.tensors[node.key] = network.add("input", name, element, shape)
        elif node.key in plugins:
            plugins[node.key].add(network)
        elif not graph.is_constant(node.key) and not needed.isdisjoint(node.results):
            LOWERINGS[node.op](network, node)
    for name, value in graph.outputs.items():
        network.mark(name, value)
    return network


def _needed(graph: Graph, plugins: Mapping[str, Substitute]) -> set[str]:
    """The values that something reads."""
    needed = set(graph.outputs.values())
    for node in reversed(list(graph)):
        if not needed.isdisjoint(node.results):
            needed.update(plugins[node.key].reads if node.key in plugins else node.values)
    return needed
