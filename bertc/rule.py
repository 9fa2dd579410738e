"""What a rule is: a left side to be found in graphs, a right side to stand in its place, one typed signature for both.

    rule fuse_bias_gelu(x: [*, n], bias: weight[n]):
        gelu(x + bias)
    =>
        bias_gelu(x, bias)

A parameter stands for a value (a `number` for a literal), a free name in a type or an attribute for a size or a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from bertc import notation
from bertc.errors import BertcError, Span, did_you_mean, error
from bertc.graph import Operand
from bertc.notation import Body, Call, Expression, Name, Number, Parameter, RuleTree, Star, TypeDim, names_in
from bertc.plugins import OPS, unknown_op
from bertc.types import ELEMENTS


@dataclass(frozen=True)
class PatternNode:
    """One op of a rule's side; operands are names of the rule, or literal numbers."""

    op: str
    inputs: tuple[Operand, ...]
    attributes: tuple[tuple[str, Expression], ...]
    results: tuple[str, ...]
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Rule:
    name: str
    parameters: tuple[Parameter, ...]
    left: Body
    right: Body
    span: Span | None = field(default=None, compare=False)

    @classmethod
    def of(cls, tree: RuleTree) -> Rule:
        """Raises BertcError B0301 when the two sides do not fit each other."""
        rule = cls(tree.name, tree.parameters, tree.left, tree.right, tree.span)
        if len(tree.left.returns.items) != len(tree.right.returns.items):
            counts = f"{len(tree.left.returns.items)}, but the right side {len(tree.right.returns.items)}"
            raise error("B0301", f"rule `{tree.name}`: the left side returns {counts}", tree.right.returns.span)
        _refuse_varying_weights(rule)
        _refuse_uncomputed(rule)
        _refuse_unread(rule)
        _refuse_unbound(rule)
        return rule

    @property
    def tree(self) -> RuleTree:
        return RuleTree(self.name, self.parameters, self.left, self.right, self.span)

    @property
    def reversed(self) -> Rule:
        """From right to left: what expands a fused op into its definition."""
        return replace(self, left=self.right, right=self.left)

    @cached_property
    def pattern(self) -> tuple[PatternNode, ...]:
        """The left side as a list of ops, each after its operands."""
        nodes: list[PatternNode] = []
        for assign in self.left.assigns:
            if isinstance(assign.value, Call):
                _flatten(assign.value, assign.targets, nodes)
        for name, item in zip(self.returned, self.left.returns.items, strict=True):
            if isinstance(item.value, Call):
                _flatten(item.value, (name,), nodes)
        return tuple(nodes)

    @cached_property
    def returned(self) -> tuple[str, ...]:
        """The names of the left side's returned values; one that has no name is called after its place."""
        items = self.left.returns.items
        return tuple(i.value.path if isinstance(i.value, Name) else f" return {n}" for n, i in enumerate(items))

    @property
    def root(self) -> PatternNode:
        """The op of the first returned value, where matching starts. Raises BertcError B0301 when there is none."""
        root = next((node for node in self.pattern if self.returned[0] in node.results), None)
        if root is None:
            raise error("B0301", f"rule `{self.name}`: the left side computes nothing", self.span)
        return root

    @cached_property
    def types(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    @property
    def dims(self) -> tuple[TypeDim, ...]:
        """The sizes of the signature, as they stand there."""
        return tuple(dim for p in self.parameters if p.type is not None for dim in p.type.dims or ())

    def bound_names(self) -> set[str]:
        """What a match of the left side gives a meaning: parameters, and sizes in types and attributes."""
        attributes = (value for node in self.pattern for _, value in node.attributes)
        return {*self.types, *(name.path for tree in (*self.dims, *attributes) for name in names_in(tree))}


def _flatten(tree: Call, results: tuple[str, ...], nodes: list[PatternNode]) -> str:
    """Append the ops of a call, each after its operands, and give the name of its first result."""
    if tree.name not in OPS:
        raise error("B0103", f"`{tree.name}` is no op", tree.span, unknown_op(tree.name))
    op = OPS[tree.name]
    count = len(tree.arguments) if op.variadic else len(op.operands)
    inputs = tuple(_operand(argument, nodes) for argument in tree.arguments[:count])
    for name, _ in tree.keywords:
        if name not in op.attributes:
            raise error("B0105", f"{op.name} has no attribute `{name}`", tree.span, did_you_mean(name, op.attributes))
    attributes = (*zip(op.attributes, tree.arguments[count:], strict=False), *tree.keywords)
    named = results or (f" {len(nodes)}",)
    nodes.append(PatternNode(tree.name, inputs, attributes, named, tree.span))
    return named[0]


def _operand(tree: Expression, nodes: list[PatternNode]) -> Operand:
    match tree:
        case Number():
            return tree.value
        case Name():
            return tree.path
        case Call():
            return _flatten(tree, (), nodes)
        case _:
            raise error("B0301", f"{notation.to_text(tree)} cannot be an operand in a rule", tree.span)


def _refuse_varying_weights(rule: Rule) -> None:
    """No weight has the leading sizes of a value: the batch is among them, which the engine learns when it runs."""
    starred = {p.name: p for p in rule.parameters if p.type is not None and Star() in (p.type.dims or ())}
    value = next((name for name, p in starred.items() if p.type and p.type.kind != "weight"), None)
    for name, parameter in starred.items():
        if value is not None and parameter.type is not None and parameter.type.kind == "weight":
            fault = f"`{name}` is a weight, but has the leading sizes `*` of `{value}`, and the batch is one of them"
            free = notation.to_text(replace(parameter.type, kind="value"))
            help = f"write `{name}: {free}` if it is computed when the engine runs, else the weight's own sizes"
            raise error("B0301", f"rule `{rule.name}`: {fault}", parameter.span, help)


def _refuse_uncomputed(rule: Rule) -> None:
    """Every operand of the left side, and all it returns, is a parameter or the result of an op above."""
    known = set(rule.types)
    for node in rule.pattern:
        for operand in node.inputs:
            if isinstance(operand, str) and operand not in known:
                raise _unbound(rule, operand, "is neither a parameter nor computed above", node.span, known)
        known.update(node.results)
    for name, item in zip(rule.returned, rule.left.returns.items, strict=True):
        if name not in known:
            text = notation.to_text(item.value)
            raise _unbound(rule, text, "is returned, but nothing computes it", item.value.span, known)


def _refuse_unread(rule: Rule) -> None:
    """Everything that the left side computes is returned, or leads to what is."""
    read = {operand for node in rule.pattern for operand in node.inputs} | set(rule.returned)
    for node in rule.pattern:
        if not read.intersection(node.results):
            name = node.results[0]
            message = f"rule `{rule.name}`: `{name}` is computed on the left side, but nothing there reads it"
            raise error("B0301", message, node.span, f"return `{name}` on both sides, or take its line out")


def _refuse_unbound(rule: Rule) -> None:
    """Every name of the right side has a meaning from the left one, or from a line above."""
    known = rule.bound_names()
    inner = {name for node in rule.pattern for name in node.results}
    assigned = ((assign.value, assign.targets) for assign in rule.right.assigns)
    returned = ((item.value, ()) for item in rule.right.returns.items)
    for tree, targets in (*assigned, *returned):
        for name in names_in(tree):
            if name.path in inner - known:
                message = f"rule `{rule.name}`: `{name.path}` is computed on the left side, and gone on the right one"
                raise error("B0301", message, name.span, f"compute `{name.path}` on the right side as well")
            if name.path not in known and name.path not in ELEMENTS:
                raise _unbound(rule, name.path, "is not bound on the left side", name.span, known)
        known.update(targets)


def _unbound(rule: Rule, name: str, fault: str, span: Span | None, known: set[str]) -> BertcError:
    help = did_you_mean(name, (name for name in known if not name.startswith(" ")))
    return error("B0301", f"rule `{rule.name}`: `{name}` {fault}", span, help)
