"""The `cuda` target: bertc's own plan, of Triton's kernels and cuBLASLt's products, one CUDA graph for each shape.

Building needs Triton and no GPU; on a GPU it also times the ways of each step. Running needs neither Triton nor a
framework.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np

from bertc.errors import BertcError, error
from bertc.graph import Graph, Node
from bertc.kernels.qkv_attention import TOKENS
from bertc.ops import Array
from bertc.passes.expand_unhosted import EXPANDED, Choice, Hosts
from bertc.reference import Weights
from bertc.spec import Spec
from bertc.targets import Runtime
from bertc.targets.cuda import products
from bertc.targets.cuda.compile_kernels import HOPPER, compile_kernels
from bertc.targets.cuda.driver import Device
from bertc.targets.cuda.hopper import CLUSTERED
from bertc.targets.cuda.lower import Lowering, lowering_of
from bertc.targets.cuda.plan import (
    ELEMENTS,
    FOLDED,
    JOINED,
    PLAIN,
    Choices,
    Kernel,
    Launch,
    Output,
    Plan,
    Step,
    read_plan,
)
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
    is_timed = architecture == _architecture_here()
    drafted, lowering = draft(graph, weights, folder, spec, architecture, progress, is_whole=is_timed)
    if not is_timed:
        return
    session = Session(folder, Device())
    with session.device.current():
        plan = tuned(session, _shapes(spec), progress).pruned()
    session.close()
    plan = replace(plan, weights=_write_weights(lowering.constants, plan.weights, folder / WEIGHTS))
    (folder / PLAN).write_text(plan.to_json(), "utf-8")
    _remove_others(drafted.kernels, plan, folder)


def draft(
    graph: Graph,
    weights: Weights,
    folder: Path,
    spec: Spec,
    architecture: str,
    progress: Progress | None = None,
    *,
    is_whole: bool = True,
) -> tuple[Plan, Lowering]:
    """Write a plan, its weights and its kernels; and the lowering that it is of. Nothing is timed: choices are by
    count. A whole plan has all ways of all lists of steps, another what is chosen; kernels that want more shared memory
    than there is are in neither."""
    shapes, shared = _shapes(spec), ARCHITECTURES[architecture]
    lowering, lowered, outputs = _lowered(graph, weights, spec.precision, architecture, shapes)
    compiled: dict[str, Kernel] = {}
    there = set(lowering.sources)
    while True:
        lists = tuple(tuple(step.with_kernels(there) for step in steps) for steps in lowered)
        for step in chain(*lists):
            if not step.ways:
                message = f"`{step.name}`: none of its kernels fits into the shared memory of {architecture}"
                raise error("B0514", message, None, "build for `onnx`, or leave the pass that made it out")
        choices = _choices(lists, min(shape["tokens"] for shape in shapes))
        alone = ((TOKENS, JOINED), *choices) if len(lists) > JOINED else choices
        plan = Plan(architecture, lowering.buffers, {}, {}, lists, outputs, {}, choices, alone)
        plan = plan if is_whole else plan.pruned()
        wanted = plan.launched() - compiled.keys()
        if not wanted:
            break
        sources = [source for key, source in lowering.sources.items() if key in wanted]
        tried = len(compiled) + len(lowering.sources) - len(there)
        for index, (key, kernel) in enumerate(compile_kernels(sources, architecture, shared, folder)):
            if kernel is None:
                there.remove(key)
            else:
                compiled[key] = kernel
            if progress:
                progress("compiling kernels", tried + index + 1, tried + len(sources))
    kernels = {key: compiled[key] for key in plan.launched()}
    weights_at = _write_weights(lowering.constants, plan.names(), folder / WEIGHTS)
    plan = replace(plan, kernels=kernels, weights=weights_at)
    (folder / PLAN).write_text(plan.to_json(), "utf-8")
    _remove_others(compiled, plan, folder)
    return plan, lowering


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
    """Write other weights for the plan that is in the bundle `old` into a folder; plan and kernels stay as they are.

    Raises BertcError B0516 where this bertc lays weights out in another way than the one that built the bundle.
    """
    del names, hashes
    plan = read_plan((old / PLAN).read_text("utf-8"))
    of_all_lists = [{"batch": 1, "seq": 1, "tokens": 1}]
    lowering, _, _ = _lowered(graph, weights, precision, plan.architecture, of_all_lists)
    if _write_weights(lowering.constants, plan.weights, folder / WEIGHTS) != plan.weights:
        message = f"`{old}` has its weights in another layout than this bertc gives them"
        raise error("B0516", message, None, "build the bundle again from the new checkpoint")


def open_session(folder: Path, names: Mapping[str, str], device: int = 0) -> Runtime:
    """The plan on a GPU. Its calls may come from several threads, and are run one after the other.

    Raises BertcError B0513 without that GPU or room on it, B0511 for one that the bundle was not built for.
    """
    del names  # a plan has Hugging Face's
    gpu = Device(device)
    try:
        session = Session(folder, gpu)
        session.require_clusters()
    except BertcError:
        gpu.close()
        raise
    run_packed = session.run_packed if session.packed else None
    return Runtime(
        session.run, session.close, session.token_outputs, run_packed, session.phases, session.step_times, gpu.bus
    )


def _lowered(
    graph: Graph, weights: Weights, precision: str, architecture: str, shapes: Sequence[Mapping[str, int]]
) -> tuple[Lowering, list[list[Step]], Mapping[str, Output]]:
    """A graph's lists of steps (PLAIN, FOLDED, JOINED), as far as its network differs in them and some shape takes
    them; the lowering that has what all of them read, and the outputs of all."""
    element = PRECISIONS[precision]
    lowering = Lowering(graph, weights, element, architecture)
    outputs, lists = lowering.run(), [lowering.steps]
    if element == "f32" or architecture != HOPPER:
        return lowering, lists, outputs
    few = any(shape["tokens"] <= CLUSTERED for shape in shapes)
    alone = any(shape["batch"] == 1 and shape["seq"] <= TOKENS for shape in shapes)
    for joined in (False, True) if alone else (False,):
        other = Lowering(graph, weights, element, architecture, lowering, few, joined)
        same = other.run() == outputs
        shared = lowering.buffers.keys() & other.buffers
        same = same and all(lowering.buffers[name] == other.buffers[name] for name in shared)
        if not same or other.steps in lists:
            break
        lowering.buffers |= other.buffers
        lists.append(other.steps)
    return lowering, lists, outputs


def _choices(lists: Sequence[Sequence[Step]], fewest: int) -> Choices:
    """The lists that so many rows take where nothing was timed. Norms go along for all; for few where there are no
    large tiles that take them, as in bf16 and of a width of 320."""
    if len(lists) <= FOLDED:
        return ((0, PLAIN),)
    ends = [operation for step in lists[FOLDED] for operation in step.ways[-1] if isinstance(operation, Launch)]
    if not any(operation.kernel.startswith("linear_cluster-") for operation in ends):
        return ((0, FOLDED),)
    return ((products.FEW, FOLDED), (0, PLAIN)) if fewest <= products.FEW else ((0, PLAIN),)


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
    """The smallest, usual and largest batch and sequence of every profile, in all pairs; and one sequence of TOKENS,
    up to which it has steps of its own, where a profile has that."""
    alone = {
        (1, TOKENS)
        for profile in spec.shapes
        if profile.batch.smallest == 1 and profile.seq.smallest <= TOKENS <= profile.seq.largest
    }
    pairs = alone | {
        (batch, seq)
        for profile in spec.shapes
        for batch in (profile.batch.smallest, profile.batch.usual, profile.batch.largest)
        for seq in (profile.seq.smallest, profile.seq.usual, profile.seq.largest)
    }
    return [{"batch": batch, "seq": seq, "tokens": batch * seq} for batch, seq in sorted(pairs)]


def _remove_others(kernels: Mapping[str, Kernel], plan: Plan, folder: Path) -> None:
    """The machine code of kernels that a plan has not."""
    for key in kernels.keys() - plan.kernels.keys():
        (folder / kernels[key].file).unlink()


def _write_weights(
    constants: Mapping[str, tuple[str, Array]], kept: Container[str], path: Path
) -> dict[str, tuple[str, int]]:
    """The constants that are kept, one after the other, each at a multiple of the alignment; where each starts."""
    offsets: dict[str, tuple[str, int]] = {}
    with path.open("wb") as file:
        for name, (element, array) in constants.items():
            if name not in kept:
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            offsets[name] = (element, file.tell())
            file.write(np.ascontiguousarray(array.astype(ELEMENTS[element])).tobytes())
    return offsets
