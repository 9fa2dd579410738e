"""The `cuda` target: bertc's own plan, of Triton's kernels and cuBLASLt's products, one CUDA graph for each shape.

Building needs Triton and no GPU; on a GPU it also times the ways of each step. Running needs neither Triton nor a
framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bertc.errors import BertcError, error
from bertc.graph import Graph, Node
from bertc.ops import Array
from bertc.passes.expand_unhosted import EXPANDED, Choice, Hosts
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.targets import Runtime
from bertc.targets.cuda.compile_kernels import compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.lower import Lowering, lowering_of
from bertc.targets.cuda.plan import ELEMENTS, Kernel, Plan
from bertc.targets.cuda.session import ALIGNMENT, PLAN, WEIGHTS, Session
from bertc.targets.cuda.tune import tuned

ARCHITECTURES = {
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "sm_120": 99 << 10,
}
"""Those that kernels are compiled for, bf16 and asynchronous copies begin with Ampere; and the bytes of shared memory
that a program may have there (CUDA Programming Guide, Compute Capabilities)."""

PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}

Progress = Callable[[str, int, int], None]


def hosting() -> Hosts:
    """Every fused op has a kernel but scaled_softmax, which is inside attention's, and those of extensions that have
    none."""

    def hosts(graph: Graph, node: Node, precision: str) -> Choice:
        if node.op == "scaled_softmax":
            return Choice(EXPANDED, "the cuda target has it inside attention's kernel only")
        if lowering_of(node.op) is None:
            return Choice(EXPANDED, "its extension has no kernel beside it")
        return Choice("kernel")

    return hosts


def why_not_here() -> str | None:
    """Why its engines do not run on this machine."""
    if find_spec("cuda") is None:
        return "no, it needs the package cuda-bindings: pip install 'bertc[cuda]'"
    try:
        Device().close()
    except BertcError as problem:
        return f"no, {problem.diagnostics[0].message}"
    return None


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
    """Write the plan, its weights and its kernels. Raises BertcError B0511 for an architecture that has no kernels."""
    del hashes  # the manifest has them
    architecture = _architecture(architectures)
    element = PRECISIONS[spec.precision]
    lowering = Lowering(graph, weights, element, programmatic=int(architecture.removeprefix("sm_")) >= 90)
    outputs = lowering.run()
    compiled: dict[str, Kernel] = {}
    for index, source in enumerate(lowering.sources.values()):
        compiled |= compile_kernels([source], architecture, ARCHITECTURES[architecture], folder)
        if progress:
            progress("compiling kernels", index + 1, len(lowering.sources))
    offsets = _write_weights(lowering.constants, folder / WEIGHTS)
    steps = tuple(step.with_kernels(compiled.keys()) for step in lowering.steps)
    plan = Plan(architecture, lowering.buffers, offsets, compiled, steps, outputs)
    (folder / PLAN).write_text(plan.to_json(), "utf-8")
    if architecture == _architecture_here():
        session = Session(folder, Device())
        (folder / PLAN).write_text(tuned(session, _shapes(spec), progress).to_json(), "utf-8")
        session.close()


def open_session(folder: Path, names: Mapping[str, str], device: int = 0) -> Runtime:
    """The plan on a GPU. Its calls may come from several threads, and are run one after the other.

    Raises BertcError B0513 without that GPU, B0511 for one that the bundle was not built for.
    """
    del names  # a plan has Hugging Face's
    gpu = Device(device)
    try:
        session = Session(folder, gpu)
    except BertcError:
        gpu.close()
        raise
    run_packed = session.run_packed if session.packed else None
    return Runtime(session.run, session.close, session.token_outputs, run_packed, session.phases, gpu.bus)


def _architecture(wanted: Sequence[str] | None) -> str:
    """The one that is asked for, else that of the GPU here, else Hopper's."""
    if wanted is None:
        return _architecture_here() or "sm_90"
    if len(wanted) != 1 or wanted[0] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise error("B0511", f"the cuda target builds for one of {known}, not `{','.join(wanted)}`", None, "name one")
    return wanted[0]


def _architecture_here() -> str | None:
    try:
        device = Device()
    except (BertcError, ImportError):
        return None
    architecture = device.architecture
    device.close()
    return architecture


def _shapes(spec: Spec) -> list[dict[str, int]]:
    """The smallest, usual and largest batch and sequence of every profile, in all pairs."""
    pairs = {
        (batch, seq)
        for profile in spec.shapes
        for batch in (profile.batch.smallest, profile.batch.usual, profile.batch.largest)
        for seq in (profile.seq.smallest, profile.seq.usual, profile.seq.largest)
    }
    return [{"batch": batch, "seq": seq, "tokens": batch * seq} for batch, seq in sorted(pairs)]


def _write_weights(constants: Mapping[str, tuple[str, Array]], path: Path) -> dict[str, tuple[str, int]]:
    """All constants one after the other, each at a multiple of the alignment; where each starts."""
    offsets: dict[str, tuple[str, int]] = {}
    with path.open("wb") as file:
        for name, (element, array) in constants.items():
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            offsets[name] = (element, file.tell())
            file.write(np.ascontiguousarray(array.astype(ELEMENTS[element])).tobytes())
    return offsets
