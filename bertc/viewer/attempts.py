"""Why not: what each rule of a pass made of each node where it could have fired, as `bertc explain` says it of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bertc.graph import Graph
from bertc.passes import rules
from bertc.rewrite import Match, Miss, apply, attempt, candidates
from bertc.rule import Rule


@dataclass(frozen=True)
class Attempts:
    """Of one rule, when its turn came."""

    rule: Rule
    fired: tuple[str, ...]
    """Keys of the nodes where it began."""
    misses: Mapping[str, Miss]
    """By the key of the node where it could have begun."""


def attempts(name: str, graph: Graph) -> list[Attempts]:
    """For each rule of a pass, on the graph before it; none for a pass without rules."""
    found: list[Attempts] = []
    for rule in rules(name):
        outcomes = {node.key: attempt(rule, graph, node) for node in candidates(rule, graph)}
        fired = tuple(key for key, outcome in outcomes.items() if isinstance(outcome, Match))
        misses = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Miss)}
        found.append(Attempts(rule, fired, misses))
        if fired:
            graph, _ = apply(rule, graph)
    return found
