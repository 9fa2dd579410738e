"""What a plugin is: its inputs and results, the ways to compile its kernel, and how it is launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = Sequence[Any]
"""Sizes of a tensor: numbers and symbolic expressions."""


@dataclass(frozen=True)
class Tactic:
    """One way to compile a kernel."""

    constants: Mapping[str, Any]
    warps: int = 4


@dataclass(frozen=True)
class Launch:
    """The sizes to run a kernel with, which are known when the engine runs."""

    grid: tuple[Any, ...]
    numbers: Mapping[str, Any]
    """Parameter of the kernel -> its value, in the kernel's order."""


@dataclass(frozen=True)
class Plugin:
    """A fused op with a certain number of results."""

    name: str
    kernel: str
    inputs: tuple[str, ...]
    numbers: tuple[str, ...]
    outputs: tuple[str, ...]
    """Parameters of the kernel, as TensorRT passes them. Others are constants; what no tactic names is None."""
    attributes: Mapping[str, type]
    shapes: Callable[[Mapping[str, Shape]], Shape]
    """Sizes of the inputs -> sizes of each output."""
    tactics: Callable[[Mapping[str, Any], str], Sequence[Tactic]]
    """(attributes, element type) -> the ways to compile it."""
    launch: Callable[[Any, Mapping[str, Shape], Mapping[str, Any]], Launch]
    """(tensorrt.plugin, sizes of the inputs, attributes and the tactic's constants) -> how to launch it."""


def volume(sizes: Shape) -> Any:
    """The product of sizes."""
    first, *rest = sizes
    for size in rest:
        first = first * size
    return first
