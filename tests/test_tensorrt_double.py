"""The double of TensorRT is as strict as the real module, and records what the real one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx
from conftest import small_spec, weights_of
from tensorrt_double import STUBS, VERSIONS, double
from tensorrt_stub import read_module, read_stub, stub

import bertc
from bertc.targets.tensorrt.lower import lower


def test_the_stub_is_what_the_installed_module_says() -> None:
    assert stub(read_module(tensorrt_rtx)) == (STUBS / "rtx-1.7.stub").read_text("utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stub_has_every_class_of_a_builder(version: str) -> None:
    classes = {found.name: found for found in read_stub((STUBS / f"{version}.stub").read_text("utf-8"))}
    assert {"Builder", "INetworkDefinition", "IBuilderConfig", "ITensor", "Refitter", "Runtime"} <= set(classes)
    assert len(classes) > 190
    assert sum(name.startswith("add_") for name in classes["INetworkDefinition"].methods) > 40


class Setting:
    """A network of one input x: f32[batch, 3], in a double or in the real module."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.x = self.network.add_input("x", trt.float32, (-1, 3))
        self.layer = self.network.add_activation(self.x, trt.ActivationType.RELU)


def without_base(setting: Setting) -> None:
    """A subclass that does not call its base's constructor."""

    class Log(setting.trt.ILogger):
        def __init__(self) -> None:
            pass

        def log(self, severity: Any, msg: str) -> None:
            pass

    setting.trt.Builder(Log())


MISUSE: dict[str, tuple[type[Exception], Callable[[Setting], Any]]] = {
    "an unknown class": (AttributeError, lambda s: s.trt.IActivation),
    "an unknown member": (AttributeError, lambda s: s.network.add_gelu),
    "an unknown attribute set": (AttributeError, lambda s: setattr(s.layer, "kind", 1)),
    "an unknown enumerated name": (AttributeError, lambda s: s.trt.ActivationType.GELU),
    "an enumeration as a table": (TypeError, lambda s: s.trt.ActivationType["RELU"]),
    "too few arguments": (TypeError, lambda s: s.network.add_activation(s.x)),
    "too many arguments": (TypeError, lambda s: s.network.add_activation(s.x, s.trt.ActivationType.RELU, 1)),
    "another parameter's name": (TypeError, lambda s: s.network.add_activation(s.x, kind=s.trt.ActivationType.RELU)),
    "an argument twice": (TypeError, lambda s: s.network.add_identity(s.x, input=s.x)),
    "another enumeration": (TypeError, lambda s: s.network.add_activation(s.x, s.trt.UnaryOperation.SIN)),
    "a number for an enumeration": (TypeError, lambda s: s.network.add_activation(s.x, 0)),
    "a layer for a tensor": (TypeError, lambda s: s.network.add_identity(s.layer)),
    "a text for a tensor": (TypeError, lambda s: s.network.add_identity("x")),
    "a float for a whole number": (TypeError, lambda s: s.network.add_gather(s.x, s.x, 1.0)),
    "a list of other things": (TypeError, lambda s: s.network.add_concatenation([s.x, 1])),
    "floats in a shape": (TypeError, lambda s: s.network.add_input("y", s.trt.float32, (1.0, 2))),
    "a setting of another type": (TypeError, lambda s: setattr(s.layer, "alpha", "much")),
    "a read-only setting": (AttributeError, lambda s: setattr(s.network, "num_layers", 3)),
    "a class that is not constructed": (TypeError, lambda s: s.trt.ITensor()),
    "a subclass without its base": (TypeError, without_base),
}


@pytest.mark.parametrize("misuse", MISUSE)
def test_the_real_module_refuses(misuse: str) -> None:
    expected, act = MISUSE[misuse]
    with pytest.raises(expected):
        act(Setting(tensorrt_rtx))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("misuse", MISUSE)
def test_the_double_refuses_the_same(misuse: str, version: str) -> None:
    expected, act = MISUSE[misuse]
    with pytest.raises(expected):
        act(Setting(double(version)))


def half(setting: Setting) -> Any:
    return setting.network.add_cast(setting.x, setting.trt.float16).get_output(0)


WRONG: dict[str, tuple[str, Callable[[Setting], Any]]] = {
    "types mixed": (
        "mixes",
        lambda s: s.network.add_elementwise(s.x, half(s), s.trt.ElementWiseOperation.SUM).get_output(0).dtype,
    ),
    "ranks mixed": (
        "one rank",
        lambda s: (
            s.network.add_elementwise(
                s.x, s.network.add_input("y", s.trt.float32, (3,)), s.trt.ElementWiseOperation.SUM
            )
            .get_output(0)
            .shape
        ),
    ),
    "a flag that is none": ("holds no flag", lambda s: s.builder.create_network(1 << 20)),
    "a tensor of another network": ("another network", lambda s: s.network.add_identity(Setting(s.trt).x)),
    "an output twice": ("output already", lambda s: [s.network.mark_output(s.x), s.network.mark_output(s.x)]),
    "a change after use": (
        "after its result was used",
        lambda s: [s.layer.get_output(0).shape, s.layer.set_input(0, s.x)],
    ),
    "what nobody wrote": ("does not know", lambda s: s.network.add_lrn(s.x, 1, 1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_double_finds_what_a_build_would(wrong: str) -> None:
    message, act = WRONG[wrong]
    with pytest.raises(AssertionError, match=message):
        act(Setting(double("11.4")))


def test_versions_differ() -> None:
    old, new, rtx = (double(version) for version in VERSIONS)
    assert hasattr(old.BuilderFlag, "FP16")
    assert not hasattr(new.BuilderFlag, "FP16")
    assert not hasattr(old.INetworkDefinition, "add_attention_v2")
    assert hasattr(new.INetworkDefinition, "add_attention_v2")
    assert not hasattr(old.IAttention, "key_value_lengths")
    assert not hasattr(rtx.INetworkDefinition, "add_plugin")
    older = double("10.16", without={"INetworkDefinition.add_attention", "QuickPluginCreationRequest"})
    assert not hasattr(older.INetworkDefinition, "add_attention")
    assert not hasattr(older, "QuickPluginCreationRequest")


def layers(network: Any) -> list[tuple[Any, ...]]:
    """Each layer's name and kind, what it reads, and the names, types and shapes of its results."""
    found: list[tuple[Any, ...]] = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(place) for place in range(layer.num_inputs)]
        outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
        results = [(tensor.name, tensor.dtype.name, tuple(tensor.shape)) for tensor in outputs]
        found.append((layer.name, layer.type.name, [tensor and tensor.name for tensor in inputs], results))
    return found


NETWORKS = [
    "{head: pooled}",
    "{head: question_answering, mask: any_padding}",
    "{embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm, head: masked_lm}",
]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_double_records_what_the_real_module_has(network: str, precision: str) -> None:
    """TensorRT for RTX builds networks without a GPU, so that here the two can be put side by side."""
    spec = small_spec(precision=precision, network=network)
    graph = bertc.compile(spec, "rtx")
    weights = weights_of(graph)
    found, expected = (
        layers(lower(trt, trt.Builder(trt.Logger(trt.Logger.ERROR)), graph, weights, spec).definition)
        for trt in (double("rtx-1.7"), tensorrt_rtx)
    )
    assert found == expected


def test_constants_are_read_where_they_lie() -> None:
    """TensorRT copies no weights: an array that changes or goes before the build changes the network."""
    trt = double("11.4")
    setting, array = Setting(trt), np.arange(6, dtype=np.float32)
    weights = trt.Weights(trt.float32, array.ctypes.data, array.size)
    layer = setting.network.add_constant((2, 3), weights)
    array[0] = 7
    assert layer.weights.tolist() == [7, 1, 2, 3, 4, 5]
