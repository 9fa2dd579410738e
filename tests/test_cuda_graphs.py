"""Graphs that no family has, on the cuda target: values that lie otherwise than kernels take them, and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from test_cuda_families import assert_tokens_agree, run, spread

from bertc.elaborate import read_graph
from bertc.errors import BertcError
from bertc.graph import Graph
from bertc.parser import parse_graph
from bertc.reference import evaluate
from bertc.targets.cuda.lower import Lowering

INPUTS = "graph(input_ids: i32[batch, seq], attention_mask: i32[batch, seq], token_type_ids: i32[batch, seq]):"

HEADS = """
    x = embedding(a.word[53, 96], input_ids)
    one, two, three = split(x, sizes=[32, 32, 32], axis=-1)
    query = transpose(reshape(one, [batch, seq, 2, 16]), [0, 2, 1, 3])
    key = transpose(reshape(two, [batch, seq, 2, 16]), [0, 2, 1, 3])
    value = transpose(reshape(three, [batch, seq, 2, 16]), [0, 2, 1, 3])
    lengths = maximum(sum(attention_mask, axis=-1), 1)
    mask = padding_mask(lengths, size=seq)
"""

GRAPHS = {
    "a turned value that is read as it was": HEADS
    + """
    turned = rotary(query, base=100.0)
    context = attention(turned, key, value, mask, scale=0.25)
    return context=context, query=transpose(query, [0, 2, 1, 3]), turned=transpose(turned, [0, 2, 1, 3])
    """,
    "turned values of a product": HEADS
    + """
    merged = matmul(x, transpose(a.weight[96, 96], [1, 0]))
    left, right, rest = split(merged, sizes=[32, 32, 32], axis=-1)
    one_more = rotary(transpose(reshape(right, [batch, seq, 2, 16]), [0, 2, 1, 3]), base=100.0)
    another = rotary(transpose(reshape(left, [batch, seq, 2, 16]), [0, 2, 1, 3]), base=100.0)
    third = rotary(transpose(reshape(rest, [batch, seq, 2, 16]), [0, 2, 1, 3]), base=10.0)
    return context=attention(another, one_more, third, mask, scale=0.25)
    """,
    "lengths that the session does not count": HEADS
    + """
    fewer = maximum(sum(attention_mask, axis=-1) - 3, 2)
    shorter = padding_mask(fewer, size=seq)
    return context=attention(query, key, value, shorter, scale=0.25)
    """,
    "a mask that is added to another": HEADS
    + """
    twice = local_mask(mask, window=4) + mask
    weights = softmax(matmul(query, transpose(key, [0, 1, 3, 2])) + mask)
    context = attention(query, key, value, twice, scale=0.25)
    return context=context, other=transpose(matmul(weights, value), [0, 2, 1, 3])
    """,
    "parts of a product's operand": HEADS
    + """
    part = slice(x, start=5, size=50, axis=-1)
    other = slice(x, start=0, size=50, axis=-1)
    return y=matmul(part, transpose(a.narrow[70, 50], [1, 0])), z=matmul(other, a.wide[50, 64])
    """,
    "joined and taken apart": HEADS
    + """
    joined = concat(two, gelu(one), three, axis=-1)
    later = slice(joined, start=1, size=1, axis=-2)
    return joined=joined - 1, later=2 / (later * later + 1), last=select(joined, index=2, axis=-2)
    """,
    "a product that is read twice": HEADS
    + """
    product = matmul(x, transpose(a.weight[96, 96], [1, 0]))
    wide = bias_gelu(product, a.bias[96])
    return y=wide * silu(product), z=tanh(product) * relu(product), sum=sum(wide, axis=-2)
    """,
    "a bias that all columns share": HEADS
    + """
    product = matmul(x, transpose(a.weight[96, 96], [1, 0])) + a.one[1]
    projected = matmul(x, transpose(a.down[32, 96], [1, 0])) + a.one[1]
    norm, total = skip_norm(one, projected, a.scale[32], a.shift[32], eps=1e-5)
    return y=product, norm=norm, total=total
    """,
    "products of rows that are parts of rows": HEADS
    + """
    thirds = reshape(x, [batch, seq, 3, 32])
    return y=matmul(thirds, a.wide[32, 64]), z=matmul(select(thirds, index=1, axis=-3), a.wide[32, 64])
    """,
    "a residual and a norm of parts": HEADS
    + """
    norm, total = skip_norm(one, two, a.scale[32], a.shift[32], eps=1e-5)
    projected = matmul(x, transpose(a.down[32, 96], [1, 0]))
    again, whole = skip_norm(three, projected, a.scale[32], a.shift[32], eps=1e-5)
    first = layer_norm(select(two, index=0, axis=-2), a.scale[32], a.shift[32], eps=1e-5)
    return norm=norm, total=total, again=again, whole=whole, first=first
    """,
}


def graph_of(body: str) -> Graph:
    lines = [line for line in body.splitlines() if line.strip()]
    return read_graph(parse_graph("\n".join([INPUTS, *lines]) + "\n"))


@pytest.mark.parametrize("body", GRAPHS.values(), ids=GRAPHS)
def test_agrees_with_the_reference(body: str, padded_batch: Mapping[str, Any]) -> None:
    """Ways for one row and for many; to 2e-5, float32 sums of values up to 10 in another order."""
    graph = graph_of(body)
    weights = spread(graph)
    expected = evaluate(graph, padded_batch, weights)
    for rows in (1, 1000):
        found = run(Lowering(graph, weights, "f32", architecture="sm_80"), padded_batch, rows)
        assert {name: array.shape for name, array in found.items()} == {name: a.shape for name, a in expected.items()}
        assert_tokens_agree(found, expected, padded_batch["attention_mask"], 2e-5)


def test_addresses_that_16_bytes_do_not_divide() -> None:
    """A kernel is told of them, so that it does not load 16 bytes at once."""
    graph = graph_of(
        f"{HEADS}\n    return y=slice(x, start=5, size=50, axis=-1) + 1, z=slice(x, start=8, size=8, axis=-1)"
    )
    lowering = Lowering(graph, spread(graph), "f16", architecture="sm_80")
    lowering.run()
    given = [dict(lowering.sources[step.ways[0][0].kernel].types)["x"] for step in lowering.steps[1:]]
    assert given == ["*f16?", "*f16", "*f16"]  # the sum; both outputs as float32, of which one starts at 16 bytes


REFUSED = {
    "known only when the engine runs": "return y=slice(x, start=1, size=2, axis=-3)",
    "sums are of values with three axes": "return y=sum(query, axis=-1)",
    "only casts to floating-point numbers": "return y=cast(x, element=i32)",
    "more axes than the 4": "return y=reshape(x, [batch, seq, 3, 2, 16]) + 1",
    "an output has a batch in front": "return y=query",
}


@pytest.mark.parametrize(("reason", "line"), REFUSED.items(), ids=REFUSED)
def test_refusals(reason: str, line: str) -> None:
    graph = graph_of(f"{HEADS}\n    {line}")
    with pytest.raises(BertcError, match=reason) as caught:
        Lowering(graph, spread(graph), "f32", architecture="sm_80").run()
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0514", 4)
