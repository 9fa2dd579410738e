"""What the classes of a double do: a network keeps its layers, a builder asks plugins what TensorRT asks them.

Each class here holds functions for the class of the same name; arguments arrive checked, by name. The state of an
object is a dict that all views of it share, since TensorRT hands layers out as `ILayer`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from tensorrt_building import BUILDER_RECORDERS, made
from tensorrt_inference import LAYERS, settle
from tensorrt_plugins import PLUGIN_RECORDERS, plugin_registry
from tensorrt_running import RUNNING_RECORDERS

NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "INT8": np.int8, "BOOL": np.bool_,
}  # fmt: skip
"""BF16 has no NumPy type, so that TensorRT shows such weights as they were given."""


class INetworkDefinition:
    num_inputs = property(lambda self: len(self._state["inputs"]))
    num_outputs = property(lambda self: len(self._state["outputs"]))
    num_layers = property(lambda self: len(self._state["layers"]))

    def get_input(self, index):
        return self._state["inputs"][index]

    def get_output(self, index):
        return self._state["outputs"][index]

    def get_layer(self, index):
        return made(self._double, "ILayer", self._state["layers"][index])

    def get_flag(self, flag):
        return flag in self._state["creation_flags"]

    def add_input(self, name, dtype, shape):
        tensor = made(
            self._double, "ITensor", name=name, dtype=dtype, shape=tuple(shape), layer=None, network=self._state
        )
        self._state["inputs"].append(tensor)
        return tensor

    def set_weights_name(self, weights, name):
        constants = [layer["given"] for layer in self._state["layers"] if layer["kind"] == "CONSTANT"]
        assert any(weights is given for given in constants), "the weights are not used in the network"
        self._state.setdefault("weights_names", {})[name] = weights
        return True

    def mark_output(self, tensor):
        assert tensor not in self._state["outputs"], f"{tensor.name} is an output already"
        self._state["outputs"].append(tensor)

    def add_attention(self, query, key, value, norm_op, causal):
        return INetworkDefinition._attention(self, query, key, value, norm_op=norm_op, causal=causal)

    def add_attention_v2(self, query, key, value, norm_op, causal_kind):
        return INetworkDefinition._attention(self, query, key, value, norm_op=norm_op, causal_kind=causal_kind)

    def _attention(self, *tensors, **options):
        """Two layers, as TensorRT has it: what IAttention is given goes into the first, and comes out of the second."""
        first = INetworkDefinition.new_layer(self, "ATTENTION_INPUT", "IAttentionInputLayer", list(tensors))
        last = INetworkDefinition.new_layer(self, "ATTENTION_OUTPUT", "IAttentionOutputLayer", [])
        last._state["inputs"] = first._state["outputs"]
        first._state |= options | {"decomposable": False}
        return made(self._double, "IAttention", first=first._state, last=last._state)

    def add_constant(self, shape, weights):
        layer = INetworkDefinition.new_layer(self, "CONSTANT", "IConstantLayer", [])
        assert weights.size == np.prod(shape, dtype=int), f"{weights.size} weights for a constant of {shape}"
        layer._state |= {"shape": tuple(shape), "given": weights}
        return layer

    def add_plugin(self, func, aot=None):
        """The callable is what a plugin's own constructor gave: it makes the plugin that was asked for."""
        requests = self._double.QuickPluginCreationRequest
        inputs, shape_inputs, plugin = func(requests.STRICT_AOT if aot else requests.STRICT_JIT)
        return INetworkDefinition.add_plugin_v3(self, inputs, shape_inputs, plugin)

    def add_plugin_v3(self, inputs, shape_inputs, plugin):
        assert not shape_inputs
        count = plugin.num_outputs if isinstance(plugin, self._double.IPluginV3OneBuild) else plugin.get_num_outputs()
        layer = INetworkDefinition.new_layer(self, "PLUGIN_V3", "IPluginV3Layer", list(inputs), count)
        layer._state["plugin"] = plugin
        return layer

    def add_layer(self, method, result, given):
        """Any other layer: its operands are tensors, its settings the rest, under the names of its properties."""
        kind = method.removeprefix("add_").removesuffix("_v2").upper()
        assert kind in LAYERS, f"the double does not know what {method} computes"
        operands = [value for value in given.values() if isinstance(value, self._double.ITensor)]
        operands = list(given["inputs"]) if "inputs" in given else operands
        layer = INetworkDefinition.new_layer(self, kind, result, operands)
        renamed = {"axesMask": "axes"}
        layer._state |= DEFAULTS.get(kind, lambda module: {})(self._double)
        settings = {n: v for n, v in given.items() if n != "inputs" and not isinstance(v, self._double.ITensor)}
        layer._state |= {renamed.get(name, name): value for name, value in settings.items()}
        return layer

    def new_layer(self, kind, class_name, operands, results=1):
        module, place = self._double, len(self._state["layers"])
        for operand in operands:
            assert operand._state["network"] is self._state, "a tensor of another network"
            if operand._state["layer"] is not None:
                settle(operand._state["layer"])
        state = {"kind": kind, "module": module, "inputs": operands, "name": f"(Unnamed Layer* {place}) [{kind}]"}
        state["network"] = self._state
        state["outputs"] = [
            made(module, "ITensor", layer=state, index=index, network=self._state) for index in range(results)
        ]
        self._state["layers"].append(state)
        return made(module, class_name, state)


class ILayer:
    num_inputs = property(lambda self: len(self._state["inputs"]))
    num_outputs = property(lambda self: len(self._state["outputs"]))
    type = property(lambda self: self._double.LayerType.__members__[self._state["kind"]])

    def get_input(self, index):
        inputs = self._state["inputs"]
        return inputs[index] if index < len(inputs) else None

    def get_output(self, index):
        return self._state["outputs"][index]

    def set_input(self, index, tensor):
        put(self._state, index, tensor)


def put(layer, index, tensor):
    assert "settled" not in layer, f"{layer['name']} is changed after its result was used"
    layer["inputs"] += [None] * (index + 1 - len(layer["inputs"]))
    layer["inputs"][index] = tensor


def operand(index):
    """A tensor that IAttention is given, at its place among the inputs of its first layer."""

    return property(
        lambda self: self._state["first"]["inputs"][index], lambda self, x: put(self._state["first"], index, x)
    )


def option(name):
    return property(lambda self: self._state["first"][name], lambda self, v: self._state["first"].update({name: v}))


def settled(name):
    """What inference says of a tensor, or the network of its input."""

    def get(self):
        layer = self._state["layer"]
        return self._state[name] if layer is None else settle(layer)[self._state["index"]][name]

    return property(get)


class IAttention:
    @property
    def name(self):
        return self._state["first"]["name"].removesuffix("_AttentionInput")

    @name.setter
    def name(self, name):
        self._state["first"]["name"], self._state["last"]["name"] = f"{name}_AttentionInput", f"{name}_AttentionOutput"

    num_inputs = property(lambda self: len(self._state["first"]["inputs"]))

    def get_input(self, index):
        return self._state["first"]["inputs"][index]

    def get_output(self, index):
        return self._state["last"]["outputs"][index]

    mask, query_lengths, key_value_lengths = map(operand, (3, 5, 6))
    decomposable, causal, causal_kind, norm_op = map(option, ("decomposable", "causal", "causal_kind", "norm_op"))
    query_form, key_value_form = map(option, ("query_form", "key_value_form"))


class ITensor:
    @property
    def name(self):
        """As it was set, or after its layer."""
        index = self._state.get("index")
        after = f"_{index}" if index else ""
        return self._state.get("name") or f"{self._state['layer']['name']}_output{after}"

    is_network_input = property(lambda self: self._state["layer"] is None)
    is_network_output = property(lambda self: self in self._state["network"]["outputs"])

    dtype, shape = settled("dtype"), settled("shape")


class IConstantLayer:
    @property
    def weights(self):
        """A copy of what the pointer shows now: the array must have outlived the call."""
        given = self._state["given"]
        if isinstance(given, np.ndarray):
            return given
        if given.dtype.name not in NUMPY:
            return given
        dtype = np.dtype(NUMPY[given.dtype.name])
        if given.size == 0:
            return np.empty(0, dtype)
        return np.frombuffer(ctypes.string_at(given._state["pointer"], given.size * dtype.itemsize), dtype)


class Weights:
    def __init__(self, type, ptr=None, count=0):
        self._state |= {"dtype": type, "pointer": ptr, "size": count}


class Permutation:
    """Of eight axes; those that are not given stay."""

    def __init__(self, arg0=()):
        self._state["order"] = (*arg0, *range(len(arg0), 8))

    def __iter__(self):
        return iter(self._state["order"])


class ILogger:
    def log(self, severity, msg):
        raise NotImplementedError("ILogger.log is for subclasses")


class Logger:
    def __init__(self, min_severity=None):
        self._state["printed"] = []

    def log(self, severity, msg):
        self._state["printed"].append((severity, msg))


DEFAULTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "GATHER": lambda module: {"mode": module.GatherMode.DEFAULT},
    "SHUFFLE": lambda module: {"first_transpose": module.Permutation([]), "zero_is_placeholder": True},
    "CONCATENATION": lambda module: {"axis": 0},
    "NORMALIZATION": lambda module: {"epsilon": 1e-5},
}
"""Settings that a layer has before any is made."""

RECORDERS: dict[str, Any] = {
    owner.__name__: owner
    for owner in (
        INetworkDefinition, ILayer, IAttention, ITensor, IConstantLayer, Weights, Permutation, ILogger, Logger,
    )
} | {**BUILDER_RECORDERS, **PLUGIN_RECORDERS, **RUNNING_RECORDERS}  # fmt: skip

FUNCTIONS = {"get_plugin_registry": plugin_registry}
