"""What a pass put in the place of what: groups of nodes that went and of those that compute the same values now.

A rewrite keeps the names of the values it returns. So the group of a value that has another producer after a pass is:
on each side its producer, and behind that whatever else went or came, up to the next value that both sides have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node


@dataclass(frozen=True)
class Replacement:
    """Keys of nodes, each in the order of its graph."""

    went: tuple[str, ...]
    came: tuple[str, ...]


def replacements(before: Graph, after: Graph) -> list[Replacement]:
    """The groups of a pass, in the order of what came."""
    old, new = ({node.key: node for node in graph} for graph in (before, after))
    went = {key: node for key, node in old.items() if _is_gone(node, new)}
    came = {key: node for key, node in new.items() if _is_gone(node, old)}
    shared = _results(went) & _results(came)
    found: list[tuple[set[str], set[str]]] = []
    for value in sorted(shared):
        mine = (_cone(before, value, went, shared), _cone(after, value, came, shared))
        same = [group for group in found if group[0] & mine[0] or group[1] & mine[1]]
        found = [group for group in found if group not in same]
        found.append((mine[0].union(*(g[0] for g in same)), mine[1].union(*(g[1] for g in same))))
    groups = {key: group for group in found for key in group[1]}
    for key in [key for key in reversed(came) if key not in groups]:
        if (reader := _reader(after, key, groups)) is not None:
            groups[reader][1].add(key)
            groups[key] = groups[reader]
    distinct = {id(groups[key]): groups[key] for key in came if key in groups}
    return [
        Replacement(tuple(k for k in went if k in group[0]), tuple(k for k in came if k in group[1]))
        for group in distinct.values()
    ]


def _is_gone(node: Node, others: Mapping[str, Node]) -> bool:
    if node.op in (INPUT, WEIGHT):
        return False
    return node.key not in others or others[node.key].op != node.op


def _results(nodes: Mapping[str, Node]) -> set[str]:
    return {result for node in nodes.values() for result in node.results if result != UNUSED}


def _cone(graph: Graph, value: str, among: Mapping[str, Node], shared: Set[str]) -> set[str]:
    """The producer of a value, and what it is computed from, as far as that is `among` and none of the shared."""
    start = graph.producer(value)
    found, stack = {start.key}, [start]
    while stack:
        for producer in _producers(graph, stack.pop()):
            if producer.key in among and producer.key not in found and shared.isdisjoint(producer.results):
                found.add(producer.key)
                stack.append(producer)
    return found


def _producers(graph: Graph, node: Node) -> Iterator[Node]:
    return (graph.producer(value) for value in node.values)


def _reader(graph: Graph, key: str, groups: Mapping[str, object], depth: int = 4) -> str | None:
    """The nearest reader that is in a group: what was computed anew for an op that stayed belongs to it too."""
    level = [graph.producer(key)]
    for _ in range(depth):
        level = [
            reader for node in level for result in node.results if result in graph for reader in graph.users(result)
        ]
        found = next((node.key for node in level if node.key in groups), None)
        if found is not None:
            return found
    return None
