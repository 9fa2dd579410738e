"""The cuda target without a GPU: plans run in Triton's interpreter, kernels compile, buffers do not clash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hopper_double
import numpy as np
import pytest
import test_kernels  # noqa: F401  declares the kernels for the interpreter
import torch
from conftest import packed, small_spec, weights_of
from hypothesis import given
from hypothesis import strategies as st

from bertc.compiler import compile
from bertc.elaborate import elaborate
from bertc.reference import evaluate
from bertc.spec import Spec
from bertc.targets.cuda import ARCHITECTURES
from bertc.targets.cuda.compile_kernels import is_cuda, kernel_function, parameters
from bertc.targets.cuda.lower import Lowering
from bertc.targets.cuda.plan import (
    EIGHTS,
    PAIRS,
    Launch,
    Operation,
    Output,
    Product,
    Size,
    Step,
    Tiles,
    arena,
    read_plan,
)
from bertc.targets.cuda.tune import _signature

SIZES = "{layers: 2, hidden: 128, heads: 8, inner: 256, vocab: 53, positions: 19, labels: 5}"
PRE_NORM = (
    "{embeddings: summed_embeddings, encoder: {block: pre_norm, repeat: layers}, final: final_norm, head: masked_lm}"
)
NETWORKS = [
    *(
        f"{{head: {head}}}"
        for head in ("pooled", "question_answering", "sequence_classification", "token_classification")
    ),
    PRE_NORM,
]
ENDS: Mapping[str, Callable[[Any], Any]] = {
    "": lambda y: y,
    "relu": torch.relu,
    "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
}
"""What the library has behind a product."""

TYPES = {"f32": torch.float32, "f16": torch.float16, "i32": torch.int32}


CLUSTERS = {EIGHTS: 15, PAIRS: 6}
"""What fits an H200: clusters of eight, and pairs beside them."""


class Interpreted:
    """A plan on the CPU: kernels by Triton's interpreter, cuBLASLt's products by torch."""

    def __init__(self, lowering: Lowering, inputs: Mapping[str, Any]) -> None:
        batch, seq = inputs["attention_mask"].shape
        self.sizes = {"batch": batch, "seq": seq, "tokens": len(inputs.get("places", ())), **CLUSTERS}
        self.lowering = lowering
        self.memory: dict[str, Any] = {
            name: torch.full((buffer.size(self.sizes),), float("nan") if buffer.element != "i32" else 0).to(
                TYPES[buffer.element]
            )
            for name, buffer in lowering.buffers.items()
        }
        lengths = np.maximum(inputs["attention_mask"].sum(1), 1)
        for name, array in {**inputs, "lengths": lengths}.items():
            if name in self.memory:
                self.memory[name] = torch.from_numpy(np.ascontiguousarray(array)).int().reshape(-1)
        self.memory |= {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(TYPES[element]).reshape(-1)
            for name, (element, array) in lowering.constants.items()
        }

    def start(self, operation: Operation) -> None:
        if isinstance(operation, Product):
            self.multiply(operation)
            return
        source = self.lowering.sources[operation.kernel]
        names = [name for name in parameters(source.file, source.function) if name not in dict(source.constants)]
        values = [self.value(argument) for argument in operation.arguments]
        grid = tuple(size(self.sizes) for size in operation.grid)
        constants = {**dict(source.constants), "PDL": False}  # the interpreter has nothing to wait for
        if is_cuda(source.file):
            hopper_double.launch(constants, dict(zip(names, values, strict=True)), grid)
            return
        function = kernel_function(source.file, source.function)
        function[grid](**dict(zip(names, values, strict=True)), **constants)

    def start_every_way(self, step: Step, bound: float) -> None:
        """Each way of a step leaves the same, of which nothing was there before; that of the last one stays."""
        found: list[dict[str, Any]] = []
        for way in step.ways:
            for name in way[-1].writes:
                self.memory[name].fill_(torch.nan)
            for operation in way:
                self.start(operation)
            found.append({name: self.memory[name].double().clone() for name in way[-1].writes})
        for other in found:
            for name, value in other.items():
                assert (value - found[0][name]).abs().max() < bound, (step.name, name)

    def output(self, output: Output) -> Any:
        memory = self.memory[output.buffer].reshape(-1, output.row(self.sizes))
        shape = tuple(size(self.sizes) for size in output.shape)
        return memory[:, output.column : output.column + output.width].double().numpy().reshape(shape)

    def value(self, argument: Any) -> Any:
        if isinstance(argument, Tiles):
            shape, strides = (argument.rows(self.sizes), argument.columns), (argument.row(self.sizes), 1)
            return torch.as_strided(self.value(argument.place), shape, strides)
        return argument(self.sizes) if isinstance(argument, Size) else self.memory[argument.name][argument.offset :]

    def multiply(self, product: Product) -> None:
        rows, row = product.rows(self.sizes), product.row(self.sizes)
        x = torch.as_strided(self.value(product.x), (rows, product.k), (row, 1)).float()
        y = x @ self.value(product.w).reshape(product.n, product.k).float().T
        y += self.value(product.bias).float() if product.bias else 0.0
        y += self.value(product.residual)[: y.numel()].reshape(y.shape).float() if product.residual else 0.0
        y = ENDS[product.end](y)
        memory = self.value(product.y)
        memory[: y.numel()] = y.reshape(-1).to(memory.dtype)


@pytest.mark.parametrize(("precision", "architecture"), [("fp32", "sm_80"), ("fp16", "sm_80"), ("fp16", "sm_90")])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_way_of_every_step(
    network: str, precision: str, architecture: str, padded_batch: Mapping[str, Any]
) -> None:
    """Each way of a step computes the same, and the last one goes on; the outputs are the reference's. Of steps that
    are alike in all layers, the first is tried in every way."""
    activation = {"fp32": "gelu", "fp16": "relu"}[precision]
    spec = wide_spec(precision=precision, network=network, activation=activation)
    if architecture == "sm_90":
        spec = replace(spec, sizes={**spec.sizes, **WITH_ROLES})
    graph = compile(spec, "cuda")
    elaborated = elaborate(spec)
    weights = weights_of(elaborated)
    element, bound = {"fp32": ("f32", 1e-5), "fp16": ("f16", 2e-2)}[precision]
    lowering = Lowering(graph, weights, element, architecture)
    outputs = lowering.run()
    specialised = [step for step in lowering.steps if any("specialised" in str(way[0]) for way in step.ways)]
    assert len(specialised) >= 5 * spec.sizes["layers"] if architecture == "sm_90" else not specialised
    plan = Interpreted(lowering, padded_batch)
    tried: set[object] = set()
    for step in lowering.steps:
        alike = _signature(step)
        plan.start_every_way(step if alike not in tried else replace(step, ways=step.ways[-1:]), bound)
        tried.add(alike)
    expected = evaluate(elaborated, padded_batch, weights)
    for name, output in outputs.items():
        assert np.abs(plan.output(output) - expected[name]).max() < max(bound, 2e-5), name


def norms_in_products(spec: Spec, weights: Mapping[str, Any]) -> tuple[Lowering, Lowering, Mapping[str, Output]]:
    """The lowering of a spec, the one whose products take norms along, and the outputs of both."""
    plain = Lowering(compile(spec, "cuda"), weights, "f16", architecture="sm_80")
    outputs = plain.run()
    folded = Lowering(plain.graph, weights, "f16", architecture="sm_80", of=plain)
    assert folded.run() == outputs
    return plain, folded, outputs


@pytest.mark.parametrize("passes", ["[default]", "[default, pack_sequences]"])
@pytest.mark.parametrize("network", NETWORKS)
def test_products_that_take_norms_along(network: str, passes: str, padded_batch: Mapping[str, Any]) -> None:
    """Steps for few rows: all tiles compute the same, and the outputs are the reference's. Norms are folded wherever
    only products and residuals read them: all but the last where norms stand behind, all but the first where in front,
    whose sums residuals read. Clusters of eight take the first product, of 512 columns."""
    spec = wide_spec(network=network, passes=passes, precision="fp16")
    spec = replace(spec, sizes={**spec.sizes, "inner": 512})
    elaborated = elaborate(spec)
    weights = weights_of(elaborated)
    plain, lowering, outputs = norms_in_products(spec, weights)
    assert len(lowering.norms) == 2 * spec.sizes["layers"] - (network != PRE_NORM)
    assert {name: lowering.buffers[name] for name in lowering.buffers.keys() & plain.buffers} == {
        name: plain.buffers[name] for name in lowering.buffers.keys() & plain.buffers
    }
    given = {**padded_batch, **packed(padded_batch)} if "pack" in passes else padded_batch
    plan = Interpreted(lowering, given)
    for step in lowering.steps:
        plan.start_every_way(step, 2e-2)
    launches = [op for step in lowering.steps for way in step.ways for op in way if isinstance(op, Launch)]
    assert {name for op in launches for name in op.grid[0].names} >= CLUSTERS.keys()
    there = padded_batch["attention_mask"] > 0
    for name, expected in evaluate(elaborated, padded_batch, weights).items():
        per_token = "pack" in passes and expected.shape[:2] == there.shape
        wanted = expected[there] if per_token else expected
        assert np.abs(plan.output(outputs[name]) - wanted).max() < 2e-2, name  # f16, as in the test above


@pytest.mark.parametrize("sizes", [{"labels": 48}, {"hidden": 192, "embedding_size": 192, "head_size": 32, "heads": 6}])
def test_products_that_clusters_do_not_fit(sizes: Mapping[str, int], padded_batch: Mapping[str, Any]) -> None:
    """A head of 48 columns is none of theirs, though a tile has as many; no tile of 192 columns has whole granules."""
    spec = wide_spec(network="{head: token_classification}", precision="fp16")
    spec = replace(spec, sizes={**spec.sizes, **sizes})
    elaborated = elaborate(spec)
    weights = weights_of(elaborated)
    _, lowering, outputs = norms_in_products(spec, weights)
    assert all(step.ways for step in lowering.steps)
    plan = Interpreted(lowering, padded_batch)
    for step in lowering.steps:
        for operation in step.ways[0]:
            plan.start(operation)
    there = padded_batch["attention_mask"] > 0
    for name, expected in evaluate(elaborated, padded_batch, weights).items():
        assert np.abs(plan.output(outputs[name]) - expected)[there].max() < 3e-2, name  # f16, wider sums


@pytest.mark.parametrize(
    ("precision", "architecture", "rows", "bound"), [("fp32", "sm_80", 11, 2e-5), ("fp16", "sm_90", 4096, 2e-2)]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_packed_plans(
    network: str, precision: str, architecture: str, rows: int, bound: float, padded_batch: Mapping[str, Any]
) -> None:
    """By the ways of so many rows."""
    spec = wide_spec(network=network, passes="[default, pack_sequences]", precision=precision)
    spec = replace(spec, sizes={**spec.sizes, **WITH_ROLES})
    elaborated = elaborate(spec)
    weights = weights_of(elaborated)
    lowering = Lowering(compile(spec, "cuda"), weights, {"fp32": "f32", "fp16": "f16"}[precision], architecture)
    outputs = lowering.run()
    plan = Interpreted(lowering, {**padded_batch, **packed(padded_batch)})
    for step in lowering.steps:
        for operation in step.way(rows):
            plan.start(operation)
    there = padded_batch["attention_mask"] > 0
    for name, expected in evaluate(elaborated, padded_batch, weights).items():
        wanted = expected[there] if expected.shape[:2] == there.shape else expected
        assert np.abs(plan.output(outputs[name]) - wanted).max() < bound, name


def wide_spec(**fields: str) -> Spec:
    """Sizes that the tiles of products and of attention fit."""
    spec = small_spec(**fields)
    wide = {"hidden": 128, "embedding_size": 128, "heads": 8, "head_size": 16, "inner": 256}
    return replace(spec, sizes={**spec.sizes, **wide})


WITH_ROLES = {"heads": 2, "head_size": 64}
"""Heads that attention takes whose warps have roles."""

MOVES = st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=2), min_size=1, max_size=8)
"""For each step, the buffers that its operations read and write."""

BYTES = st.lists(st.integers(1, 5).map(lambda size: 256 * size), min_size=7, max_size=7).map(
    lambda sizes: {f"b{index}": size for index, size in enumerate(sizes)}
)
KEPT = st.sets(st.integers(0, 6), max_size=2).map(lambda kept: [f"b{index}" for index in sorted(kept)])


def moving(moves: Sequence[Sequence[tuple[int, int]]]) -> list[list[Launch]]:
    return [
        [Launch("", (Size(1),) * 3, (), (f"b{source}",), (f"b{target}",)) for source, target in step] for step in moves
    ]


@given(MOVES, BYTES, KEPT)
def test_buffers_that_live_together_do_not_share_memory(
    moves: Sequence[Sequence[tuple[int, int]]], bytes_of: Mapping[str, int], kept: Sequence[str]
) -> None:
    steps = moving(moves)
    offsets = arena(steps, bytes_of, kept)
    used: dict[str, set[int]] = {name: set(range(len(steps))) for name in kept}
    for index, step in enumerate(steps):
        for operation in step:
            for name in (*operation.reads, *operation.writes):
                used.setdefault(name, set()).add(index)
    assert offsets.keys() == used.keys()
    for one in used:
        for other in used:
            apart = offsets[one] + bytes_of[one] <= offsets[other] or offsets[other] + bytes_of[other] <= offsets[one]
            together = min(used[one]) <= max(used[other]) and min(used[other]) <= max(used[one])
            assert one == other or apart or not together


@given(MOVES, MOVES, BYTES, KEPT)
def test_kept_buffers_lie_at_the_same_place_whatever_the_steps_are(
    moves: Sequence[Sequence[tuple[int, int]]],
    others: Sequence[Sequence[tuple[int, int]]],
    bytes_of: Mapping[str, int],
    kept: Sequence[str],
) -> None:
    """So that a list of steps finds inputs where another list's were put."""
    offsets, other_offsets = (arena(moving(each), bytes_of, kept) for each in (moves, others))
    assert [offsets[name] for name in kept] == [other_offsets[name] for name in kept]


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "small.yaml").write_text(f"base: bert-base\nsizes: {SIZES}\n")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bertc", "build", "small.yaml", "--target", "cuda", "--random-weights", "0"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("architecture", ["sm_86", "sm_90"])
def test_compiles_without_a_gpu(architecture: str, tmp_path: Path) -> None:
    result = build(tmp_path, "--precision", "fp16", "--arch", architecture, "-o", "x")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "x/plan.json").read_text()
    plan = read_plan(text)
    assert plan.to_json() == text
    assert plan.architecture == architecture
    for kernel in plan.kernels.values():
        assert (tmp_path / "x" / kernel.file).read_bytes().startswith(b"\x7fELF")
    steps = [step for steps in plan.lists for step in steps]
    launched = {op.kernel for step in steps for way in step.ways for op in way if isinstance(op, Launch)}
    assert launched == plan.kernels.keys()
    assert all(step.ways for step in steps)
    assert len(plan.lists) == 1
    assert any("centred" in name for name in plan.weights) == (architecture == "sm_90")
    assert max(kernel.shared for kernel in plan.kernels.values()) <= ARCHITECTURES[architecture]
    assert any(kernel.boxes for kernel in plan.kernels.values()) == (architecture == "sm_90")
    stored = json.loads((tmp_path / "x/manifest.json").read_text())["files"]["weights.bin"]["size"]
    assert stored > 2 * 53 * 128


def test_refuses_an_architecture_without_kernels(tmp_path: Path) -> None:
    result = build(tmp_path, "--arch", "sm_75", "-o", "x")
    assert result.returncode == 4
    assert "sm_80, sm_86" in result.stderr
    assert not (tmp_path / "x").exists()
