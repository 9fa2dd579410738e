"""The `tensorrt` target: a strongly typed TensorRT engine, built on the GPU that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bertc.errors import BertcError, error
from bertc.graph import Graph
from bertc.passes.expand_unhosted import Hosts
from bertc.plugins import PLUGINS as FUSED
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
    layer_information,
    make_builder,
    make_monitor,
    serialize,
)
from bertc.targets.tensorrt.features import Features
from bertc.targets.tensorrt.hosting import PLUGIN, Place, hosts_at
from bertc.targets.tensorrt.log import make_log
from bertc.targets.tensorrt.lower import Substitute, lower
from bertc.targets.tensorrt.network import Network
from bertc.targets.tensorrt.packed import expand_packed_projections
from bertc.targets.tensorrt.plugins import use_of
from bertc.targets.tensorrt.python_plugins import add_python_plugin, creators
from bertc.targets.tensorrt.refitting import refit_plan, write_record
from bertc.targets.tensorrt.registration import add_plugin
from bertc.targets.tensorrt.session import open_engine
from bertc.targets.tensorrt.timing_cache import TimingCache

FILE, LAYERS = "model.plan", "layers.json"

USUAL_ARCHITECTURE = 90
"""What choices are shown for where there is no GPU."""


def hosting(*, plugins: tuple[str, ...]) -> Hosts:
    """Which fused ops are layers, plugins, or expanded; `plugins` is the spec's."""
    return hosts_at(_place(plugins))


def write(
    graph: Graph,
    weights: Weights,
    folder: Path,
    *,
    spec: Spec,
    hashes: Mapping[str, str],
    progress: Progress | None = None,
    **options: Any,
) -> None:
    """Build `model.plan`, and `layers.json` where the options ask for it; they are the fields of BuildOptions.

    Raises BertcError B0512 with TensorRT's own words when it fails, B0605 for a timing cache that cannot be used.
    """
    chosen = BuildOptions(**options)
    trt = _module()
    log = make_log(trt)
    builder = make_builder(trt, log)
    network = lower_with_plugins(trt, builder, graph, weights, spec, _place(spec.plugins), refit=chosen.refittable)
    config = builder.create_builder_config()
    configure(config, trt, chosen)
    add_profiles(config, network, spec.shapes)
    if progress is not None:
        config.progress_monitor = make_monitor(trt, progress)
    cache = chosen.timing_cache and TimingCache.of(chosen.timing_cache, trt.__version__, _gpu_here())
    if cache:
        cache.load(config, log)
    plan = serialize(network, config)
    if cache:
        cache.save(config)
    with (folder / FILE).open("wb") as file:
        file.write(plan)
    write_record(network, chosen, hashes["weights_hash"], folder)
    if chosen.layer_information:
        (folder / LAYERS).write_text(layer_information(trt, plan, log), "utf-8")


def lower_with_plugins(
    trt: Any, builder: Any, graph: Graph, weights: Weights, spec: Spec, place: Place, *, refit: bool = False
) -> Network:
    """The network of a graph whose fused ops were chosen for a place."""
    graph = expand_packed_projections(graph)
    hosts, longest = hosts_at(place), max(profile.seq.largest for profile in spec.shapes)
    add_one = add_plugin if place.features.ahead_of_time_plugins else add_python_plugin
    plugins: dict[str, Substitute] = {}
    for node in graph:
        if node.op in FUSED and hosts(graph, node, spec.precision).how == PLUGIN:
            use = use_of(graph, node, longest)
            add = partial(add_one, node=node, use=use, architecture=place.architecture)
            plugins[node.key] = Substitute(use.operands, add)
    return lower(trt, builder, graph, weights, spec, plugins=plugins, refit=refit)


def why_not_here() -> str | None:
    """Why its engines do not run on this machine."""
    return why_no_gpu()


def open_session(folder: Path, names: Mapping[str, str], device: int = 0, streams: int = 1) -> Runtime:
    """The engine on a GPU. Its calls may come from several threads, and as many as there are streams run at once.

    Raises BertcError B0513 without that GPU, or with TensorRT's own words when it does not load the engine.
    """
    trt = _module()
    if not Features.of(trt).ahead_of_time_plugins:
        creators(trt)  # a plan may name plugins, which have to be known before it is loaded
    return open_engine(trt, folder / FILE, names, device, streams)


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
    refit_plan(_module(), graph, weights, old, folder, FILE, hashes)


def _module() -> Any:
    """TensorRT's. Raises BertcError B0501 for one that lacks what bertc calls."""
    trt = import_module("tensorrt")
    if not Features.of(trt).scratch_of_profiles:
        message = f"target `tensorrt` needs TensorRT 10.12 or later, but {trt.__version__} is installed"
        raise error("B0501", message, None, "pip install 'bertc[tensorrt]'")
    return trt


def _place(plugins: tuple[str, ...]) -> Place:
    return Place(Features.of(_module()), _architecture_here() or USUAL_ARCHITECTURE, plugins)


def _architecture_here() -> int | None:
    """The compute capability of the GPU, or None without one."""
    try:
        device = Device()
    except (BertcError, ImportError):
        return None
    device.close()
    return int(device.architecture.removeprefix("sm_"))


def _gpu_here() -> str:
    """The GPU's name. Raises BertcError B0513 without one."""
    device = Device()
    device.close()
    return device.name
