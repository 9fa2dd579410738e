"""A graph as a TensorRT network: the same lowering for TensorRT and TensorRT for RTX.

Layers and tensors are named as in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bertc.graph import INPUT, Graph, Node
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.spec_fields import INPUT_NAMES
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.layers import LOWERINGS
from bertc.targets.tensorrt.network import Network

Fused = Callable[[Network, Node], bool]
"""Adds a fused op as a plugin where that was chosen, and says whether it did."""


def lower(
    trt: Any,
    builder: Any,
    graph: Graph,
    weights: Weights,
    spec: Spec,
    *,
    plugins: Fused = lambda network, node: False,
    refit: bool = False,
) -> Network:
    """The network definition of a graph, and the arrays that must outlive the build. With `refit` each array has a name
    that it can be replaced by."""
    network = Network(trt, builder.create_network(_creation_flags(trt)), graph, weights, refit)
    inputs = dict(zip(INPUT_NAMES["hugging_face"], INPUT_NAMES[spec.input_names], strict=True))
    for node in graph:
        if node.op == INPUT:
            shape = tuple(-1 if isinstance(size, str) else size for size in node.types[0].shape)
            name, element = inputs.get(node.key, node.key), network.type(node.types[0].element)
            network.tensors[node.key] = network.definition.add_input(name, element, shape)
        elif not graph.is_constant(node.key) and not plugins(network, node):
            LOWERINGS[node.op](network, node)
    for name, value in graph.outputs.items():
        network.mark(name, value)
    return network


def _creation_flags(trt: Any) -> int:
    if not Features.of(trt).weak_typing:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
