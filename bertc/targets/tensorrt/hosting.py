"""How TensorRT computes each fused op: as a layer of its own, as a plugin with bertc's kernel, or as the ops it fuses.

A layer is what TensorRT's own compiler can fuse further, where a plugin is a wall; so `auto` takes a plugin only for
attention that no layer computes. `plugins` forces the choice; what it names and cannot have is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bertc.attended import attended
from bertc.errors import error
from bertc.graph import Graph, Node
from bertc.passes.expand_unhosted import EXPANDED, Choice, Hosts
from bertc.plugins import PACKED
from bertc.targets.tensorrt.attention import ATTENTION_OPS
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.packed import is_packed_projection

LAYER, PLUGIN = "layer", "plugin"

HAS_LAYER, HAS_LAYERS = "TensorRT has a layer for it", "TensorRT has layers for what it is made of"

HEADS_BY = 8
"""IAttention's fused kernels take heads of a multiple of this."""

KERNEL_HEADS = (16, 32, 64, 128)
"""Sizes of heads that bertc's kernel is written for: a block of a power of two, and registers enough."""

OLDEST = 80
"""The first compute capability that Triton compiles for."""


@dataclass(frozen=True)
class Place:
    """What the choice depends on apart from the node."""

    features: Features
    architecture: int
    """The GPU's compute capability: 90."""
    plugins: tuple[str, ...] = ("auto",)
    """`auto`, `all`, `none`, and names of ops."""


Refusal = Callable[[Place, Graph, Node, str], str | None]
"""Why an op cannot be a plugin there, or None."""


def hosts_at(place: Place) -> Hosts:
    """The choice for each node there."""
    return lambda graph, node, precision: choose(place, graph, node, precision)


def choose(place: Place, graph: Graph, node: Node, precision: str) -> Choice:
    """A plugin where it is asked for, else a layer, else for attention a plugin, else the ops that it fuses.

    Raises BertcError B0514 where a plugin is asked for by its name and cannot be had.
    """
    name, no_plugin = PADDED.get(node.op, node.op), plugin_refusal(place, graph, node, precision)
    if name in place.plugins and no_plugin is not None:
        message = f"`{node.key}` cannot be a plugin: {no_plugin}"
        raise error("B0514", message, node.span, "leave it out of `plugins`")
    if no_plugin is None and (name in place.plugins or "all" in place.plugins):
        return Choice(PLUGIN, "asked for")
    no_layer = layer_refusal(place.features, graph, node, precision)
    if no_layer is None:
        return Choice(LAYER, HAS_LAYER if node.op in ATTENTION_OPS else HAS_LAYERS)
    if "auto" in place.plugins and name in AUTOMATIC and no_plugin is None:
        return Choice(PLUGIN, no_layer)
    if name in AUTOMATIC or "all" in place.plugins:
        return Choice(EXPANDED, f"{no_layer}; {no_plugin or 'no plugin was asked for'}")
    return Choice(EXPANDED, no_layer)


def layer_refusal(features: Features, graph: Graph, node: Node, precision: str) -> str | None:
    """Why TensorRT has no layer for a fused op, or None where it has, or where layers are all there is."""
    if node.op not in ATTENTION_OPS:
        packed = node.op in PACKED or is_packed_projection(graph, node)
        return None if packed else "TensorRT's compiler fuses the layers that it is made of"
    if not features.attention:
        return "this TensorRT is older than IAttention"
    if precision == "fp32":
        return "IAttention fuses in half precision only"
    size = head_size(graph, node)
    if size % HEADS_BY:
        return f"IAttention has no kernel for heads of {size}, which is no multiple of {HEADS_BY}"
    return None if node.op == "attention" else _packed_refusal(features, node)


def _packed_refusal(features: Features, node: Node) -> str | None:
    """IAttention's mask has a batch, which packed sequences have not."""
    if not features.packed_attention:
        return "IAttention takes no packed sequences in this TensorRT"
    if node.op == "packed_biased_attention":
        return "IAttention adds nothing to the scores of packed sequences"
    return "IAttention has no window for packed sequences" if node.attribute("window") else None


def plugin_refusal(place: Place, graph: Graph, node: Node, precision: str) -> str | None:
    """Why a fused op cannot be a plugin, or None where it can."""
    name = PADDED.get(node.op, node.op)
    if name not in PLUGINS:
        return "bertc has no kernel for it" if node.op != "qkv_projection" else "its product is best left to TensorRT"
    if not (place.features.ahead_of_time_plugins or place.features.python_plugins):
        return "this TensorRT takes no plugins from Python"
    if place.architecture < OLDEST:
        return f"kernels are compiled from sm_{OLDEST} on, and this GPU is sm_{place.architecture}"
    return PLUGINS[name](place, graph, node, precision)


def head_size(graph: Graph, node: Node) -> int:
    return int(graph.type_of(node.values[0]).shape[-1])


def _attention(place: Place, graph: Graph, node: Node, precision: str) -> str | None:
    size, others = head_size(graph, node), int(graph.type_of(node.values[2]).shape[-1])
    if size not in KERNEL_HEADS or size != others:
        found = str(size) if size == others else f"{size} and {others}"
        return f"the kernel is for heads of {', '.join(map(str, KERNEL_HEADS))}, not {found}"
    bias, keys = attended(graph, node).bias, graph.type_of(node.values[1]).shape[-2]
    if node.op == "attention" and bias is not None and graph.type_of(bias).shape[-1] != keys:
        return "the kernel adds something of its own to each key, and this mask is the same for all"
    return None


def _no_refusal(place: Place, graph: Graph, node: Node, precision: str) -> str | None:
    return None


PLUGINS: dict[str, Refusal] = {
    "attention": _attention,
    "bias_gelu": _no_refusal,
    "bias_gelu_tanh": _no_refusal,
    "embed_norm": _no_refusal,
    "skip_norm": _no_refusal,
    "untyped_embed_norm": _no_refusal,
}
"""The fused ops that have a plugin, each with why not on this node."""

PADDED = {
    "packed_attention": "attention",
    "packed_biased_attention": "attention",
    "packed_embed_norm": "embed_norm",
    "packed_untyped_embed_norm": "untyped_embed_norm",
}
"""Packed op -> the op whose name stands for it in `plugins`."""

AUTOMATIC = ("attention",)
"""Those that `auto` makes plugins where no layer computes them."""
