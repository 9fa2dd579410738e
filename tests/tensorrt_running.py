"""What the classes of a double do that run and refit an engine: it computes the recorded network in NumPy.

As in tensorrt_recorder.py. What runs is put on a stream of the double of the driver (cuda_double.py), which the module
has as its `driver`.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import network_evaluator
import numpy as np
from tensorrt_building import HostMemory, made
from tensorrt_plan import DTYPES, content, digest, packed
from tensorrt_python_plugins import loaded_plugin, run_plugin

SCRATCH = 64
"""Bytes that a context needs for each token."""


class Alive:
    """Something that TensorRT has on the GPU; the driver's double wants it gone before the GPU is."""


class Runtime:
    def __init__(self, logger):
        self._state |= {"logger": logger, "engine_host_code_allowed": False}

    def deserialize_cuda_engine(self, serialized_engine):
        module, log = self._double, self._state["logger"]
        line, _, blobs = bytes(serialized_engine).partition(b"\n")
        header = json.loads(line)
        refusal = None
        if header["version"] != module.__version__:
            refusal = f"Error Code 6: API Usage Error (The engine plan file is of {header['version']})"
        if header["host_code"] and not self._state["engine_host_code_allowed"]:
            refusal = "Error Code 3: API Usage Error (Plan file contains host code)"
        if refusal:
            log.log(module.ILogger.Severity.ERROR, refusal)
            return None
        network, config = module.builds[header["build"]]
        constants, start = {}, 0
        for name, element, shape, *_ in header["constants"]:
            dtype = np.dtype(DTYPES[element])
            count = int(np.prod(shape, dtype=int))
            constants[name] = np.frombuffer(blobs, dtype, count, start).reshape(shape)
            start += count * dtype.itemsize
        assert start == len(blobs)
        for layer in network._state["layers"]:
            if "fields" in layer:
                loaded_plugin(module, layer)
        state = {"plan": header, "network": network, "config": config, "constants": constants, "logger": log}
        return made(module, "ICudaEngine", **state, alive=alive(module), budget=None)


def alive(module: Any) -> Alive:
    token = Alive()
    if getattr(module, "driver", None) is not None:
        module.driver.guests.add(token)
    return token


class ICudaEngine:
    num_layers = property(lambda self: len(self._state["plan"]["layers"]))
    num_optimization_profiles = property(lambda self: len(self._state["config"]._state["profiles"]))
    refittable = property(lambda self: self._state["plan"]["refittable"])
    streamable_weights_size = property(lambda self: 4096 if self._state["plan"]["streaming"] else 0)

    @property
    def num_io_tensors(self):
        return len(tensors(self))

    @property
    def weight_streaming_budget_v2(self):
        return self._state["budget"]

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget):
        self._state["budget"] = budget

    def get_weight_streaming_automatic_budget(self):
        return 1024

    def get_tensor_name(self, index):
        return tensors(self)[index].name

    def get_tensor_mode(self, name):
        modes = self._double.TensorIOMode
        return modes.INPUT if tensor(self, name).is_network_input else modes.OUTPUT

    def get_tensor_dtype(self, name):
        return tensor(self, name).dtype

    def get_tensor_shape(self, name):
        return tensor(self, name).shape

    def get_tensor_profile_shape(self, name, profile_index):
        return self._state["config"]._state["profiles"][profile_index].get_shape(name)

    def get_device_memory_size_for_profile_v2(self, profile_index):
        first = self._state["network"].get_input(0).name
        return SCRATCH * int(np.prod(ICudaEngine.get_tensor_profile_shape(self, first, profile_index)[2]))

    def create_runtime_config(self):
        return made(self._double, "IRuntimeConfig", {})

    def create_execution_context(self, strategy=None, runtime_config=None):
        if self._state["plan"]["streaming"]:
            assert self._state["budget"] is not None
        if runtime_config is not None:
            strategy = runtime_config._state["strategy"]
        assert strategy == self._double.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._state["plan"]["missing"]:
            self._state["logger"].log(self._double.ILogger.Severity.ERROR, "Error Code 3: weights are missing")
            return None
        state = {
            "of": self,
            "profile": None,
            "shapes": {},
            "addresses": {},
            "memory": None,
            "changes": 0,
            "flushed": -1,
        }
        return made(self._double, "IExecutionContext", **state, alive=alive(self._double))

    def create_engine_inspector(self):
        return made(self._double, "EngineInspector", plan=self._state["plan"])

    def create_serialization_config(self):
        return made(self._double, "ISerializationConfig", given=set())

    def serialize_with_config(self, arg0):
        flags = self._double.SerializationFlag
        header = {**self._state["plan"]}
        assert flags.EXCLUDE_WEIGHTS not in arg0._state["given"]
        assert not header["missing"], "weights are missing"
        header["refittable"] &= hasattr(flags, "INCLUDE_REFIT") and flags.INCLUDE_REFIT in arg0._state["given"]
        return HostMemory(packed(header, [array.tobytes() for array in self._state["constants"].values()]))


def tensors(engine: Any) -> list[Any]:
    network = engine._state["network"]._state
    return [*network["inputs"], *network["outputs"]]


def tensor(engine: Any, name: str) -> Any:
    (found,) = (tensor for tensor in tensors(engine) if tensor.name == name)
    return found


class IRuntimeConfig:
    """How TensorRT for RTX chooses kernels for a shape is kept in the module, as `specialised`."""

    @property
    def dynamic_shapes_kernel_specialization_strategy(self):
        return self._state["specialised"]

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, strategy):
        self._double.specialised = {strategy.name}

    def set_execution_context_allocation_strategy(self, strategy):
        self._state["strategy"] = strategy


class ISerializationConfig:
    def set_flag(self, flag):
        self._state["given"].add(flag)
        return True


class IExecutionContext:
    """Whatever is set counts as a change: what was captured before it may not run any more."""

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._state["changes"] += 1
        if profile_index >= self._state["of"].num_optimization_profiles:
            return failed(self, "there is no such profile")
        self._state |= {"profile": profile_index, "shapes": {}}
        return True

    def set_device_memory(self, memory, size):
        needed = self._state["of"].get_device_memory_size_for_profile_v2(self._state["profile"])
        assert size >= needed, "too little memory for the profile"
        self._double.driver.on_device(memory, size)
        self._state |= {"memory": memory, "changes": self._state["changes"] + 1}

    def set_input_shape(self, name, shape):
        self._state["changes"] += 1
        assert self._state["profile"] is not None, "a context has no profile before it is given one"
        smallest, _, largest = self._state["of"].get_tensor_profile_shape(name, self._state["profile"])
        if not all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
            return failed(self, f"Error Code 3: {name} of {tuple(shape)} is out of the profile's range")
        self._state["shapes"][name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        shapes, engine = self._state["shapes"], self._state["of"]
        if name in shapes:
            return shapes[name]
        inputs = [tensor.name for tensor in tensors(engine) if tensor.is_network_input]
        assert sorted(shapes) == sorted(inputs), "an input has no shape"
        network, constants = engine._state["network"], engine._state["constants"]
        return network_evaluator.evaluate(self._double, network, stand_ins(shapes), {}, constants)[name].shape

    def set_tensor_address(self, name, memory):
        tensor(self._state["of"], name)
        self._state["changes"] += 1
        self._state["addresses"][name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        state, module = self._state, self._double
        driver, engine = module.driver, state["of"]
        names = [tensor.name for tensor in tensors(engine)]
        inputs = [tensor.name for tensor in tensors(engine) if tensor.is_network_input]
        assert state["memory"] is not None, "no memory was given to compute in"
        assert sorted(state["shapes"]) == sorted(inputs), "an input has no shape"
        assert sorted(state["addresses"]) == sorted(names), "a tensor has no address"
        if module.fails_at == state["shapes"][inputs[0]]:
            return failed(self, "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
        kept = [layer for layer in engine._state["network"]._state["layers"] if "fields" in layer]
        plugins = partial(run_plugin, module) if kept else None
        changes = state["changes"]
        if driver.is_capturing(stream_handle):
            assert state["flushed"] == changes, "captured before what follows from its shapes was worked out"
        state["flushed"] = changes

        def compute() -> None:
            assert state["changes"] == changes, "the context was changed after this was started or captured"
            given = {name: at(state["addresses"][name], state["shapes"][name], np.int32) for name in inputs}
            network, constants = engine._state["network"], engine._state["constants"]
            found = network_evaluator.evaluate(module, network, given, {}, constants, plugins)
            for name, array in found.items():
                driver.on_device(state["addresses"][name], array.nbytes)
                at(state["addresses"][name], array.shape, array.dtype)[...] = array

        driver.enqueue(stream_handle, compute, state["memory"], *state["addresses"].values())
        return True


def stand_ins(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Inputs of some shapes; lengths that add up to the tokens."""
    given = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
    if "lengths" in given:
        given["lengths"] += 1
        given["lengths"][-1] += given["places"].size - given["lengths"].size
    return given


def failed(context: Any, message: str) -> bool:
    log = context._state["of"]._state["logger"]
    log.log(context._double.ILogger.Severity.ERROR, message)
    return False


def at(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)


class Refitter:
    def __init__(self, engine, logger):
        assert engine.refittable, "the engine cannot be refitted"
        self._state |= {"of": engine, "logger": logger, "given": {}}

    def get_all_weights(self):
        return [entry[3] for entry in self._state["of"]._state["plan"]["constants"] if entry[3]]

    def get_missing_weights(self):
        missing = self._state["of"]._state["plan"]["missing"]
        return [name for name in missing if name not in self._state["given"]]

    def get_weights_prototype(self, weights_name):
        (found,) = (entry for entry in self._state["of"]._state["plan"]["constants"] if entry[3] == weights_name)
        types, count = self._double.DataType.__members__, int(np.prod(found[2], dtype=int))
        return self._double.Weights(types[found[1]], 0, count)

    def set_named_weights(self, name, weights):
        if name not in Refitter.get_all_weights(self):
            return refused(self, f"no weights are named {name}")
        wanted = Refitter.get_weights_prototype(self, name)
        if (weights.dtype, weights.size) != (wanted.dtype, wanted.size):
            return refused(self, f"{name} has another type or count")
        self._state["given"][name] = weights
        return True

    def refit_cuda_engine(self):
        if Refitter.get_missing_weights(self):
            return refused(self, "weights are missing")
        engine = self._state["of"]._state
        for layer, element, shape, name, before in engine["plan"]["constants"]:
            if name in self._state["given"]:
                given = content(self._state["given"][name])
                if engine["plan"]["identical"] and digest(given) != before:
                    return refused(self, f"{name} is not identical")
                engine["constants"][layer] = np.frombuffer(given, DTYPES[element]).reshape(shape)
        engine["plan"] = {**engine["plan"], "missing": []}
        return True


def refused(refitter: Any, message: str) -> bool:
    refitter._state["logger"].log(refitter._double.ILogger.Severity.ERROR, f"Error Code 3: {message}")
    return False


RUNNING_RECORDERS: Mapping[str, Any] = {
    owner.__name__: owner
    for owner in (
        Runtime, ICudaEngine, IRuntimeConfig, ISerializationConfig, IExecutionContext, Refitter,
    )
}  # fmt: skip
