"""Every kernel of every plugin as an engine would get it: `python tests/tensorrt_kernels.py VERSION ARCHITECTURE
NETWORKS ELEMENTS [PLUGINS]`, such as `11.4 90 small,base f16,f32`.

Prints a JSON list, one entry for each tactic. A process of its own, since Triton compiles nothing in one that
interprets its kernels. What kernels are given and what they must answer is here too, for the interpreter and for a GPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorrt_double import double
from tensorrt_plugins import computed, value_of
from tensorrt_wheel import imported

from bertc.targets.cuda.plan import ELEMENTS
from bertc.targets.tensorrt.attention import AXES
from bertc.targets.tensorrt.declarations import Plugin
from bertc.targets.tensorrt.plugins import DECLARED
from bertc.targets.tensorrt.registration import register

OPEN = ("batch", "seq", "tokens")
"""Sizes that an engine learns when it runs."""

INPUTS: Mapping[str, tuple[str | int, ...]] = {
    "projected": ("batch", "seq", "columns"),
    **dict.fromkeys(("query", "key", "value"), ("batch", "heads", "seq", "size")),
    **dict.fromkeys(("starts", "lengths"), ("batch",)),
    **dict.fromkeys(("ids", "types"), ("batch", "seq")),
    "word": ("vocab", "n"),
    "position": ("positions", "n"),
    "type": ("kinds", "n"),
    **dict.fromkeys(("x", "residual"), ("batch", "seq", "n")),
    **dict.fromkeys(("bias", "scale", "shift"), ("n",)),
}
"""Input of a plugin -> its sizes."""

PACKED_INPUTS: Mapping[str, tuple[str | int, ...]] = {
    "projected": ("tokens", "columns"),
    **dict.fromkeys(("query", "key", "value"), ("heads", "tokens", "size")),
    **dict.fromkeys(("ids", "types", "places"), ("tokens",)),
}
"""The same where sequences are packed."""

NUMBERS = ("starts", "lengths", "places", "ids", "types")

NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i32": "int32"}
"""Element type -> TensorRT's name of it."""


@dataclass(frozen=True)
class Network:
    """The sizes that a plugin's kernel is compiled for, and batches it is launched with, from smallest to largest."""

    sizes: Mapping[str, int]
    batches: tuple[tuple[int, int], ...]
    """Batch and sequence."""
    window: int
    bias: tuple[str | int, ...]
    """Sizes of a bias that comes with lengths."""

    def sizes_at(self, batch: int, seq: int) -> dict[str, int]:
        return {**self.sizes, "batch": batch, "seq": seq, "tokens": int(self.lengths(batch, seq).sum())}

    def lengths(self, batch: int, seq: int) -> Any:
        """Of sequences, the first the longest. What a query computes that no key is near is not defined, so that with a
        window no padding is farther away."""
        shortest = max(1, seq - self.window // 2) if self.window else 1
        return (seq - np.arange(batch) * 5 % (seq - shortest + 1)).astype(np.int32)


def _network(
    heads: int, size: int, n: int, window: int, bias: tuple[str | int, ...], *batches: tuple[int, int]
) -> Network:
    positions = max(seq for _, seq in batches) + 8
    sizes = {"heads": heads, "size": size, "columns": 3 * heads * size, "n": n}
    return Network({**sizes, "vocab": 53, "positions": positions, "kinds": 2}, batches, window, bias)


SHARED_BIAS, OWN_BIAS = ("heads", "seq", "seq"), ("batch", "heads", "seq", "seq")

NETWORKS = {
    "small": _network(3, 16, 48, 6, OWN_BIAS, (1, 1), (2, 7), (5, 11)),
    "minilm": _network(12, 32, 384, 0, SHARED_BIAS, (1, 1), (3, 37), (2, 384)),
    "base": _network(12, 64, 768, 0, SHARED_BIAS, (1, 1), (3, 37), (8, 128), (2, 512)),
    "wide": _network(8, 128, 1024, 128, OWN_BIAS, (1, 1), (3, 37), (2, 384)),
}

SETTINGS = {"eps": 1e-5, "offset": 2, "scale": 0.25}
"""Attributes that are no sizes."""


def element_of(name: str, element: str) -> str:
    return "i32" if name in NUMBERS else element


def shapes_of(plugin: Plugin, network: Network, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Sizes of each input; those that are not told are -1."""
    packed = not {"starts", "places"}.isdisjoint(plugin.inputs)
    named = {**INPUTS, **(PACKED_INPUTS if packed else {})}
    if plugin.kernel == "attention":
        alone = "lengths" not in plugin.inputs
        named["bias"] = ("heads", "positions", "positions") if packed else network.bias
        named["bias"] = ("batch", 1, 1, "seq") if alone else named["bias"]
    return {
        name: tuple(size if isinstance(size, int) else sizes.get(size, -1) for size in named[name])
        for name in plugin.inputs
    }


def attributes_of(plugin: Plugin, network: Network) -> dict[str, Any]:
    known = {**network.sizes, **SETTINGS, "longest": max(seq for _, seq in network.batches)}
    if plugin.kernel == "attention":
        known["window"] = 0 if "bias" in plugin.inputs else network.window
        bias = shapes_of(plugin, network, {}).get("bias", ())
        known["axes"] = [axis for axis, size in zip(AXES[4 - len(bias) :], bias, strict=False) if size != 1]
    return {name: known[name] for name in plugin.attributes}


def kernels_of(trt: Any, trtp: Any, plugin: Plugin, architecture: int, name: str, element: str) -> Iterator[Any]:
    """One plugin in a TensorRT network of its own, built for a profile from the smallest batch to the largest."""
    network = NETWORKS[name]
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    definition = builder.create_network()
    tensors = [
        definition.add_input(tensor, getattr(trt, NAMES[element_of(tensor, element)]), shape)
        for tensor, shape in shapes_of(plugin, network, network.sizes).items()
    ]
    attributes = attributes_of(plugin, network)
    settings = json.dumps({**attributes, "architecture": architecture})
    layer = definition.add_plugin(getattr(trtp.op.bertc, plugin.name)(*tensors, settings=settings), True)
    for place in range(layer.num_outputs):
        definition.mark_output(layer.get_output(place))
    profile = builder.create_optimization_profile()
    smallest, largest = (shapes_of(plugin, network, network.sizes_at(*network.batches[end])) for end in (0, -1))
    for tensor in plugin.inputs:
        profile.set_shape(tensor, smallest[tensor], largest[tensor], largest[tensor])
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(definition, config) is not None
    for tactic, kernel in layer._state["kernels"].items():
        yield {
            "plugin": plugin.name,
            "network": name,
            "element": element,
            "tactic": tactic,
            "name": kernel["name"],
            "ptx": kernel["code"].decode(),
            "attributes": attributes,
            "constants": dict(plugin.tactics(attributes, element)[tactic - 1].constants),
            "launches": [launch(kernel, plugin, network, *batch) for batch in network.batches],
        }


def launch(kernel: Mapping[str, Any], plugin: Plugin, network: Network, batch: int, seq: int) -> dict[str, Any]:
    """What TensorRT would launch for a batch: its expressions with the sizes of the inputs put in."""
    shapes = [*shapes_of(plugin, network, network.sizes_at(batch, seq)).values()]
    sizes = {field: value_of(expression, shapes) for field, expression in kernel["launch"].items()}
    numbers = [value_of(expression, shapes) for expression in kernel["arguments"]]
    return {"batch": batch, "seq": seq, "sizes": sizes, "numbers": numbers}


def given(kernel: Mapping[str, Any], batch: int, seq: int) -> dict[str, Any]:
    """Input of a kernel -> its array, for a batch; sequences of many lengths."""
    network, plugin = NETWORKS[kernel["network"]], DECLARED[kernel["plugin"]]
    sizes, lengths = network.sizes_at(batch, seq), network.lengths(batch, seq)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    places = np.arange(sizes["tokens"], dtype=np.int32) - np.repeat(starts, lengths)
    generator = np.random.default_rng(0)
    made: dict[str, Any] = {"lengths": lengths, "starts": starts, "places": places}
    below = {"ids": sizes["vocab"], "types": sizes["kinds"]}
    for name, shape in shapes_of(plugin, network, sizes).items():
        element = ELEMENTS[element_of(name, kernel["element"])]
        if name in below:
            made[name] = generator.integers(0, below[name], shape).astype(element)
        elif name not in made:
            made[name] = generator.standard_normal(shape).astype(element)
    return {name: made[name] for name in plugin.inputs}


def expected(kernel: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The results of a plugin by its op's own reference, in float64."""
    arrays = [array if name in NUMBERS else array.astype(np.float64) for name, array in inputs.items()]
    return computed(kernel["plugin"], arrays, kernel["attributes"])


def main(version: str, architecture: str, networks: str, elements: str, plugins: str = ",".join(DECLARED)) -> None:
    trt = double(version)
    with imported(trt, version) as trtp:
        register(trtp)
        found = [
            kernel
            for plugin in map(DECLARED.__getitem__, plugins.split(","))
            for network in networks.split(",")
            for element in elements.split(",")
            for kernel in kernels_of(trt, trtp, plugin, int(architecture), network, element)
        ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
