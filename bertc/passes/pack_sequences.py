"""pack_sequences: [batch, seq, ...] becomes [tokens, ...], so that padding is neither stored nor computed.

Comes after the fusions, whose ops alone know batch from sequence: the embeddings look up places instead of counting
columns, attention keeps to each sequence, the first token of a sequence is where it starts. All other ops take rows as
they come.
"""

from __future__ import annotations

from bertc.attended import attended
from bertc.errors import BertcError, error
from bertc.graph import INPUT, WEIGHT, Attributes, Graph, Node, Operand
from bertc.plugins import OPS
from bertc.types import Shape, Type, is_tuple

TOKENS, STARTS, LENGTHS, PLACES = "tokens", "starts", "lengths", "places"

MASK = "attention_mask"

Packed = tuple[str, tuple[Operand, ...], Attributes]
"""Op, operands and attributes that a node becomes."""


def pack_sequences(graph: Graph) -> tuple[Graph, int]:
    """The packed graph, and how many ops were replaced. Raises BertcError B0303 for an op that has no packed form."""
    packed = Graph()
    replaced, apart = 0, {MASK}
    for name in (STARTS, LENGTHS):
        packed.leaf(INPUT, name, Type("i32", ("batch",)))
    packed.leaf(INPUT, PLACES, Type("i32", (TOKENS,)))
    for node in graph:
        if node.op == INPUT:
            if node.key != MASK:
                packed.leaf(INPUT, node.key, Type(node.types[0].element, (TOKENS,)), node.span)
        elif node.op == WEIGHT:
            packed.insert(node)
        elif _is_apart(graph, node, apart):
            apart.update(node.results)
        else:
            replaced += _add(packed, graph, node, apart)
    packed.outputs = dict(graph.outputs)
    return packed, replaced


def counts_tokens(graph: Graph, value: str) -> bool:
    """Whether a value is how many tokens each row has, at least 1: maximum(sum(attention_mask, axis=-1), 1)."""
    node = graph.producer(value)
    if node.op != "maximum" or node.inputs[1:] != (1,):
        return False
    total = graph.producer(node.values[0])
    return total.op == "sum" and total.values == (MASK,) and total.attribute("axis") == -1


def _is_apart(graph: Graph, node: Node, apart: set[str]) -> bool:
    """Whether a node is made of the mask and of constants alone, without tokens: masks, and tables cut to size."""
    made = all(value in apart or graph.is_constant(value) for value in node.values)
    return made and not graph.is_constant(node.key)


def _add(packed: Graph, graph: Graph, node: Node, apart: set[str]) -> bool:
    """Add what a node becomes; whether it is another op then."""
    become = _packed(graph, node)
    if become is None or apart.intersection(become[1]) or _mixes_rows(packed, node, become[0]):
        raise _refusal(node)
    op, inputs, attributes = become
    try:
        packed.add(op, inputs, attributes, node.results, node.span)
    except BertcError:  # it does not type without a batch
        raise _refusal(node) from None
    return op != node.op


def _refusal(node: Node) -> BertcError:
    help = "pack after the fusions, with all of them: `passes: [default, pack_sequences]`"
    return error("B0303", f"`{node.key}`: {node.op} has no packed form", node.span, help)


def _packed(graph: Graph, node: Node) -> Packed | None:
    """What a node becomes, None where there is no such thing."""
    inputs, attributes = node.inputs, node.attributes
    match node.op:
        case "embed_norm" | "untyped_embed_norm":
            return f"packed_{node.op}", (*inputs[:-2], PLACES, *inputs[-2:]), attributes
        case "rotary":
            return "packed_rotary", (*inputs, PLACES), attributes
        case "attention":
            return _packed_attention(graph, node)
        case "select" if node.attribute("axis") == -2 and node.attribute("index") == 0:
            return "first_tokens", (inputs[0], STARTS), ()
        case "reshape" if not graph.is_constant(node.key):
            shape = _without_batch(node.attribute("shape"))
            return None if shape is None else ("reshape", inputs, (("shape", shape),))
        case "transpose" if not graph.is_constant(node.key):
            first, *axes = node.attribute("axes")
            return None if first else ("transpose", inputs, (("axes", tuple(axis - 1 for axis in axes)),))
        case _:
            return node.op, inputs, attributes


def _without_batch(shape: Shape) -> Shape | None:
    """[batch, ..., seq, ...] -> [..., tokens, ...]."""
    first, *rest = shape
    return tuple(TOKENS if size == "seq" else size for size in rest) if first == "batch" and "seq" in rest else None


def _packed_attention(graph: Graph, node: Node) -> Packed | None:
    """By its mask: the padding alone, a window, or a table for all places that is cut to size."""
    mask, given = attended(graph, node), (*node.values[:3], STARTS, LENGTHS)
    if mask.lengths is None or not counts_tokens(graph, mask.lengths):
        return None
    if mask.bias is not None:
        table = _uncut(graph, mask.bias)
        return None if table is None else ("packed_biased_attention", (*given, table), node.attributes)
    window = (("window", mask.window),) if mask.window else ()
    return "packed_attention", given, (*node.attributes, *window)


def _uncut(graph: Graph, value: str) -> str | None:
    """The constant [heads, places, places] of which a value is the corner for `seq` places."""
    while not graph.is_constant(value):
        node = graph.producer(value)
        if node.op != "slice" or node.attribute("start") or node.attribute("size") != "seq":
            return None
        value = node.values[0]
    return value if len(graph.type_of(value).shape) == 3 else None


def _mixes_rows(packed: Graph, node: Node, becomes: str) -> bool:
    """Whether an op puts rows together: its sizes name batch or sequence, it works along them, or it is a product of
    two values that are not weights."""
    if becomes != node.op or node.op in ("reshape", "transpose") or all(map(packed.is_constant, node.inputs)):
        return False
    sizes = {size for _, value in node.attributes for size in (value if is_tuple(value) else (value,))}
    product = node.op == "matmul" and not packed.is_constant(node.inputs[1])
    along_rows = "axis" in OPS[node.op].attributes and node.attribute("axis") != -1
    return not sizes.isdisjoint(("batch", "seq")) or product or along_rows
