"""Graph -> plan: each fused op a kernel, each product with what stands behind it a step with several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertc.errors import BertcError, error
from bertc.graph import INPUT, UNUSED, Graph, Node
from bertc.ops import Array
from bertc.reference import Weights, constant
from bertc.targets.cuda.compile_kernels import Source, parameters
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
)
from bertc.targets.cuda.products import Linear, linear, linear_and_norm
from bertc.targets.cuda.views import View
from bertc.types import FLOATS, Shape

ACTIVATIONS = ("gelu", "gelu_tanh", "tanh", "relu", "silu", "sigmoid")

HEAD_SIZES = (16, 32, 64, 128)
"""Those that the attention kernel's tiles fit."""


@dataclass(frozen=True)
class Tail:
    """What a product takes along: a bias, an activation or a skip_norm, and the node whose results it computes."""

    last: Node
    bias: str | None
    activation: str = ""
    norm: Node | None = None
    residual: str = ""
    """What the norm adds to the product."""


class Lowering:
    """One graph on its way to a plan; a method for each op."""

    def __init__(self, graph: Graph, weights: Weights, element: str, programmatic: bool) -> None:
        self.graph = graph
        self.weights = weights
        self.element = element
        self.programmatic = programmatic
        self.steps: list[Step] = []
        self.buffers: dict[str, Buffer] = {}
        self.sources: dict[str, Source] = {}
        self.constants: dict[str, tuple[str, Array]] = {}
        """Name -> element type and values of everything that is known when the engine is built."""
        self.views: dict[str, View] = {}
        self.done: set[str] = set()
        """Keys of nodes that an earlier one has taken along."""

    def run(self) -> dict[str, Output]:
        """Lower every node; the outputs. Raises BertcError B0514 for what no kernel computes."""
        for node in self.graph:
            if node.op == INPUT or self.graph.is_constant(node.key) or node.key in self.done:
                continue
            if node.op not in LOWERINGS:
                raise self.refusal(node, f"the cuda target has no kernel for {node.op}")
            LOWERINGS[node.op](self, node)
        return {name: self.output(value) for name, value in self.graph.outputs.items()}

    def refusal(self, node: Node, reason: str) -> BertcError:
        return error(
            "B0514", f"`{node.key}`: {reason}", node.span, "build for `onnx`, or leave the pass that made it out"
        )

    # ------------------------------------------------------------------------------------------------ pieces

    def output(self, value: str) -> Output:
        view, shape = self.views[value], self.graph.type_of(value).shape
        sizes = tuple(Size(1, (size,)) if isinstance(size, str) else Size(size) for size in shape)
        return Output(view.buffer, sizes, view.row, view.offset, view.width)

    def buffer(self, value: str, element: str | None = None, factor: int = 1) -> Place:
        """New memory for a value, `factor` times over."""
        shape = self.graph.type_of(value).shape
        names, width = _rows(shape)
        self.buffers[value] = Buffer(element or self.element, Size(factor * width, names))
        self.views[value] = View(value, names, Size(width), 0, width)
        return Place(value)

    def input(self, value: str) -> Place:
        shape = self.graph.type_of(value).shape if value in self.graph else ("batch",)
        self.buffers[value] = Buffer("i32", Size(1, _rows((*shape, 1))[0]))
        return Place(value)

    def memory(self, name: str, element: str, factor: int, names: tuple[str, ...]) -> Place:
        """New memory that is no value's."""
        self.buffers[name] = Buffer(element, Size(factor, names))
        return Place(name)

    def place(self, value: str) -> Place:
        view = self.views[value]
        return Place(view.buffer, view.offset)

    def weight(self, value: str) -> Place:
        """A constant of the graph, or one that was made of it."""
        if value not in self.constants:
            self.constants[value] = (self.element, constant(self.graph, value, self.weights))
        return Place(value)

    def rows_of(self, value: str) -> str:
        """The constant [n, k] whose transpose a product multiplies by."""
        producer = self.graph.producer(value)
        if producer.op == "transpose" and producer.attribute("axes") == (1, 0):
            return producer.values[0]
        self.constants[f"{value}.rows"] = (self.element, constant(self.graph, value, self.weights).T)
        return f"{value}.rows"

    def zeros(self, count: int) -> Place:
        self.constants.setdefault(f"zeros.{count}", (self.element, np.zeros(count, np.float32)))
        return Place(f"zeros.{count}")

    def launch(
        self, file: str, function: str, grid: Sequence[Size], warps: int, writes: Sequence[str], **given: Any
    ) -> Launch:
        """A start of a kernel; places are addresses, sizes numbers, and everything else is fixed when it compiles."""
        given["PDL"] = self.programmatic
        names = parameters(file, function)
        arguments = [(name, given[name]) for name in names if isinstance(given[name], Argument)]
        constants = tuple((name, given[name]) for name in names if not isinstance(given[name], Argument))
        types = tuple((name, self._type(value)) for name, value in arguments)
        source = Source(file, function, types, constants, warps)
        self.sources[source.key] = source
        first, second, third = (*grid, Size(1), Size(1))[:3]
        values: tuple[Argument, ...] = tuple(value for _, value in arguments)
        places = [value.place if isinstance(value, Tiles) else value for value in values]
        touched = [place.name for place in places if isinstance(place, Place) and place.name in self.buffers]
        reads = tuple(name for name in dict.fromkeys(touched) if name not in writes)
        return Launch(source.key, (first, second, third), values, reads, tuple(writes))

    def _type(self, value: Argument) -> str:
        if isinstance(value, Size):
            return "i32*16" if value.factor % 16 == 0 and value.per == 1 else "i32"
        place = value.place if isinstance(value, Tiles) else value
        element = self.buffers[place.name].element if place.name in self.buffers else self.constants[place.name][0]
        return f"{element}[{value.box[0]}, {value.box[1]}]" if isinstance(value, Tiles) else f"*{element}"

    def step(self, name: str, *ways: Sequence[Operation], choices: Choices = ((0, 0),)) -> None:
        self.steps.append(Step(name, tuple(map(tuple, ways)), choices))

    # ----------------------------------------------------------------------------------------------- fused ops

    def embed_norm(self, node: Node) -> None:
        """Padded or packed: packed tokens bring their places along."""
        word, position, type, ids, types, *places, scale, shift = node.values
        norm, total = self.two(node)
        given: dict[str, Any] = dict(
            zip(("word", "position", "type"), map(self.weight, (word, position, type)), strict=True)
        )
        given |= {"ids": self.input(ids), "types": self.input(types)}
        given |= {"places": self.input(places[0]) if places else Place(ids)}
        given |= {"scale": self.weight(scale), "shift": self.weight(shift), "norm": norm, "total": total or norm}
        n = int(node.types[0].shape[-1])
        given |= {"seq": Size(1, ("seq",)), "n": n, "eps": node.attribute("eps"), "offset": node.attribute("offset")}
        given |= {"PACKED": bool(places), "HAS_TOTAL": total is not None, "BLOCK": _power(n)}
        writes = [place.name for place in (norm, total) if place]
        self.step(
            node.key,
            [self.launch("embed_norm", "embed_norm", [Size(1, _rows(node.types[0].shape)[0])], 4, writes, **given)],
        )

    def skip_norm(self, node: Node) -> None:
        x, residual, scale, shift = node.values
        norm, total = self.two(node)
        self.step(node.key, [self.norm(node, self.place(x), 1, None, self.place(residual), scale, shift, norm, total)])

    def layer_norm(self, node: Node) -> None:
        x, scale, shift = node.values
        norm = self.buffer(node.key)
        self.step(node.key, [self.norm(node, self.place(x), 1, None, None, scale, shift, norm, None)])

    def two(self, node: Node) -> tuple[Place, Place | None]:
        """Memory for a norm and, where it is used, for its sum."""
        norm, total = node.results
        if norm == UNUSED:
            raise self.refusal(node, "its norm is not used, and the kernel computes it")
        return self.buffer(norm), None if total == UNUSED else self.buffer(total)

    def norm(
        self,
        node: Node,
        x: Place,
        parts: int,
        bias: Place | None,
        residual: Place | None,
        scale: str,
        shift: str,
        norm: Place,
        total: Place | None,
    ) -> Launch:
        names, n = _rows(node.types[0].shape)
        given: dict[str, Any] = {
            "x": x,
            "bias": bias or x,
            "residual": residual or x,
            "norm": norm,
            "total": total or norm,
        }
        given |= {"scale": self.weight(scale), "shift": self.weight(shift), "rows": Size(1, names), "n": n}
        given |= {"eps": node.attribute("eps"), "PARTS": parts, "HAS_BIAS": bias is not None, "BLOCK": _power(n)}
        given |= {"HAS_RESIDUAL": residual is not None, "HAS_TOTAL": total is not None}
        writes = [place.name for place in (norm, total) if place]
        return self.launch("skip_norm", "skip_norm", [Size(1, names)], 4, writes, **given)

    def qkv_projection(self, node: Node) -> None:
        x, rows, bias = node.values
        width = node.attribute("heads") * node.attribute("size")
        product = Linear(self.views[x], self.weight(rows).name, bias, 3 * width)
        names = product.x.names
        merged = self.memory(f"{node.key}.merged", self.element, 3 * width, names)
        for index, result in enumerate(node.results):
            self.views[result] = View(merged.name, names, Size(3 * width), index * width, width)
        linear(self, node.key, product, merged)

    def attention(self, node: Node) -> None:
        if self.graph.producer(node.values[3]).op != "padding_mask":
            raise self.refusal(node, "attention takes padding on the right, as lengths")
        self._attend(node, packed=False)

    def packed_attention(self, node: Node) -> None:
        self._attend(node, packed=True)

    def _attend(self, node: Node, packed: bool) -> None:
        query, key, value, *_ = node.values
        *_, heads, _, size = self.graph.type_of(query).shape
        row = self.views[query].row
        if size not in HEAD_SIZES or any(self.views[name].row != row for name in (query, key, value)):
            raise self.refusal(
                node, f"attention takes heads of {', '.join(map(str, HEAD_SIZES))}, side by side, not {size}"
            )
        context = self.buffer(node.key)
        given: dict[str, Any] = {"query": self.place(query), "key": self.place(key), "value": self.place(value)}
        lengths = self.input("lengths")
        given |= {"starts": self.input("starts") if packed else lengths, "lengths": lengths, "context": context}
        given |= {"seq": Size(1, ("seq",)), "row": row}
        given |= {"size": size, "scale": node.attribute("scale"), "PACKED": packed, "PRECISION": self.precision}
        ways = [self._attention(given, int(heads), *tile) for tile in self._attention_tiles(int(size))]
        self.step(node.key, *([way] for way in ways))

    def _attention_tiles(self, size: int) -> list[tuple[int, int, int, int]]:
        """QUERIES, KEYS, STAGES, warps; the first is the fastest on an H200 for most shapes."""
        if self.element == "f32":
            return [(32, 32, 2, 4)]
        return [(64, 64, 3, 4), (64, 128, 2, 4), (32, 128, 2, 4), (128, 64, 3, 8)]

    def _attention(self, given: dict[str, Any], heads: int, queries: int, keys: int, stages: int, warps: int) -> Launch:
        grid = [Size(1, ("seq",), queries), Size(heads), Size(1, ("batch",))]
        tile = {"QUERIES": queries, "KEYS": keys, "STAGES": stages}
        return self.launch("attention", "attention", grid, warps, [given["context"].name], **given, **tile)

    @property
    def precision(self) -> str:
        return "ieee" if self.element == "f32" else "tf32"

    # ------------------------------------------------------------------------------------------------ products

    def matmul(self, node: Node) -> None:
        x, w = node.values
        if not self.graph.is_constant(w) or x not in self.views:
            raise self.refusal(node, "products are of a value and a weight; attention's own are inside its kernel")
        tail = self._tail(node)
        n = int(node.types[0].shape[-1])
        product = Linear(self.views[x], self.weight(self.rows_of(w)).name, tail.bias, n, tail.activation)
        if tail.norm is None:
            linear(self, tail.last.key, product, self.buffer(tail.last.key))
        else:
            linear_and_norm(self, node, product, tail.norm, self.place(tail.residual))

    def _tail(self, node: Node) -> Tail:
        """What follows a product and nothing else reads."""
        tail = Tail(node, None)
        while True:
            readers = self.graph.users(tail.last.key)
            if len(readers) != 1 or self.graph.is_output(tail.last.key) or len(tail.last.results) != 1:
                return tail
            longer = self._longer(tail, readers[0])
            if longer is None:
                return tail
            tail = longer
            self.done.add(tail.last.key)

    def _longer(self, tail: Tail, reader: Node) -> Tail | None:
        plain = not tail.activation and tail.norm is None
        if reader.op in ("add", "bias_gelu", "bias_gelu_tanh") and plain and tail.bias is None:
            bias = reader.inputs[1]
            if isinstance(bias, str) and reader.inputs[0] == tail.last.key and self._is_vector(bias):
                return Tail(reader, bias, reader.op.removeprefix("bias_") if reader.op != "add" else "")
        if reader.op in ACTIVATIONS and plain:
            return Tail(reader, tail.bias, reader.op)
        if reader.op == "skip_norm" and plain and tail.last.key in reader.values[:2]:
            other = next(value for value in reader.values[:2] if value != tail.last.key)
            if other in self.views:
                return Tail(reader, tail.bias, norm=reader, residual=other)
        return None

    def _is_vector(self, value: str) -> bool:
        return self.graph.is_constant(value) and len(self.graph.type_of(value).shape) == 1

    # -------------------------------------------------------------------------------------------------- others

    def select(self, node: Node) -> None:
        """No kernel: the value is a part of what is there."""
        view, axis, index = self.views[node.values[0]], node.attribute("axis"), node.attribute("index")
        if axis == -1:
            self.views[node.key] = View(view.buffer, view.names, view.row, view.offset + index, 1)
        elif axis == -2 and view.names == ("batch", "seq") and view.row.names == ():
            row = Size(view.row.factor, ("seq",))
            self.views[node.key] = View(view.buffer, ("batch",), row, view.offset + index * view.row.factor, view.width)
        else:
            raise self.refusal(node, "a selection along the batch has no kernel")

    def first_tokens(self, node: Node) -> None:
        x, starts = node.values
        y, n = self.buffer(node.key), self.views[x].width
        given: dict[str, Any] = {"x": self.place(x), "starts": self.input(starts), "y": y, "n": n, "BLOCK": _power(n)}
        self.step(node.key, [self.launch("first_tokens", "first_tokens", [Size(1, ("batch",))], 4, [y.name], **given)])

    def cast(self, node: Node) -> None:
        """No kernel: values are stored in one type, kernels go through float32, outputs become it when fetched."""
        if node.attribute("element") not in FLOATS or node.values[0] not in self.views:
            raise self.refusal(node, "only values of floating-point numbers change their type")
        self.views[node.key] = self.views[node.values[0]]

    def lengths(self, node: Node) -> None:
        """No kernel: the session counts the tokens of each row before it starts."""


def _rows(shape: Shape) -> tuple[tuple[str, ...], int]:
    """The named sizes in front of a shape, and the product of the rest: [batch, seq, 768] -> (batch, seq), 768."""
    names = tuple(size for size in shape if isinstance(size, str))
    width = 1
    for size in shape:
        width *= size if isinstance(size, int) else 1
    return names, width


def _power(number: int) -> int:
    """The lowest power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()


LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "sum": Lowering.lengths,
    "maximum": Lowering.lengths,
    "padding_mask": Lowering.lengths,
    "embed_norm": Lowering.embed_norm,
    "skip_norm": Lowering.skip_norm,
    "layer_norm": Lowering.layer_norm,
    "qkv_projection": Lowering.qkv_projection,
    "attention": Lowering.attention,
    "packed_embed_norm": Lowering.embed_norm,
    "packed_attention": Lowering.packed_attention,
    "first_tokens": Lowering.first_tokens,
    "matmul": Lowering.matmul,
    "select": Lowering.select,
    "cast": Lowering.cast,
}
"""Op -> what it becomes; additions of biases and activations go along with the product before them."""
