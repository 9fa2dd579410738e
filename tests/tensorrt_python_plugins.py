"""What TensorRT asks an IPluginV3 that is written in Python, in its order, when it builds and when it runs.

Source: the class references of IPluginV3OneCore, IPluginV3OneBuild and IPluginV3OneRuntime,
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Plugin/IPluginV3.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorrt_plan import DTYPES
from tensorrt_plugins import _described as described

from bertc.targets.tensorrt.plugins import DECLARED


def build_python_plugin(module: Any, layer: dict[str, Any], profiles: Sequence[Any]) -> None:
    """Settle types, configure, take the tactics, and what goes into the plan as `layer["fields"]`."""
    plugin, tensors = layer["plugin"], (*layer["inputs"], *layer["outputs"])
    count = len(layer["inputs"])
    kinds = module.PluginCapabilityType
    assert all(plugin.get_capability_interface(kind) is plugin for kind in (kinds.CORE, kinds.BUILD, kinds.RUNTIME))
    descriptions = [described(module, tensor) for tensor in tensors]
    for position, description in enumerate(descriptions):
        assert plugin.supports_format_combination(position, descriptions, count)
        own, description.desc.type = description.desc.type, module.DataType.INT8
        assert position == 0 or not plugin.supports_format_combination(position, descriptions, count)
        description.desc.type = own
        description.desc.format = module.TensorFormat.CHW32
        assert not plugin.supports_format_combination(position, descriptions, count)
        description.desc.format = module.TensorFormat.LINEAR
    plugin.configure_plugin(descriptions[:count], descriptions[count:])
    assert plugin.clone().get_valid_tactics() == plugin.get_valid_tactics()
    assert plugin.timing_cache_id == ""
    layer["tactics"] = plugin.get_valid_tactics()
    assert min(layer["tactics"]) > 0, "tactics are counted from 1"
    layer["fields"] = plugin.get_fields_to_serialize()
    assert isinstance(layer["fields"], module.PluginFieldCollection)


def loaded_plugin(module: Any, layer: dict[str, Any]) -> None:
    """The plugin as a plan has it, made by the creator that is registered under its name, with its last tactic."""
    plugin = layer["plugin"]
    registry = module.get_plugin_registry()
    creator = registry.get_creator(plugin.plugin_name, plugin.plugin_version, plugin.plugin_namespace)
    made = creator.create_plugin(plugin.plugin_name, layer["fields"], module.TensorRTPhase.RUNTIME)
    layer["loaded"] = made.attach_to_context(None)
    layer["loaded"].set_tactic(layer["tactics"][-1])


def run_plugin(module: Any, layer: Any, arrays: Sequence[Any]) -> Any:
    """One call of a plugin, on a stream and on memory of its own."""
    driver, plugin = module.driver, layer._state["loaded"]
    _, stream = driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
    outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
    known = dict(zip(names(plugin), (array.shape for array in arrays), strict=True))
    shape = tuple(DECLARED[plugin.plugin_name].shapes(known))
    results = [np.zeros(shape, DTYPES[output.dtype.name]) for output in outputs]
    tensors = [np.ascontiguousarray(array) for array in arrays] + results
    addresses = [driver.cuMemAlloc(array.nbytes)[1] for array in tensors]
    for address, array in zip(addresses, tensors, strict=True):
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
    types = [layer.get_input(place).dtype for place in range(layer.num_inputs)] + [output.dtype for output in outputs]
    given = [plain(module, dtype, array.shape) for dtype, array in zip(types, tensors, strict=True)]
    count = len(arrays)
    plugin.on_shape_change(given[:count], given[count:])
    plugin.enqueue(given[:count], given[count:], addresses[:count], addresses[count:], 0, stream)
    driver.cuStreamSynchronize(stream)
    for address, array in zip(addresses[count:], results, strict=True):
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
    for address in addresses:
        driver.cuMemFree(address)
    driver.cuStreamDestroy(stream)
    return tuple(results) if len(results) > 1 else results[0]


def names(plugin: Any) -> Sequence[str]:
    return DECLARED[plugin.plugin_name].inputs


def plain(module: Any, dtype: Any, shape: Sequence[int]) -> Any:
    description = module.PluginTensorDesc()
    description.dims, description.type = tuple(shape), dtype
    description.format, description.scale = module.TensorFormat.LINEAR, 1.0
    return description
