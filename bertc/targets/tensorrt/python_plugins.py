"""Plugins that TensorRT calls through Python, for versions without `tensorrt.plugin`: IPluginV3 from the declarations.

What an ahead-of-time plugin leaves in the engine as expressions is computed here for each call: the grid and numbers of
a launch, from the shapes that TensorRT tells. Machine code of every tactic travels in the plan, so that an engine needs
Python, this file and the driver when it runs, and neither Triton nor a compiler.
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Plugin/IPluginV3.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from bertc.graph import Node
from bertc.targets.cuda import ARCHITECTURES
from bertc.targets.cuda.compile_kernels import compile_source
from bertc.targets.cuda.driver import NUMBER, POINTER, call, launch, load_function
from bertc.targets.tensorrt.declarations import Plugin, Shape
from bertc.targets.tensorrt.network import Network
from bertc.targets.tensorrt.plugins import DECLARED, Use, used_results
from bertc.targets.tensorrt.registration import ELEMENTS, NAMESPACE, SETTINGS, SHARED, source_of

VERSION = "1"

CODE, KERNELS = "code", "kernels"
"""Fields of a plan: the machine code of all tactics, one behind the other; where each is, and how it is launched."""


@dataclass(frozen=True)
class Kernel:
    """A tactic, compiled."""

    entry: str
    warps: int
    shared: int
    constants: Mapping[str, Any]
    start: int
    end: int
    """Where its machine code is."""


class Size:
    """A size that TensorRT knows when the engine runs, with the arithmetic that declarations use."""

    def __init__(self, trt: Any, builder: Any, expression: Any) -> None:
        self.trt, self.builder, self.expression = trt, builder, expression

    def __mul__(self, other: Any) -> Size:
        return self._combined("PROD", other)

    def __floordiv__(self, other: Any) -> Size:
        return self._combined("FLOOR_DIV", other)

    def _combined(self, operation: str, other: Any) -> Size:
        operand = other.expression if isinstance(other, Size) else self.builder.constant(other)
        kind = getattr(self.trt.DimensionOperation, operation)
        return Size(self.trt, self.builder, self.builder.operation(kind, self.expression, operand))


def _divide_up(x: int, y: int) -> int:
    return -(-x // y)


KNOWN = SimpleNamespace(cdiv=_divide_up, min=min, max=max)
"""What `tensorrt.plugin` computes of expressions, computed of sizes that are known."""


def add_python_plugin(network: Network, node: Node, use: Use, architecture: int) -> None:
    """The node as a plugin layer of the same name."""
    trt = network.trt
    settings = json.dumps({**use.attributes, "architecture": architecture})
    fields = trt.PluginFieldCollection([_field(trt, SETTINGS, settings.encode())])
    creator = creators(trt)[use.plugin.name]
    plugin = creator.create_plugin(use.plugin.name, fields, trt.TensorRTPhase.BUILD)
    layer = network.add("plugin_v3", network.operands(use.operands), [], plugin)
    network.give_results(layer, node.key, used_results(node))


@cache
def creators(trt: Any) -> Mapping[str, Any]:
    """The creator of each plugin, registered with TensorRT: before a network has them, and before a plan is loaded."""
    made = {plugin.name: _creator(trt, plugin) for plugin in DECLARED.values()}
    for creator in made.values():
        trt.get_plugin_registry().register_creator(creator, NAMESPACE)
    return made


def _creator(trt: Any, plugin: Plugin) -> Any:
    implementation = _implementation(trt, plugin)

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = plugin.name, VERSION, NAMESPACE
            self.field_names = trt.PluginFieldCollection([_field(trt, name) for name in (SETTINGS, KERNELS, CODE)])

        def create_plugin(self, name: str, field_collection: Any, phase: Any) -> Any:
            given = {field.name: bytes(np.asarray(field.data).view(np.uint8)) for field in field_collection}
            return implementation(given)

    return Creator()


def _implementation(trt: Any, plugin: Plugin) -> Any:
    """The class of a plugin: what TensorRT asks when it builds, and what it calls when it runs."""

    class Implementation(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        def __init__(self, given: Mapping[str, bytes]) -> None:
            for base in (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = plugin.name, VERSION, NAMESPACE
            self.num_outputs, self.timing_cache_id = len(plugin.outputs), ""
            self.given = given
            self.settings: dict[str, Any] = json.loads(given[SETTINGS])
            self.code = given.get(CODE, b"")
            self.kernels = {int(n): Kernel(**of) for n, of in json.loads(given.get(KERNELS, b"{}")).items()}
            self.tactic = 0

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            copy = Implementation(self.given)
            copy.code, copy.kernels, copy.tactic = self.code, self.kernels, self.tactic
            return copy

        # ------------------------------------------------------------------------------------------------ building

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return [input_types[0]] * len(plugin.outputs)

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            shapes = {
                name: tuple(Size(trt, builder, expression) for expression in shape)
                for name, shape in zip(plugin.inputs, inputs, strict=True)
            }
            shape = [size.expression for size in plugin.shapes(shapes)]
            return [trt.DimsExprs(shape) for _ in plugin.outputs]

        def supports_format_combination(self, position: int, descriptions: Sequence[Any], inputs: int) -> bool:
            """Everything of one type and in rows, but the ids and lengths, which TensorRT types by itself."""
            given, first = descriptions[position].desc, descriptions[0].desc
            is_number = position < inputs and given.type == trt.int32
            return given.format == trt.TensorFormat.LINEAR and (is_number or given.type == first.type)

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            """Compile every tactic for the types that TensorRT settled on."""
            elements = [ELEMENTS[description.desc.type.name] for description in (*inputs, *outputs)]
            self.kernels, self.code = compiled(plugin.name, json.dumps(self.settings), tuple(elements))

        def get_valid_tactics(self) -> list[int]:
            return sorted(self.kernels)

        # ------------------------------------------------------------------------------------------------- running

        def set_tactic(self, tactic: int) -> None:
            self.tactic = tactic

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            """Nothing is kept of a shape."""

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            content = {
                SETTINGS: json.dumps(self.settings),
                KERNELS: json.dumps({number: vars(kernel) for number, kernel in self.kernels.items()}),
            }
            fields = [_field(trt, name, text.encode()) for name, text in content.items()]
            return trt.PluginFieldCollection([*fields, _field(trt, CODE, self.code)])

        def enqueue(
            self,
            input_descriptions: Sequence[Any],
            output_descriptions: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            """Start the kernel on TensorRT's stream."""
            kernel = self.kernels[self.tactic]
            shapes = {
                name: tuple(description.dims)
                for name, description in zip(plugin.inputs, input_descriptions, strict=True)
            }
            start(plugin, kernel, self.code, {**self.settings, **kernel.constants}, shapes, inputs, outputs, stream)

    return Implementation


def start(
    plugin: Plugin,
    kernel: Kernel,
    code: bytes,
    given: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    inputs: Sequence[int],
    outputs: Sequence[int],
    stream: int,
) -> None:
    """Launch a kernel: addresses of inputs, numbers, addresses of outputs; last, Triton's scratch memory, unused."""
    how = plugin.launch(KNOWN, shapes, given)
    first, second, third = (*how.grid, 1, 1)[:3]
    numbers = [(how.numbers[name], NUMBER) for name in plugin.numbers]
    values = [*_addresses(inputs), *numbers, *_addresses(outputs), *_addresses((0, 0))]
    function = _function(int(call("cuCtxGetCurrent")), code[kernel.start : kernel.end], kernel.entry, kernel.shared)
    launch(stream, function, (first, second, third), kernel.warps, kernel.shared, values)


def _addresses(values: Sequence[int]) -> list[tuple[Any, Any]]:
    return [(value, POINTER) for value in values]


@cache
def _function(context: int, code: bytes, entry: str, shared: int) -> Any:
    """A kernel in a context of the driver's; several layers and contexts of TensorRT's share it."""
    return load_function(code, entry, shared)


@cache
def compiled(name: str, settings: str, elements: tuple[str, ...]) -> tuple[Mapping[int, Kernel], bytes]:
    """The tactics of a plugin by their number, and the machine code of all."""
    plugin, given = DECLARED[name], json.loads(settings)
    most = ARCHITECTURES.get(f"sm_{given['architecture']}", SHARED)
    kernels: dict[int, Kernel] = {}
    code = b""
    for number, tactic in enumerate(plugin.tactics(given, elements[0]), 1):
        made = compile_source(source_of(plugin, tactic, elements), given["architecture"])
        if made.metadata.shared > most:
            continue
        end = len(code) + len(made.asm["cubin"])
        metadata = made.metadata
        kernels[number] = Kernel(metadata.name, metadata.num_warps, metadata.shared, tactic.constants, len(code), end)
        code += made.asm["cubin"]
    return kernels, code


def _field(trt: Any, name: str, content: bytes = b"") -> Any:
    return trt.PluginField(name, np.frombuffer(content, np.int8), trt.PluginFieldType.CHAR)
