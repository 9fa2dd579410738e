"""Which fused ops TensorRT computes as layers, as plugins, or as what they fuse; what `bertc explain` says of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import small_spec
from tensorrt_double import double
from tensorrt_wheel import imported

from bertc.cli import run
from bertc.elaborate import elaborate, read_graph
from bertc.errors import BertcError, Source
from bertc.parser import parse_graph
from bertc.passes import FUSIONS, Options
from bertc.passes import run as run_passes
from bertc.plugins import PACKED
from bertc.plugins import PLUGINS as FUSED
from bertc.spec import override, parse_spec
from bertc.spec_fields import PLUGINS as NAMED
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.hosting import KERNEL_HEADS, PADDED, PLUGINS, Place, choose
from bertc.targets.tensorrt.plugins import DECLARED

WITHOUT_ATTENTION = {"INetworkDefinition.add_attention", "INetworkDefinition.add_attention_v2"}
WITHOUT_PLUGINS = {"QuickPluginCreationRequest", "IPluginV3OneRuntime"}


def fused_graph(size: int, **fields: str) -> Any:
    """A network after its fusions, with 3 heads of `size`."""
    sizes = f"{{layers: 1, hidden: {3 * size}, heads: 3, inner: 40, vocab: 53, positions: 19}}"
    lines = ["base: bert-base", f"sizes: {sizes}", *(f"{name}: {value}" for name, value in fields.items())]
    *_, last = run_passes(elaborate(parse_spec(Source("x.yaml", "\n".join(lines) + "\n"))), FUSIONS, Options())
    return last.graph


def chosen(op: str, precision: str, place: Place, size: int = 16, **fields: str) -> tuple[str, str]:
    graph = fused_graph(size, **fields)
    node = next(node for node in graph if node.op == op)
    choice = choose(place, graph, node, precision)
    return choice.how, choice.why


def place(*plugins: str, version: str = "11.4", architecture: int = 90, without: Collection[str] = ()) -> Place:
    return Place(Features.of(double(version, without=without)), architecture, plugins or ("auto",))


OLD = {"version": "10.16", "without": WITHOUT_ATTENTION}
ANY_MASK = {"network": "{mask: any_padding}"}


@pytest.mark.parametrize(
    ("where", "precision", "size", "fields", "how", "why"),
    [
        (place(), "fp16", 16, {}, "layer", "TensorRT has a layer"),
        (place(version="10.16"), "bf16", 24, {}, "layer", "TensorRT has a layer"),
        (place(), "fp16", 16, ANY_MASK, "layer", "TensorRT has a layer"),
        (place(), "fp32", 16, {}, "plugin", "half precision only"),
        (place(), "fp16", 12, {}, "expanded", "no multiple of 8; the kernel is for heads of 16, 32, 64, 128, not 12"),
        (place(**OLD), "fp16", 64, {}, "plugin", "older than IAttention"),
        (place(**OLD, architecture=75), "bf16", 64, {}, "expanded", "compiled from sm_80 on, and this GPU is sm_75"),
        (place(**OLD), "fp16", 64, ANY_MASK, "plugin", "older than IAttention"),
        (place("none", **OLD), "fp16", 64, {}, "expanded", "no plugin was asked for"),
        (place("none"), "fp16", 64, {}, "layer", "TensorRT has a layer"),
        (place("all"), "fp16", 64, {}, "plugin", "asked for"),
        (place("attention"), "fp16", 64, {}, "plugin", "asked for"),
        (place("all"), "fp16", 24, {}, "layer", "TensorRT has a layer"),
        (place("all", without=WITHOUT_PLUGINS), "fp16", 64, {}, "layer", "TensorRT has a layer"),
        (
            place(version="10.16", without=WITHOUT_ATTENTION | WITHOUT_PLUGINS),
            "fp16", 64, {}, "expanded", "takes no plugins from Python",
        ),
    ],
)  # fmt: skip
def test_attention(where: Place, precision: str, size: int, fields: Any, how: str, why: str) -> None:
    found = chosen("attention", precision, where, size, **fields)
    assert found[0] == how
    assert why in found[1]


PACKED_GRAPH = """graph(q: f16[4, tokens, 64], starts: i32[batch], lengths: i32[batch]):
    y = packed_attention(q, q, q, starts, lengths, scale=0.125, window={window})
    return y
"""
PACKED_WITH_BIAS = """graph(q: f16[4, tokens, 64], starts: i32[batch], lengths: i32[batch], bias: f16[4, 9, 9]):
    y = packed_biased_attention(q, q, q, starts, lengths, bias, scale=0.125)
    return y
"""


@pytest.mark.parametrize(
    ("where", "text", "how", "why"),
    [
        (place(), PACKED_GRAPH.format(window=0), "layer", "TensorRT has a layer for it"),
        (place("none"), PACKED_GRAPH.format(window=0), "layer", "TensorRT has a layer for it"),
        (place("attention"), PACKED_GRAPH.format(window=0), "plugin", "asked for"),
        (place(version="10.16"), PACKED_GRAPH.format(window=0), "plugin", "takes no packed sequences"),
        (place(), PACKED_GRAPH.format(window=8), "plugin", "no window for packed sequences"),
        (place("none"), PACKED_GRAPH.format(window=8), "expanded", "no window for packed sequences; no plugin was"),
        (place(), PACKED_WITH_BIAS, "plugin", "adds nothing to the scores of packed sequences"),
    ],
)
def test_packed_attention(where: Place, text: str, how: str, why: str) -> None:
    graph = read_graph(parse_graph(text))
    (node,) = (node for node in graph if node.op.startswith("packed"))
    choice = choose(where, graph, node, "fp16")
    assert choice.how == how
    assert why in choice.why


@pytest.mark.parametrize("op", ["embed_norm", "skip_norm", "bias_gelu"])
def test_what_tensorrt_fuses_itself_is_a_plugin_on_request(op: str) -> None:
    assert chosen(op, "fp16", place())[0] == "expanded"
    assert chosen(op, "fp16", place("none"))[0] == "expanded"
    assert chosen(op, "fp16", place("all"))[0] == "plugin"
    assert chosen(op, "fp16", place("auto", op))[0] == "plugin"


def test_products_are_left_to_tensorrt() -> None:
    how, why = chosen("qkv_projection", "fp16", place("all"))
    assert how == "expanded"
    assert "best left to TensorRT" in why


def test_a_plugin_that_is_named_and_cannot_be_had_is_an_error() -> None:
    with pytest.raises(BertcError, match="cannot be a plugin: the kernel is for heads of") as caught:
        chosen("attention", "fp16", place("attention"), 24)
    assert caught.value.exit_code == 4


def test_the_names_are_those_of_kernels() -> None:
    assert set(NAMED) == set(PLUGINS)
    declared = {name.removesuffix("_and_sum").removeprefix("packed_") for name in DECLARED}
    assert {"attention" if name.startswith("attention") else name for name in declared} == set(PLUGINS)
    assert set(PADDED) == set(PACKED) - {"first_tokens", "packed_rotary"}
    assert set(PLUGINS) < set(FUSED)
    assert all(size & (size - 1) == 0 for size in KERNEL_HEADS)


@contextmanager
def installed(version: str) -> Iterator[None]:
    made = double(version)
    with imported(made, version):
        yield


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_explain_says_what_was_chosen_and_why(version: str, capsys: Any) -> None:
    command = ["explain", "bert-base", "expand_unhosted", "--target", "tensorrt", "--precision", "fp16"]
    with installed(version):
        assert run([*command, "--plugins", "auto,skip_norm"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert run([*command, "--json"]) == 0
    assert "attention: 12 layer: TensorRT has a layer for it" in lines
    assert "skip_norm: 24 plugin: asked for" in lines
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "bertc-hosting/1"
    assert found["target"] == "tensorrt"
    assert [len(row["nodes"]) for row in found["ops"] if row["op"] == "attention"] == [12]


def test_explain_says_it_of_every_target(capsys: Any) -> None:
    assert run(["explain", "bert-base", "expand_unhosted", "--target", "rtx", "--precision", "fp16"]) == 0
    assert "attention: 12 layer" in capsys.readouterr().out


def test_a_flag_goes_before_the_spec() -> None:
    spec = small_spec(plugins="[auto, skip_norm]")
    assert spec.plugins == ("auto", "skip_norm")
    assert override(spec, plugins=("none",)).plugins == ("none",)
    assert small_spec().plugins == ("auto",)
