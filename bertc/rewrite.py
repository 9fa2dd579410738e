"""Rewriting: find a rule's left side in a graph, check that it may go, put the right side in its place.

A match binds the rule's parameters to values, its numbers to literals and attributes, and its sizes to sizes. Rules say
only what is equal to what; commuting operands, sizes, weights that must be known at build time, values that something
else still reads, and loops are this file's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bertc import notation
from bertc.elaborator import Elaborator, Frame
from bertc.errors import BertcError, error
from bertc.graph import INPUT, UNUSED, WEIGHT, Graph, Node, Operand
from bertc.meanings import Value
from bertc.notation import Expression, List, Name, Number, Parameter
from bertc.plugins import OPS
from bertc.rule import PatternNode, Rule
from bertc.types import is_tuple

FIRINGS_PER_NODE = 10
"""A rule that has fired this often for each node it was given feeds itself."""


@dataclass(frozen=True)
class Match:
    """Where a rule fits: nodes of the graph in the pattern's order, and what the rule's names stand for."""

    nodes: tuple[Node, ...]
    names: Mapping[str, Any]
    returned: tuple[str, ...]
    """The values the left side returns, by their names in the graph."""


@dataclass(frozen=True)
class Miss:
    """Where a rule nearly fits: how many ops of its left side did, and why the next one did not."""

    fitting: int
    node: Node
    reason: str


# ------------------------------------------------------------------------------------------------------------ applying


def apply(rule: Rule, graph: Graph) -> tuple[Graph, int]:
    """The graph with every match of the rule replaced, again and again until none is left, and how many there were.

    Raises BertcError B0301 when the rule never comes to an end.
    """
    graph = graph.copy()
    fired, limit = 0, FIRINGS_PER_NODE * (1 + len(graph))
    progress = True
    while progress:
        progress = False
        for node in candidates(rule, graph):
            if node.key not in graph or graph.producer(node.key) != node:
                continue
            match = find(rule, graph, node)
            if match is None:
                continue
            substitute(rule, graph, match)
            progress = True
            fired += 1
            if fired > limit:
                raise error("B0301", f"rule `{rule.name}` fires on what it made itself, without end", rule.span)
    return graph, fired


def candidates(rule: Rule, graph: Graph) -> tuple[Node, ...]:
    """The nodes where the rule's first returned value could be computed."""
    op = rule.root.op
    return tuple(node for node in graph if node.op == op)


def find(rule: Rule, graph: Graph, root: Node) -> Match | None:
    """The match of the rule at a node that computes its first returned value."""
    found = attempt(rule, graph, root)
    return found if isinstance(found, Match) else None


def attempt(rule: Rule, graph: Graph, root: Node) -> Match | Miss:
    """The match of the rule at a node, or how near it comes to one and why it is none."""
    return _Matcher(rule, graph).match(root)


def explain(rule: Rule, graph: Graph) -> tuple[list[Match], Miss | None]:
    """All matches of a rule as the graph stands, and the nearest miss with its reason."""
    outcomes = [attempt(rule, graph, node) for node in candidates(rule, graph)]
    matches = [outcome for outcome in outcomes if isinstance(outcome, Match)]
    misses = [outcome for outcome in outcomes if isinstance(outcome, Miss)]
    return matches, max(misses, key=lambda miss: miss.fitting, default=None)


def substitute(rule: Rule, graph: Graph, match: Match) -> None:
    """Put the right side in the place of a match; the values it returns keep their names."""
    root = match.nodes[0]
    place = graph.place_of(root)
    inside = {node.key for node in match.nodes}
    readers = {
        old: [reader for reader in graph.users(old) if reader.key not in inside]
        for old in match.returned
        if old != UNUSED
    }
    graph.remove(match.nodes)
    names = tuple(old if old != UNUSED else None for old in match.returned)
    elaborator = Elaborator(graph, place=place)
    new = elaborator.body(rule.right, Frame(dict(match.names), path=root.key), None, names)
    for old, value in zip(match.returned, new.values, strict=True):
        if old != UNUSED:
            graph.redirect(readers[old], old, value.name)


# ------------------------------------------------------------------------------------------------------------ matching


@dataclass(frozen=True)
class _State:
    """A partial match; every step makes a new one, so that going back is dropping it."""

    nodes: Mapping[int, Node]
    names: Mapping[str, Any]
    """Parameters and inner values -> Value or number; sizes -> numbers or names of sizes."""


class _Matcher:
    """One attempt at one root; remembers the furthest it got."""

    def __init__(self, rule: Rule, graph: Graph) -> None:
        self.rule = rule
        self.graph = graph
        self.elaborator = Elaborator(graph)
        self.miss: Miss | None = None

    def match(self, root: Node) -> Match | Miss:
        start = self.rule.pattern.index(self.rule.root)
        self.miss = Miss(0, root, "it does not fit")
        for state in self._node(start, root, _State({}, {})):
            for complete in self._rest(state):
                refusal = self._refusal(complete)
                if refusal is None:
                    return self._result(complete, start)
                self._missed(complete, root, refusal, bonus=1)
        return self.miss

    def _result(self, state: _State, start: int) -> Match:
        order = [start, *(index for index in state.nodes if index != start)]
        returned = tuple(state.names[name].name for name in self.rule.returned)
        return Match(tuple(state.nodes[index] for index in order), state.names, returned)

    def _missed(self, state: _State, node: Node, reason: str, bonus: int = 0) -> None:
        fitting = len(state.nodes) + bonus
        if self.miss is None or fitting > self.miss.fitting or (self.miss.fitting == 0 and fitting == 0):
            self.miss = Miss(fitting, node, reason)

    def _node(self, index: int, node: Node, state: _State) -> Iterator[_State]:
        """Ways in which a node of the graph is a node of the pattern."""
        wanted = self.rule.pattern[index]
        if index in state.nodes:
            if state.nodes[index] == node:
                yield state
            return
        if node.op != wanted.op:
            self._missed(state, node, f"`{wanted.op}` was expected, but `{node.key}` is {node.op}")
            return
        if node in state.nodes.values() or len(node.results) != len(wanted.results):
            return
        names = dict(state.names)
        reason = self._attributes(wanted, node, names)
        if reason is not None:
            self._missed(state, node, reason)
            return
        for name, result in zip(wanted.results, node.results, strict=True):
            names[name] = Value(result)
        entered = _State({**state.nodes, index: node}, names)
        orders = [node.inputs]
        if OPS[node.op].commutative and node.inputs[0] != node.inputs[1]:
            orders.append(node.inputs[::-1])
        if len(node.inputs) == len(wanted.inputs):
            for order in orders:
                yield from self._operands(wanted.inputs, order, node, entered)

    def _operands(
        self, wanted: tuple[Operand, ...], given: tuple[Operand, ...], node: Node, state: _State
    ) -> Iterator[_State]:
        if not wanted:
            yield state
            return
        for bound in self._operand(wanted[0], given[0], node, state):
            yield from self._operands(wanted[1:], given[1:], node, bound)

    def _operand(self, wanted: Operand, given: Operand, node: Node, state: _State) -> Iterator[_State]:
        if not isinstance(wanted, str):
            if wanted == given:
                yield state
            else:
                self._missed(state, node, f"{wanted} was expected, but `{given}` stands in `{node.key}`")
            return
        meaning = Value(given) if isinstance(given, str) else given
        if wanted in self.rule.types:
            if wanted in state.names:
                if state.names[wanted] == meaning:
                    yield state
                else:
                    self._missed(state, node, f"`{wanted}` stands for two different values")
                return
            names = dict(state.names)
            if reason := self._parameter(self.rule.types[wanted], meaning, names):
                self._missed(state, node, reason)
                return
            yield _State(state.nodes, {**names, wanted: meaning})
            return
        inner = next(i for i, pattern in enumerate(self.rule.pattern) if wanted in pattern.results)
        if not isinstance(given, str):
            self._missed(state, node, f"a value was expected, but the number {given} stands in `{node.key}`")
            return
        producer = self.graph.producer(given)
        position = self.rule.pattern[inner].results.index(wanted)
        if producer.op in (INPUT, WEIGHT):
            op = self.rule.pattern[inner].op
            self._missed(state, node, f"`{op}` was expected, but `{given}` is {_a(producer.op)}")
        elif inner in state.nodes or len(producer.results) <= position or producer.results[position] == given:
            for bound in self._node(inner, producer, state):
                if bound.names[wanted] == meaning:
                    yield bound

    def _parameter(self, parameter: Parameter, meaning: Any, names: dict[str, Any]) -> str | None:
        """Why a value cannot be what a parameter stands for; binds the sizes of its type otherwise."""
        if parameter.type is None:
            return None
        if self.elaborator.fits(meaning, parameter.type, names):
            return None
        expected = notation.to_text(parameter.type)
        if not isinstance(meaning, Value):
            return f"`{parameter.name}` is {expected}, but {meaning} stands there"
        if parameter.type.kind == "weight" and not self.graph.is_constant(meaning.name):
            return f"`{parameter.name}` is {expected}, but `{meaning.name}` is computed when the engine runs"
        return f"`{parameter.name}` is {expected}, but `{meaning.name}` is {self.graph.type_of(meaning.name)}"

    def _attributes(self, wanted: PatternNode, node: Node, names: dict[str, Any]) -> str | None:
        given = OPS[node.op].defaults | dict(node.attributes)
        for name, tree in wanted.attributes:
            if not _bind(tree, given[name], names):
                return (
                    f"{name}={notation.to_text(tree)} was expected, but `{node.key}` has {name}={_shown(given[name])}"
                )
        explicit = {name for name, _ in wanted.attributes}
        for name, default in OPS[node.op].defaults.items():
            if name not in explicit and given[name] != default:
                return f"{name}={default} was expected, but `{node.key}` has {name}={_shown(given[name])}"
        return None

    def _rest(self, state: _State) -> Iterator[_State]:
        """Match what is not an operand of the root: look among the readers of what is bound already."""
        missing = [index for index in range(len(self.rule.pattern)) if index not in state.nodes]
        if not missing:
            yield state
            return
        for index in missing:
            wanted = self.rule.pattern[index]
            meanings = (state.names.get(operand) for operand in wanted.inputs if isinstance(operand, str))
            anchor = next((meaning.name for meaning in meanings if isinstance(meaning, Value)), None)
            if anchor is None:
                continue
            for reader in self.graph.users(anchor):
                for bound in self._node(index, reader, state):
                    yield from self._rest(bound)
            return

    def _refusal(self, state: _State) -> str | None:
        """Why a complete match may not be replaced."""
        for wanted in self.rule.pattern:
            for name, tree in wanted.attributes:
                node = state.nodes[self.rule.pattern.index(wanted)]
                given = (OPS[node.op].defaults | dict(node.attributes))[name]
                if not self._agrees(tree, given, state.names):
                    return f"{name}={notation.to_text(tree)} was expected, but `{node.key}` has {name}={_shown(given)}"
        inside = {node.key for node in state.nodes.values()}
        for index, node in state.nodes.items():
            for name, value in zip(self.rule.pattern[index].results, node.results, strict=True):
                if name in self.rule.returned or value == UNUSED:
                    continue
                if self.graph.is_output(value):
                    return f"`{value}` is an output of the graph, but would be gone"
                leak = next((reader for reader in self.graph.users(value) if reader.key not in inside), None)
                if leak is not None:
                    return f"`{value}` would be gone, but `{leak.key}` reads it as well"
        if len(self.rule.returned) > 1 and self.graph.reenters(inside):
            return "replacing it would make a loop: one of its results leads back to one of its operands"
        return None

    def _agrees(self, tree: Expression, given: Any, names: Mapping[str, Any]) -> bool:
        try:
            return self.elaborator.expression(tree, Frame(dict(names))) == given
        except BertcError:
            return False


def _bind(tree: Expression, given: Any, names: dict[str, Any]) -> bool:
    """Whether an attribute can be what a pattern says; free names are bound. Sums and products are checked later."""
    match tree:
        case Number():
            return tree.value == given
        case Name():
            return names.setdefault(tree.path, given) == given
        case List():
            if not is_tuple(given) or len(given) != len(tree.items):
                return False
            return all(_bind(item, value, names) for item, value in zip(tree.items, given, strict=True))
        case _:
            return True


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if is_tuple(value) else str(value)


def _a(op: str) -> str:
    return {INPUT: "an input", WEIGHT: "a weight"}[op]
