"""Run a plan: one arena, one stream, one CUDA graph for each shape."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.targets import Phases
from bertc.targets.copies import copied
from bertc.targets.cuda.blas import WORKSPACE, Blas, Problem
from bertc.targets.cuda.driver import LONG, NUMBER, POINTER, STRUCTURE, Captured, Device, Pinned
from bertc.targets.cuda.plan import (
    EIGHT,
    EIGHTS,
    ELEMENTS,
    INPUTS,
    PAIRS,
    Argument,
    Box,
    Launch,
    Operation,
    Output,
    Place,
    Plan,
    Product,
    Size,
    Tiles,
    arena,
    read_plan,
)
from bertc.targets.packing import PER_SEQUENCE, located, packed, padded_again, sequence_lengths
from bertc.types import BITS

PLAN, WEIGHTS = "plan.json", "weights.bin"

BUCKETS, LARGEST_STEP = 32, 1024
"""Packed tokens, and the longest of their sequences, are counted in so many parts of the power of two above them, of
LARGEST_STEP at most: few enough graphs, and no more than a sixteenth of the rows idle, of 40 000 a fortieth."""

ALIGNMENT = 256
"""Bytes; what kernels are compiled to expect of every address is 16, what copies like is more."""


@dataclass(frozen=True)
class Prepared:
    """One shape: its sizes, where its buffers are, its graph."""

    sizes: Mapping[str, int]
    addresses: Mapping[str, int]
    graph: Any


@dataclass(frozen=True)
class Call:
    """One run: a shape, what goes into its buffers, and how many rows of its outputs count."""

    prepared: Prepared
    given: Mapping[str, Array]
    counts: Mapping[str, int]
    """How many of batch, seq and tokens are real; the buffers may have room for more."""


class Session:
    """A plan on a device. `run`, `run_packed`, `take`, `phases` and `close` may be called from any thread, one waits
    for another; everything else is for one thread, while the device is its current one."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.device = device
        self.plan: Plan = read_plan((folder / PLAN).read_text("utf-8"))
        if self.plan.architecture != device.architecture:
            found = f"but this GPU, {device.name}, is {device.architecture}"
            help = f"build with `--arch {device.architecture}`"
            raise error("B0511", f"the bundle was built for {self.plan.architecture}, {found}", None, help)
        content = np.fromfile(folder / WEIGHTS, np.uint8)
        with device.current():
            self.functions = {
                name: device.function(folder / kernel.file, kernel.entry, kernel.shared)
                for name, kernel in self.plan.kernels.items()
            }
            self.weights = device.allocate(content.nbytes)
            device.upload(self.weights, content)
            self.blas = Blas(device.allocate(WORKSPACE))
        self.packed = "places" in self.plan.buffers
        """Whether the plan takes sequences one behind the other, with no padding."""
        self.token_outputs = frozenset(name for name, output in self.plan.outputs.items() if _is_per_token(output))
        """The outputs that have an entry for each token."""
        self.algorithms = {name: bytes.fromhex(text) for name, text in self.plan.algorithms.items()}
        self._arena, self._arena_size = 0, 0
        self._captured: Captured[tuple[int, ...], Prepared] = Captured(device)
        self._pinned = Pinned(device)
        self._turn = Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, every output as float32: `input_ids`, `attention_mask`, `token_type_ids` [batch, seq]."""
        with self._turn, self.device.current():
            answers = self._answers(self._call(inputs))
        return padded_again(answers, inputs, self.token_outputs) if self.packed else answers

    def run_packed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Sequences one behind the other in, `input_ids` and `token_type_ids` [tokens] and their `lengths` [batch];
        every output as float32, token_outputs [tokens, ...]."""
        with self._turn, self.device.current():
            return self._answers(self._packed_call(inputs))

    def require_clusters(self) -> None:
        """Raises BertcError B0513 where the plan has clusters of EIGHT blocks and no room for one, as in a part of a
        GPU (MIG)."""
        with self._turn, self.device.current():
            if self._clusters.get(EIGHTS, 1) < 1:
                found = f"but {self.device.name}, or the part of it that is given, has room for none"
                message = f"the bundle has kernels by clusters of {EIGHT} blocks, {found}"
                raise error("B0513", message, None, "build here, where its kernels are timed and others taken")

    def take(self, plan: Plan) -> None:
        """Other choices of the same lists and ways from now on; what was captured is void."""
        with self._turn, self.device.current():
            self.plan = plan
            self._captured.clear()

    def phases(self, inputs: Mapping[str, Array]) -> Phases:
        """What a call of `run` costs the device."""
        with self._turn, self.device.current():
            call = self._call(inputs)
            self._stage(call)
            upload = self.device.milliseconds(lambda: self._upload(call))
            compute = self.device.milliseconds(lambda: self.device.replay(call.prepared.graph))
            download = self.device.milliseconds(lambda: self._download(call))
        return Phases(upload, compute, download)

    def step_times(self, inputs: Mapping[str, Array], runs: int) -> dict[str, float]:
        """Milliseconds of each step in a call of `run`, by name, the mean of several runs."""
        with self._turn, self.device.current():
            call = self._call(inputs)
            self._stage(call)
            self._upload(call)
            sizes, addresses = call.prepared.sizes, call.prepared.addresses
            steps = self.plan.taken(sizes)
            ways = [step.way(sizes["tokens"]) for step in steps]
            parts = [partial(self._run, [way], sizes, addresses) for way in ways]
            found: defaultdict[str, float] = defaultdict(float)
            for step, time in zip(steps, self.device.part_times(parts, runs), strict=True):
                found[step.name] += time
        return dict(found)

    def _call(self, inputs: Mapping[str, Array]) -> Call:
        if self.packed:
            return self._packed_call(packed(inputs))
        batch, seq = inputs["input_ids"].shape
        counts = {"batch": batch, "seq": seq, "tokens": batch * seq}
        return Call(self.prepare(counts), {**inputs, "lengths": sequence_lengths(inputs)}, counts)

    def _packed_call(self, inputs: Mapping[str, Array]) -> Call:
        """Batches are rounded up to a power of two by sequences without tokens, and tokens to a bucket by zeros, so
        that there are few graphs. Buffers are given whole: between two runs other shapes use the memory."""
        lengths = inputs["lengths"]
        batch, tokens = len(lengths), len(inputs["input_ids"])
        sizes = {"batch": 1 << (batch - 1).bit_length(), "seq": bucket(int(lengths.max())), "tokens": bucket(tokens)}
        empty, behind = (0, sizes["batch"] - batch), (0, sizes["tokens"] - tokens)
        given = {
            name: np.pad(array, empty if name in PER_SEQUENCE else behind) for name, array in located(inputs).items()
        }
        return Call(self.prepare(sizes), given, {"batch": batch, "tokens": tokens})

    def _answers(self, call: Call) -> dict[str, Array]:
        self._stage(call)
        self._upload(call)
        self.device.replay(call.prepared.graph)
        self._download(call)
        self.device.wait()
        return {name: self._fetch(output, call) for name, output in self.plan.outputs.items()}

    def _stage(self, call: Call) -> None:
        """The inputs, in memory that the device reads by itself."""
        for name, array in call.given.items():
            if name in call.prepared.addresses:
                self._pinned.take(name, array.size * 4).view(np.int32)[:] = array.reshape(-1)

    def _upload(self, call: Call) -> None:
        for name, array in call.given.items():
            if name in call.prepared.addresses:
                self.device.start_upload(call.prepared.addresses[name], self._pinned.take(name, array.size * 4))

    def _download(self, call: Call) -> None:
        for output in {output.buffer: output for output in self.plan.outputs.values()}.values():
            self.device.start_download(self._downloaded(output, call), call.prepared.addresses[output.buffer])

    def _downloaded(self, output: Output, call: Call) -> Array:
        """The rows of an output's buffer that count, in memory that the device writes by itself."""
        rows = prod(size(call.counts) for size in output.shape) // output.width
        element = np.dtype(ELEMENTS[self.plan.buffers[output.buffer].element])
        return self._pinned.take(output.buffer, rows * output.row(call.prepared.sizes) * element.itemsize).view(element)

    def _fetch(self, output: Output, call: Call) -> Array:
        rows = self._downloaded(output, call).reshape(-1, output.row(call.prepared.sizes))
        columns = rows[:, output.column : output.column + output.width]
        return copied(columns).reshape([size(call.counts) for size in output.shape])

    def prepare(self, sizes: Mapping[str, int]) -> Prepared:
        """The graph of a shape: captured when it is first asked for."""
        return self._captured.get(tuple(sizes.values()), lambda: self._prepared(sizes))

    def _prepared(self, sizes: Mapping[str, int]) -> Prepared:
        ways = [step.way(sizes["tokens"]) for step in self.plan.taken(sizes)]
        addresses = self.place(ways, sizes)
        self._run(ways, sizes, addresses)  # finds the products' algorithms, which a capture must not
        return Prepared(sizes, addresses, self.device.captured(lambda: self._run(ways, sizes, addresses)))

    def place(self, ways: Sequence[Sequence[Operation]], sizes: Mapping[str, int]) -> dict[str, int]:
        """The address of every buffer for a shape; a larger arena makes what was captured in the smaller one void."""
        rounded = {
            name: -(-buffer.size(sizes) * BITS[buffer.element] // 8 // ALIGNMENT) * ALIGNMENT
            for name, buffer in self.plan.buffers.items()
        }
        inputs = [name for name in INPUTS if name in self.plan.buffers]
        kept = [*inputs, *dict.fromkeys(output.buffer for output in self.plan.outputs.values())]
        offsets = arena(ways, rounded, kept)
        size = max(offsets[name] + rounded[name] for name in offsets)
        if size > self._arena_size:
            self._captured.clear()
            if self._arena_size:
                self.device.free(self._arena)
            self._arena, self._arena_size = self.device.allocate(size), size
        addresses = {name: self._arena + offset for name, offset in offsets.items()}
        for name in inputs:  # what is run before there are inputs finds ids that exist
            self.device.clear(addresses[name], rounded[name])
        return addresses

    def _run(self, ways: Sequence[Sequence[Operation]], sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        for way in ways:
            for operation in way:
                self.start(operation, sizes, addresses)

    @cached_property
    def _clusters(self) -> Mapping[str, int]:
        """How many of EIGHTS fit the GPU, and of PAIRS beside them, where the plan has kernels of these; both have
        multiprocessors of their own."""
        kernels = {
            size.names[0]: operation.kernel
            for operation in self.plan.operations()
            if isinstance(operation, Launch) and (size := operation.grid[0]).names in ((EIGHTS,), (PAIRS,))
        }
        fitting = {name: self._fitting(kernel) for name, kernel in kernels.items()}
        if fitting:
            fitting[PAIRS] = max(1, fitting[PAIRS] - EIGHT // 2 * fitting[EIGHTS])
        return fitting

    def _fitting(self, name: str) -> int:
        kernel = self.plan.kernels[name]
        return self.device.clusters(self.functions[name], kernel.warps, kernel.shared, kernel.cluster)

    def start(self, operation: Operation, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        """Put one operation on the stream."""
        if isinstance(operation, Launch):
            sizes = {**sizes, **self._clusters}
            kernel = self.plan.kernels[operation.kernel]
            boxes = iter(kernel.boxes)
            values: list[tuple[Any, Any]] = []
            for argument in operation.arguments:
                box = next(boxes) if isinstance(argument, Tiles) else None
                given = self._argument(argument, box, sizes, addresses)
                values += given[:1] if kernel.cluster else given
            if not kernel.cluster:
                values += [(0, POINTER), (0, POINTER)]  # Triton's two last parameters, which our kernels do not use
            first, second, third = (size(sizes) for size in operation.grid)
            function = self.functions[operation.kernel]
            grid = (first, second, third)
            self.device.launch(function, grid, kernel.warps, kernel.shared, values, kernel.cluster)
        else:
            self._multiply(operation, sizes, addresses)

    def _argument(
        self,
        argument: Argument,
        box: Box | None,
        sizes: Mapping[str, int],
        addresses: Mapping[str, int],
    ) -> list[tuple[Any, Any]]:
        """What a kernel is given for an argument: values with their types. Triton's also take a matrix's shape."""
        if isinstance(argument, Size):
            return [(argument(sizes), NUMBER)]
        if isinstance(argument, Place):
            return [(self._address(argument, addresses), POINTER)]
        assert box is not None
        rows, row = argument.rows(sizes), argument.row(sizes)
        address = self._address(argument.place, addresses)
        shape = (rows, argument.columns)
        map = self.device.tensor_map(address, self._element(argument.place), shape, row, box)
        return [(map, STRUCTURE), (rows, NUMBER), (argument.columns, NUMBER), (row, LONG), (1, LONG)]

    def _element(self, place: Place) -> str:
        weights = self.plan.weights
        return weights[place.name][0] if place.name in weights else self.plan.buffers[place.name].element

    def _address(self, place: Place | None, addresses: Mapping[str, int]) -> int:
        if place is None:
            return 0
        known = self.plan.weights.get(place.name)
        start = addresses[place.name] if known is None else self.weights + known[1]
        return start + place.offset * BITS[self._element(place)] // 8

    def _multiply(self, product: Product, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        problem = self.problem(product, sizes)
        key = algorithm_key(problem)
        if key not in self.algorithms:
            found = self.blas.algorithms(problem)
            if not found:
                message = f"cuBLASLt has no product of {problem.rows} rows for a weight {problem.n} × {problem.k}"
                raise error("B0514", message, None, "build on the GPU, where another way is taken")
            self.algorithms[key] = found[0]
        self.multiply(product, problem, self.algorithms[key], addresses)

    def problem(self, product: Product, sizes: Mapping[str, int]) -> Problem:
        element = self.plan.buffers[product.y.name].element
        return Problem(
            rows=product.rows(sizes),
            row=product.row(sizes),
            n=product.n,
            k=product.k,
            element=element,
            has_bias=product.bias is not None,
            has_residual=product.residual is not None,
            end=product.end,
        )

    def multiply(self, product: Product, problem: Problem, algorithm: bytes, addresses: Mapping[str, int]) -> None:
        """Put a product on the stream, done by a given algorithm."""
        x, w, y = (self._address(place, addresses) for place in (product.x, product.w, product.y))
        bias, residual = (self._address(place, addresses) for place in (product.bias, product.residual))
        self.blas.multiply(problem, algorithm, x, w, y, bias, residual, int(self.device.stream))

    def close(self) -> None:
        """Give the device's memory back."""
        with self._turn:
            with self.device.current():
                self._captured.clear()
                self.blas.close()
            self.device.close()


def _is_per_token(output: Output) -> bool:
    return any(size.names in (("seq",), ("tokens",)) for size in output.shape)


def bucket(count: int) -> int:
    """The count rounded up to a multiple of 16 that is one of BUCKETS parts of the power of two above it, or more."""
    step = min(max(16, (1 << (count - 1).bit_length()) // BUCKETS), LARGEST_STEP)
    return -(-count // step) * step


def algorithm_key(problem: Problem) -> str:
    """What an algorithm is kept under."""
    return hashlib.sha256(repr(problem).encode()).hexdigest()[:16]
