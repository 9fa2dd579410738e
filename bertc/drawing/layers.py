"""Repeated layers: `encoder.0`, `encoder.1` and so on, and which of them are alike and can stand for each other.

Layers of several kinds may take turns. Then a few of them in a row are what repeats: a unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bertc.drawing.items import Id, Item, member
from bertc.graph import Node

LONGEST = 4
"""Layers of a unit."""

Name = tuple[str, bool]
"""What a box is called inside its unit, and whether its node went."""


@dataclass(frozen=True)
class Run:
    """Units one behind the other that are alike: what holds for the first holds for each, with its numbers."""

    prefix: str
    first: int
    """The number of the first layer."""
    layers: int
    """Of a unit."""
    count: int
    """Of units."""
    items: tuple[Item, ...]
    """Of the first unit."""
    entering: tuple[Id, ...]
    """What the first unit reads from outside, in the order it is first read."""
    feeds: tuple[Name | None, ...]
    """For each of them what the units behind read of the unit before instead; None for what all of them read."""
    leaving: tuple[Name, ...]
    """What is read of a unit from outside of it."""

    def name(self, id: Id) -> Name:
        """What a box of the first unit is called in it."""
        return _name(id, self.prefix, self.first, self.layers) or (id.key, id.went)

    def id(self, name: Name, unit: int) -> Id:
        """The box of that name in a unit, counted from 0."""
        first, (rest, went) = self.first + unit * self.layers, name
        if self.layers == 1:
            return Id(f"{self.prefix}.{first}.{rest}", went)
        number, _, rest = rest.partition(".")
        return Id(f"{self.prefix}.{first + int(number)}.{rest}", went)


def runs(items: Sequence[Item]) -> list[Run]:
    """The layers among the items, as runs that are as long as can be."""
    layers: dict[str, dict[int, list[Item]]] = {}
    for item in items:
        place = None if item.node is None else member(item.id.key)
        if place is not None:
            layers.setdefault(place.prefix, {}).setdefault(place.number, []).append(item)
    readers = _readers(items)
    found: list[Run] = []
    for prefix, numbered in layers.items():
        left = sorted(numbered)
        while left:
            longest = _longest_run(prefix, left, numbered, readers)
            found.append(longest)
            left = left[longest.count * longest.layers :]
    return found


def _readers(items: Sequence[Item]) -> dict[Id, list[Id]]:
    readers: dict[Id, list[Id]] = {}
    for item in items:
        for source in item.reads:
            readers.setdefault(source, []).append(item.id)
    return readers


def _longest_run(
    prefix: str, left: Sequence[int], layers: Mapping[int, Sequence[Item]], readers: Mapping[Id, Sequence[Id]]
) -> Run:
    """The run that begins at the first layer that is left and covers most layers, of units as short as can be."""
    best = _run(prefix, left, 1, layers, readers)
    for length in range(2, min(LONGEST, len(left) // 2) + 1):
        if best.count * best.layers == len(left):
            break
        other = _run(prefix, left, length, layers, readers)
        if other.count > 1 and other.count * length > best.count * best.layers:
            best = other
    return best


def _run(
    prefix: str,
    left: Sequence[int],
    length: int,
    layers: Mapping[int, Sequence[Item]],
    readers: Mapping[Id, Sequence[Id]],
) -> Run:
    def unit(start: int) -> _Unit:
        inside = [item for number in left[start : start + length] for item in layers[number]]
        return _Unit.of(prefix, left[start], length, inside, readers)

    first = last = unit(0)
    entering = entering_ids(first.items)
    run = Run(prefix, left[0], length, 1, first.items, entering, (None,) * len(entering), tuple(sorted(first.leaving)))
    for start in range(length, len(left) - length + 1, length):
        following = unit(start)
        if not following.follows(last, run.count == 1):
            break
        run = replace(run, count=run.count + 1, feeds=following.feeds)
        last = following
    return run


@dataclass(frozen=True)
class _Unit:
    prefix: str
    number: int
    layers: int
    items: tuple[Item, ...]
    shape: tuple[object, ...]
    """What makes units alike: nodes with their names inside, what they read inside, and which outside things."""
    entering: tuple[Id, ...]
    leaving: frozenset[Name]

    @classmethod
    def of(
        cls, prefix: str, number: int, layers: int, items: Sequence[Item], readers: Mapping[Id, Sequence[Id]]
    ) -> _Unit:
        names = {item.id: _name(item.id, prefix, number, layers) or (item.id.key, item.id.went) for item in items}
        entering = entering_ids(items)
        places = {id: place for place, id in enumerate(entering)}

        def named(id: Id) -> Name | int:
            return names[id] if id in names else places[id]

        shape = tuple((named(i.id), i.state, _content(i.node), tuple(map(named, i.reads))) for i in items)
        leaving = frozenset(
            name for id, name in names.items() if any(reader not in names for reader in readers.get(id, ()))
        )
        return cls(prefix, number, layers, tuple(items), shape, entering, leaving)

    @property
    def feeds(self) -> tuple[Name | None, ...]:
        """For what enters: its name in the unit before, where it comes from there."""
        return tuple(_name(id, self.prefix, self.number - self.layers, self.layers) for id in self.entering)

    def follows(self, previous: _Unit, previous_is_first: bool) -> bool:
        """Whether it is alike and reads what the one before it read, or that one's results in its results' place."""
        alike = (
            self.number == previous.number + previous.layers
            and self.shape == previous.shape
            and self.leaving == previous.leaving
        )
        if not alike:
            return False
        shared = [id for id, feed in zip(self.entering, self.feeds, strict=True) if feed is None]
        theirs = [id for id, feed in zip(previous.entering, self.feeds, strict=True) if feed is None]
        return shared == theirs and (previous_is_first or self.feeds == previous.feeds)


def _name(id: Id, prefix: str, number: int, layers: int) -> Name | None:
    """What a box is called in the unit that begins with the layer of that number; None where it is not in it."""
    place = member(id.key)
    if place is None or place.prefix != prefix or not 0 <= place.number - number < layers:
        return None
    return (place.rest if layers == 1 else f"{place.number - number}.{place.rest}"), id.went


def _content(node: Node | None) -> tuple[object, ...]:
    if node is None:
        return ()
    numbers = tuple(operand for operand in node.inputs if not isinstance(operand, str))
    return node.op, node.attributes, node.types, numbers


def entering_ids(items: Sequence[Item]) -> tuple[Id, ...]:
    """What is read from outside, in the order it is first read."""
    inside = {item.id for item in items}
    return tuple(dict.fromkeys(id for item in items for id in item.reads if id not in inside))
