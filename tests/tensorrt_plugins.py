"""What TensorRT asks a plugin written with `tensorrt.plugin`, in its order, and the expressions it answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bertc.plugins import PLUGINS
from bertc.targets.tensorrt.plugins import DECLARED

OPERATIONS = {
    "SUM": lambda x, y: x + y,
    "SUB": lambda x, y: x - y,
    "PROD": lambda x, y: x * y,
    "CEIL_DIV": lambda x, y: -(-x // y),
    "FLOOR_DIV": lambda x, y: x // y,
    "MAX": max,
    "MIN": min,
}


def expression(module: Any, **state: Any) -> Any:
    made = object.__new__(module.IDimensionExpr)
    object.__setattr__(made, "_state", state)
    return made


def value_of(expression: Any, shapes: Sequence[Sequence[int]]) -> int:
    """An expression with the sizes of the inputs put in."""
    state = expression._state
    if state["value"] is not None:
        return state["value"]
    if "size_of" in state:
        place, axis = state["size_of"]
        return shapes[place][axis]
    operation, x, y = state["operation"]
    return OPERATIONS[operation](value_of(x, shapes), value_of(y, shapes))


def computed(name: str, arrays: Sequence[Any], given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The results of a plugin by its op's own reference, from its inputs and attributes."""
    plugin, inputs = DECLARED[name], dict(zip(DECLARED[name].inputs, arrays, strict=True))
    if plugin.kernel == "attention":
        return (attention(inputs, given),)
    op = PLUGINS[name.removesuffix("_and_sum")]
    results = op.reference(*arrays, **{key: given[key] for key in op.attributes})
    return results[: len(plugin.outputs)] if isinstance(results, tuple) else (results,)


def attention(inputs: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Attention of any form. A query that is near no key, as padding may be, has nothing for its context."""
    columns = [inputs[name] for name in ("query", "key", "value") if name in inputs]
    for third in np.split(inputs["projected"], 3, -1) if "projected" in inputs else ():
        heads = third.reshape(*third.shape[:-1], given["heads"], given["size"])
        columns.append(heads.swapaxes(-2, -3))
    scale, window, bias = given["scale"], given["window"], inputs.get("bias")
    if "starts" in inputs:
        packed = (*columns, inputs["starts"], inputs["lengths"])
        if bias is not None:
            assert not window
            return PLUGINS["packed_biased_attention"].reference(*packed, bias, scale=scale)
        return PLUGINS["packed_attention"].reference(*packed, scale=scale, window=window)
    places = np.arange(columns[1].shape[2])
    seen = np.abs(places[:, None] - places) * 2 <= (window or 2 * places.size)
    if "lengths" in inputs:
        seen = seen & (places < inputs["lengths"][:, None, None, None])
    mask = np.where(seen, columns[0].dtype.type(0), -1e30) + (0 if bias is None else bias)
    context = PLUGINS["attention"].reference(*columns, mask, scale=scale)
    nothing = ~np.broadcast_to(seen, (len(context), 1, places.size, places.size)).any((1, 3))
    return np.where(nothing[..., None], 0, context)


def plugin_registry(module: Any) -> Any:
    registry = object.__new__(module.IPluginRegistry)
    object.__setattr__(registry, "_state", module.registry)
    return registry


def build_plugin(module: Any, layer: dict[str, Any], profiles: Sequence[Any]) -> None:
    """Configure a plugin for every profile and take a kernel for each of its tactics, as timing them does:
    `layer["kernels"]`, by number."""
    plugin, inputs, outputs = layer["plugin"], layer["inputs"], layer["outputs"]
    descriptions = [_described(module, tensor) for tensor in (*inputs, *outputs)]
    combinations = plugin.get_supported_format_combinations(descriptions, len(inputs))
    assert len(combinations) % len(descriptions) == 0
    wanted = [(description.desc.type, description.desc.format) for description in descriptions]
    offered = [(combination.type, combination.format) for combination in combinations]
    rows = [offered[start : start + len(wanted)] for start in range(0, len(offered), len(wanted))]
    assert wanted in rows, f"{layer['name']} offers no combination for its own types"
    plugin.configure_plugin(descriptions[: len(inputs)], descriptions[len(inputs) :])
    layer["kernels"] = {
        tactic: _kernel(module, layer, descriptions, tactic) for tactic in plugin.get_valid_tactics() or (0,)
    }


def _kernel(module: Any, layer: Mapping[str, Any], descriptions: Sequence[Any], tactic: int) -> dict[str, Any]:
    """The name, the code, the launch parameters and the further arguments, as expressions of the inputs' sizes."""
    plugin, inputs = layer["plugin"], len(layer["inputs"])
    plugin.set_tactic(tactic)
    parameters, arguments = module.KernelLaunchParams.__new__(module.KernelLaunchParams), SymbolicArguments()
    object.__setattr__(parameters, "_state", {})
    plugin.get_launch_params(layer["expressions"], descriptions, inputs, parameters, arguments, module.IExprBuilder())
    plain = [description.desc for description in descriptions]
    name, code = plugin.get_kernel(plain[:inputs], plain[inputs:])
    launch = {field: value.expr for field, value in parameters._state.items()}
    return {"name": name, "code": code, "launch": launch, "arguments": arguments.expressions}


class SymbolicArguments:
    """ISymExprs, which Python reads by index."""

    def __init__(self) -> None:
        self.expressions: list[Any] = []

    nbSymExprs = property(  # noqa: N815  TensorRT's own name
        lambda self: len(self.expressions), lambda self, count: setattr(self, "expressions", [None] * count)
    )

    def __setitem__(self, index: int, argument: Any) -> None:
        assert argument.dtype.name == "INT32"
        self.expressions[index] = argument.expr


def _described(module: Any, tensor: Any) -> Any:
    dynamic, plain = module.DynamicPluginTensorDesc(), module.PluginTensorDesc()
    plain.dims, plain.type, plain.format, plain.scale = tensor.shape, tensor.dtype, module.TensorFormat.LINEAR, 1.0
    dynamic.desc, dynamic.min, dynamic.opt, dynamic.max = plain, tensor.shape, tensor.shape, tensor.shape
    return dynamic


class IExprBuilder:
    def constant(self, arg0):
        return expression(self._double, value=arg0)

    def operation(self, arg0, arg1, arg2):
        known = arg1._state["value"] is not None and arg2._state["value"] is not None
        value = OPERATIONS[arg0.name](arg1._state["value"], arg2._state["value"]) if known else None
        return expression(self._double, value=value, operation=(arg0.name, arg1, arg2))


class IDimensionExpr:
    def is_constant(self):
        return self._state["value"] is not None

    def get_constant_value(self):
        return self._state["value"]


class DimsExprs:
    def __init__(self, arg0=()):
        self._state["sizes"] = list(arg0) if isinstance(arg0, Sequence) else [None] * arg0

    def __len__(self):
        return len(self._state["sizes"])

    def __getitem__(self, index):
        return self._state["sizes"][index]

    def __iter__(self):
        return iter(self._state["sizes"])

    def __setitem__(self, index, size):
        self._state["sizes"][index] = size


class PluginField:
    def __init__(self, name="", data=None, type=None):
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.asarray(data)
        self._state |= {"name": name, "data": array, "type": type}


class PluginFieldCollection:
    def __init__(self, arg0=()):
        self._state["fields"] = list(arg0)

    def __iter__(self):
        return iter(self._state["fields"])

    def __len__(self):
        return len(self._state["fields"])


class IPluginRegistry:
    def register_creator(self, creator, plugin_namespace=""):
        key = (creator.name, plugin_namespace)
        assert key not in self._state, f"{key} is registered twice"
        self._state[key] = creator
        return True

    def get_creator(self, type, version, plugin_namespace=""):
        return self._state[type, plugin_namespace]


PLUGIN_RECORDERS: Mapping[str, Any] = {
    owner.__name__: owner
    for owner in (IExprBuilder, IDimensionExpr, DimsExprs, PluginField, PluginFieldCollection, IPluginRegistry)
}
