"""Plugins whose kernels are in the engine: it runs with no Python and no library of bertc's.

From the declarations come the functions that `tensorrt.plugin` wants, with the signatures that it checks: to register a
plugin, to offer its tactics, and to compile its kernel for one of them. The PTX of a Triton kernel, and the sizes to
launch it with as expressions of batch and sequence, go into the engine when it is built.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-custom-layers/overview.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import Parameter, Signature
from typing import Any

from bertc.graph import Node
from bertc.targets.cuda.compile_kernels import Source, compile_source, parameters
from bertc.targets.tensorrt.declarations import Plugin, Tactic
from bertc.targets.tensorrt.network import Network
from bertc.targets.tensorrt.plugins import DECLARED, Use, used_results
from bertc.targets.tensorrt.ptx import without_lines, without_scratch

NAMESPACE = "bertc"

SETTINGS = "settings"
"""The one attribute of every plugin: its op's attributes as JSON. Numbers would arrive as arrays of one, which
`tensorrt.plugin` of TensorRT 10 hands to `float`, and NumPy takes no more since 2.4."""

SHARED = 48 << 10
"""Bytes of shared memory that a kernel may have without its host asking the driver for more, which TensorRT is not
known to do."""

ELEMENTS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT32": "i32"}
"""TensorRT's name of a DataType -> the graph's."""

TYPE_NAMES = {"FLOAT": "FP32", "HALF": "FP16"}
"""`tensorrt.plugin`'s names of element types, where they are not those of DataType."""


def add_plugin(network: Network, node: Node, use: Use, architecture: int) -> None:
    """The node as a plugin layer of the same name."""
    trtp = import_module("tensorrt.plugin")
    register(trtp)
    settings = json.dumps({**use.attributes, "architecture": architecture})
    create = getattr(getattr(trtp.op, NAMESPACE), use.plugin.name)
    layer = network.add("plugin", create(*network.operands(use.operands), settings=settings), True)
    network.give_results(layer, node.key, used_results(node))


def register(trtp: Any) -> None:
    """Tell `tensorrt.plugin` of every plugin, once."""
    if hasattr(trtp.op, NAMESPACE):
        return
    for plugin in DECLARED.values():
        name = f"{NAMESPACE}::{plugin.name}"
        trtp.register(name)(_register_function(trtp, plugin))
        trtp.autotune(name)(_autotune_function(trtp, plugin))
        trtp.aot_impl(name)(_kernel_function(trtp, plugin))


def _register_function(trtp: Any, plugin: Plugin) -> Callable[..., Any]:
    def describe(*inputs: Any, settings: str) -> tuple[Any, ...]:
        shapes = {name: tuple(desc.shape_expr) for name, desc in zip(plugin.inputs, inputs, strict=True)}
        shape = tuple(plugin.shapes(shapes))
        return tuple(trtp.from_shape_expr(shape, inputs[0].dtype) for _ in plugin.outputs)

    tensors = [_parameter(name, trtp.TensorDesc) for name in plugin.inputs]
    result = tuple[(trtp.TensorDesc,) * len(plugin.outputs)]
    return _signed(describe, [*tensors, _parameter(SETTINGS, str)], result)


def _autotune_function(trtp: Any, plugin: Plugin) -> Callable[..., Any]:
    def offer(*given: Any) -> list[Any]:
        *inputs, settings, outputs = given
        names: list[str] = [desc.dtype.name for desc in (*inputs, *outputs)]
        types = ", ".join(TYPE_NAMES.get(name, name) for name in names)
        return [trtp.AutoTuneCombination(types, "LINEAR", sorted(_tactics(plugin, inputs, json.loads(settings))))]

    return _signed(offer, [*_plain(plugin), _parameter("outputs")], list[trtp.AutoTuneCombination])


def _kernel_function(trtp: Any, plugin: Plugin) -> Callable[..., Any]:
    def embed(*given: Any) -> tuple[str, str, Any, Any]:
        *inputs, settings, _, tactic = given
        attributes = json.loads(settings)
        chosen, kernel = _tactics(plugin, inputs, attributes)[tactic]
        shapes = {name: tuple(desc.shape_expr) for name, desc in zip(plugin.inputs, inputs, strict=True)}
        launch = plugin.launch(trtp, shapes, {**attributes, **chosen.constants})
        sizes = trtp.KernelLaunchParams()
        for axis, size in zip("xyz", launch.grid, strict=False):
            setattr(sizes, f"grid_{axis}", size)
        sizes.block_x, sizes.shared_mem = kernel.threads, kernel.shared
        numbers = trtp.SymIntExprs(len(plugin.numbers))
        for place, name in enumerate(plugin.numbers):
            numbers[place] = trtp.SymInt32(launch.numbers[name])
        return kernel.name, kernel.ptx, sizes, numbers

    result = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    return _signed(embed, [*_plain(plugin), _parameter("outputs"), _parameter("tactic")], result)


def _plain(plugin: Plugin) -> list[Parameter]:
    return [_parameter(name) for name in (*plugin.inputs, SETTINGS)]


def _parameter(name: str, annotation: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)


def _signed(function: Callable[..., Any], parameters: Sequence[Parameter], result: Any) -> Callable[..., Any]:
    """`tensorrt.plugin` reads a function's signature, so that one made for many plugins says which it is."""
    function.__signature__ = Signature(parameters, return_annotation=result)  # type: ignore[attr-defined]
    return function


# ------------------------------------------------------------------------------------------------------------- kernels


@dataclass(frozen=True)
class Compiled:
    name: str
    ptx: str
    threads: int
    shared: int


@cache
def compiled(source: Source, architecture: int) -> Compiled:
    """A kernel as TensorRT launches it."""
    made = compile_source(source, architecture)
    ptx = without_lines(without_scratch(made.asm["ptx"]))
    return Compiled(made.metadata.name, ptx, made.metadata.num_warps * 32, made.metadata.shared)


def source_of(plugin: Plugin, tactic: Tactic, elements: Sequence[str]) -> Source:
    """The kernel with everything fixed that TensorRT does not pass; `elements` are those of inputs, then outputs."""
    types = dict.fromkeys(plugin.numbers, "i32")
    for name, element in zip((*plugin.inputs, *plugin.outputs), elements, strict=True):
        types[name] = f"*{element}"
    taken = parameters("ahead_of_time", plugin.kernel)
    ordered = tuple((name, types[name]) for name in taken if name in types)
    fixed = tuple((name, tactic.constants.get(name)) for name in taken if name not in types)
    return Source("ahead_of_time", plugin.kernel, ordered, fixed, tactic.warps)


def _tactics(plugin: Plugin, inputs: Sequence[Any], given: Mapping[str, Any]) -> dict[int, tuple[Tactic, Compiled]]:
    """Number of a tactic -> it and its kernel: those that fit the shared memory."""
    elements = [ELEMENTS[desc.dtype.name] for desc in inputs]
    elements += elements[:1] * len(plugin.outputs)
    found: dict[int, tuple[Tactic, Compiled]] = {}
    for number, tactic in enumerate(plugin.tactics(given, elements[0]), 1):
        kernel = compiled(source_of(plugin, tactic, elements), given["architecture"])
        if kernel.shared <= SHARED:
            found[number] = (tactic, kernel)
    return found
