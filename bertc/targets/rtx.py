"""The `rtx` target: a TensorRT-RTX engine, built with or without a GPU for several architectures at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bertc.errors import error
from bertc.graph import Graph, Node
from bertc.passes.expand_unhosted import EXPANDED, Choice, Hosts
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.targets import Runtime
from bertc.targets.tensorrt.build import Progress, add_profiles, make_log, make_monitor, serialize
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.hosting import HAS_LAYER, LAYER, layer_refusal
from bertc.targets.tensorrt.lower import lower

trt: Any = import_module("tensorrt_rtx")

FILE = "model.plan"

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
"""What one engine is built for when the build names none."""


def hosting() -> Hosts:
    """Layers of its own, or what fused ops are made of: TensorRT-RTX has no plugins."""

    def hosts(graph: Graph, node: Node, precision: str) -> Choice:
        refusal = layer_refusal(Features.of(trt), graph, node, precision)
        return Choice(LAYER, HAS_LAYER) if refusal is None else Choice(EXPANDED, refusal)

    return hosts


def write(
    graph: Graph,
    weights: Weights,
    folder: Path,
    *,
    spec: Spec,
    hashes: Mapping[str, str],
    architectures: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Build `model.plan`. Raises BertcError B0511 for an architecture it cannot build for, B0512 when that fails."""
    del hashes  # an engine has no room for them; the manifest has
    wanted = architectures or [name for name in ARCHITECTURES if _refusal(name, spec.precision) is None]
    for name in wanted:
        if reason := _refusal(name, spec.precision):
            raise error("B0511", f"TensorRT-RTX does not build {spec.precision} for `{name}`: {reason}")
    log = make_log(trt)
    builder = trt.Builder(log)
    network = lower(trt, builder, graph, weights, spec)
    config = builder.create_builder_config()
    add_profiles(builder, config, network, spec.shapes)
    _set_architectures(config, wanted)
    if progress is not None:
        config.progress_monitor = make_monitor(trt, progress)
    with (folder / FILE).open("wb") as file:
        file.write(serialize(builder, network, config, log))


def why_not_here() -> str | None:
    """Why its engines do not run on this machine."""
    return "no, bertc builds engines for RTX GPUs and does not run them yet; TensorRT-RTX's own tools do"


def open_session(folder: Path, names: Mapping[str, str], device: int = 0) -> Runtime:
    """Raises BertcError B0513: running needs an RTX GPU and CUDA's Python package."""
    raise error(
        "B0513",
        f"{folder} is an engine for RTX GPUs, which bertc does not run yet",
        None,
        "run it with TensorRT-RTX's own tools",
    )


def _refusal(architecture: str, precision: str) -> str | None:
    """Why TensorRT-RTX 1.7 cannot build a precision for an architecture, in its own builder's words."""
    if architecture == "sm_75" and precision == "fp32":
        return "FP32 GEMM is not supported on Turing; build fp16"
    if architecture == "sm_75" and precision == "bf16":
        return "Turing has no bf16; build fp16"
    return None


def _set_architectures(config: Any, architectures: Sequence[str]) -> None:
    config.num_compute_capabilities = len(architectures)
    known = {f"sm_{name[2:]}": value for name, value in trt.ComputeCapability.__members__.items() if name[:2] == "SM"}
    for index, name in enumerate(architectures):
        if name not in known:
            raise error("B0511", f"TensorRT-RTX does not build for `{name}`", None, f"it does for {', '.join(known)}")
        config.set_compute_capability(known[name], index)
