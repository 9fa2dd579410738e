"""What to change in a rule that is wrong: the one small change after which its two sides agree.

A repair is looked for as a compiler's spelling help is: everything one step away is tried, and what passes is offered.
One step is another op of the same signature, two operands or results exchanged, or a number of the left side for one of
the right; in the signature, a whole value for one that is broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

from bertc import notation
from bertc.errors import BertcError, Span
from bertc.notation import Body, Call, Expression, Name, Number
from bertc.plugins import OPS
from bertc.rule import Rule

Item = TypeVar("Item")

MAXIMUM_TRIED = 200
"""Changes that are tried; each is a few evaluations of small arrays."""


@dataclass(frozen=True)
class Repair:
    """The rule with one thing changed, and the sentence that says which."""

    rule: Rule
    advice: str
    span: Span | None


def repair(rule: Rule, agrees: Callable[[Rule], bool]) -> Repair | None:
    """The first change after which `agrees` holds, or None."""
    for count, changed in enumerate(_repairs(rule)):
        if count == MAXIMUM_TRIED:
            return None
        try:
            if agrees(changed.rule):
                return changed
        except BertcError:
            continue
    return None


def _repairs(rule: Rule) -> Iterator[Repair]:
    for index, parameter in enumerate(rule.parameters):
        if parameter.type is None or parameter.type.kind != "broadcast":
            continue
        whole = replace(parameter, type=replace(parameter.type, kind="value"))
        parameters = (*rule.parameters[:index], whole, *rule.parameters[index + 1 :])
        text = f"{parameter.name}: {notation.to_text(whole.type)}" if whole.type else ""
        advice = f"declare `{text}`: a value that is broadcast is then left as it is"
        yield Repair(replace(rule, parameters=parameters), advice, parameter.span)
    for index, assign in enumerate(rule.right.assigns):
        for targets in _exchanged(assign.targets):
            assigns = (*rule.right.assigns[:index], replace(assign, targets=targets), *rule.right.assigns[index + 1 :])
            advice = f"write `{', '.join(targets)} = ...` instead of `{', '.join(assign.targets)} = ...`"
            yield Repair(replace(rule, right=replace(rule.right, assigns=assigns)), advice, assign.span)
    numbers = _numbers(rule)
    for old, new in _changed_calls(rule.right, numbers):
        advice = f"write `{notation.to_text(new)}` instead of `{notation.to_text(old)}` on the right side"
        yield Repair(replace(rule, right=_with(rule.right, old, new)), advice, old.span)


def _numbers(rule: Rule) -> tuple[str, ...]:
    """The names of the left side that stand for numbers of its attributes."""
    named = [tree for node in rule.pattern for _, tree in node.attributes if isinstance(tree, Name)]
    return tuple(dict.fromkeys(tree.path for tree in named if tree.path in rule.bound_names()))


def _changed_calls(body: Body, numbers: Iterable[str]) -> Iterator[tuple[Call, Call]]:
    """Each call of a side with each of its one-step changes."""
    roots = (*(assign.value for assign in body.assigns), *(item.value for item in body.returns.items))
    for call in (call for root in roots for call in _calls(root)):
        yield from ((call, replace(call, arguments=arguments)) for arguments in _exchanged(call.arguments))
        yield from ((call, replace(call, name=name)) for name in _alike(call.name))
        for name, value in call.keywords:
            if isinstance(value, Name | Number):
                for number in numbers:
                    keywords = tuple(sorted({**dict(call.keywords), name: Name(number)}.items()))
                    yield call, replace(call, keywords=keywords)


def _exchanged(items: tuple[Item, ...]) -> Iterator[tuple[Item, ...]]:
    """The same items with each two of them exchanged."""
    for first, second in combinations(range(len(items)), 2):
        others = list(items)
        others[first], others[second] = items[second], items[first]
        yield tuple(others)


def _calls(tree: Expression) -> Iterator[Call]:
    if isinstance(tree, Call) and tree.name in OPS:
        yield tree
        for argument in tree.arguments:
            yield from _calls(argument)


def _alike(name: str) -> Iterator[str]:
    """The other ops of the same signature."""
    op = OPS[name]
    for other in OPS.values():
        if other is not op and op.has_signature_of(other):
            yield other.name


def _with(body: Body, old: Call, new: Call) -> Body:
    assigns = tuple(replace(assign, value=_replaced(assign.value, old, new)) for assign in body.assigns)
    items = tuple(replace(item, value=_replaced(item.value, old, new)) for item in body.returns.items)
    return Body(assigns, replace(body.returns, items=items))


def _replaced(tree: Expression, old: Call, new: Call) -> Expression:
    if tree is old:
        return new
    if isinstance(tree, Call):
        return replace(tree, arguments=tuple(_replaced(argument, old, new) for argument in tree.arguments))
    return tree
