"""A graph as PyTorch computes it: every op by torch's own function for it, through torch.fx.

A product with its bias is one `linear`. Attention has no mask where the mask is made of lengths: that is right for rows
without padding, and computes rows with padding as if they had none, which is less work than masking them.

torch.fx: https://docs.pytorch.org/docs/stable/fx.html
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from bertc.bench.torch_ops import ELEMENTS, OPS
from bertc.errors import error
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node
from bertc.reference import Weights, constant
from bertc.types import bind_sizes, is_tuple

torch: Any = import_module("torch")
fx: Any = import_module("torch.fx")
functional: Any = import_module("torch.nn.functional")

WITH_BIAS = ("add", "bias_gelu", "bias_gelu_tanh")
"""Ops that add a bias to a product."""


def to_torch(graph: Graph, constants: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    """A torch.fx.GraphModule of a graph for one batch, seq and tokens: the graph's inputs in, a tuple of its outputs
    out. `constants` are those of `torch_constants`.

    Raises BertcError B0801 for an op that is not known here.
    """
    root = torch.nn.Module()
    made = fx.Graph()
    values: dict[str, Any] = {node.key: made.placeholder(f"input_{node.key}") for node in graph.inputs}
    for index, (name, tensor) in enumerate(constants.items()):
        root.register_buffer(f"constant_{index}", tensor)
        values[name] = made.get_attr(f"constant_{index}")
    products = {product.key for node in graph if (product := biased_product(graph, node)) is not None}
    for node in graph:
        if node.op in (INPUT, WEIGHT) or graph.is_constant(node.key) or node.key in products:
            continue
        _add(made, graph, node, values, sizes)
    made.output(tuple(values[value] for value in graph.outputs.values()))
    made.eliminate_dead_code()
    return fx.GraphModule(root, made)


def torch_constants(graph: Graph, weights: Weights, device: Any) -> dict[str, Any]:
    """Every constant that an op of the network reads, as a tensor of the graph's type on a device.

    The weight of a product is there as [out, in], which `linear` takes, under the name that `linear_weight` gives it.
    """
    found: dict[str, Any] = {}
    for node in graph:
        if node.op in (INPUT, WEIGHT) or graph.is_constant(node.key):
            continue
        for value in filter(graph.is_constant, node.values):
            is_linear = _is_linear(graph, node)
            name = linear_weight(value) if is_linear else value
            if name not in found:
                array = constant(graph, value, weights)
                array = np.ascontiguousarray(array.T if is_linear else array)
                found[name] = torch.from_numpy(array).to(device, ELEMENTS[graph.type_of(value).element])
    return found


def linear_weight(value: str) -> str:
    """The name of a product's weight among the constants."""
    return f"{value} as [out, in]"


def biased_product(graph: Graph, node: Node) -> Node | None:
    """The product with a weight that stands before a bias alone, so that one `linear` does both."""
    if node.op not in WITH_BIAS or graph.is_constant(node.key):
        return None
    x, bias = node.inputs
    if not (isinstance(x, str) and isinstance(bias, str) and graph.is_constant(bias)):
        return None
    product = graph.producer(x)
    alone = len(graph.users(x)) == 1 and not graph.is_output(x)
    return product if alone and _is_linear(graph, product) and len(graph.type_of(bias).shape) == 1 else None


def _is_linear(graph: Graph, node: Node) -> bool:
    weight = node.inputs[1] if node.op == "matmul" else None
    return isinstance(weight, str) and graph.is_constant(weight) and len(graph.type_of(weight).shape) == 2


def _add(made: Any, graph: Graph, node: Node, values: dict[str, Any], sizes: Mapping[str, int]) -> None:
    """Put a node's function into the torch graph, and its results among the values."""
    function: Callable[..., Any] | None = OPS.get(node.op)
    if function is None:
        message = f"torch as a peer does not know the op {node.op} of `{node.key}`"
        raise error("B0801", message, node.span, "measure against another peer")
    attributes = {name: _bound(value, sizes) for name, value in node.attributes}
    product = node if _is_linear(graph, node) else biased_product(graph, node)
    if product is not None:
        x, weight = map(str, product.inputs)
        bias = None if product is node else values[str(node.inputs[1])]
        result = made.call_function(functional.linear, (values[x], values[linear_weight(weight)], bias))
        if node.op in ("bias_gelu", "bias_gelu_tanh"):
            result = made.call_function(OPS[node.op.removeprefix("bias_")], (result,))
    else:
        masked = node.op == "attention" and graph.producer(str(node.inputs[3])).op == "padding_mask"
        inputs = (*node.inputs[:3], None) if masked else node.inputs
        operands = tuple(values[operand] if isinstance(operand, str) else operand for operand in inputs)
        result = made.call_function(function, operands, attributes)
    if len(node.results) == 1:
        values[node.key] = result
        return
    for index, name in enumerate(node.results):
        if name != UNUSED:
            values[name] = made.call_function(operator.getitem, (result, index))


def _bound(value: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with the names of sizes replaced by their numbers."""
    if is_tuple(value):
        return bind_sizes(value, sizes)
    return sizes.get(value, value) if isinstance(value, str) else value
