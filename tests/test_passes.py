"""Every pass keeps what the network computes, and fires as often as the network has what it fuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from conftest import small_spec, weights_of

import bertc
from bertc.elaborate import elaborate, read_graph
from bertc.errors import BertcError
from bertc.parser import parse_graph
from bertc.passes import FINISH, FUSIONS, Options, pipeline, run
from bertc.passes.expand_unhosted import EXPANDED, Choice
from bertc.reference import evaluate

HEADS = (
    "pooled",
    "hidden_states",
    "question_answering",
    "sequence_classification",
    "token_classification",
    "masked_lm",
)
ALGEBRA = 1e-12
"""Rewrites are proved in float64, where a sum in another order differs by about 1e-15."""


def network(head: str, order: str) -> str:
    pre_norm = (
        "{embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm, head: %s}"
    )
    return (pre_norm if order == "pre_norm" else "{head: %s}") % head


CASES = [(order, head, "gelu") for order in ("post_norm", "pre_norm") for head in HEADS] + [
    ("post_norm", "pooled", "gelu_tanh"),
    ("post_norm", "masked_lm", "relu"),
]


@pytest.mark.parametrize("hosted", ["all", "none", "attention"])
@pytest.mark.parametrize(("order", "head", "activation"), CASES)
def test_each_pass_keeps_the_answer(
    order: str, head: str, activation: str, hosted: str, padded_batch: Mapping[str, Any]
) -> None:
    spec = small_spec(network=network(head, order), activation=activation)
    graph = elaborate(spec)
    weights = weights_of(graph)
    expected = evaluate(graph, padded_batch, weights)
    options = Options(
        "fp16", lambda graph, node, precision: Choice("kernel" if hosted in ("all", node.op) else EXPANDED)
    )
    for stage in run(graph, pipeline(), options):
        assert read_graph(parse_graph(stage.graph.to_text())) == stage.graph, stage.name
        found = evaluate(stage.graph, padded_batch, weights)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert np.abs(value - expected[name]).max() < ALGEBRA, (stage.name, name)
    if hosted != "all":
        fused = {node.op for node in stage.graph} - ({"attention"} if hosted == "attention" else set())
        assert not fused & {"attention", "bias_gelu", "embed_norm", "qkv_projection", "scaled_softmax", "skip_norm"}


COUNTS = {
    "bert-base": {"embed_norm": 1, "qkv_projection": 12, "attention": 12, "bias_gelu": 12, "skip_norm": 24},
    "bert-large": {"embed_norm": 1, "qkv_projection": 24, "attention": 24, "bias_gelu": 24, "skip_norm": 48},
    "minilm-l6": {"embed_norm": 1, "qkv_projection": 6, "attention": 6, "bias_gelu": 6, "skip_norm": 12},
    "megatron-345m": {"embed_norm": 1, "qkv_projection": 24, "attention": 24, "bias_gelu": 24, "skip_norm": 48},
}


@pytest.mark.parametrize(("name", "expected"), COUNTS.items())
def test_fusions_fire_everywhere(name: str, expected: dict[str, int]) -> None:
    graph = bertc.compile(bertc.load(name))
    counts = Counter(node.op for node in graph)
    assert {op: counts[op] for op in expected} == expected
    assert not counts.keys() & {"layer_norm", "softmax", "gelu", "embedding", "reshape", "split", "scaled_softmax"}


def test_half_precision_casts_norms_and_outputs_only(padded_batch: Mapping[str, Any]) -> None:
    graph = elaborate(small_spec())
    *_, last = run(graph, pipeline(), Options("bf16", lambda graph, node, precision: Choice(EXPANDED)))
    for node in last.graph:
        expected = {"layer_norm": "f32", "softmax": "f32", "matmul": "bf16", "gelu": "bf16"}.get(node.op)
        assert expected is None or {type.element for type in node.types} == {expected}, node
    assert {last.graph.type_of(value).element for value in last.graph.outputs.values()} == {"f32"}
    norms = {node.key: node.types[0].element for node in last.graph.weights if ".norm." in node.key}
    assert set(norms.values()) == {"f32"}


def test_pipeline_is_cut_and_extended_by_name() -> None:
    assert pipeline() == (*FUSIONS, *FINISH)
    assert "fuse_attention" not in pipeline(without=("fuse_attention",))
    assert pipeline(("default", "mine.net"))[len(FUSIONS)] == "mine.net"
    with pytest.raises(BertcError, match="did you mean `fuse_attention`"):
        pipeline(("fuse_atention",))


def test_same_spec_gives_the_same_text() -> None:
    texts = {bertc.compile(bertc.load("minilm-l6")).to_text() for _ in range(2)}
    assert len(texts) == 1
