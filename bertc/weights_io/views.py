"""Tensors made of other tensors: a part, another order, another shape. Nothing is read until the view is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from bertc.weights_io.tensor import Element, Tensor


def view(
    source: Tensor,
    change: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    name: str,
    shape: tuple[int, ...],
    element: Element | None = None,
) -> Tensor:
    """The tensor whose values are `change` of the values of `source`; they have `shape`, and `element` when it differs.

    The arrays are read-only. `source` is read anew for each reading of the view.
    """

    def read() -> NDArray[Any]:
        values = change(source.read())
        values.flags.writeable = False
        return values

    return Tensor(name, shape, element or source.element, read)
