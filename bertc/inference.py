"""The types of an op's results, from the types of its operands and its attributes: what its signature says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from inspect import Parameter
from typing import Any

from bertc.ops import Op, Pattern
from bertc.types import Dim, Shape, Type, TypeMismatch, is_tuple, shape_text


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


def _check_arguments(op: Op, operands: tuple[Type | None, ...], given: Mapping[str, Any]) -> None:
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
