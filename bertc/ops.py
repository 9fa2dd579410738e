"""The primitive ops: name, signature, equation and NumPy reference, each in one function.

The string given to `@op` is the signature in the notation, operands first, then results; `*` stands for any leading
sizes, the same wherever it appears. Keyword-only parameters of the function are attributes. Where the shape of a result
is not a pattern, a function of bertc.result_shapes gives it. The reference computes in whatever float type its operands
have; `bertc.reference` runs it in float64.

An axis counts from the end (-1 is the last), so that it means the same for any number of leading sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, formatannotation, getdoc, signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertc import result_shapes
from bertc.types import Dim, Shape, TypeMismatch

Array = NDArray[Any]
ShapeFunction = Callable[..., tuple[Shape, ...]]


@dataclass(frozen=True)
class Pattern:
    """One operand or result of a signature: an element type, or None for the float type of the op, and sizes."""

    element: str | None
    dims: tuple[Dim, ...] | None
    """None: any shape."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        element, _, dims = text.strip().rstrip("]").partition("[")
        sizes = tuple(int(size) if size.isdigit() else size for size in dims.replace(" ", "").split(",") if size)
        return cls(element or None, None if sizes == ("...",) else sizes)


@dataclass(frozen=True)
class Op:
    """What an op is: everything else (checks, messages, documentation, tests) is derived from this."""

    reference: Callable[..., Any]
    operands: tuple[Pattern, ...]
    results: tuple[Pattern, ...]
    shapes: ShapeFunction | None = None
    commutative: bool = False
    float32: bool = False
    """Computes in float32 whatever the precision: norms and softmax."""

    @property
    def name(self) -> str:
        return self.reference.__name__.rstrip("_")

    @property
    def equation(self) -> str:
        return getdoc(self.reference) or ""

    @cached_property
    def attributes(self) -> dict[str, Parameter]:
        parameters = signature(self.reference).parameters.values()
        named = {p.name: p for p in parameters if p.kind is Parameter.KEYWORD_ONLY}
        return {name: p.replace(annotation=_as_written(p.annotation)) for name, p in named.items()}

    @cached_property
    def operand_names(self) -> tuple[str, ...]:
        parameters = signature(self.reference).parameters.values()
        return tuple(p.name for p in parameters if p.kind is not Parameter.KEYWORD_ONLY)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return {name: p.default for name, p in self.attributes.items() if p.default is not Parameter.empty}

    @property
    def variadic(self) -> bool:
        return any(p.kind is Parameter.VAR_POSITIONAL for p in signature(self.reference).parameters.values())

    def has_signature_of(self, other: Op) -> bool:
        """Whether one can be written for the other: operands, results and names of attributes are the same."""
        mine = (self.operands, self.results, self.shapes, self.attributes.keys())
        return mine == (other.operands, other.results, other.shapes, other.attributes.keys())


def _as_written(annotation: Any) -> str:
    """`float`, whether or not the module that declares the op postpones its annotations."""
    return annotation if isinstance(annotation, str) else formatannotation(annotation)


def op(
    text: str, *, shapes: ShapeFunction | None = None, commutative: bool = False, float32: bool = False
) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op: `@op("[*, n], [n] -> [*, n]")` above its NumPy reference."""
    operands, results = (
        tuple(Pattern.parse(part) for part in side.replace("], ", "]; ").split(";") if part.strip())
        for side in text.split("->")
    )
    return lambda reference: Op(reference, operands, results, shapes, commutative, float32)


# ------------------------------------------------------------------------------------------------------------- ops


@op("[...], [...] -> [...]", shapes=result_shapes.elementwise, commutative=True)
def add(x: Array, y: Array) -> Array:
    """z = x + y, broadcast."""
    return x + y


@op("[...], [...] -> [...]", shapes=result_shapes.elementwise)
def subtract(x: Array, y: Array) -> Array:
    """z = x - y, broadcast."""
    return x - y


@op("[...], [...] -> [...]", shapes=result_shapes.elementwise, commutative=True)
def multiply(x: Array, y: Array) -> Array:
    """z = x · y, broadcast."""
    return x * y


@op("[...], [...] -> [...]", shapes=result_shapes.elementwise)
def divide(x: Array, y: Array) -> Array:
    """z = x / y, broadcast."""
    return x / y


@op("[...], [...] -> [...]", shapes=result_shapes.elementwise, commutative=True)
def maximum(x: Array, y: Array) -> Array:
    """z = max(x, y), broadcast."""
    return np.maximum(x, y)


@op("[...], [...] -> [...]", shapes=result_shapes.matmul)
def matmul(x: Array, y: Array) -> Array:
    """z[..., i, j] = Σₖ x[..., i, k] · y[..., k, j]; leading sizes broadcast."""
    return np.matmul(x, y)


@op("[...] -> [...]", shapes=result_shapes.transpose)
def transpose(x: Array, *, axes: tuple[int, ...]) -> Array:
    """Axis i of the result is axis axes[i] of x."""
    return np.transpose(x, axes)


@op("[...] -> [...]", shapes=result_shapes.reshape)
def reshape(x: Array, *, shape: Shape) -> Array:
    """The elements of x, in row-major order, in another shape."""
    return np.reshape(x, [int(size) for size in shape])


@op("[...] -> [...]", shapes=result_shapes.concat)
def concat(*parts: Array, axis: int) -> Array:
    """The parts, one after the other along an axis."""
    return np.concatenate(parts, axis)


@op("[...] -> [...]", shapes=result_shapes.split)
def split(x: Array, *, sizes: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """x cut along an axis into parts of the given sizes."""
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@op("[...] -> [...]", shapes=result_shapes.slice_)
def slice_(x: Array, *, start: int, size: int, axis: int) -> Array:
    """`size` entries of x along an axis, from `start` on."""
    end = x.shape[axis]
    if start + size > end:
        raise TypeMismatch(f"a slice of {size} from {start} does not lie inside {end}")
    return np.take(x, range(start, start + size), axis)


@op("[...] -> [...]", shapes=result_shapes.select)
def select(x: Array, *, index: int, axis: int) -> Array:
    """The entry of x at an index of an axis; the axis goes."""
    return np.take(x, index, axis)


@op("[...] -> [...]", shapes=result_shapes.sum_)
def sum_(x: Array, *, axis: int) -> Array:
    """Σ of x along an axis; the axis goes."""
    return np.sum(x, axis, dtype=x.dtype)


@op("[n, m], i32[*] -> [*, m]")
def embedding(table: Array, ids: Array) -> Array:
    """y[..., :] = table[ids[...], :]."""
    return table[ids]


@op("i32[batch] -> [...]", shapes=result_shapes.padding_mask)
def padding_mask(lengths: Array, *, size: int, element: str = "f32") -> Array:
    """mask[b, 0, 0, j] = 0 where j < lengths[b], else -10000, which a softmax turns into an exact zero.

    [batch] -> [batch, 1, 1, size]. -10000 is the value BERT was trained with (Devlin et al. 2019, modeling.py); it is a
    finite f16.
    """
    return np.where(np.arange(size) < lengths[:, None, None, None], 0.0, -10000.0)


@op("[*, 1, size] -> [*, size, size]")
def local_mask(mask: Array, *, window: int) -> Array:
    """y[..., i, j] = mask[..., 0, j] where 2 |i - j| ≤ window, else -10000 as in padding_mask (Beltagy et al. 2020)."""
    size: int = mask.shape[-1]
    places = np.arange(size)
    return np.where(2 * np.abs(places[:, None] - places) <= window, mask, -10000.0)


@op("[*, seq, size] -> [*, seq, size]", shapes=result_shapes.rotary)
def rotary(x: Array, *, base: float) -> Array:
    """(x[p, i], x[p, i + size/2]), turned by p / base^(2i / size), for all places p and pairs i (Su et al. 2021)."""
    seq, half = int(x.shape[-2]), int(x.shape[-1]) // 2
    angles = np.arange(seq)[:, None] / base ** (np.arange(half) / half)
    left, right, cosines, sines = x[..., :half], x[..., half:], np.cos(angles), np.sin(angles)
    return np.concatenate([left * cosines - right * sines, right * cosines + left * sines], axis=-1)


def rotary_factors(base: float, size: int) -> tuple[Array, Array]:
    """[size] each: what a place is multiplied by for the angle of each entry, and the sign of its sine, which makes

    rotary(x) = x · cos + (x with its halves swapped) · sign · sin.
    """
    half = size // 2
    return np.tile(base ** (np.arange(half) / -half), 2), np.repeat([-1.0, 1.0], half)


@op("-> i32[...]", shapes=result_shapes.relative_buckets)
def relative_buckets(*, positions: int, buckets: int, distance: int) -> Array:
    """The bucket that each distance j - i between two places falls into (Raffel et al. 2020, section 2.1).

    Half of the buckets are for j > i. Of each half, the first half has a bucket for each distance, and the buckets of
    the rest grow by a factor up to `distance`; the last one also has whatever is farther. With e = buckets / 4:
    bucket(d) = d where d < e, else min(e + ⌊e · ln(d / e) / ln(distance / e)⌋, 2e - 1).
    """
    exact, places = buckets // 4, np.arange(positions)
    offsets = places - places[:, None]
    apart = np.abs(offsets)
    growth = np.log(np.maximum(apart, exact) / exact) / math.log(distance / exact)
    far = np.minimum(exact + (growth * exact).astype(int), 2 * exact - 1)
    return np.where(offsets > 0, 2 * exact, 0) + np.where(apart < exact, apart, far)


@op("-> i32[...]", shapes=result_shapes.log_buckets)
def log_buckets(*, positions: int, buckets: int) -> Array:
    """The row of a table of 2 · buckets rows for each distance i - j between two places (He et al. 2021).

    With m = buckets / 2 and far(d) = m + ⌈(m - 1) · ln(d / m) / ln((positions - 1) / m)⌉: row = buckets + d where
    |d| ≤ m, else buckets ± far(|d|) with the sign of d; at most 2 · buckets - 1.
    """
    middle, places = buckets // 2, np.arange(positions)
    offsets = places[:, None] - places
    growth = np.log(np.maximum(np.abs(offsets), middle) / middle) / math.log((positions - 1) / middle)
    far = np.sign(offsets) * (middle + np.ceil(growth * (middle - 1)).astype(int))
    rows = buckets + np.where(np.abs(offsets) <= middle, offsets, far)
    return np.clip(rows, 0, 2 * buckets - 1)


@op("[*, rows, n], i32[rows, m] -> [*, rows, m]")
def take_along(x: Array, columns: Array) -> Array:
    """y[..., i, j] = x[..., i, columns[i, j]]."""
    return np.take_along_axis(x, np.broadcast_to(columns, (*x.shape[:-1], columns.shape[-1])), axis=-1)


@op("[...] -> [...]", shapes=result_shapes.cast)
def cast(x: Array, *, element: str) -> Array:
    """x in another element type. Between floats this is rounding, which the float64 reference leaves out."""
    return x.astype(np.int32) if element == "i32" else x.astype(np.result_type(x.dtype, np.float32))


@op("[*, n] -> [*, n]", float32=True)
def softmax(x: Array) -> Array:
    """yᵢ = exp(xᵢ - max x) / Σⱼ exp(xⱼ - max x), over the last axis."""
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@op("[*, n], [n], [n] -> [*, n]", float32=True)
def layer_norm(x: Array, scale: Array, bias: Array, *, eps: float) -> Array:
    """y = scale · (x - mean x) / √(var x + eps) + bias, over the last axis (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return scale * centred / np.sqrt(variance + eps) + bias


_erf = np.vectorize(math.erf, otypes=[np.float64])


@op("[*] -> [*]")
def gelu(x: Array) -> Array:
    """y = x · ½ (1 + erf(x / √2)) (Hendrycks and Gimpel 2016)."""
    return x * (0.5 * (1.0 + _erf(x / math.sqrt(2.0)))).astype(x.dtype)


@op("[*] -> [*]")
def gelu_tanh(x: Array) -> Array:
    """y = x · ½ (1 + tanh(√(2/π) (x + 0.044715 x³))): up to 4.7e-4 from `gelu`, and not to be confused with it."""
    return x * 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


@op("[*] -> [*]")
def relu(x: Array) -> Array:
    """y = max(x, 0)."""
    return np.maximum(x, 0)


@op("[*] -> [*]")
def silu(x: Array) -> Array:
    """y = x / (1 + exp(-x))."""
    return x * 0.5 * (1.0 + np.tanh(0.5 * x))


@op("[*] -> [*]")
def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + exp(-x))."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


@op("[*] -> [*]")
def tanh(x: Array) -> Array:
    """y = tanh x."""
    return np.tanh(x)


PRIMITIVES = {
    declared.name: declared
    for declared in (
        add, subtract, multiply, divide, maximum, matmul, transpose, reshape, concat, split, slice_, select, sum_,
        embedding, padding_mask, local_mask, rotary, relative_buckets, log_buckets, take_along, cast,
        softmax, layer_norm, gelu, gelu_tanh, relu, silu, sigmoid, tanh,
    )
}  # fmt: skip
