"""What the `cuda` target runs: buffers, and steps over them; the same for every batch and sequence.

A step may have several ways, such as a library's product or one of ours with its own end; which is taken depends on
how many rows there are. Sizes that are known only when the engine runs are products of names: 768 · batch · seq.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, prod
from typing import Any

import ml_dtypes
import numpy as np

from bertc.kernels.qkv_attention import TOKENS

ELEMENTS: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i32": np.int32}

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "places", "starts", "lengths")
"""What a session gives, each a vector of i32."""

EIGHT = 8
"""Blocks of the largest clusters that any GPU with clusters has."""

EIGHTS, PAIRS = "eights", "pairs"
"""Sizes that the GPU has: clusters of EIGHT that fit it, and pairs of blocks that fit beside these."""

Choices = tuple[tuple[int, int], ...]
"""(rows, way), rows rising: the way for up to that many rows; the last one for all above."""


@dataclass(frozen=True)
class Span:
    """More than `above` rows, and no more than `up_to`."""

    above: float
    up_to: float

    def meets(self, other: Span) -> bool:
        return max(self.above, other.above) < min(self.up_to, other.up_to)


PLAIN, FOLDED, JOINED = range(3)
"""Lists of steps that are lowered: norms by kernels of their own; along with the products around them; and beside that
query, key and value in one kernel with their attention, for one sequence of TOKENS at most."""


def spans_of(choices: Choices) -> list[Span]:
    """The rows of each choice; the last is for all above."""
    limits = [rows for rows, _ in choices[:-1]]
    return [Span(above, up_to) for above, up_to in zip((0, *limits), (*limits, inf), strict=True)]


def chosen(choices: Choices, rows: int) -> int:
    return next((index for limit, index in choices if rows <= limit), choices[-1][1])


@dataclass(frozen=True)
class Size:
    """factor · Π names, rounded up to a multiple of `per` and divided by it."""

    factor: int
    names: tuple[str, ...] = ()
    per: int = 1

    def __call__(self, sizes: Mapping[str, int]) -> int:
        return -(-self.factor * prod(sizes[name] for name in self.names) // self.per)


@dataclass(frozen=True)
class Place:
    """An address: so many elements behind the start of a buffer or of a weight."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Tiles:
    """A matrix [rows, columns], its rows `row` elements apart, that a kernel takes in boxes through the copy engine."""

    place: Place
    rows: Size
    columns: int
    row: Size
    box: tuple[int, int]


Argument = Place | Size | Tiles


def places_of(arguments: Sequence[Argument]) -> tuple[Place, ...]:
    """The addresses among what a kernel is given."""
    places = (each.place if isinstance(each, Tiles) else each for each in arguments)
    return tuple(place for place in places if isinstance(place, Place))


@dataclass(frozen=True)
class Buffer:
    """Device memory for `size` elements."""

    element: str
    size: Size


@dataclass(frozen=True)
class Launch:
    """One start of a compiled kernel."""

    kernel: str
    grid: tuple[Size, Size, Size]
    arguments: tuple[Argument, ...]
    reads: tuple[str, ...]
    """Buffers; weights are not counted."""
    writes: tuple[str, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return places_of(self.arguments)


@dataclass(frozen=True)
class Product:
    """y = end(x · wᵀ + bias + residual) by cuBLASLt: x [rows, k], rows `row` apart; w [n, k]; y, residual [rows, n]."""

    x: Place
    w: Place
    y: Place
    rows: Size
    row: Size
    n: int
    k: int
    bias: Place | None = None
    residual: Place | None = None
    end: str = ""
    """Nothing, `relu` or `gelu_tanh`: what the library has behind a bias."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x.name, *([self.residual.name] if self.residual else []))

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(place for place in (self.x, self.w, self.y, self.bias, self.residual) if place)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.y.name,)


Operation = Launch | Product


@dataclass(frozen=True)
class Step:
    """Something to compute, and the ways to do so."""

    name: str
    ways: tuple[tuple[Operation, ...], ...]
    choices: Choices = ((0, 0),)
    is_frugal: bool = False
    """Whether the last of the choices takes the least effort."""

    def way(self, rows: int) -> tuple[Operation, ...]:
        return self.ways[chosen(self.choices, rows)]

    def frugal(self, rows: int) -> int | None:
        """The way of least effort, where it is the one for so many rows."""
        is_last = all(limit < rows for limit, _ in self.choices[:-1])
        return self.choices[-1][1] if self.is_frugal and is_last else None

    def with_kernels(self, there: Collection[str]) -> Step:
        """The step without ways that need a kernel which is not there; what was chosen becomes the first way for few
        rows and the last for many."""
        kept = [
            index
            for index, way in enumerate(self.ways)
            if all(operation.kernel in there for operation in way if isinstance(operation, Launch))
        ]
        choices = tuple(
            (rows, kept.index(way) if way in kept else 0 if index < len(self.choices) - 1 else len(kept) - 1)
            for index, (rows, way) in enumerate(self.choices)
        )
        return replace(self, ways=tuple(self.ways[index] for index in kept), choices=choices)

    def within(self, ranges: Sequence[Span]) -> Step:
        """The step with those ways alone that are chosen for rows of some ranges."""
        spans = zip(self.choices, spans_of(self.choices), strict=True)
        reached = [choice for choice, span in spans if any(map(span.meets, ranges))]
        kept = sorted({way for _, way in reached})
        choices = tuple((rows, kept.index(way)) for rows, way in reached)
        return replace(self, ways=tuple(self.ways[way] for way in kept), choices=choices)


@dataclass(frozen=True)
class Box:
    """What the copy engine takes of a matrix at once: rows × columns, or `count` of these, side by side in the matrix
    and one behind the other in shared memory."""

    rows: int
    columns: int
    swizzle: int
    """The driver's number for how it lies in shared memory."""
    count: int = 0


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: a file of machine code and how to start it."""

    file: str
    entry: str
    warps: int
    shared: int
    """Bytes of shared memory."""
    boxes: tuple[Box, ...] = ()
    """For each matrix that it takes in boxes."""
    cluster: int = 0
    """Blocks of a cluster, for kernels of CUDA C++; 0 for Triton's, which take more than they are declared with."""


@dataclass(frozen=True)
class Output:
    """Part of a buffer: `width` columns of each row from `column` on, rows `row` elements apart, of the given shape."""

    buffer: str
    shape: tuple[Size, ...]
    row: Size
    column: int
    width: int


@dataclass(frozen=True)
class Plan:
    architecture: str
    buffers: Mapping[str, Buffer]
    weights: Mapping[str, tuple[str, int]]
    """Name -> element type, and where in the file of weights it starts, in bytes."""
    kernels: Mapping[str, Kernel]
    lists: tuple[tuple[Step, ...], ...]
    """Lists of steps, all to the same outputs."""
    outputs: Mapping[str, Output]
    algorithms: Mapping[str, str] = field(default_factory=dict[str, str])
    """(product and rows) -> the cuBLASLt algorithm that was fastest when the engine was built, in hex."""
    choices: Choices = ((0, 0),)
    """Of the lists, for batches."""
    alone: Choices = ((0, 0),)
    """Of the lists, for one sequence."""

    def offered(self, sizes: Mapping[str, int]) -> tuple[tuple[Step, ...], ...]:
        """The lists that a shape may take, of which JOINED is the last."""
        return self.lists if sizes["batch"] == 1 and sizes["tokens"] <= TOKENS else self.lists[:JOINED]

    def taken(self, sizes: Mapping[str, int]) -> tuple[Step, ...]:
        """The steps for a shape."""
        return self.lists[chosen(self.alone if sizes["batch"] == 1 else self.choices, sizes["tokens"])]

    def pruned(self) -> Plan:
        """The plan that does the same with nothing besides: without the lists, the ways, the kernels and the weights
        that it takes for no number of rows. Weights that are left lie where they did."""
        taken = defaultdict[int, list[Span]](list)
        for choices in (self.choices, self.alone):
            for (_, index), span in zip(choices, spans_of(choices), strict=True):
                taken[index].append(span)
        kept = sorted(taken)
        lists = tuple(tuple(step.within(taken[index]) for step in self.lists[index]) for index in kept)
        choices, alone = (tuple((rows, kept.index(index)) for rows, index in of) for of in (self.choices, self.alone))
        pruned = replace(self, lists=lists, choices=choices, alone=alone)
        launched, names = pruned.launched(), pruned.names()
        kernels = {name: kernel for name, kernel in self.kernels.items() if name in launched}
        weights = {name: at for name, at in self.weights.items() if name in names}
        return replace(pruned, kernels=kernels, weights=weights)

    def launched(self) -> set[str]:
        """The kernels of all ways."""
        return {operation.kernel for operation in self.operations() if isinstance(operation, Launch)}

    def names(self) -> set[str]:
        """The buffers and weights of all ways."""
        return {place.name for operation in self.operations() for place in operation.places}

    def operations(self) -> Iterator[Operation]:
        return (operation for steps in self.lists for step in steps for way in step.ways for operation in way)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def arena(steps: Sequence[Sequence[Operation]], bytes_of: Mapping[str, int], kept: Sequence[str]) -> dict[str, int]:
    """The offset of each buffer in one block of memory: buffers share a place when their lives do not overlap.

    A life goes from the first step that writes a buffer to the last that reads it; `kept` ones, inputs and outputs,
    live always and come first, so that their places are the same for all lists of steps. Then largest first, each at
    the lowest place that is free (Pisarchyk and Lee 2020, greedy by size).
    """
    lives: dict[str, list[int]] = {name: [0, len(steps)] for name in kept}
    for index, operations in enumerate(steps):
        for operation in operations:
            for name in (*operation.reads, *operation.writes):
                life = lives.setdefault(name, [index, index])
                life[1] = max(life[1], index)
    offsets: dict[str, int] = {}
    for name in sorted(lives, key=lambda name: (name not in kept, -bytes_of[name], name)):
        first, last = lives[name]
        taken = sorted(
            (offsets[other], offsets[other] + bytes_of[other])
            for other in offsets
            if lives[other][0] <= last and first <= lives[other][1]
        )
        offset = 0
        for start, end in taken:
            if offset + bytes_of[name] <= start:
                break
            offset = max(offset, end)
        offsets[name] = offset
    return offsets


def read_plan(text: str) -> Plan:
    """A plan from its JSON, which the bundle's hashes vouch for."""
    content = json.loads(text)
    return Plan(
        architecture=content["architecture"],
        buffers={name: Buffer(of["element"], _size(of["size"])) for name, of in content["buffers"].items()},
        weights={name: (element, start) for name, (element, start) in content["weights"].items()},
        kernels={name: _kernel(of) for name, of in content["kernels"].items()},
        lists=tuple(tuple(_step(of) for of in steps) for steps in content["lists"]),
        outputs={name: _output(of) for name, of in content["outputs"].items()},
        algorithms=content["algorithms"],
        choices=_choices(content["choices"]),
        alone=_choices(content["alone"]),
    )


def _size(of: dict[str, Any]) -> Size:
    return Size(of["factor"], tuple(of["names"]), of["per"])


def _kernel(of: dict[str, Any]) -> Kernel:
    boxes = tuple(Box(**box) for box in of["boxes"])
    return Kernel(of["file"], of["entry"], of["warps"], of["shared"], boxes, of["cluster"])


def _argument(of: dict[str, Any]) -> Argument:
    if "box" in of:
        rows, columns = of["box"]
        return Tiles(Place(**of["place"]), _size(of["rows"]), of["columns"], _size(of["row"]), (rows, columns))
    return _size(of) if "factor" in of else Place(**of)


def _step(of: dict[str, Any]) -> Step:
    ways = tuple(tuple(_operation(operation) for operation in way) for way in of["ways"])
    return Step(of["name"], ways, _choices(of["choices"]), of.get("is_frugal", False))


def _choices(of: list[list[int]]) -> Choices:
    return tuple((rows, index) for rows, index in of)


def _operation(of: dict[str, Any]) -> Operation:
    if "kernel" in of:
        first, second, third = map(_size, of["grid"])
        arguments = tuple(map(_argument, of["arguments"]))
        return Launch(of["kernel"], (first, second, third), arguments, tuple(of["reads"]), tuple(of["writes"]))
    x, w, y = (Place(**of[name]) for name in ("x", "w", "y"))
    bias, residual = (Place(**of[name]) if of[name] else None for name in ("bias", "residual"))
    return Product(x, w, y, _size(of["rows"]), _size(of["row"]), of["n"], of["k"], bias, residual, of["end"])


def _output(of: dict[str, Any]) -> Output:
    return Output(of["buffer"], tuple(map(_size, of["shape"])), _size(of["row"]), of["column"], of["width"])
