"""The rtx target: real engines, built without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_spec, weights_of

import bertc
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.graph import Graph
from bertc.reference import evaluate
from bertc.spec import shipped_specs

trt = pytest.importorskip("tensorrt_rtx")
import network_evaluator  # noqa: E402

from bertc.targets.tensorrt.log import make_log  # noqa: E402
from bertc.targets.tensorrt.lower import lower  # noqa: E402  comes after the package that the line above asks for
from bertc.targets.tensorrt.network import Network  # noqa: E402

PRE_NORM = (
    "{embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm, head: masked_lm}"
)


@pytest.mark.parametrize("network", ["{head: pooled}", "{head: question_answering, mask: any_padding}", PRE_NORM])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_builds_without_a_gpu(precision: str, network: str, tmp_path: Path) -> None:
    bundle = bertc.build(small_spec(precision=precision, network=network), tmp_path / "x", "rtx", random_seed=0)
    assert bundle.manifest.files["model.plan"].size > 100_000


def test_heads_that_no_layer_takes_are_expanded(tmp_path: Path) -> None:
    """IAttention of half precision wants heads of a multiple of 8; these have 12."""
    spec = small_spec(precision="fp16")
    spec = replace(spec, sizes={**spec.sizes, "hidden": 36, "head_size": 12, "embedding_size": 36})
    bundle = bertc.build(spec, tmp_path / "x", "rtx", random_seed=0, architectures=["sm_86"])
    assert "attention(" not in (tmp_path / "x" / "graph.net").read_text()
    assert bundle.manifest.files["model.plan"].size > 100_000


def test_names_and_attention_come_from_the_graph() -> None:
    spec = small_spec(precision="fp16")
    graph = bertc.compile(spec, "rtx")
    network = lower(trt, trt.Builder(trt.Logger(trt.Logger.ERROR)), graph, weights_of(graph), spec)
    layers = [network.definition.get_layer(index) for index in range(network.definition.num_layers)]
    assert sum(layer.type == trt.LayerType.ATTENTION_OUTPUT for layer in layers) == 2
    computed = {node.key for node in graph if node.op != "input" and not graph.is_constant(node.key)}
    names = {layer.name for layer in layers}
    assert {key for key in computed if graph.producer(key).op != "split"} <= names
    outputs = [network.definition.get_output(index).name for index in range(network.definition.num_outputs)]
    assert outputs == ["last_hidden_state", "pooler_output"]


@pytest.mark.parametrize(
    ("precision", "architecture", "reason"),
    [
        ("fp32", "sm_75", "FP32 GEMM is not supported"),
        ("bf16", "sm_75", "no bf16"),
        ("fp16", "sm_90", "does not build for `sm_90`"),
    ],
)
def test_refuses_with_a_reason_and_leaves_nothing(
    precision: str, architecture: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BertcError, match=reason) as caught:
        bertc.build(small_spec(precision=precision), tmp_path / "x", "rtx", random_seed=0, architectures=[architecture])
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_is_refused_is_told_in_the_builders_own_words() -> None:
    """It has a None for it."""
    network = Network(trt, trt.Builder(make_log(trt)), Graph(), {}, refit=False)
    with pytest.raises(BertcError, match=r"could not add `concatenation` to the network: .*Error Code 3") as caught:
        network.add("concatenation", [])
    assert caught.value.exit_code == 5


BOUNDS = {"fp32": 2e-5, "fp16": 2e-2, "bf16": 1.5e-1}
"""Hidden states reach 4; two layers round them to 24, 11 and 8 bits a few times over."""

NETWORKS = [
    *(f"{{head: {head}}}" for head in ("pooled", "question_answering", "sequence_classification", "masked_lm")),
    "{head: token_classification, mask: any_padding}",
    PRE_NORM,
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", BOUNDS)
def test_the_network_computes_what_the_reference_does(
    precision: str, network: str, padded_batch: Mapping[str, Any]
) -> None:
    spec = small_spec(precision=precision, network=network)
    graph = elaborate(spec)
    weights = weights_of(graph)
    assert_lowered_equals(evaluate(graph, padded_batch, weights), spec, weights, padded_batch)


def assert_lowered_equals(expected: Mapping[str, Any], spec: Any, weights: Any, batch: Mapping[str, Any]) -> None:
    graph = bertc.compile(spec, "rtx")
    lowered = lower(trt, trt.Builder(trt.Logger(trt.Logger.ERROR)), graph, weights, spec)
    found = network_evaluator.evaluate(trt, lowered.definition, batch, lowered.arrays)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert value.dtype == np.float32
        assert np.abs(value - expected[name]).max() < BOUNDS[spec.precision], name


@cache
def shipped(name: str) -> tuple[Any, Any]:
    """A shipped spec of its own sizes, cut to two layers, and weights for it."""
    spec = bertc.load(name)
    spec = replace(
        spec,
        sizes={**spec.sizes, "layers": 2},
        network={slot: replace(at, repeat=at.repeat and 2) for slot, at in spec.network.items()},
    )
    return spec, weights_of(elaborate(spec))


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", shipped_specs())
def test_shipped_specs_of_their_own_sizes(name: str, precision: str, padded_batch: Mapping[str, Any]) -> None:
    spec, weights = shipped(name)
    expected = evaluate(elaborate(spec), padded_batch, weights)
    assert_lowered_equals(expected, replace(spec, precision=precision), weights, padded_batch)
