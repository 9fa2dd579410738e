"""expand_unhosted: a fused op that the target does not host becomes its definition again.

The definition is the left side of the rule that makes the op, so that no second text can disagree with the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertc.errors import error
from bertc.graph import Graph, Node
from bertc.plugins import PACKED, PLUGINS
from bertc.rewrite import candidates, find, substitute
from bertc.rule import Rule

EXPANDED = "expanded"


@dataclass(frozen=True)
class Choice:
    """How a target computes a fused op: by what it calls `operator`, `kernel`, `layer` or `plugin`, or `expanded`."""

    how: str
    why: str = ""


Hosts = Callable[[Graph, Node, str], Choice]
"""(graph, one of its fused ops, precision) -> how the target computes it."""


def expand_unhosted(graph: Graph, hosts: Hosts, precision: str, rules: Sequence[Rule]) -> tuple[Graph, int]:
    """Raises BertcError B0301 for a fused op that no rule defines, B0514 for a packed one that is not hosted."""
    for node in graph:
        if node.op in PACKED and (choice := hosts(graph, node, precision)).how == EXPANDED:
            message = f"`{node.key}` is {node.op}, which the target does not host: {choice.why}"
            raise error("B0514", message, node.span)
    graph = graph.copy()
    count = 0
    # A definition may hold fused ops of an earlier rule, so the rules go backwards.
    for rule in reversed([rule for rule in rules if _made_by(rule) in PLUGINS]):
        definition = rule.reversed
        for node in candidates(definition, graph):
            if hosts(graph, node, precision).how != EXPANDED:
                continue
            match = find(definition, graph, node)
            if match is None:
                raise error("B0301", f"`{node.key}` is no {node.op} that rule `{rule.name}` makes", node.span)
            substitute(definition, graph, match)
            count += 1
    return graph, count


def _made_by(rule: Rule) -> str:
    """The one op on a rule's right side, or nothing when there are more."""
    made = rule.reversed.pattern
    return made[0].op if len(made) == 1 else ""
