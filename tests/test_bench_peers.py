"""Peers compute what bundles compute: the same graph in torch's functions, the same weights in transformers' model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import packed, small_spec, weights_of

import bertc
from bertc.bench.peers import Network, bundle_graph, bundle_weights, check_peer, open_peer
from bertc.bench.torch_network import biased_product, to_torch, torch_constants
from bertc.bench.torch_ops import OPS as TORCH_OPS
from bertc.bundle import read_bundle
from bertc.compiler import compile
from bertc.elaborate import elaborate
from bertc.errors import BertcError
from bertc.graph import INPUT, WEIGHT, Graph
from bertc.plugins import OPS
from bertc.reference import evaluate
from bertc.spec import Spec

BOUND = 5e-6
"""float32 beside float64, two layers, values up to 5."""

HEADS = ("pooled", "question_answering", "sequence_classification", "token_classification", "masked_lm")

PRE_NORM = "{embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm}"

SPECS = {
    **{head: {"network": f"{{head: {head}}}"} for head in HEADS},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "relu": {"activation": "relu"},
    "any padding": {"network": "{mask: any_padding}"},
    "pre-norm": {"network": PRE_NORM},
}


def whole_batch() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 53, (3, 11)).astype(np.int32)
    types = generator.integers(0, 2, (3, 11)).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}


def torch_outputs(graph: Graph, weights: Any, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    module = to_torch(graph, torch_constants(graph, weights, "cpu"), sizes)
    with torch.inference_mode():
        results = module(*(torch.from_numpy(np.asarray(inputs[node.key], np.int32)) for node in graph.inputs))
    return dict(zip(graph.outputs, (result.numpy() for result in results), strict=True))


@pytest.mark.parametrize("target", [None, "onnx", "cuda"])
@pytest.mark.parametrize("fields", SPECS.values(), ids=SPECS)
def test_torch_computes_the_graph(fields: dict[str, str], target: str | None) -> None:
    spec = small_spec(**fields)
    elaborated = elaborate(spec)
    weights, inputs = weights_of(elaborated), whole_batch()
    found = torch_outputs(compile(spec, target), weights, inputs, {"batch": 3, "seq": 11})
    for name, expected in evaluate(elaborated, inputs, weights).items():
        assert np.abs(found[name] - expected).max() < BOUND, name


def test_torch_computes_graphs_before_any_pass() -> None:
    """Every primitive op by itself, a mask of padding among them."""
    graph = elaborate(small_spec())
    weights, inputs = weights_of(graph), whole_batch()
    inputs["attention_mask"][1, 4:] = 0
    found = torch_outputs(graph, weights, inputs, {"batch": 3, "seq": 11})
    for name, expected in evaluate(graph, inputs, weights).items():
        assert np.abs(found[name] - expected).max() < BOUND, name


def test_torch_computes_packed_graphs_of_whole_rows() -> None:
    spec = small_spec(passes="[default, pack_sequences]")
    elaborated = elaborate(spec)
    weights, inputs = weights_of(elaborated), whole_batch()
    sizes = {"batch": 3, "seq": 11, "tokens": 33}
    found = torch_outputs(compile(spec, "cuda"), weights, packed(inputs), sizes)
    for name, expected in evaluate(elaborated, inputs, weights).items():
        assert np.abs(found[name].reshape(expected.shape) - expected).max() < BOUND, name


def test_torch_is_written_for_speed() -> None:
    """One linear for a product with its bias, one fused attention a layer, and no mask made of lengths."""
    graph = compile(small_spec(), "cuda")
    module = to_torch(graph, torch_constants(graph, weights_of(elaborate(small_spec())), "cpu"), {"batch": 1, "seq": 4})
    called = [getattr(node.target, "__name__", "") for node in module.graph.nodes if node.op == "call_function"]
    assert sum(biased_product(graph, node) is not None for node in graph) == 2 * 3 + 1
    assert called.count("linear") == 2 * 3 + 1
    assert called.count("attention") == 2
    assert not {"matmul", "padding_mask", "bias_gelu"} & set(called)


@pytest.mark.parametrize("name", ["minilm-l6", "bert-base", "bert-large", "megatron-345m"])
@pytest.mark.parametrize("target", ["onnx", "cuda"])
def test_every_op_of_shipped_networks_is_known(name: str, target: str) -> None:
    graph = compile(bertc.load(name), target)
    used = {node.op for node in graph if node.op not in (INPUT, WEIGHT) and not graph.is_constant(node.key)}
    assert used <= TORCH_OPS.keys() <= OPS.keys()


def test_ops_that_small_networks_do_not_tell_apart() -> None:
    """The forms of GELU differ where values are large; and ops that shipped networks do not have."""
    generator = np.random.default_rng(0)
    x, mask = generator.standard_normal((2, 3, 7, 8)), np.where(np.arange(7) < 5, 0.0, -10000.0)[None, None, None]
    word, position, scale, bias = (generator.standard_normal(shape) for shape in ((9, 4), (12, 4), (4,), (4,)))
    ids, starts, lengths = generator.integers(0, 9, (2, 5)), np.array([0, 3]), np.array([3, 3])
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        *((name, (3.0 * x,), {}) for name in ("gelu", "gelu_tanh", "silu", "sigmoid", "relu", "tanh")),
        *((name, (3.0 * x, x[0, 0, 0]), {}) for name in ("bias_gelu", "bias_gelu_tanh")),
        ("rotary", (x,), {"base": 10000.0}),
        ("local_mask", (mask,), {"window": 4}),
        ("take_along", (x, generator.integers(0, 8, (7, 5))), {}),
        ("untyped_embed_norm", (word, position, ids, scale, bias), {"eps": 1e-5, "offset": 2}),
        ("packed_untyped_embed_norm", (word, position, ids[0], ids[1], scale, bias), {"eps": 1e-5, "offset": 2}),
        ("packed_rotary", (x[0], np.arange(7) % 4), {"base": 10000.0}),
        ("packed_attention", (*x[0, :, None, :6], starts, lengths), {"scale": 0.5, "window": 2}),
        ("packed_biased_attention", (*x[0, :, None, :6], starts, lengths, x[1, :1, :4, :4]), {"scale": 0.5}),
    ]
    for name, arrays, attributes in cases:
        expected = OPS[name].reference(*arrays, **attributes)
        found = TORCH_OPS[name](*map(torch.from_numpy, arrays), **attributes)
        pairs = zip(expected, found, strict=True) if isinstance(found, tuple) else [(expected, found)]
        for wanted, tensor in pairs:
            assert np.abs(tensor.numpy() - wanted).max() < BOUND, name


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "x"
    bertc.build(small_spec(), path, "onnx", random_seed=0)
    return path


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_peers_answer_as_the_bundle(bundle: Path, name: str) -> None:
    opened = read_bundle(bundle)
    graph = bundle_graph(opened)
    weights, same = bundle_weights(opened, graph, None, None)
    assert same
    peer = open_peer(name, Network(graph, weights, opened.manifest.sizes, None))
    assert peer.description.startswith(f"{name} ")
    for batch, seq in ((3, 11), (1, 11), (11, 11)):
        inputs = {key: np.resize(array, (batch, seq)) for key, array in whole_batch().items()}
        with bertc.open(bundle) as engine:
            expected = engine.run(inputs)
        found: Any = peer.prepare(inputs).run()
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            assert found[key].shape == array.shape
            assert np.abs(found[key] - array).max() < BOUND, key


def test_weights_of_a_spec_are_those_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    opened = read_bundle(bundle)
    graph = bundle_graph(opened)
    spec = small_spec()
    tensors = {name: np.array(tensor.read()) for name, tensor in weights_of(elaborate(spec), seed=0).items()}
    save_file(tensors, tmp_path / "same.safetensors")
    assert bundle_weights(opened, graph, spec, tmp_path / "same.safetensors")[1]
    tensors["pooler.bias"] = tensors["pooler.bias"] + 1
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(BertcError, match=r"other.safetensors` does not hold the weights") as caught:
        bundle_weights(opened, graph, spec, tmp_path / "other.safetensors")
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0802", 3)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    bertc.build(small_spec(), tmp_path / "x", "onnx", random_seed=1)
    opened = read_bundle(tmp_path / "x")
    assert not bundle_weights(opened, bundle_graph(opened), None, None)[1]


REFUSED: dict[str, Spec] = {
    "another network": small_spec(network=PRE_NORM),
    "another head": small_spec(network="{head: question_answering}"),
}


@pytest.mark.parametrize("spec", REFUSED.values(), ids=REFUSED)
def test_onnxruntime_knows_bert_alone(spec: Spec) -> None:
    graph = compile(spec, "onnx")
    with pytest.raises(BertcError, match="knows BERT's hidden states and pooler alone") as caught:
        open_peer("onnxruntime", Network(graph, weights_of(elaborate(spec)), dict(spec.sizes), None))
    assert (caught.value.diagnostics[0].code, caught.value.exit_code) == ("B0801", 4)


def test_a_peer_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BertcError, match="did you mean `torch`") as caught:
        check_peer("touch")
    assert caught.value.exit_code == 2
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BertcError, match="`--against onnxruntime` needs the package transformers") as caught:
        check_peer("onnxruntime")
    assert "pip install 'bertc[bench]'" in str(caught.value)
    assert caught.value.exit_code == 4


def test_an_op_that_torch_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = compile(small_spec(), "cuda")
    monkeypatch.delitem(TORCH_OPS, "skip_norm")
    with pytest.raises(BertcError, match="torch as a peer does not know the op skip_norm") as caught:
        to_torch(graph, torch_constants(graph, weights_of(elaborate(small_spec())), "cpu"), {"batch": 1, "seq": 4})
    assert caught.value.exit_code == 4
