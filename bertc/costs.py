"""What an op costs: arithmetic and memory traffic, as polynomials in the sizes that are known only when an engine runs.

A product of matrices counts a multiplication and an addition for each of its terms. Elsewhere each sum, product,
comparison, root and exponential counts as one, those of a row (its mean, its maximum) for each of its entries. Bytes
are those of every operand read once and every result written once: the least that an op by itself can move. Of tables,
only the rows that are looked up are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node
from bertc.types import BITS, Dim, Type

Polynomial = Mapping[tuple[str, ...], int]
"""Names of sizes, sorted -> the coefficient of their product: {("batch", "seq", "seq"): 64} is 64 batch seq²."""


@dataclass(frozen=True)
class Cost:
    flops: Polynomial
    bytes: Polynomial


NOTHING = Cost({}, {})

FLOPS_PER_RESULT = {
    "add": 1, "subtract": 1, "multiply": 1, "divide": 1, "maximum": 1, "padding_mask": 1, "local_mask": 1,
    "relu": 1, "tanh": 1, "sigmoid": 4, "silu": 4, "gelu": 5, "gelu_tanh": 9, "bias_gelu": 6, "bias_gelu_tanh": 10,
    "softmax": 5, "scaled_softmax": 7, "layer_norm": 7, "skip_norm": 8, "rotary": 3, "packed_rotary": 3,
    "embed_norm": 9, "packed_embed_norm": 9, "untyped_embed_norm": 8, "packed_untyped_embed_norm": 8,
}  # fmt: skip
"""Operations for each entry of the first result; ops that are not here, and no products, only move entries."""

FREE = ("reshape",)
"""Another name for the same bytes."""

LOOKED_UP = {
    "embedding": (0,),
    "embed_norm": (0, 1, 2),
    "packed_embed_norm": (0, 1, 2),
    "untyped_embed_norm": (0, 1),
    "packed_untyped_embed_norm": (0, 1),
    **dict.fromkeys(("slice", "select", "first_tokens", "take_along"), (0,)),
}
"""Operands of which as much is read as the first result has."""


def cost(graph: Graph, node: Node) -> Cost:
    """What a node costs each time the engine runs: nothing where its results are known when the engine is built."""
    if node.op in (INPUT, WEIGHT, *FREE) or graph.is_constant(node.key):
        return NOTHING
    operands = [graph.type_of(value) if isinstance(value, str) else None for value in node.inputs]
    return Cost(_flops(node, operands), _bytes(node, operands))


def evaluate(polynomial: Polynomial, sizes: Mapping[str, int]) -> int:
    """Its value at sizes by name."""
    return sum(factor * math.prod(sizes[name] for name in names) for names, factor in polynomial.items())


def _flops(node: Node, operands: list[Type | None]) -> Polynomial:
    first, results = operands[0] if operands else None, node.types
    match node.op:
        case "matmul" if first is not None:
            return _product(2, *results[0].shape, first.shape[-1])
        case "qkv_projection" if first is not None:
            entries = [_product(1, *type.shape) for type in results]
            return _sum(*(_product(2, *type.shape, first.shape[-1]) for type in results), *entries)
        case "attention" | "packed_attention" | "packed_biased_attention" if first is not None:
            return _attention(first.shape, operands[1:3], packed=node.op != "attention")
        case "sum" if first is not None:
            return _product(1, *first.shape)
        case _:
            return _product(FLOPS_PER_RESULT.get(node.op, 0), *results[0].shape)


def _attention(query: tuple[Dim, ...], others: list[Type | None], *, packed: bool) -> Polynomial:
    """2 · scores · size + 2 · scores · out, and 7 for each score: scale, mask and softmax.

    Packed, a token looks at `seq` others.
    """
    key, value = (type.shape if type is not None else query for type in others)
    keys: Dim = "seq" if packed else key[-2]
    scores = (*query[:-1], keys)
    return _sum(_product(2, *scores, query[-1]), _product(2, *scores, value[-1]), _product(7, *scores))


def _bytes(node: Node, operands: list[Type | None]) -> Polynomial:
    written = [type for name, type in zip(node.results, node.types, strict=True) if name != UNUSED]
    rows = LOOKED_UP.get(node.op, ())
    read = [
        Type(type.element, node.types[0].shape) if index in rows else type
        for index, type in enumerate(operands)
        if type is not None
    ]
    return _sum(*(_product(BITS[type.element] // 8, *type.shape) for type in (*read, *written)))


def _product(factor: int, *sizes: Dim) -> Polynomial:
    names = tuple(sorted(size for size in sizes if isinstance(size, str)))
    coefficient = factor * math.prod(size for size in sizes if isinstance(size, int))
    return {names: coefficient} if coefficient else {}


def _sum(*polynomials: Polynomial) -> Polynomial:
    total = Counter[tuple[str, ...]]()
    for polynomial in polynomials:
        total.update(polynomial)
    return dict(total)
