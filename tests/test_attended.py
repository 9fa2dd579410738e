"""Masks as what they are made of."""

from __future__ import annotations

import pytest

from bertc.attended import Attended, attended
from bertc.elaborate import read_graph
from bertc.parser import parse_graph

GRAPH = """graph(x: [batch, 2, seq, 8], lengths: i32[batch], bias: [batch, 2, seq, seq]):
    padding = padding_mask(lengths, size=seq)
    mask = {mask}
    y = attention(x, x, x, mask, scale=0.25)
    return y
"""

MASKS = {
    "padding_mask(lengths, size=seq)": Attended(lengths="lengths"),
    "local_mask(padding, window=4)": Attended(lengths="lengths", window=4),
    "local_mask(padding, window=0)": Attended(bias="mask"),
    "padding + bias": Attended(lengths="lengths", bias="bias"),
    "bias + padding": Attended(lengths="lengths", bias="bias"),
    "bias + bias": Attended(bias="mask"),
    "local_mask(padding, window=4) + bias": Attended(bias="mask"),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_what_it_is_made_of(mask: str) -> None:
    graph = read_graph(parse_graph(GRAPH.format(mask=mask)))
    assert attended(graph, graph.producer("y")) == MASKS[mask]
