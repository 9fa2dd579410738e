"""What an expression of the notation stands for: values, groups of parameters, numbers, sizes, and lists of these."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bertc import notation
from bertc.errors import error
from bertc.notation import Call
from bertc.types import ELEMENTS, is_tuple, shape_text


@dataclass(frozen=True)
class Value:
    """A value of the graph under construction."""

    name: str


@dataclass(frozen=True)
class Group:
    """A group of trained parameters, by its path from the root."""

    path: str
    name: str
    """What values that are computed with it are called: its path, with the layer's number where layers share it."""


@dataclass(frozen=True)
class Results:
    """What a block returns when that is more than one value: values, with the names they are returned under."""

    values: tuple[Any, ...]
    names: tuple[str | None, ...]


Meaning = Any
"""What an expression stands for: Value, Group, Results, a number, the name of a size or element (str), or a tuple."""

Environment = dict[str, Meaning]


def single(meaning: Meaning) -> Meaning:
    return meaning.values[0] if isinstance(meaning, Results) and len(meaning.values) == 1 else meaning


def describe(meaning: Meaning) -> str:
    match meaning:
        case Value():
            return f"the value `{meaning.name}`"
        case Group():
            return f"the group of parameters `{meaning.path}`"
        case Results():
            return f"{len(meaning.values)} values"
        case _ if is_tuple(meaning):
            return shape_text(meaning)
        case str():
            return f"the name `{meaning}`"
        case _:
            return repr(meaning)


# ------------------------------------------------------------------------------------------------- numbers, attributes


def _divide(x: float, y: float) -> float:
    return x // y if isinstance(x, int) and isinstance(y, int) and x % y == 0 else x / y


ARITHMETIC: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _divide,
    "maximum": max,
    "sqrt": math.sqrt,
}


def compute(tree: Call, arguments: list[float]) -> float:
    try:
        return ARITHMETIC[tree.name](*arguments)
    except (ArithmeticError, ValueError, TypeError) as problem:
        raise error("B0105", f"{notation.to_text(tree)} cannot be computed: {problem}", tree.span) from None


def _whole_numbers(meaning: Meaning) -> Any:
    return meaning if is_tuple(meaning) and all(isinstance(item, int) for item in meaning) else None


def _sizes(meaning: Meaning) -> Any:
    return meaning if is_tuple(meaning) and all(isinstance(item, int | str) for item in meaning) else None


ATTRIBUTE_KINDS: dict[str, tuple[str, Callable[[Meaning], Any]]] = {
    "float": ("a number", lambda m: float(m) if isinstance(m, int | float) else None),
    "int": ("a whole number", lambda m: m if isinstance(m, int | str) else None),
    "str": ("an element type", lambda m: m if m in ELEMENTS else None),
    "tuple[int, ...]": ("a list of whole numbers", _whole_numbers),
    "Shape": ("a list of sizes", _sizes),
}
"""What an attribute accepts, by the annotation in the op's declaration. An `int` may be a size known only later."""
