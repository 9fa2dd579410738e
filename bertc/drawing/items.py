"""What is drawn of a graph, alone or beside the graph before a pass: a box for each node, and what leads to what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from bertc.graph import INPUT, WEIGHT, Graph, Node

OUTPUT = "output"
"""The op of the boxes where a graph ends."""


class State(StrEnum):
    """What a pass did to a node."""

    KEPT = "kept"
    CHANGED = "changed"
    """The same op under the same name, with other operands, attributes or types."""
    CAME = "came"
    WENT = "went"


class Member(NamedTuple):
    """The layer that a name lies in, and the name inside it."""

    prefix: str
    number: int
    rest: str


class Id(NamedTuple):
    """Which box: of the graph before a pass where its node went, else of the graph after it."""

    key: str
    went: bool = False


@dataclass(frozen=True)
class Item:
    id: Id
    state: State
    node: Node | None
    """None where the graph ends."""
    reads: tuple[Id, ...]
    """Where its operands come from, each once."""

    @property
    def op(self) -> str:
        return OUTPUT if self.node is None else self.node.op


@lru_cache(maxsize=1 << 16)
def member(key: str) -> Member | None:
    """`encoder.3.attention.query` -> encoder, 3, attention.query."""
    parts = key.split(".")
    at = next((place for place, part in enumerate(parts) if place and part.isdigit()), None)
    if at is None:
        return None
    return Member(".".join(parts[:at]), int(parts[at]), ".".join(parts[at + 1 :]))


def drawn(graph: Graph, *, constants: bool) -> list[Item]:
    """The boxes of one graph; with `constants`, those of weights and of what is computed from them as well."""
    keys = {node.key for node in graph if constants or not graph.is_constant(node.key)}
    return [*_items(graph, dict.fromkeys(keys, State.KEPT)), *_outputs(graph, keys)]


def compared(before: Graph, after: Graph) -> list[Item]:
    """The boxes of the graph after a pass, with those that went in their places.

    Constants are among them where the pass changed them.
    """
    old, new = ({node.key: node for node in graph} for graph in (before, after))
    states = {key: _state(old.get(key), node) for key, node in new.items()}
    kept = {
        key: state
        for key, state in states.items()
        if not after.is_constant(key) or (state is not State.KEPT and new[key].op != WEIGHT)
    }
    went = {
        key: node
        for key, node in old.items()
        if (key not in new or new[key].op != node.op) and node.op not in (INPUT, WEIGHT)
    }
    later = {item.id.key: item for item in _items(after, kept)}
    items = list(_merged(before, went, later))
    return [*items, *_outputs(after, kept.keys())]


def _state(old: Node | None, new: Node) -> State:
    if old is None or old.op != new.op:
        return State.CAME
    return State.KEPT if old == new else State.CHANGED


def _items(graph: Graph, states: Mapping[str, State]) -> Iterator[Item]:
    for node in graph:
        if node.key in states:
            reads = _each_once(Id(key) for key in _producers(graph, node) if key in states)
            yield Item(Id(node.key), states[node.key], node, reads)


def _outputs(graph: Graph, drawn: Collection[str]) -> Iterator[Item]:
    """One that is a constant is drawn without a line where constants are not drawn."""
    for name, value in graph.outputs.items():
        producer = graph.producer(value).key
        yield Item(Id(f"{OUTPUT} {name}"), State.KEPT, None, (Id(producer),) if producer in drawn else ())


def _merged(before: Graph, went: Mapping[str, Node], later: Mapping[str, Item]) -> Iterator[Item]:
    """The boxes of the graph after, and behind each what went right behind it in the graph before.

    What went is led on to its readers in its own layer alone, so that layers stay alike.
    """
    behind: dict[str | None, list[str]] = {}
    last: str | None = None
    readers: dict[str, list[Id]] = {}
    for node in before:
        if node.key in went:
            behind.setdefault(last, []).append(node.key)
        elif node.key in later:
            last = node.key
            gone_sources = (key for key in _producers(before, node) if key in went and _layer(key) == _layer(node.key))
            readers[node.key] = [Id(key, True) for key in gone_sources]

    def gone(keys: Iterable[str]) -> Iterator[Item]:
        for key in keys:
            producers = (k for k in _producers(before, went[key]) if k in went or k in later)
            sources = (Id(k, k in went and (k not in later or _layer(k) == _layer(key))) for k in producers)
            yield Item(Id(key, True), State.WENT, went[key], _each_once(sources))

    yield from gone(behind.get(None, ()))
    for key, item in later.items():
        yield Item(item.id, item.state, item.node, _each_once((*item.reads, *readers.get(key, ()))))
        yield from gone(behind.get(key, ()))


def _layer(key: str) -> tuple[str, int] | None:
    place = member(key)
    return None if place is None else (place.prefix, place.number)


def _producers(graph: Graph, node: Node) -> Iterator[str]:
    return (graph.producer(value).key for value in node.values)


def _each_once(ids: Iterable[Id]) -> tuple[Id, ...]:
    return tuple(dict.fromkeys(ids))
