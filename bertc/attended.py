"""What a node of attention reads beside query, key and value: lengths, a window and a bias in place of a mask."""

from __future__ import annotations

from dataclasses import dataclass

from bertc.graph import Graph, Node


@dataclass(frozen=True)
class Attended:
    """Values of the graph, and the window. Query i reads key j when j is one of the sequence's keys and in the window;
    the bias is added to their score."""

    starts: str | None = None
    """Where packed sequences begin; None for padded ones."""
    lengths: str | None = None
    """How many keys each sequence has; None for as many as there are."""
    window: int = 0
    """Keys i places away at most, 2 i ≤ window; 0 for all."""
    bias: str | None = None
    """[..., queries, keys]"""


def attended(graph: Graph, node: Node) -> Attended:
    """What `attention`, `packed_attention` or `packed_biased_attention` reads; a mask as far as it is made of that."""
    if node.op == "attention":
        return _masked(graph, node.values[3])
    starts, lengths, *bias = node.values[3:]
    if bias:
        return Attended(starts, lengths, bias=bias[0])
    return Attended(starts, lengths, window=node.attribute("window"))


def _masked(graph: Graph, mask: str) -> Attended:
    node = graph.producer(mask)
    if lengths := _lengths(graph, mask):
        return Attended(lengths=lengths)
    if node.op == "local_mask" and node.attribute("window") > 0 and (lengths := _lengths(graph, node.values[0])):
        return Attended(lengths=lengths, window=node.attribute("window"))
    if node.op == "add" and len(node.values) == 2:
        for padding, bias in (node.values, node.values[::-1]):
            if lengths := _lengths(graph, padding):
                return Attended(lengths=lengths, bias=bias)
    return Attended(bias=mask)


def _lengths(graph: Graph, mask: str) -> str | None:
    """The lengths of which a value is the padding mask."""
    node = graph.producer(mask)
    return node.values[0] if node.op == "padding_mask" else None
