"""What the builder's classes of a double do: it checks a network, asks its plugins, and keeps what was chosen.

As in tensorrt_recorder.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tensorrt_inference import settle
from tensorrt_plan import plan_of
from tensorrt_plugins import build_plugin
from tensorrt_python_plugins import build_python_plugin


def made(module: Any, class_name: str, state: dict[str, Any] | None = None, /, **more: Any) -> Any:
    """An object of a double's class that Python cannot construct."""
    owner = getattr(module, class_name)
    built = object.__new__(owner)
    object.__setattr__(built, "_state", more if state is None else state)
    return built


class HostMemory(bytearray):
    """IHostMemory: a buffer."""

    @property
    def nbytes(self) -> int:
        return len(self)


class Builder:
    def __init__(self, logger):
        self._state |= {"logger": logger}

    def create_network(self, flags=0):
        module = self._double
        known = {1 << int(flag): flag for flag in module.NetworkDefinitionCreationFlag.__members__.values()}
        given = {flag for bit, flag in known.items() if flags & bit}
        assert sum(1 << int(flag) for flag in given) == flags, f"{flags} holds no flag of a network"
        return made(
            module,
            "INetworkDefinition",
            creation_flags=given,
            inputs=[],
            outputs=[],
            layers=[],
            name="",
            logger=self._state["logger"],
        )

    def create_builder_config(self):
        state = {
            "profiles": [],
            "builder_flags": set(),
            "pools": {},
            "cache": None,
            "targets": {},
            "logger": self._state["logger"],
        }
        return made(self._double, "IBuilderConfig", state)

    def create_optimization_profile(self):
        return made(self._double, "IOptimizationProfile", shapes={})

    def build_serialized_network(self, network, config):
        module = self._double
        module.builds.append((network, config))
        if module.fails:
            self._state["logger"].log(module.ILogger.Severity.ERROR, module.fails)
            return None
        check(module, network._state, config._state)
        if (monitor := config._state.get("progress_monitor")) is not None:
            monitor.phase_start("Building Engine", None, 2)
            assert monitor.step_complete("Building Engine", 0)
            monitor.phase_finish("Building Engine")
        if config._state["cache"] is not None:
            config._state["cache"]._state["entries"].add(f"{len(network._state['layers'])} layers")
        flags = {flag.name for flag in config._state["builder_flags"]}
        return HostMemory(plan_of(module, network._state, flags))


def check(module: Any, network: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """What TensorRT finds when it builds."""
    assert network["outputs"], "a network without outputs"
    names = [layer["name"] for layer in network["layers"]]
    assert len(set(names)) == len(names), f"layers share a name: {sorted({n for n in names if names.count(n) > 1})}"
    tensors = [tensor for layer in network["layers"] for tensor in layer["outputs"]] + network["inputs"]
    named = [tensor.name for tensor in tensors]
    assert len(set(named)) == len(named), "tensors share a name"
    for tensor in network["inputs"]:
        for profile in config["profiles"]:
            smallest, usual, largest = profile._state["shapes"][tensor.name]
            for place, size in enumerate(tensor.shape):
                assert smallest[place] <= usual[place] <= largest[place]
                assert size in (-1, smallest[place])
        assert config["profiles"] or -1 not in tensor.shape, "an input with sizes open and no profile"
    for layer in network["layers"]:
        settle(layer)
        if layer["kind"] == "PLUGIN_V3":
            by_hand = isinstance(layer["plugin"], module.IPluginV3OneBuild)
            (build_python_plugin if by_hand else build_plugin)(module, layer, config["profiles"])


class IOptimizationProfile:
    def set_shape(self, input, min, opt, max):
        self._state["shapes"][input] = (tuple(min), tuple(opt), tuple(max))

    def get_shape(self, input):
        return list(self._state["shapes"][input])


class IBuilderConfig:
    num_optimization_profiles = property(lambda self: len(self._state["profiles"]))

    def add_optimization_profile(self, profile):
        self._state["profiles"].append(profile)
        return len(self._state["profiles"]) - 1

    def set_flag(self, flag):
        self._state["builder_flags"].add(flag)

    def get_flag(self, flag):
        return flag in self._state["builder_flags"]

    def set_memory_pool_limit(self, pool, pool_size):
        self._state["pools"][pool] = pool_size

    def get_memory_pool_limit(self, pool):
        return self._state["pools"][pool]

    def set_compute_capability(self, compute_capability, index):
        self._state["targets"][index] = compute_capability
        return True

    def create_timing_cache(self, serialized_timing_cache):
        text = bytes(serialized_timing_cache).decode(errors="replace")
        if "\N{REPLACEMENT CHARACTER}" in text:
            self._state["logger"].log(self._double.ILogger.Severity.ERROR, "Magic tag does not match")
            if self._double.damaged_cache_is_none:
                return None
            text = ""
        return made(self._double, "ITimingCache", entries=set(text.splitlines()))

    def set_timing_cache(self, cache, ignore_mismatch):
        self._state |= {"cache": cache, "began_with": set(cache._state["entries"])}
        return True

    def get_timing_cache(self):
        return self._state["cache"]


class ITimingCache:
    def serialize(self):
        return HostMemory("\n".join(sorted(self._state["entries"])).encode())

    def combine(self, input_cache, ignore_mismatch):
        self._state["entries"] |= input_cache._state["entries"]
        return True


class EngineInspector:
    def get_engine_information(self, format):
        assert format == self._double.LayerInformationFormat.JSON
        return json.dumps({"Layers": self._state["plan"]["layers"], "Bindings": []})


BUILDER_RECORDERS: Mapping[str, Any] = {
    owner.__name__: owner for owner in (Builder, IOptimizationProfile, IBuilderConfig, ITimingCache, EngineInspector)
}
