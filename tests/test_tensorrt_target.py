"""The tensorrt target: networks of TensorRT 10.16 and 11.4, recorded by strict doubles and evaluated in NumPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import network_evaluator
import numpy as np
import pytest
from conftest import small_spec, weights_of
from tensorrt_double import OLDER, double
from tensorrt_wheel import imported
from test_families import FAMILIES, saved, tokens_of
from test_families import padded_batch as family_batch
from test_tensorrt import BOUNDS, NETWORKS
from test_tensorrt_double import layers

import bertc
from bertc.compiler import bind_weights
from bertc.elaborate import elaborate
from bertc.passes import Options, pipeline, run
from bertc.reference import evaluate
from bertc.spec import shipped_specs
from bertc.targets import tensorrt as target
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.hosting import Place, hosts_at

VERSIONS = ("10.16", "11.4")
MODES = ("none", "auto", "all")

WIDE = {**small_spec().sizes, "hidden": 48, "heads": 3, "head_size": 16, "embedding_size": 48}
"""Heads of 16, which the kernel of attention takes."""


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = double(request.param)
    with imported(made, request.param):
        yield made


def lowered(trt: Any, spec: Any, weights: Any, *plugins: str, architecture: int = 90) -> Any:
    """The network of a spec, every layer of it checked."""
    place = Place(Features.of(trt), architecture, plugins)
    *_, last = run(elaborate(spec), pipeline(spec.passes, spec.without), Options(spec.precision, hosts_at(place)))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = target.lower_with_plugins(trt, builder, last.graph, weights, spec, place)
    outputs = [network.definition.get_output(index) for index in range(network.definition.num_outputs)]
    assert all(output.dtype == trt.float32 for output in outputs)
    return network


def kinds(network: Any) -> Counter[str]:
    definition = network.definition
    return Counter(definition.get_layer(index).type.name for index in range(definition.num_layers))


def plugins_in(network: Any) -> Counter[str]:
    layers = network.definition._state["layers"]
    return Counter(layer["plugin"].plugin_name for layer in layers if layer["kind"] == "PLUGIN_V3")


def assert_computes(
    trt: Any, network: Any, batch: Mapping[str, Any], expected: Mapping[str, Any], bound: float, there: Any = ...
) -> None:
    found = network_evaluator.evaluate(trt, network.definition, batch, network.arrays)
    assert list(found) == list(expected)
    for name, value in found.items():
        at = there if value.ndim == 3 else ...
        assert np.abs(value - expected[name])[at].max() < bound, name


@pytest.mark.parametrize("plugins", MODES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", BOUNDS)
def test_the_network_computes_what_the_reference_does(
    trt: Any, precision: str, network: str, plugins: str, padded_batch: Mapping[str, Any]
) -> None:
    spec = replace(small_spec(precision=precision, network=network), sizes=WIDE)
    graph = elaborate(spec)
    weights = weights_of(graph)
    found = lowered(trt, spec, weights, plugins)
    assert_computes(trt, found, padded_batch, evaluate(graph, padded_batch, weights), BOUNDS[precision])


WITH_PLUGIN = {("10.12", "auto"), ("10.12", "all"), ("10.14", "all")}


@pytest.mark.parametrize("plugins", MODES)
@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[-1]])
@pytest.mark.parametrize("version", OLDER)
def test_older_versions(version: str, network: str, plugins: str, padded_batch: Mapping[str, Any]) -> None:
    """Without IAttention, `auto` has a plugin for attention."""
    spec = replace(small_spec(precision="fp16", network=network), sizes=WIDE)
    graph = elaborate(spec)
    weights = weights_of(graph)
    trt = double(version)
    with imported(trt, version):
        found = lowered(trt, spec, weights, plugins)
        assert_computes(trt, found, padded_batch, evaluate(graph, padded_batch, weights), BOUNDS["fp16"])
    assert kinds(found)["ATTENTION_OUTPUT"] == (2 if version == "10.14" and plugins != "all" else 0)
    assert plugins_in(found)["attention_of_projection"] == (2 if (version, plugins) in WITH_PLUGIN else 0)


def test_all_has_a_plugin_for_each_fused_op_and_none_has_none(trt: Any) -> None:
    """Post-norm networks read no sum of residuals, so that their plugins write none; pre-norm networks read all but the
    last. The head for masked words has a GELU of its own."""
    post, pre = (replace(small_spec(precision="fp16", network=at), sizes=WIDE) for at in (NETWORKS[0], NETWORKS[-1]))
    weights = weights_of(elaborate(post))
    found = plugins_in(lowered(trt, post, weights, "all"))
    assert found == {"attention_of_projection": 2, "bias_gelu": 2, "embed_norm": 1, "skip_norm": 4}
    found = plugins_in(lowered(trt, pre, weights_of(elaborate(pre)), "all"))
    assert found == {
        "attention_of_projection": 2,
        "bias_gelu": 3,
        "embed_norm_and_sum": 1,
        "skip_norm_and_sum": 3,
        "skip_norm": 1,
    }
    for plugins in ("none", "auto"):
        network = lowered(trt, post, weights, plugins)
        assert not plugins_in(network)
        assert kinds(network)["ATTENTION_OUTPUT"] == 2


@cache
def shipped(name: str) -> tuple[Any, Any]:
    """A shipped spec of its own sizes, but for one layer and few words, and weights for it."""
    spec = bertc.load(name)
    network = {slot: replace(at, repeat=at.repeat and 1) for slot, at in spec.network.items()}
    spec = replace(spec, sizes={**spec.sizes, "layers": 1, "vocab": 53}, network=network, precision="fp16")
    return spec, weights_of(elaborate(spec))


@pytest.mark.parametrize("name", shipped_specs())
def test_shipped_specs(trt: Any, name: str, padded_batch: Mapping[str, Any]) -> None:
    """With `auto` as with `none`, to the layer: in half precision TensorRT has one for attention."""
    spec, weights = shipped(name)
    networks = {plugins: lowered(trt, spec, weights, plugins) for plugins in MODES}
    expected = evaluate(elaborate(spec), padded_batch, weights)
    for plugins in ("none", "all"):
        assert_computes(trt, networks[plugins], padded_batch, expected, BOUNDS["fp16"])
    assert layers(networks["auto"].definition) == layers(networks["none"].definition)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any, Any]]:
    """A family's spec with heads of 16, its weights and answers, made once for all versions."""

    @cache
    def made(name: str) -> tuple[Any, Any, Any]:
        folder = tmp_path_factory.mktemp("family")
        sizes = {**FAMILIES[name].sizes, "hidden_size": 48, "intermediate_size": 64}
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FAMILIES, name, replace(FAMILIES[name], sizes=sizes))
            saved(name, "Model", folder)
        spec = bertc.load(str(folder))
        graph = elaborate(spec)
        weights = bind_weights(spec, graph, None, None)
        return spec, weights, evaluate(graph, family_batch(FAMILIES[name]), weights)

    return made


ATTENTION = {
    ("fp32", "none"): "expanded",
    ("fp32", "auto"): "plugin",
    ("fp32", "all"): "plugin",
    ("fp16", "none"): "layer",
    ("fp16", "auto"): "layer",
    ("fp16", "all"): "plugin",
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families(trt: Any, name: str, precision: str, family: Callable[[str], tuple[Any, Any, Any]]) -> None:
    """Attention with windows and biases, in each of its ways."""
    spec, weights, expected = family(name)
    batch, there = family_batch(FAMILIES[name]), FAMILIES[name].fused["attention"]
    for plugins in MODES:
        network = lowered(trt, replace(spec, precision=precision), weights, plugins)
        assert_computes(trt, network, batch, expected, BOUNDS[precision], tokens_of(batch))
        as_plugin = sum(count for plugin, count in plugins_in(network).items() if plugin.startswith("attention"))
        wanted = ATTENTION[precision, plugins]
        assert kinds(network)["ATTENTION_OUTPUT"] == there * (wanted == "layer")
        assert as_plugin == there * (wanted == "plugin")
