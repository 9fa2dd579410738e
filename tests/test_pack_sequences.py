"""pack_sequences: the packed graph computes, for every token that is there, what the padded one does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import packed, small_spec, weights_of

import bertc
from bertc.elaborate import elaborate, read_graph
from bertc.errors import BertcError
from bertc.parser import parse_graph
from bertc.reference import evaluate

PASSES = "[default, pack_sequences]"
PRE_NORM = "embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm"
HEADS = ("pooled", "question_answering", "sequence_classification", "token_classification", "masked_lm")


@pytest.mark.parametrize("order", ["", f", {PRE_NORM}"], ids=["post_norm", "pre_norm"])
@pytest.mark.parametrize("head", HEADS)
def test_computes_the_same_without_padding(head: str, order: str, padded_batch: Mapping[str, Any]) -> None:
    spec = small_spec(network=f"{{head: {head}{order}}}", passes=PASSES, position_offset="2")
    padded, graph = elaborate(spec), bertc.compile(spec)
    assert {node.key for node in graph.inputs} == {"input_ids", "token_type_ids", "places", "starts", "lengths"}
    assert sum(node.op == "packed_attention" for node in graph) == 2
    weights, there = weights_of(padded), padded_batch["attention_mask"] > 0
    found = evaluate(graph, packed(padded_batch), weights)
    for name, expected in evaluate(padded, padded_batch, weights).items():
        wanted = expected[there] if expected.shape[:2] == there.shape else expected
        assert found[name].shape == wanted.shape
        assert np.abs(found[name] - wanted).max() < 1e-12, name


def test_the_packed_graph_reads_back() -> None:
    graph = bertc.compile(small_spec(passes=PASSES))
    assert read_graph(parse_graph(graph.to_text())) == graph


@pytest.mark.parametrize("without", ["fuse_attention", "fuse_embed_norm"])
def test_what_tells_batch_from_sequence_has_to_be_fused(without: str) -> None:
    with pytest.raises(BertcError, match="has no packed form") as caught:
        bertc.compile(small_spec(passes=PASSES, without=f"[{without}]"))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("target", ["onnx", "rtx"])
def test_targets_without_packed_attention_refuse(target: str, tmp_path: Path) -> None:
    with pytest.raises(BertcError, match="which the target does not host") as caught:
        bertc.build(small_spec(passes=PASSES), tmp_path / "x", target, random_seed=0)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []
