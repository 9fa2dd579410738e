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
from bertc.targets.cuda import why_not_here as why_no_gpu
from bertc.targets.cuda.driver import Device
from bertc.targets.tensorrt.build import (
    BuildOptions,
    Progress,
    add_profiles,
    configure,
    make_builder,
    make_monitor,
    serialize,
)
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.hosting import HAS_LAYER, LAYER, layer_refusal
from bertc.targets.tensorrt.log import demand, make_log
from bertc.targets.tensorrt.lower import lower
from bertc.targets.tensorrt.refitting import refit_plan, write_record
from bertc.targets.tensorrt.session import open_engine

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
    **options: Any,
) -> None:
    """Build `model.plan`; the options are fields of BuildOptions.

    Raises BertcError B0501 for an engine to refit where there is no GPU, B0511 for an architecture it cannot build for,
    B0512 when that fails.
    """
    chosen = BuildOptions(**options)
    if chosen.refittable and why_no_gpu() is not None:  # its compiler asks the driver for something then
        message = "TensorRT-RTX builds engines whose weights can be replaced only where there is a GPU"
        raise error("B0501", message, None, "leave `--refit` and `--strip-weights` out, or build on another machine")
    wanted = architectures or [name for name in ARCHITECTURES if _refusal(name, spec.precision) is None]
    for name in wanted:
        if reason := _refusal(name, spec.precision):
            raise error("B0511", f"TensorRT-RTX does not build {spec.precision} for `{name}`: {reason}")
    log = make_log(trt)
    builder = make_builder(trt, log)
    network = lower(trt, builder, graph, weights, spec, refit=chosen.refittable)
    config = builder.create_builder_config()
    configure(config, trt, chosen)
    add_profiles(config, network, spec.shapes)
    _set_architectures(config, wanted, log)
    if progress is not None:
        config.progress_monitor = make_monitor(trt, progress)
    with (folder / FILE).open("wb") as file:
        file.write(serialize(network, config))
    write_record(network, chosen, hashes["weights_hash"], folder)


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
    """Write the engine of the bundle `old` with other weights into a folder. Raises BertcError as `refit_plan` does."""
    del names, precision
    refit_plan(trt, graph, weights, old, folder, FILE, hashes)


def why_not_here() -> str | None:
    """Why its engines do not run on this machine."""
    return why_no_gpu() or _unknown_gpu()


def open_session(folder: Path, names: Mapping[str, str], device: int = 0, streams: int = 1) -> Runtime:
    """The engine on an RTX GPU. Its calls may come from several threads, and as many as there are streams run at once.

    Raises BertcError B0513 without that GPU, or with TensorRT-RTX's own words when it does not load the engine.
    """
    return open_engine(trt, folder / FILE, names, device, streams)


def _refusal(architecture: str, precision: str) -> str | None:
    """Why TensorRT-RTX 1.7 cannot build a precision for an architecture, in its own builder's words."""
    if architecture == "sm_75" and precision == "fp32":
        return "FP32 GEMM is not supported on Turing; build fp16"
    if architecture == "sm_75" and precision == "bf16":
        return "Turing has no bf16; build fp16"
    return None


def _unknown_gpu() -> str | None:
    device = Device()
    device.close()
    if device.architecture in _compute_capabilities():
        return None
    return f"no, TensorRT-RTX runs on RTX GPUs, and this one, {device.name}, is {device.architecture}"


def _compute_capabilities() -> dict[str, Any]:
    """TensorRT-RTX's value for each architecture that it knows."""
    return {f"sm_{name[2:]}": value for name, value in trt.ComputeCapability.__members__.items() if name[:2] == "SM"}


def _set_architectures(config: Any, architectures: Sequence[str], log: Any) -> None:
    config.num_compute_capabilities = len(architectures)
    known = _compute_capabilities()
    for index, name in enumerate(architectures):
        if name not in known:
            raise error("B0511", f"TensorRT-RTX does not build for `{name}`", None, f"it does for {', '.join(known)}")
        demand(config.set_compute_capability(known[name], index), "B0512", f"build for `{name}`", trt, log)
