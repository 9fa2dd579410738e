"""Attention on the tensorrt target in all its forms: packed, with windows and biases, out of one projection; whole
networks, recorded by the doubles of 10.16 and 11.4 and evaluated in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import packed, small_spec, weights_of
from tensorrt_double import double
from tensorrt_wheel import imported
from test_cuda_families import BOUND, CONFIGURATIONS, batch, spread
from test_families import FAMILIES
from test_families import padded_batch as family_batch
from test_tensorrt import BOUNDS, NETWORKS
from test_tensorrt_target import WIDE, assert_computes, family, kinds, lowered, plugins_in, shipped, trt

import bertc
from bertc.elaborate import elaborate, read_graph
from bertc.errors import BertcError
from bertc.parser import parse_graph
from bertc.reference import evaluate
from bertc.spec import shipped_specs
from bertc.targets.tensorrt import lower_with_plugins
from bertc.targets.tensorrt.attention import plugin_of
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.hosting import Place

__all__ = ["batch", "family", "trt"]

PACKED = ("default", "pack_sequences")


def unpadded(outputs: Mapping[str, Any], there: Any) -> dict[str, Any]:
    """What a packed network gives: the entries of tokens that are there."""
    return {name: value[there] if value.shape[:2] == there.shape else value for name, value in outputs.items()}


@pytest.mark.parametrize("plugins", ["auto", "all"])
@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[-1]])
@pytest.mark.parametrize("precision", BOUNDS)
def test_packed_networks(trt: Any, precision: str, network: str, plugins: str, padded_batch: Mapping[str, Any]) -> None:
    spec = replace(small_spec(precision=precision, network=network), sizes=WIDE, passes=PACKED)
    graph = elaborate(spec)
    weights = weights_of(graph)
    found = lowered(trt, spec, weights, plugins)
    expected = unpadded(evaluate(graph, padded_batch, weights), padded_batch["attention_mask"] > 0)
    assert_computes(trt, found, packed(padded_batch), expected, BOUNDS[precision])
    native = plugins == "auto" and precision != "fp32" and trt.__version__.startswith("11")
    assert kinds(found)["ATTENTION_OUTPUT"] == (2 if native else 0)
    assert plugins_in(found)["packed_attention_of_projection"] == (0 if native else 2)


@pytest.mark.parametrize("name", shipped_specs())
def test_shipped_specs_packed(trt: Any, name: str, padded_batch: Mapping[str, Any]) -> None:
    """In every way to build them they are put together, and computed in one, another on each version."""
    spec, weights = shipped(name)
    expected = unpadded(evaluate(elaborate(spec), padded_batch, weights), padded_batch["attention_mask"] > 0)
    spec = replace(spec, passes=PACKED)
    networks = {plugins: lowered(trt, spec, weights, plugins) for plugins in ("auto", "all")}
    chosen = networks["all" if trt.__version__.startswith("10") else "auto"]
    assert_computes(trt, chosen, packed(padded_batch), expected, BOUNDS["fp16"])


def test_packed_embeddings_and_norms_are_plugins_on_request(trt: Any) -> None:
    spec = replace(small_spec(precision="fp16"), sizes=WIDE, passes=PACKED)
    found = plugins_in(lowered(trt, spec, weights_of(elaborate(spec)), "all"))
    assert found == {"packed_attention_of_projection": 2, "bias_gelu": 2, "packed_embed_norm": 1, "skip_norm": 4}


@pytest.mark.parametrize(
    ("version", "precision", "heads", "reason"),
    [
        ("10.16", "fp16", 16, "IAttention takes no packed sequences in this TensorRT; no plugin was asked for"),
        ("11.4", "fp32", 16, "IAttention fuses in half precision only; no plugin was asked for"),
    ],
)
def test_without_plugins_packed_attention_is_refused(version: str, precision: str, heads: int, reason: str) -> None:
    spec = replace(small_spec(precision=precision), sizes=WIDE, passes=PACKED)
    made = double(version)
    with imported(made, version), pytest.raises(BertcError, match="which the target does not host") as caught:
        lowered(made, spec, weights_of(elaborate(spec)), "none")
    assert reason in str(caught.value)
    assert caught.value.exit_code == 4


def test_without_plugins_packed_attention_is_a_layer_where_there_is_one(padded_batch: Mapping[str, Any]) -> None:
    spec = replace(small_spec(precision="fp16"), sizes=WIDE, passes=PACKED)
    made = double("11.4")
    with imported(made, "11.4"):
        found = lowered(made, spec, weights_of(elaborate(spec)), "none")
    assert kinds(found)["ATTENTION_OUTPUT"] == 2


FORMS = {
    **dict.fromkeys(("roberta", "distilbert", "electra", "albert"), ("of_projection", "of_projection")),
    **dict.fromkeys(("modernbert", "nomic_bert", "gte"), ("", "")),
    "mpnet": ("of_projection_with_bias", "of_projection_with_bias"),
    "deberta": ("of_projection_with_bias", None),
}
"""Family -> what its plugin of attention takes, padded and packed; query and key that are turned by their places do not
lie beside the value any more."""


@pytest.mark.parametrize("name", FORMS)
def test_families_with_the_plugin(trt: Any, name: str, batch: Mapping[str, Any]) -> None:
    """Masks as lengths, windows and biases."""
    spec, there = bertc.load(str(CONFIGURATIONS / name)), batch["attention_mask"] > 0
    graph = elaborate(spec)
    weights = spread(graph)
    expected = evaluate(graph, batch, weights)
    padded_form, packed_form = ("_".join(filter(None, ("attention", of))) for of in map(str, FORMS[name]))
    found = lowered(trt, spec, weights, "attention")
    assert set(plugins_in(found)) == {padded_form}
    assert_computes(trt, found, batch, expected, BOUND, there)
    if FORMS[name][1] is not None:
        found = lowered(trt, replace(spec, passes=PACKED), weights, "attention")
        assert set(plugins_in(found)) == {f"packed_{packed_form}"}
        assert_computes(trt, found, packed(batch), unpadded(expected, there), BOUND)


PACKED_LAYERS = {"modernbert": 2, "modernbert by means": 2, "mpnet": 0}
"""Family -> how many of its attentions are layers of 11 when packed, where not all are: those in a window and those
with a bias are plugins."""


@pytest.mark.parametrize("plugins", ["auto", "all"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if "deberta" not in name])
def test_families_packed(trt: Any, name: str, plugins: str, family: Callable[[str], tuple[Any, Any, Any]]) -> None:
    """DeBERTa cannot be packed, which the pass says."""
    spec, weights, expected = family(name)
    rows = family_batch(FAMILIES[name])
    found = lowered(trt, replace(spec, precision="fp16", passes=PACKED), weights, plugins)
    assert_computes(trt, found, packed(rows), unpadded(expected, rows["attention_mask"] > 0), BOUNDS["fp16"])
    there = FAMILIES[name].fused["attention"]
    native = plugins == "auto" and trt.__version__.startswith("11")
    layers = PACKED_LAYERS.get(name, there) if native else 0
    assert kinds(found)["ATTENTION_OUTPUT"] == layers
    assert sum(count for of, count in plugins_in(found).items() if "attention" in of) == there - layers


def test_any_mask_is_a_bias(trt: Any, padded_batch: Mapping[str, Any]) -> None:
    spec = replace(small_spec(precision="fp16", network="{head: pooled, mask: any_padding}"), sizes=WIDE)
    graph = elaborate(spec)
    weights = weights_of(graph)
    found = lowered(trt, spec, weights, "attention")
    assert plugins_in(found) == {"attention_of_projection_with_bias_alone": 2}
    assert_computes(trt, found, padded_batch, evaluate(graph, padded_batch, weights), BOUNDS["fp16"])


@pytest.mark.parametrize("plugins", ["none", "attention"])
def test_nothing_stands_before_the_plugin(trt: Any, plugins: str) -> None:
    """No mask, and no copies of query, key and value, of which each is a slice, a shape and an order of axes."""
    spec = replace(small_spec(precision="fp16"), sizes=WIDE)
    network = lowered(trt, spec, weights_of(elaborate(spec)), plugins)
    layers = network.definition._state["layers"]
    named = [layer["name"] for layer in layers if layer["kind"] in ("SLICE", "SHUFFLE", "SELECT")]
    copies = [name for name in named if name.startswith("encoder.0.") and "concat" not in name]
    assert bool(copies) == (plugins == "none")
    assert ("mask.padding_mask" in named) == (plugins == "none")


THIRDS = """graph(x: [batch, seq, 96], lengths: i32[batch]):
    one, two, three = split(x, axis=-1, sizes=[32, 32, 32])
    a = transpose(reshape(one, shape=[batch, seq, 2, 16]), axes=[0, 2, 1, 3])
    b = transpose(reshape(two, shape=[batch, seq, 2, 16]), axes=[0, 2, 1, 3])
    c = transpose(reshape(three, shape=[batch, seq, 2, 16]), axes=[0, 2, 1, 3])
    mask = padding_mask(lengths, size=seq)
    y = attention({operands}, mask, scale=0.25)
    return y
"""


@pytest.mark.parametrize(
    ("operands", "reads"),
    [("a, b, c", ("x", "lengths")), ("b, a, c", ("b", "a", "c", "lengths")), ("a, b, b", ("a", "b", "b", "lengths"))],
)
def test_thirds_are_read_in_their_order(operands: str, reads: tuple[str, ...]) -> None:
    graph = read_graph(parse_graph(THIRDS.format(operands=operands)))
    name, operands = plugin_of(graph, graph.producer("y"))
    assert (name, operands) == ("attention_of_projection" if len(reads) == 2 else "attention", reads)


def test_packed_tokens_are_turned_by_their_places(trt: Any) -> None:
    """Attention sees differences of places alone, so that no network tells."""
    text = """graph(x: f32[2, tokens, 4], places: i32[tokens]):
    y = packed_rotary(x, places, base=100.0)
    return y
"""
    graph = read_graph(parse_graph(text))
    x = np.random.default_rng(0).standard_normal((2, 5, 4))
    batch = {"x": x, "places": np.array([0, 1, 2, 0, 1], np.int32)}
    place = Place(Features.of(trt), 90)
    network = lower_with_plugins(trt, trt.Builder(trt.Logger(trt.Logger.ERROR)), graph, {}, small_spec(), place)
    assert_computes(trt, network, batch, evaluate(graph, batch, {}), BOUNDS["fp32"])
