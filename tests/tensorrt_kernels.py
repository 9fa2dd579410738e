"""Every plugin's kernel as an engine would get it: `python tests/tensorrt_kernels.py VERSION ARCHITECTURE ELEMENT`.

Prints a JSON list. A process of its own, since Triton compiles nothing in one that interprets its kernels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tensorrt_double import double
from tensorrt_plugins import value_of
from tensorrt_wheel import imported

from bertc.targets.tensorrt.plugins import DECLARED
from bertc.targets.tensorrt.registration import register

SIZES = {"n": 48, "vocab": 53, "positions": 19, "types": 2, "heads": 3, "size": 16}

INPUTS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("query", "key", "value"), (-1, "heads", -1, "size")),
    "lengths": (-1,),
    **dict.fromkeys(("ids", "types"), (-1, -1)),
    "word": ("vocab", "n"),
    "position": ("positions", "n"),
    "type": ("types", "n"),
    **dict.fromkeys(("x", "residual"), (-1, -1, "n")),
    **dict.fromkeys(("bias", "scale", "shift"), ("n",)),
}
"""Input of a plugin -> its sizes; those that an engine learns when it runs are -1."""

NUMBERS = ("lengths", "ids", "types")

ATTRIBUTES = {"n": 48, "eps": 1e-5, "offset": 2, "heads": 3, "size": 16, "scale": 0.25}

ELEMENTS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

BATCHES = ((1, 1), (2, 7), (3, 11))
"""Batch and sequence of the launches that are looked at."""


def shape_of(name: str, batch: int = -1, seq: int = -1) -> tuple[int, ...]:
    """Sizes of an input; of two that are open, the first is the batch and the second the sequence."""
    open_sizes = iter((batch, seq))
    return tuple(SIZES[size] if isinstance(size, str) else next(open_sizes) for size in INPUTS[name])


def kernel_of(trt: Any, trtp: Any, plugin: Any, architecture: int, element: str) -> dict[str, Any]:
    """One plugin in a network of its own, built for a profile from the smallest batch to the largest."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network()
    tensors = [
        network.add_input(name, trt.int32 if name in NUMBERS else getattr(trt, ELEMENTS[element]), shape_of(name))
        for name in plugin.inputs
    ]
    attributes = {name: ATTRIBUTES[name] for name in plugin.attributes}
    settings = json.dumps({**attributes, "architecture": architecture})
    layer = network.add_plugin(getattr(trtp.op.bertc, plugin.name)(*tensors, settings=settings), True)
    for place in range(layer.num_outputs):
        network.mark_output(layer.get_output(place))
    profile = builder.create_optimization_profile()
    for name in plugin.inputs:
        profile.set_shape(name, *(shape_of(name, *batch) for batch in BATCHES))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    found = layer._state["kernel"]
    tactic = plugin.tactics(attributes, element)[layer._state["tactic"] - 1]
    return {
        "plugin": plugin.name,
        "name": found["name"],
        "ptx": found["code"].decode(),
        "tactics": sorted(layer.plugin.get_valid_tactics()),
        "constants": dict(tactic.constants),
        "outputs": [[layer.get_output(n).dtype.name, *layer.get_output(n).shape] for n in range(layer.num_outputs)],
        "launches": [launch(found, plugin.inputs, batch) for batch in BATCHES],
    }


def launch(kernel: Mapping[str, Any], inputs: Sequence[str], batch: tuple[int, int]) -> dict[str, Any]:
    """What TensorRT would launch for a batch: its expressions with the sizes of the inputs put in."""
    shapes = [shape_of(name, *batch) for name in inputs]
    sizes = {field: value_of(expression, shapes) for field, expression in kernel["launch"].items()}
    numbers = [value_of(expression, shapes) for expression in kernel["arguments"]]
    return {"batch": batch[0], "seq": batch[1], "sizes": sizes, "numbers": numbers}


def main(version: str, architecture: str, element: str) -> None:
    trt = double(version)
    with imported(trt, version) as trtp:
        register(trtp)
        declared = DECLARED.values()
        found = [kernel_of(trt, trtp, plugin, int(architecture), element) for plugin in declared]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
