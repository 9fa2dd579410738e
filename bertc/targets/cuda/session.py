"""Run a plan: one arena, one stream, one CUDA graph for each shape."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.targets.cuda.blas import WORKSPACE, Blas, Problem
from bertc.targets.cuda.driver import LONG, NUMBER, POINTER, STRUCTURE, Device
from bertc.targets.cuda.plan import Argument, Launch, Operation, Place, Plan, Product, Size, arena, read_plan
from bertc.types import BITS

PLAN, WEIGHTS = "plan.json", "weights.bin"

INPUTS = ("input_ids", "token_type_ids", "places", "starts", "lengths")
"""What a plan may read, each a vector of i32."""

BUCKETS = 32
"""Packed tokens, and the longest of their sequences, are counted in so many parts of the power of two above them: few
enough graphs, and no more than a sixteenth of the rows idle."""

GRAPHS = 64
"""CUDA graphs that are kept, the least recently used one goes first."""

ELEMENTS: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i32": np.int32}

ALIGNMENT = 256
"""Bytes; what kernels are compiled to expect of every address is 16, what copies like is more."""


@dataclass(frozen=True)
class Prepared:
    """One shape: its sizes, where its buffers are, its graph."""

    sizes: Mapping[str, int]
    addresses: Mapping[str, int]
    graph: Any


class Session:
    """A plan on a device."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.device = device
        self.plan: Plan = read_plan((folder / PLAN).read_text("utf-8"))
        if self.plan.architecture != device.architecture:
            found = f"but this GPU, {device.name}, is {device.architecture}"
            help = f"build with `--arch {device.architecture}`"
            raise error("B0511", f"the bundle was built for {self.plan.architecture}, {found}", None, help)
        self.functions = {
            name: device.function(folder / kernel.file, kernel.entry, kernel.shared)
            for name, kernel in self.plan.kernels.items()
        }
        content = np.fromfile(folder / WEIGHTS, np.uint8)
        self.weights = device.allocate(content.nbytes)
        device.upload(self.weights, content)
        self.blas = Blas(device.allocate(WORKSPACE))
        self.algorithms = {name: bytes.fromhex(text) for name, text in self.plan.algorithms.items()}
        self._arena, self._arena_size = 0, 0
        self._captured: OrderedDict[tuple[int, ...], Prepared] = OrderedDict()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A padded batch in, every output as float32: `input_ids`, `attention_mask`, `token_type_ids` [batch, seq]."""
        self.device.enter()
        batch, seq = inputs["input_ids"].shape
        lengths = np.maximum(inputs["attention_mask"].sum(1), 1)
        if "places" not in self.plan.buffers:
            prepared = self.prepare({"batch": batch, "seq": seq, "tokens": batch * seq})
            return self._replay(prepared, {**inputs, "lengths": lengths})
        there = real_tokens(lengths, seq)
        longest, tokens = (bucket(int(count)) for count in (lengths.max(), lengths.sum()))
        prepared = self.prepare({"batch": batch, "seq": longest, "tokens": tokens})
        given = {name: inputs[name][there] for name in ("input_ids", "token_type_ids")}
        given |= {"places": there.nonzero()[1], "starts": np.cumsum(lengths) - lengths, "lengths": lengths}
        answers = self._replay(prepared, given)
        return {name: self._unpacked(name, answers[name], there) for name in answers}

    def _replay(self, prepared: Prepared, given: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in given.items():
            if name in prepared.addresses:
                self.device.upload(prepared.addresses[name], array.astype(np.int32))
        self.device.replay(prepared.graph)
        return {name: self._fetch(name, prepared) for name in self.plan.outputs}

    def _unpacked(self, name: str, answer: Array, there: Array) -> Array:
        """What has a row for each token with the padding put back, as zeros."""
        if self.plan.outputs[name].shape[0].names != ("tokens",):
            return answer
        padded = np.zeros((*there.shape, *answer.shape[1:]), answer.dtype)
        padded[there] = answer[: there.sum()]
        return padded

    def prepare(self, sizes: Mapping[str, int]) -> Prepared:
        """The graph of a shape: captured when it is first asked for."""
        key = tuple(sizes.values())
        if key in self._captured:
            self._captured.move_to_end(key)
            return self._captured[key]
        ways = [step.way(sizes["tokens"]) for step in self.plan.steps]
        addresses = self.place(ways, sizes)
        self._run(ways, sizes, addresses)  # finds the products' algorithms, which a capture must not
        prepared = Prepared(sizes, addresses, self.device.captured(lambda: self._run(ways, sizes, addresses)))
        self._captured[key] = prepared
        if len(self._captured) > GRAPHS:
            self.device.forget(self._captured.popitem(last=False)[1].graph)
        return prepared

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
            for old in self._captured.values():
                self.device.forget(old.graph)
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

    def start(self, operation: Operation, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        """Put one operation on the stream."""
        if isinstance(operation, Launch):
            kernel = self.plan.kernels[operation.kernel]
            boxes = iter(kernel.boxes)
            values = [
                value for argument in operation.arguments for value in self._argument(argument, boxes, sizes, addresses)
            ]
            first, second, third = (size(sizes) for size in operation.grid)
            scratch = [(0, POINTER), (0, POINTER)]  # Triton's two last parameters, which our kernels do not use
            function = self.functions[operation.kernel]
            self.device.launch(function, (first, second, third), kernel.warps, kernel.shared, [*values, *scratch])
        else:
            self._multiply(operation, sizes, addresses)

    def _argument(
        self,
        argument: Argument,
        boxes: Iterator[tuple[int, int, int]],
        sizes: Mapping[str, int],
        addresses: Mapping[str, int],
    ) -> list[tuple[Any, Any]]:
        """What a kernel is given for an argument: values with their types."""
        if isinstance(argument, Size):
            return [(argument(sizes), NUMBER)]
        if isinstance(argument, Place):
            return [(self._address(argument, addresses), POINTER)]
        rows, row = argument.rows(sizes), argument.row(sizes)
        address = self._address(argument.place, addresses)
        shape = (rows, argument.columns)
        map = self.device.tensor_map(address, self._element(argument.place), shape, row, next(boxes))
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
            self.algorithms[key] = self.blas.algorithms(problem)[0]
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

    def _fetch(self, name: str, prepared: Prepared) -> Array:
        output = self.plan.outputs[name]
        buffer = self.plan.buffers[output.buffer]
        row = output.row(prepared.sizes)
        shape = [size(prepared.sizes) for size in output.shape]
        flat = np.empty(buffer.size(prepared.sizes), ELEMENTS[buffer.element])
        self.device.download(flat, prepared.addresses[output.buffer])
        columns = flat.reshape(-1, row)[:, output.column : output.column + output.width]
        return columns.astype(np.float32).reshape(shape)

    def close(self) -> None:
        """Give the device's memory back."""
        for prepared in self._captured.values():
            self.device.forget(prepared.graph)
        self._captured.clear()
        self.blas.close()
        self.device.close()


def real_tokens(lengths: Array, seq: int) -> Array:
    """[batch, seq]: whether a token stands there, and not padding."""
    return np.less(np.arange(seq), lengths[:, None])


def bucket(count: int) -> int:
    """The count rounded up to a multiple of 16 that is one of BUCKETS parts of the power of two above it."""
    step = max(16, (1 << (count - 1).bit_length()) // BUCKETS)
    return -(-count // step) * step


def algorithm_key(problem: Problem) -> str:
    """What an algorithm is kept under."""
    return hashlib.sha256(repr(problem).encode()).hexdigest()[:16]
