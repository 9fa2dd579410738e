"""From a network to an engine: what both targets ask of TensorRT's builder, and what it says when it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertc.errors import error
from bertc.shapes import Profile
from bertc.targets.tensorrt.log import constructed, demand
from bertc.targets.tensorrt.network import Network
from bertc.types import bind_sizes

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """What one may choose about an engine apart from what it computes; the words are trtexec's."""

    workspace: int | None = None
    """MiB that a layer may use while it runs; all of the GPU's memory when None."""
    optimization_level: int | None = None
    """0 builds fast, 5 searches longest; TensorRT's own default when None."""
    timing_cache: Path | None = None
    """The folder of earlier measurements."""
    refit: bool = False
    """Weights can be replaced, each by the name of its value in the graph."""
    strip_weights: bool = False
    """The plan has no weights and gets them when it is refitted."""
    version_compatible: bool = False
    """Later versions of TensorRT load it too."""
    weight_streaming: bool = False
    """Weights may stay in the host's memory."""
    sparse_weights: bool = False
    """Kernels for weights of which two in four are zero may be used."""
    layer_information: bool = False
    """Every layer's details are kept in the engine and written beside it."""

    @property
    def refittable(self) -> bool:
        """Weights have names, by which they can be given later."""
        return self.refit or self.strip_weights


def make_builder(trt: Any, log: Any) -> Any:
    """TensorRT's builder. Raises BertcError B0512 with its own words where it gives none, as without a GPU."""
    builder = constructed(trt.Builder, log)
    demand(builder is not None, "B0512", "make a builder", trt, log, "build on a machine with the GPU that it is for")
    return builder


def configure(config: Any, trt: Any, options: BuildOptions) -> None:
    """Set everything that is chosen."""
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.layer_information:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in _flags(options):
        config.set_flag(getattr(trt.BuilderFlag, name))


def _flags(options: BuildOptions) -> list[str]:
    """Names of BuilderFlag. A stripped plan that cannot be refitted at will gets back the weights it was built with."""
    chosen = {
        "REFIT": options.refit,
        "STRIP_PLAN": options.strip_weights,
        "REFIT_IDENTICAL": options.strip_weights and not options.refit,
        "VERSION_COMPATIBLE": options.version_compatible,
        "WEIGHT_STREAMING": options.weight_streaming,
        "SPARSE_WEIGHTS": options.sparse_weights,
    }
    return [name for name, wanted in chosen.items() if wanted]


def add_profiles(config: Any, network: Network, profiles: tuple[Profile, ...]) -> None:
    """An optimization profile for each range of batch and sequence.

    Packed sequences have as many tokens as the largest shape at most, and no fewer than one for each sequence.

    Raises BertcError B0512 with TensorRT's own words for one that it does not take.
    """
    for profile in profiles:
        made = network.builder.create_optimization_profile()
        batch, seq = profile.batch, profile.seq
        ends = [
            {"batch": batch.smallest, "seq": seq.smallest, "tokens": batch.smallest},
            {"batch": batch.usual, "seq": seq.usual, "tokens": batch.usual * seq.usual},
            {"batch": batch.largest, "seq": seq.largest, "tokens": batch.largest * seq.largest},
        ]
        for index, node in enumerate(network.graph.inputs):
            shapes = [bind_sizes(node.types[0].shape, sizes) for sizes in ends]
            made.set_shape(network.definition.get_input(index).name, *shapes)
        network.demand(config.add_optimization_profile(made) >= 0, f"take {profile}")


def serialize(network: Network, config: Any) -> Any:
    """The engine as bytes. Raises BertcError B0512 with what TensorRT said when it could not be built."""
    plan = network.builder.build_serialized_network(network.definition, config)
    network.demand(plan is not None, "build the engine", "try another precision")
    return plan


def layer_information(trt: Any, plan: Any, log: Any) -> str:
    """What the engine says of its layers, `{"Layers": [...], "Bindings": [...]}` as of `trtexec --exportLayerInfo`.

    Raises BertcError B0513 when the engine cannot be loaded again.
    """
    text = load(trt, plan, log).create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return json.dumps(json.loads(text), indent=1)


def load(trt: Any, plan: Any, log: Any) -> Any:
    """The engine that a plan is. Raises BertcError B0513 with TensorRT's own words when it does not take it."""
    runtime = constructed(trt.Runtime, log)
    demand(runtime is not None, "B0513", "start", trt, log)
    runtime.engine_host_code_allowed = True  # engines for later versions carry the code that runs them
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        message = f"{trt.__name__} {trt.__version__} does not load the engine: {log.worst()}"
        raise error("B0513", message, None, "build the bundle on this machine, with this version")
    return engine


def make_monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's progress, passed on; steps of the innermost phase."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return True

    return Monitor()
