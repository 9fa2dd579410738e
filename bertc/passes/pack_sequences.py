"""pack_sequences: [batch, seq, ...] becomes [tokens, ...], so that padding is neither stored nor computed.

Comes after the fusions, whose ops alone know batch from sequence: the embeddings look up places instead of counting
columns, attention keeps to each sequence, the first token of a sequence is where it starts. All other ops take rows as
they come.
"""

from __future__ import annotations

from bertc.errors import BertcError, error
from bertc.graph import INPUT, WEIGHT, Graph, Node
from bertc.plugins import OPS
from bertc.types import Type, is_tuple

TOKENS, STARTS, LENGTHS, PLACES = "tokens", "starts", "lengths", "places"

MASK = "attention_mask"


def pack_sequences(graph: Graph) -> tuple[Graph, int]:
    """The packed graph, and how many ops were replaced. Raises BertcError B0303 for an op that has no packed form."""
    packed = Graph()
    replaced, masks = 0, {MASK}
    for name in (STARTS, LENGTHS):
        packed.leaf(INPUT, name, Type("i32", ("batch",)))
    packed.leaf(INPUT, PLACES, Type("i32", (TOKENS,)))
    for node in graph:
        if node.op == INPUT:
            if node.key != MASK:
                packed.leaf(INPUT, node.key, Type(node.types[0].element, (TOKENS,)), node.span)
        elif node.op == WEIGHT:
            packed.insert(node)
        elif node.values and masks.issuperset(node.values):
            masks.update(node.results)
        else:
            replaced += _add(packed, node, masks)
    packed.outputs = dict(graph.outputs)
    return packed, replaced


def _add(packed: Graph, node: Node, masks: set[str]) -> bool:
    """Add what a node becomes; whether it is another op then."""
    op, inputs, attributes = node.op, node.inputs, node.attributes
    if op == "embed_norm":
        op, inputs = "packed_embed_norm", (*inputs[:5], PLACES, *inputs[5:])
    elif op == "attention" and inputs[3] in masks:
        op, inputs = "packed_attention", (*inputs[:3], STARTS, LENGTHS)
    elif op == "select" and node.attribute("axis") == -2 and node.attribute("index") == 0:
        op, inputs, attributes = "first_tokens", (inputs[0], STARTS), ()
    elif masks.intersection(node.values) or _mixes_rows(packed, node):
        raise _refusal(node)
    try:
        packed.add(op, inputs, attributes, node.results, node.span)
    except BertcError:  # it does not type without a batch
        raise _refusal(node) from None
    return op != node.op


def _refusal(node: Node) -> BertcError:
    help = "pack after the fusions, with all of them: `passes: [default, pack_sequences]`"
    return error("B0303", f"`{node.key}`: {node.op} has no packed form", node.span, help)


def _mixes_rows(packed: Graph, node: Node) -> bool:
    """Whether an op puts rows together: its sizes name batch or sequence, it works along them, or it is a product of
    two values that are not weights."""
    sizes = {size for _, value in node.attributes for size in (value if is_tuple(value) else (value,))}
    along_rows = "axis" in OPS[node.op].attributes and node.attribute("axis") != -1
    product = node.op == "matmul" and not packed.is_constant(node.inputs[1])
    constant = all(map(packed.is_constant, node.inputs))
    return not sizes.isdisjoint(("batch", "seq")) or product or (along_rows and not constant)
