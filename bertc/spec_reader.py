"""A spec's tree against the table of its fields: values by path, where each was given, and all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bertc.errors import Diagnostic, Span, did_you_mean, nearest
from bertc.spec_fields import SPEC, Choice, Either, Field, Items, Kind, Real, Section, Text, Whole, describe
from bertc.tree import MappingNode, Node, ScalarNode, SequenceNode, resolve, shown


@dataclass(frozen=True)
class Reading:
    """By path (`sizes.hidden`, `passes.1`): the values that are as declared, where each was given, what is wrong."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    spans: dict[str, Span] = field(default_factory=dict[str, Span])
    problems: list[Diagnostic] = field(default_factory=list[Diagnostic])


def read_fields(tree: MappingNode, *, complete: bool = True) -> Reading:
    """Check the fields that `tree` gives; `complete` also asks for the required ones that a base could have given.

    Values are as in YAML, with tuples for lists; a field that is left out has its default, if it has one.
    """
    reading = Reading(values=dict(_defaults(SPEC, "")))
    _Reader(reading, complete).read(Field("", SPEC, "the spec itself"), tree, "")
    return reading


def _defaults(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    for declared in section.fields:
        if declared.default is not None:
            yield prefix + declared.name, declared.default
        if isinstance(declared.kind, Section):
            yield from _defaults(declared.kind, f"{prefix}{declared.name}.")


_WRONG = object()
_GIVEN_BY_BASE = ("", "sizes")


@dataclass(frozen=True)
class _Reader:
    reading: Reading
    complete: bool

    def read(self, declared: Field, node: Node, path: str) -> Any:
        """The value of the node, entered under its path, or _WRONG after saying why."""
        self.reading.spans[path] = node.span
        value = self._value(declared, node, path)
        if value is not _WRONG:
            self.reading.values[path] = value
        return value

    def _value(self, declared: Field, node: Node, path: str) -> Any:
        match declared.kind:
            case Section() as kind if isinstance(node, MappingNode):
                return self._section(declared, kind, node, path)
            case Items() as kind if isinstance(node, SequenceNode):
                return self._items(declared, kind, node, path)
            case Items(or_one=True) as kind:
                return self._items(declared, kind, SequenceNode((node,), node.span), path)
            case Either(forms):
                form = next((form for form in forms if _has_form(form, node)), None)
                if form is not None:
                    return self._value(Field(declared.name, form, declared.meaning), node, path)
            case kind if isinstance(node, ScalarNode) and _accepts(kind, node.value):
                return node.value
            case _:
                pass
        return self._refuse(declared, node)

    def _section(self, declared: Field, kind: Section, node: MappingNode, path: str) -> Any:
        prefix = f"{path}." if path else ""
        known = {inner.name: inner for inner in kind.fields}
        values: dict[str, Any] = {}
        for entry in node.entries:
            if entry.key in known:
                values[entry.key] = self.read(known[entry.key], entry.node, prefix + entry.key)
            else:
                message = f"`{shown(entry.key)}` is not {kind.noun}"
                self._problem("B0203", message, entry.span, did_you_mean(entry.key, known))
        missing = [inner for inner in kind.fields if inner.required and node.get(inner.name) is None]
        if missing and (self.complete or path not in _GIVEN_BY_BASE):
            names = ", ".join(f"`{inner.name}`" for inner in missing)
            help = "; ".join(f"`{inner.name}`: {inner.meaning}" for inner in missing)
            self._problem("B0207", f"expected {_called(declared)} to have {names}, but found none", node.span, help)
            return _WRONG
        return _WRONG if _WRONG in values.values() else values

    def _items(self, declared: Field, kind: Items, node: SequenceNode, path: str) -> Any:
        if not kind.fewest <= len(node.items) <= kind.most:
            return self._refuse(declared, node)
        values = tuple(
            self.read(Field(f"{declared.name}[{index}]", kind.item, declared.meaning), child, f"{path}.{index}")
            for index, child in enumerate(node.items)
        )
        return _WRONG if _WRONG in values else values

    def _refuse(self, declared: Field, node: Node) -> Any:
        expected = describe(declared.kind)
        message = f"expected {_called(declared)} to be {expected}, but found {_found(declared.kind, node)}"
        self._problem("B0206", message, node.span, _advice(declared, node))
        return _WRONG

    def _problem(self, code: str, message: str, span: Span, help: str) -> None:
        self.reading.problems.append(Diagnostic(code, message, span, help))


def _accepts(kind: Kind, value: object) -> bool:
    match kind:
        case Whole(smallest, largest):
            return type(value) is int and smallest <= value <= largest
        case Real(above, below):
            return isinstance(value, int | float) and not isinstance(value, bool) and above < value < below
        case Choice(names):
            return value in names
        case Text(_, pattern):
            return isinstance(value, str) and re.fullmatch(pattern, value) is not None
        case _:
            return False


def _has_form(kind: Kind, node: Node) -> bool:
    match kind:
        case Whole() | Real():
            return isinstance(node, ScalarNode) and type(node.value) in (int, float)
        case Choice() | Text():
            return isinstance(node, ScalarNode) and isinstance(node.value, str)
        case Items():
            return isinstance(node, SequenceNode)
        case Section():
            return isinstance(node, MappingNode)
        case Either(forms):
            return any(_has_form(form, node) for form in forms)


def _called(declared: Field) -> str:
    return f"`{declared.name}`" if declared.name else "the spec"


def _found(kind: Kind, node: Node) -> str:
    match node:
        case SequenceNode(items):
            return f"a list of {len(items)}"
        case MappingNode():
            return "a mapping"
        case ScalarNode(value=None):
            return "nothing"
        case ScalarNode(value=bool() as value):
            return f"`{str(value).lower()}`"
        case ScalarNode(value=str() as text) if not _has_form(kind, node):
            return f"the text `{shown(text)}`"
        case ScalarNode(value):
            return f"`{shown(str(value))}`"


def _advice(declared: Field, node: Node) -> str:
    meaning = f"`{declared.name}`: {declared.meaning}"
    match node:
        case ScalarNode(value=str() as text) if near := nearest(text.lower(), _choices(declared.kind)):
            return near
        case ScalarNode() if isinstance(declared.kind, Items):
            return "put it in brackets, as a list of one"
        case ScalarNode(value=str() as text) if not _has_form(declared.kind, node):
            return meaning if isinstance(resolve(text[:20], node.span), str) else "write the number without quotes"
        case ScalarNode(value=bool() | int() | float()) if isinstance(declared.kind, Text):
            return "put the text in quotes"
        case _:
            return meaning


def _choices(kind: Kind) -> tuple[str, ...]:
    match kind:
        case Choice(names):
            return names
        case Either(forms):
            return tuple(name for form in forms for name in _choices(form))
        case _:
            return ()
