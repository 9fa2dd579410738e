"""The `onnx` target: ONNX for ONNX Runtime, its fused operators where it has them, standard operators otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import onnx
from onnx import helper

from bertc.errors import error
from bertc.graph import Graph, Node
from bertc.ops import Array
from bertc.passes.expand_unhosted import EXPANDED, Choice, Hosts
from bertc.plugins import PACKED
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.spec_fields import INPUT_NAMES
from bertc.targets import Runtime
from bertc.targets.onnx.fused import FUSED
from bertc.targets.onnx.lowering import ELEMENTS, Lowering
from bertc.targets.onnx.model import to_model
from bertc.targets.onnx.session import PROVIDERS, profiled, runtime_of

FILE = "model.onnx"

EXTERNAL_OVER = 1_800_000_000
"""Bytes of weights from which they stand beside the file: a protobuf message ends at 2 GiB."""


def hosting(*, portable: bool = False, provider: str = "cpu") -> Hosts:
    """Which fused ops become ONNX Runtime's own operators: with `portable` none, else those that `provider`, `cpu` or
    `gpu`, runs fastest."""

    def hosts(graph: Graph, node: Node, precision: str) -> Choice:
        reason = _refusal(node.op, precision, portable, provider)
        return Choice("operator") if reason is None else Choice(EXPANDED, reason)

    return hosts


def _refusal(op: str, precision: str, portable: bool, provider: str) -> str | None:
    """Why ONNX Runtime has no operator for a fused op, or none that is worth it."""
    if portable:
        return "only standard operators were asked for"
    if op in PACKED:
        return "ONNX Runtime's operators take padded batches"
    if op == "skip_norm" and provider == "cpu":
        return "on the CPU ONNX Runtime's operator takes twice the time of the ops it fuses"
    if precision != "fp32":
        return "ONNX Runtime's CPU provider has the fused operators in float32 only"
    if op not in FUSED:
        return "ONNX Runtime has no operator for it"
    return None


def write(
    graph: Graph,
    weights: Weights,
    folder: Path,
    *,
    spec: Spec,
    hashes: Mapping[str, str],
    portable: bool = False,
    provider: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write `model.onnx` (and `model.onnx.data` when the weights are large) into a folder."""
    names = dict(zip(INPUT_NAMES["hugging_face"], INPUT_NAMES[spec.input_names], strict=True))
    lowering = Lowering(graph, weights, names, provider == "cpu" and not portable)
    _save(to_model(lowering, {**hashes, "head": spec.network["head"].block}, progress), folder)


def refit(
    graph: Graph,
    weights: Weights,
    old: Path,
    folder: Path,
    *,
    names: Mapping[str, str],
    precision: str,
    hashes: Mapping[str, str],
) -> None:
    """Write the model that is in the bundle `old` with other weights into a folder; `names` are those of the inputs.

    Raises BertcError B0516 where this bertc makes another model of the graph than the one that built the bundle.
    """
    del precision  # the graph's types say it
    before: onnx.ModelProto = cast(Any, onnx).load(old / FILE, load_external_data=False)
    properties = {entry.key: entry.value for entry in before.metadata_props} | dict(hashes)
    for for_cpu in (True, False):
        model = to_model(Lowering(graph, weights, names, for_cpu), properties)
        if list(model.graph.node) == list(before.graph.node):
            return _save(model, folder)
    message = f"`{old}` has another model of its graph than this bertc makes"
    raise error("B0516", message, None, "build the bundle again from the new checkpoint")


def _save(model: onnx.ModelProto, folder: Path) -> None:
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    beside = f"{FILE}.data" if size > EXTERNAL_OVER else None
    cast(Any, onnx).save(model, folder / FILE, save_as_external_data=beside is not None, location=beside)


def why_not_here() -> str | None:
    """Why its engines do not run on this machine; ONNX Runtime's own CPU provider does everywhere."""
    return None


def open_session(folder: Path, names: Mapping[str, str], device: int = 0) -> Runtime:
    """ONNX Runtime on the CPU; `names` are those of the inputs in the model, by Hugging Face's.

    It may be called from several threads. Raises BertcError B0513 for any device but 0.
    """
    if device != 0:
        message = f"there is no device {device}: the engine is ONNX Runtime's on the CPU, which is device 0"
        raise error("B0513", message, None, "leave the device out")
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(folder / FILE, providers=PROVIDERS)

    def step_times(inputs: Mapping[str, Array], runs: int) -> dict[str, float]:
        return profiled(folder / FILE, {names[name]: array for name, array in inputs.items()}, runs)

    return replace(runtime_of(session, names), step_times=step_times)


def open_with_values(folder: Path, names: Mapping[str, str], graph: Graph, values: Mapping[str, str]) -> Runtime:
    """As `open_session`, with values of the bundle's graph as further outputs: what they are called -> the value."""
    runtime: Any = import_module("onnxruntime")
    model: onnx.ModelProto = cast(Any, onnx).load(folder / FILE, load_external_data=False)
    outputs = {value: name for name, value in graph.outputs.items()}
    for name, value in values.items():
        type = graph.type_of(value)
        model.graph.node.append(helper.make_node("Identity", [outputs.get(value, value)], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, ELEMENTS[type.element][0], type.shape))
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return runtime_of(runtime.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS), names)
