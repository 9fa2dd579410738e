"""A graph as an ONNX model. Batch and sequence stay dynamic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx
from onnx import helper

from bertc.graph import INPUT
from bertc.targets.onnx.fused import FUSED
from bertc.targets.onnx.lowering import ELEMENTS, MICROSOFT, Lowering
from bertc.targets.onnx.primitives import PRIMITIVES
from bertc.types import Type
from bertc.version import VERSION

OPSET = 21
IR_VERSION = 10

LOWERINGS = PRIMITIVES | FUSED
"""Op -> what it becomes. An op of the graph without an entry is one that `hosting` has let through by mistake."""


def to_model(
    lowering: Lowering, properties: Mapping[str, str], progress: Callable[[str, int, int], None] | None = None
) -> onnx.ModelProto:
    """The whole model; `properties` are kept in it."""
    nodes = [node for node in lowering.graph if not lowering.graph.is_constant(node.key) and node.op != INPUT]
    for index, node in enumerate(nodes):
        if node.key not in lowering.biases.values() and node.key not in lowering.projections:
            LOWERINGS[node.op](lowering, node)
        if progress:
            progress("lowering to ONNX", index + 1, len(nodes))
    for name, value in lowering.graph.outputs.items():
        if lowering.renamed.get(value) != name:
            lowering.emit("Identity", [value], name)
    inputs = [_info(lowering.name(node.key), node.types[0]) for node in lowering.graph.inputs]
    outputs = [_info(name, lowering.graph.type_of(value)) for name, value in lowering.graph.outputs.items()]
    needed = _needed(lowering.nodes, lowering.graph.outputs)
    read = {name for node in needed for name in node.input}
    initializers = [tensor for name, tensor in lowering.initializers.items() if name in read]
    body = helper.make_graph(needed, "bertc", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == MICROSOFT for node in needed):
        opsets.append(helper.make_opsetid(MICROSOFT, 1))
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)
    model.producer_name, model.producer_version = "bertc", VERSION
    helper.set_model_props(model, dict(sorted(properties.items())))
    return model


def _info(name: str, type: Type) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENTS[type.element][0], type.shape)


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that lead to an output: a mask that every attention takes as lengths leads nowhere."""
    wanted, needed = set(outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            needed.append(node)
    return needed[::-1]
