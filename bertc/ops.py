"""The primitive ops: name, signature, equation and NumPy reference, each in one function.

The string given to `@op` is the signature in the notation, operands first, then results; `*` stands for any leading
sizes, the same wherever it appears. Keyword-only parameters of the function are attributes. Where the shape of a result
is not a pattern, a function of the operands' shapes and the attributes gives it. The reference computes in whatever
float type its operands have; `bertc.reference` runs it in float64.

An axis counts from the end (-1 is the last), so that it means the same for any number of leading sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from inspect import Parameter, formatannotation, getdoc, signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertc.types import Dim, Shape, Type, TypeMismatch, broadcast, is_tuple, shape_text

Array = NDArray[Any]
Attributes = Mapping[str, Any]
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


# ------------------------------------------------------------------------------------------------------- inference


@lru_cache(maxsize=4096)
def infer(op: Op, operands: tuple[Type | None, ...], attributes: tuple[tuple[str, Any], ...]) -> tuple[Type, ...]:
    """The types of an op's results; None stands for a literal number, which takes the type of its neighbours.

    Raises TypeMismatch with a sentence that says what was expected and what was found.
    """
    _check_arguments(op, operands, dict(attributes))
    given = op.defaults | dict(attributes)
    patterns = op.operands * len(operands) if op.variadic else op.operands
    sizes: dict[str, Dim | Shape] = {}
    for name, pattern, type in zip(_names(op, len(operands)), patterns, operands, strict=True):
        if type is None:
            continue
        if pattern.element is not None and type.element != pattern.element:
            raise TypeMismatch(f"`{name}` of {op.name} is {pattern.element}, but {type} was given")
        if pattern.dims is not None and not unify(pattern.dims, type.shape, sizes):
            expected = shape_text(_fill(pattern.dims, sizes))
            raise TypeMismatch(f"`{name}` of {op.name} has shape {expected}, but {shape_text(type.shape)} was given")
    element = given.get("element") or _common_element(op, patterns, operands)
    if op.shapes is not None:
        shapes = op.shapes(*(type.shape if type is not None else () for type in operands), **given)
        results = op.results if len(op.results) == len(shapes) else op.results * len(shapes)
    else:
        shapes = tuple(_fill(pattern.dims or (), sizes) for pattern in op.results)
        results = op.results
    return tuple(Type(r.element or element, shape) for r, shape in zip(results, shapes, strict=True))


def unify(pattern: Sequence[Dim], shape: Shape, sizes: dict[str, Any]) -> bool:
    """Whether a shape fits a pattern; binds the pattern's names in `sizes` as it goes."""
    if pattern and pattern[0] == "*":
        split = len(shape) - len(pattern) + 1
        if split < 0 or sizes.setdefault("*", shape[:split]) != shape[:split]:
            return False
        pattern, shape = pattern[1:], shape[split:]
    if len(pattern) != len(shape):
        return False
    return all(
        sizes.setdefault(wanted, size) == size if isinstance(wanted, str) else wanted == size
        for wanted, size in zip(pattern, shape, strict=True)
    )


def _fill(pattern: Sequence[Dim], sizes: Mapping[str, Any]) -> Shape:
    """The pattern with the sizes that its names stand for, as far as they are known."""
    known = (sizes.get(size, size) if isinstance(size, str) else size for size in pattern)
    return tuple(dim for size in known for dim in (size if is_tuple(size) else (size,)))


def _names(op: Op, count: int) -> tuple[str, ...]:
    return op.operand_names * count if op.variadic else op.operand_names


def _check_arguments(op: Op, operands: tuple[Type | None, ...], given: Attributes) -> None:
    if not op.variadic and len(operands) != len(op.operands):
        names = ", ".join(op.operand_names)
        raise TypeMismatch(f"{op.name} takes {len(op.operands)} operands ({names}), but {len(operands)} were given")
    if all(type is None for type in operands) and operands:
        raise TypeMismatch(f"{op.name} takes values, but only numbers were given")
    for name, parameter in op.attributes.items():
        if name not in given and parameter.default is Parameter.empty:
            raise TypeMismatch(f"{op.name} needs `{name}=`")
    if unknown := sorted(given.keys() - op.attributes.keys()):
        known = ", ".join(op.attributes) or "none"
        raise TypeMismatch(f"{op.name} has no attribute `{unknown[0]}`; its attributes: {known}")


def _common_element(op: Op, patterns: Sequence[Pattern], operands: tuple[Type | None, ...]) -> str:
    free = [t.element for p, t in zip(patterns, operands, strict=True) if p.element is None and t is not None]
    if len(set(free)) > 1:
        raise TypeMismatch(
            f"{op.name} takes operands of one element type, but {' and '.join(sorted(set(free)))} were given"
        )
    return free[0] if free else "f32"


# ---------------------------------------------------------------------------------------------------------- shapes


def _elementwise(*shapes: Shape) -> tuple[Shape, ...]:
    return (broadcast(*shapes),)


def _matmul(x: Shape, y: Shape) -> tuple[Shape, ...]:
    if len(x) < 2 or len(y) < 2 or x[-1] != y[-2]:
        raise TypeMismatch(
            f"matmul takes [..., n, k] and [..., k, m], but {shape_text(x)} and {shape_text(y)} were given"
        )
    return ((*broadcast(x[:-2], y[:-2]), x[-2], y[-1]),)


def _transpose(x: Shape, *, axes: tuple[int, ...]) -> tuple[Shape, ...]:
    if sorted(axes) != list(range(len(x))):
        raise TypeMismatch(
            f"axes of {shape_text(x)} are a permutation of 0 to {len(x) - 1}, but {list(axes)} was given"
        )
    return (tuple(x[axis] for axis in axes),)


def _reshape(x: Shape, *, shape: Shape) -> tuple[Shape, ...]:
    def count(sizes: Shape) -> tuple[int, list[str]]:
        return math.prod(s for s in sizes if isinstance(s, int)), sorted(s for s in sizes if isinstance(s, str))

    if count(x) != count(shape):
        raise TypeMismatch(
            f"reshape keeps the number of elements, but {shape_text(x)} was to become {shape_text(shape)}"
        )
    return (tuple(shape),)


def _axis(x: Shape, axis: int) -> int:
    if not -len(x) <= axis < 0:
        raise TypeMismatch(f"an axis of {shape_text(x)} counts from the end, -1 to -{len(x)}, but {axis} was given")
    return len(x) + axis


def _concat(*parts: Shape, axis: int) -> tuple[Shape, ...]:
    at = _axis(parts[0], axis)
    if any((*p[:at], *p[at + 1 :]) != (*parts[0][:at], *parts[0][at + 1 :]) for p in parts):
        raise TypeMismatch(
            f"concat joins shapes that differ along axis {axis} only, but got {', '.join(map(shape_text, parts))}"
        )
    total = sum(_number(p[at], "concat") for p in parts)
    return ((*parts[0][:at], total, *parts[0][at + 1 :]),)


def _split(x: Shape, *, sizes: tuple[int, ...], axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    if sum(sizes) != x[at] or min(sizes, default=0) < 1:
        raise TypeMismatch(f"the sizes of a split add up to {x[at]}, but {list(sizes)} was given")
    return tuple((*x[:at], size, *x[at + 1 :]) for size in sizes)


def _slice(x: Shape, *, start: int, size: Dim, axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    end = x[at]
    if start < 0 or (isinstance(size, int) and isinstance(end, int) and start + size > end):
        raise TypeMismatch(f"a slice lies inside {shape_text(x)}, but {size} from {start} along axis {axis} does not")
    return ((*x[:at], size, *x[at + 1 :]),)


def _select(x: Shape, *, index: int, axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    if index < 0 or (isinstance(end := x[at], int) and index >= end):
        raise TypeMismatch(
            f"an index along axis {axis} of {shape_text(x)} is at least 0 and in range, but {index} was given"
        )
    return ((*x[:at], *x[at + 1 :]),)


def _sum(x: Shape, *, axis: int) -> tuple[Shape, ...]:
    at = _axis(x, axis)
    return ((*x[:at], *x[at + 1 :]),)


def _cast(x: Shape, *, element: str) -> tuple[Shape, ...]:
    return (x,)


def _padding_mask(lengths: Shape, *, size: Dim, element: str) -> tuple[Shape, ...]:
    return ((lengths[0], 1, 1, size),)


def _rotary(x: Shape, *, base: float) -> tuple[Shape, ...]:
    if _number(x[-1], "rotary") % 2:
        raise TypeMismatch(f"rotary turns pairs of entries, but {x[-1]} is odd")
    return (x,)


def _relative_buckets(*, positions: int, buckets: int, distance: int) -> tuple[Shape, ...]:
    if buckets % 4 or distance <= buckets // 4:
        expected = f"a multiple of 4 buckets, and a distance over {buckets // 4}"
        raise TypeMismatch(f"relative_buckets takes {expected}, but {buckets} and {distance} were given")
    return ((positions, positions),)


def _log_buckets(*, positions: int, buckets: int) -> tuple[Shape, ...]:
    if buckets < 2 or positions - 1 <= buckets // 2:
        expected = "at least 2 buckets, and more positions than half of them"
        raise TypeMismatch(f"log_buckets takes {expected}, but {buckets} and {positions} were given")
    return ((positions, positions),)


def _number(size: Dim, what: str) -> int:
    if isinstance(size, str):
        raise TypeMismatch(f"{what} needs sizes known at build time, but `{size}` is not")
    return size


# ------------------------------------------------------------------------------------------------------------- ops


@op("[...], [...] -> [...]", shapes=_elementwise, commutative=True)
def add(x: Array, y: Array) -> Array:
    """z = x + y, broadcast."""
    return x + y


@op("[...], [...] -> [...]", shapes=_elementwise)
def subtract(x: Array, y: Array) -> Array:
    """z = x - y, broadcast."""
    return x - y


@op("[...], [...] -> [...]", shapes=_elementwise, commutative=True)
def multiply(x: Array, y: Array) -> Array:
    """z = x · y, broadcast."""
    return x * y


@op("[...], [...] -> [...]", shapes=_elementwise)
def divide(x: Array, y: Array) -> Array:
    """z = x / y, broadcast."""
    return x / y


@op("[...], [...] -> [...]", shapes=_elementwise, commutative=True)
def maximum(x: Array, y: Array) -> Array:
    """z = max(x, y), broadcast."""
    return np.maximum(x, y)


@op("[...], [...] -> [...]", shapes=_matmul)
def matmul(x: Array, y: Array) -> Array:
    """z[..., i, j] = Σₖ x[..., i, k] · y[..., k, j]; leading sizes broadcast."""
    return np.matmul(x, y)


@op("[...] -> [...]", shapes=_transpose)
def transpose(x: Array, *, axes: tuple[int, ...]) -> Array:
    """Axis i of the result is axis axes[i] of x."""
    return np.transpose(x, axes)


@op("[...] -> [...]", shapes=_reshape)
def reshape(x: Array, *, shape: Shape) -> Array:
    """The elements of x, in row-major order, in another shape."""
    return np.reshape(x, [int(size) for size in shape])


@op("[...] -> [...]", shapes=_concat)
def concat(*parts: Array, axis: int) -> Array:
    """The parts, one after the other along an axis."""
    return np.concatenate(parts, axis)


@op("[...] -> [...]", shapes=_split)
def split(x: Array, *, sizes: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """x cut along an axis into parts of the given sizes."""
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@op("[...] -> [...]", shapes=_slice)
def slice_(x: Array, *, start: int, size: int, axis: int) -> Array:
    """`size` entries of x along an axis, from `start` on."""
    end = x.shape[axis]
    if start + size > end:
        raise TypeMismatch(f"a slice of {size} from {start} does not lie inside {end}")
    return np.take(x, range(start, start + size), axis)


@op("[...] -> [...]", shapes=_select)
def select(x: Array, *, index: int, axis: int) -> Array:
    """The entry of x at an index of an axis; the axis goes."""
    return np.take(x, index, axis)


@op("[...] -> [...]", shapes=_sum)
def sum_(x: Array, *, axis: int) -> Array:
    """Σ of x along an axis; the axis goes."""
    return np.sum(x, axis, dtype=x.dtype)


@op("[n, m], i32[*] -> [*, m]")
def embedding(table: Array, ids: Array) -> Array:
    """y[..., :] = table[ids[...], :]."""
    return table[ids]


@op("i32[batch] -> [...]", shapes=_padding_mask)
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


@op("[*, seq, size] -> [*, seq, size]", shapes=_rotary)
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


@op("-> i32[...]", shapes=_relative_buckets)
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


@op("-> i32[...]", shapes=_log_buckets)
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


@op("[...] -> [...]", shapes=_cast)
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
