"""Costs of ops against counts by hand, and as what a network's passes must leave as it was."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from conftest import small_spec

import bertc
from bertc.costs import FLOPS_PER_RESULT, cost, evaluate
from bertc.elaborate import read_graph
from bertc.graph import INPUT, WEIGHT, Graph
from bertc.parser import parse_graph
from bertc.plugins import OPS

SIZES = {"batch": 3, "seq": 5, "tokens": 15}

PRODUCTS = {
    "matmul", "qkv_projection", "attention", "packed_attention", "packed_biased_attention",
}  # fmt: skip
MOVING = {
    "transpose", "reshape", "concat", "split", "slice", "select", "embedding", "relative_buckets", "log_buckets",
    "take_along", "cast", "first_tokens",
}  # fmt: skip


LARGE = {"batch": 8, "seq": 384}


def costs(graph: Graph, sizes: Mapping[str, int] = SIZES) -> Mapping[str, tuple[int, int]]:
    found = {node.key: cost(graph, node) for node in graph}
    return {key: (evaluate(one.flops, sizes), evaluate(one.bytes, sizes)) for key, one in found.items()}


def test_every_op_is_counted() -> None:
    assert set(FLOPS_PER_RESULT) | PRODUCTS | MOVING | {"sum"} == set(OPS)


def test_costs_by_hand() -> None:
    text = """graph(ids: i32[batch, seq], x: f16[batch, seq, 8], table: weight[100, 8]):
    rows = embedding(table, ids)
    w = transpose(mlp.up.weight[16, 8], axes=[1, 0])
    up = matmul(x, w)
    y = gelu(up)
    flat = reshape(y, shape=[batch, seq, 4, 4])
    s = sum(y, axis=-1)
    return rows, flat, s
"""
    found = costs(read_graph(parse_graph(text)))
    tokens = 15
    assert found["rows"] == (0, tokens * (4 + 2 * 8 + 2 * 8))
    assert found["w"] == (0, 0)
    assert found["up"] == (2 * tokens * 8 * 16, 2 * (tokens * 8 + 8 * 16 + tokens * 16))
    assert found["y"] == (5 * tokens * 16, 2 * (tokens * 16 * 2))
    assert found["flat"] == (0, 0)
    assert found["s"] == (tokens * 16, 2 * (tokens * 16 + tokens))


def test_attention_counts_both_products_and_the_softmax() -> None:
    graph = bertc.compile(small_spec())
    (first, *_) = (node for node in graph if node.op == "attention")
    scores = SIZES["batch"] * 3 * SIZES["seq"] ** 2
    entries = SIZES["batch"] * 3 * SIZES["seq"] * 8
    mask = SIZES["batch"] * SIZES["seq"]
    assert costs(graph)[first.key] == (2 * 2 * scores * 8 + 7 * scores, 4 * (4 * entries + mask))


@pytest.mark.parametrize("base", ["bert-base", "megatron-345m"])
def test_fusing_keeps_the_arithmetic_and_saves_memory(base: str) -> None:
    """Products are what they were; nothing of what is fused is forgotten: the sums differ by less than a hundredth."""
    first, *_, last = bertc.stages(bertc.load(base))
    before, after = (sum(spent[0] for spent in costs(stage.graph).values()) for stage in (first, last))
    assert abs(after - before) < 0.01 * before
    read_before, read_after = (sum(spent[1] for spent in costs(stage.graph, LARGE).values()) for stage in (first, last))
    assert read_after < 0.6 * read_before
    leaves = [node for node in last.graph if node.op in (INPUT, WEIGHT)]
    assert all(costs(last.graph)[node.key] == (0, 0) for node in leaves)
