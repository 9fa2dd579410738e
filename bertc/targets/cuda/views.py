"""Where a graph's values lie while it becomes a plan."""

from __future__ import annotations

from dataclasses import dataclass

from bertc.targets.cuda.plan import Size


@dataclass(frozen=True)
class View:
    """A value: columns of a buffer. `names` are the sizes that its rows are counted by."""

    buffer: str
    names: tuple[str, ...]
    row: Size
    """Elements from one row to the next."""
    offset: int
    width: int
