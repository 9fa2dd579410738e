"""Graph -> plan: each fused op a kernel, each product with what stands behind it a step with several ways.

What ops become stands in rooms: products.py, attention.py, norms.py, elementwise.py, and layouts.py for those that move
no data. Here is what the rooms share: memory, constants, and where values lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bertc.errors import BertcError, error
from bertc.extensions import kernel_of
from bertc.graph import INPUT, Graph, Node
from bertc.ops import Array
from bertc.plugins import PLUGINS
from bertc.reference import Weights, constant
from bertc.targets.cuda import attention, elementwise, layouts, norms, products
from bertc.targets.cuda.compile_kernels import Source, parameters
from bertc.targets.cuda.hopper import Folded
from bertc.targets.cuda.plan import (
    Argument,
    Buffer,
    Choices,
    Launch,
    Operation,
    Output,
    Place,
    Size,
    Step,
    Tiles,
    places_of,
)
from bertc.targets.cuda.views import Layout, View, contiguous, product
from bertc.types import BITS, FLOATS, Dim, Shape

ALIGNED = 16
"""Bytes that divide the addresses of buffers and constants; kernels are compiled to load so many at once."""


class Lowering:
    """One graph on its way to a plan."""

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        element: str,
        architecture: str,
        of: Lowering | None = None,
        few: bool = True,
        joined: bool = False,
    ) -> None:
        """`of`: another of the same graph; then products take norms along, and go to clusters where there are `few`
        rows; query, key and value are `joined` with their attention. All have the same constants, and the same names
        for the same memory."""
        self.graph = graph
        self.weights = weights
        self.element = element
        self.architecture = architecture
        self.folding, self.few, self.joined = of is not None, few, joined
        self.steps: list[Step] = []
        self.buffers: dict[str, Buffer] = {}
        self.sources: dict[str, Source] = of.sources if of else {}
        self.constants: dict[str, tuple[str, Array]] = of.constants if of else {}
        """Name -> element type and values of everything that is known when the engine is built."""
        self.layouts: dict[str, Layout] = {}
        """Where the values lie that are computed so far."""
        self.norms: dict[str, Folded] = {}
        """Norms that no kernel takes, and what their readers make them of."""
        self.done: set[str] = set()
        """Keys of nodes that an earlier one has taken along."""

    def run(self) -> dict[str, Output]:
        """Lower every node; the outputs. Raises BertcError B0514 for what no kernel computes."""
        for node in self.graph:
            known = node.op == INPUT or self.graph.is_constant(node.key) or node.key in self.layouts
            if not known and node.key not in self.done and not _waits(self.graph, node):
                self._lower(node)
        return {name: self.output(value) for name, value in self.graph.outputs.items()}

    def _lower(self, node: Node) -> None:
        """The steps of a node, and the layouts of its results."""
        if any(len(type.shape) > elementwise.AXES for type in node.types):
            raise self.refusal(node, f"it has more axes than the {elementwise.AXES} that kernels count")
        lower = lowering_of(node.op)
        if lower is None:
            raise self.refusal(node, f"the cuda target has no kernel for {node.op}")
        lower(self, node)

    def refusal(self, node: Node, reason: str) -> BertcError:
        return error(
            "B0514", f"`{node.key}`: {reason}", node.span, "build for `onnx`, or leave the pass that made it out"
        )

    # ------------------------------------------------------------------------------------------------ values

    def layout(self, value: str) -> Layout:
        """Where a value lies; one that has waited is computed now."""
        if value not in self.layouts:
            node = self.graph.producer(value)
            if self.graph.is_constant(value):
                self.layouts[value] = contiguous(self.weight(value).name, self.shape(value))
            elif node.op == INPUT:
                self.layouts[value] = contiguous(self.input(value).name, self.shape(value))
            else:
                self._lower(node)
        return self.layouts[value]

    def shape(self, value: str) -> Shape:
        return self.graph.type_of(value).shape

    def view(self, value: str) -> View:
        """A value as rows of the plan's element type; copied where it lies otherwise."""
        return self.rows_in(value, self.layout(value))

    def rows_in(self, value: str, layout: Layout) -> View:
        """A layout of a value as rows of the plan's element type; copied where it is none."""
        view = layout.view()
        if view is None or self.element_in(view.buffer) != self.element:
            view = self.copy(value, layout, self.element).view()
        if view is None:
            reason = f"{layout.shape} are no rows of a matrix, which its reader takes"
            raise self.refusal(self.graph.producer(value), reason)
        return view

    def dense(self, value: str) -> Place:
        """A value in the plan's element type, its entries one behind the other; copied where they are not."""
        layout = self.layout(value)
        if not layout.is_dense or self.element_in(layout.buffer) != self.element:
            layout = self.copy(value, layout, self.element)
        return layout.place

    def copy(self, value: str, layout: Layout, element: str) -> Layout:
        """What lies somewhere, in new memory of its own, the last axis's entries side by side."""
        name = self.unused(f"{value}.copy")
        self.memory(name, element, layout.shape)
        copied = contiguous(name, layout.shape)
        elementwise.pointwise(self, name, copied, layout)
        return copied

    def element_in(self, buffer: str) -> str:
        return self.buffers[buffer].element if buffer in self.buffers else self.constants[buffer][0]

    # ------------------------------------------------------------------------------------------------ memory

    def buffer(self, value: str, element: str | None = None) -> Place:
        """New memory for a value."""
        self.layouts[value] = contiguous(value, self.shape(value))
        return self.memory(value, element or self.element, self.shape(value))

    def memory(self, name: str, element: str, shape: Sequence[Dim]) -> Place:
        """New memory, for a value or beside all of them."""
        self.buffers[name] = Buffer(element, product(shape))
        return Place(name)

    def unused(self, name: str) -> str:
        """The name, or with a number behind it where it is taken."""
        taken = sum(other == name or other.startswith(f"{name}.") for other in self.buffers)
        return f"{name}.{taken}" if taken else name

    def input(self, value: str) -> Place:
        """What the session gives: an input of the graph, or the lengths."""
        shape = self.shape(value) if value in self.graph else ("batch",)
        return self.memory(value, "i32", shape)

    def weight(self, value: str) -> Place:
        """A constant of the graph, or one that was made of it."""
        if value not in self.constants:
            element = self.element if self.graph.type_of(value).is_float else "i32"
            self.constants[value] = (element, constant(self.graph, value, self.weights))
        return Place(value)

    def rows_of(self, value: str) -> str:
        """The constant [n, k] whose transpose a product multiplies by."""
        producer = self.graph.producer(value)
        if producer.op == "transpose" and producer.attribute("axes") == (1, 0):
            return producer.values[0]
        self.constants[f"{value}.rows"] = (self.element, constant(self.graph, value, self.weights).T)
        return f"{value}.rows"

    def float32(self, value: str) -> Array:
        """A constant's values, whatever the plan's type."""
        return constant(self.graph, value, self.weights).astype(np.float32)

    def zeros(self, count: int) -> Place:
        self.constants.setdefault(f"zeros.{count}", (self.element, np.zeros(count, np.float32)))
        return Place(f"zeros.{count}")

    def number(self, value: float) -> Layout:
        """A literal, where a kernel takes values."""
        self.constants[f"number.{value}"] = ("f32", np.array([value], np.float32))
        return Layout(f"number.{value}", (), ())

    # ----------------------------------------------------------------------------------------------- outputs

    def output(self, value: str) -> Output:
        """An output, as float32, so that the host has nothing to convert."""
        layout = self.layout(value)
        view = layout.view()
        if view is None or view.buffer not in self.buffers or self.element_in(view.buffer) != "f32":
            view = self.copy(value, layout, "f32").view()
        if view is None:
            raise self.refusal(self.graph.producer(value), f"an output has a batch in front, not {layout.shape}")
        sizes = tuple(Size(1, (size,)) if isinstance(size, str) else Size(size) for size in layout.shape)
        return Output(view.buffer, sizes, view.row, view.offset, view.width)

    def result_element(self, value: str) -> str:
        """float32 for an output that only heads read, where its kernel writes any type; else the plan's type."""
        return "f32" if self._is_an_end(value) else self.element

    def _is_an_end(self, value: str) -> bool:
        readers = self.graph.users(value)
        ends = all(
            self._is_an_end(reader.key) if reader.op in ("cast", "select") else products.is_narrow(self, reader)
            for reader in readers
        )
        return ends and bool(readers or self.graph.is_output(value))

    # ------------------------------------------------------------------------------------------------- steps

    def step(
        self, name: str, *ways: Sequence[Operation], choices: Choices = ((0, 0),), is_frugal: bool = False
    ) -> None:
        self.steps.append(Step(name, tuple(map(tuple, ways)), choices, is_frugal))

    def launch(
        self, file: str, function: str, grid: Sequence[Size], warps: int, writes: Sequence[str], **given: Any
    ) -> Launch:
        """A start of a kernel; places are addresses, sizes numbers, and everything else is fixed when it compiles."""
        given["PDL"] = self.is_programmatic
        names = parameters(file, function)
        if "PDL" not in names:
            message = f"kernel `{function}` has no parameter PDL, so it could not wait for the kernel before it"
            raise error("B0304", message, None, "add `PDL: tl.constexpr`, and `wait(PDL)` before its first load")
        arguments = [(name, given[name]) for name in names if isinstance(given[name], Argument)]
        constants = tuple((name, given[name]) for name in names if not isinstance(given[name], Argument))
        types = tuple((name, self._type(value)) for name, value in arguments)
        source = Source(file, function, types, constants, warps)
        self.sources[source.key] = source
        first, second, third = (*grid, Size(1), Size(1))[:3]
        values: tuple[Argument, ...] = tuple(value for _, value in arguments)
        touched = [place.name for place in places_of(values) if place.name in self.buffers]
        reads = tuple(name for name in dict.fromkeys(touched) if name not in writes)
        return Launch(source.key, (first, second, third), values, reads, tuple(writes))

    def _type(self, value: Argument) -> str:
        if isinstance(value, Size):
            return "i32*16" if value.factor % 16 == 0 and value.per == 1 else "i32"
        place = value.place if isinstance(value, Tiles) else value
        element = self.element_in(place.name)
        if isinstance(value, Tiles):
            return f"{element}[{value.box[0]}, {value.box[1]}]"
        return f"*{element}" if place.offset * BITS[element] // 8 % ALIGNED == 0 else f"*{element}?"

    @property
    def is_programmatic(self) -> bool:
        """Whether kernels start before those in front have ended, and the copy engine takes boxes."""
        return int(self.architecture.removeprefix("sm_")) >= 90

    @property
    def precision(self) -> str:
        """How products multiply: float32 as it is, whatever is narrower as it comes."""
        return "ieee" if self.element == "f32" else "tf32"


def _waits(graph: Graph, node: Node) -> bool:
    """Whether a node is computed only when a reader asks for its value, as most readers do not: attention takes
    lengths and windows for masks, and products of two values an activation along."""
    if node.op in ("sum", "maximum", *attention.MASKS):
        return True
    if node.op == "add":
        return any(graph.producer(value).op in attention.MASKS for value in node.values)
    readers = graph.users(node.key) if node.op in elementwise.ACTIVATIONS else ()
    return [reader.op for reader in readers] == ["multiply"] and not graph.is_output(node.key)


def cast(lowering: Lowering, node: Node) -> None:
    """No kernel: kernels go through float32 whatever they read, and values are stored in one type."""
    if node.attribute("element") not in FLOATS:
        raise lowering.refusal(node, "only casts to floating-point numbers have a kernel")
    lowering.layouts[node.key] = lowering.layout(node.values[0])


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "cast": cast,
    **products.LOWERINGS,
    **attention.LOWERINGS,
    **norms.LOWERINGS,
    **elementwise.LOWERINGS,
    **layouts.LOWERINGS,
}
"""Op -> what it becomes."""


def lowering_of(op: str) -> Callable[[Lowering, Node], None] | None:
    """What an op becomes, here or by the kernel of an extension; None where neither has one."""
    if op in LOWERINGS or op not in PLUGINS:
        return LOWERINGS.get(op)
    kernel = kernel_of(op)
    return None if kernel is None else kernel.lower
