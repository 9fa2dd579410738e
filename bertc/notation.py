"""The notation: its trees, and their text.

    block norm(x: [*, n], layer):
        return layer_norm(x, layer.weight[n], layer.bias[n], eps=norm_eps)

    rule fuse_bias_gelu(x: [*, n], bias: weight[n]):
        gelu(x + bias)
    =>
        bias_gelu(x, bias)

    graph(x: f16[batch, seq, 64], bias: weight[64]):
        y = bias_gelu(x, bias)
        return y

`bertc.parser` reads text to trees, `to_text` writes them: `parse(to_text(tree)) == tree` for every tree that `parse`
gives. Places (`span`) do not take part in equality. Infix `+ - * /` are calls of `add`, `subtract`, `multiply` and
`divide`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from bertc.errors import Span

INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def _place() -> Any:
    return field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Number:
    value: int | float
    span: Span | None = _place()


@dataclass(frozen=True)
class Name:
    """A value, size, block argument or element type; with dots, a value of a printed graph."""

    path: str
    span: Span | None = _place()


@dataclass(frozen=True)
class Star:
    """`*` in a type: any leading sizes, the same in the whole signature."""


@dataclass(frozen=True)
class Weight:
    """A trained parameter where it is used: its path, element type and shape."""

    path: str
    element: str | None
    dims: tuple[Expression, ...]
    span: Span | None = _place()


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple[Expression, ...]
    keywords: tuple[tuple[str, Expression], ...] = ()
    span: Span | None = _place()
    depth: int = field(default=0, compare=False, repr=False)
    """Operators chained below this one, which bounds the recursion of whoever walks the tree."""


@dataclass(frozen=True)
class List:
    items: tuple[Expression, ...]
    span: Span | None = _place()


Expression = Number | Name | Weight | Call | List
TypeDim = Expression | Star


@dataclass(frozen=True)
class TypeTree:
    """`kind` is `value`, `weight` (known at build time), `number`, or `broadcast` (broadcasts to the shape)."""

    kind: str
    element: str | None
    dims: tuple[TypeDim, ...] | None
    span: Span | None = _place()


@dataclass(frozen=True)
class Parameter:
    name: str
    type: TypeTree | None
    span: Span | None = _place()


@dataclass(frozen=True)
class Assign:
    targets: tuple[str, ...]
    value: Expression
    span: Span | None = _place()


@dataclass(frozen=True)
class Returned:
    value: Expression
    name: str | None = None


@dataclass(frozen=True)
class Return:
    items: tuple[Returned, ...]
    span: Span | None = _place()


@dataclass(frozen=True)
class Body:
    """Assignments, then what is returned."""

    assigns: tuple[Assign, ...]
    returns: Return


@dataclass(frozen=True)
class Block:
    name: str
    parameters: tuple[Parameter, ...]
    body: Body
    span: Span | None = _place()


@dataclass(frozen=True)
class RuleTree:
    name: str
    parameters: tuple[Parameter, ...]
    left: Body
    right: Body
    span: Span | None = _place()


@dataclass(frozen=True)
class GraphTree:
    parameters: tuple[Parameter, ...]
    body: Body
    span: Span | None = _place()


@dataclass(frozen=True)
class Rewrite:
    """A golden test: what a graph was, and what a pass made of it."""

    before: GraphTree
    after: GraphTree


Item = Block | RuleTree | GraphTree | Rewrite


def names_in(tree: Expression | Star) -> Iterator[Name]:
    """The names that stand in an expression, as values, sizes or element types."""
    match tree:
        case Name():
            yield tree
        case List():
            for item in tree.items:
                yield from names_in(item)
        case Call():
            for argument in (*tree.arguments, *(value for _, value in tree.keywords)):
                yield from names_in(argument)
        case _:
            return


# ---------------------------------------------------------------------------------------------------------- writing


def to_text(tree: Item | Expression | TypeTree | TypeDim) -> str:
    """Write a tree in the notation; items end with a line break."""
    return _write(tree)


@singledispatch
def _write(tree: Any) -> str:
    raise AssertionError(f"no text for {tree!r}")


@_write.register
def _(tree: Number) -> str:
    return repr(tree.value)


@_write.register
def _(tree: Name) -> str:
    return tree.path


@_write.register
def _(tree: Star) -> str:
    return "*"


@_write.register
def _(tree: Weight) -> str:
    element = f" {tree.element}" if tree.element else ""
    return f"{tree.path}{element}[{_join(tree.dims)}]"


@_write.register
def _(tree: List) -> str:
    return f"[{_join(tree.items)}]"


@_write.register
def _(tree: Call) -> str:
    if tree.name in INFIX and len(tree.arguments) == 2 and not tree.keywords:
        left, right = tree.arguments
        return f"{_operand(left, tree.name, right=False)} {INFIX[tree.name]} {_operand(right, tree.name, right=True)}"
    keywords = [f"{name}={_write(value)}" for name, value in tree.keywords]
    return f"{tree.name}({', '.join([*map(_write, tree.arguments), *keywords])})"


def _operand(tree: Expression, inside: str, *, right: bool) -> str:
    """An operand of an infix op, in brackets where the grammar would group it otherwise."""
    strength = {"add": 1, "subtract": 1, "multiply": 2, "divide": 2}
    if not isinstance(tree, Call) or tree.name not in strength or tree.keywords or len(tree.arguments) != 2:
        return _write(tree)
    weaker = strength[tree.name] < strength[inside] or (right and strength[tree.name] == strength[inside])
    return f"({_write(tree)})" if weaker else _write(tree)


@_write.register
def _(tree: TypeTree) -> str:
    kind = "" if tree.kind == "value" else tree.kind
    element = tree.element or ""
    dims = "" if tree.dims is None else f"[{_join(tree.dims)}]"
    return f"{kind} {element}".strip() + dims


@_write.register
def _(tree: Block) -> str:
    return f"block {tree.name}({_parameters(tree.parameters)}):\n{_body(tree.body)}"


@_write.register
def _(tree: RuleTree) -> str:
    return f"rule {tree.name}({_parameters(tree.parameters)}):\n{_body(tree.left)}=>\n{_body(tree.right)}"


@_write.register
def _(tree: GraphTree) -> str:
    return f"graph({_parameters(tree.parameters)}):\n{_body(tree.body)}"


@_write.register
def _(tree: Rewrite) -> str:
    return f"{_write(tree.before)}=>\n{_write(tree.after)}"


def _parameters(parameters: tuple[Parameter, ...]) -> str:
    return ", ".join(p.name if p.type is None else f"{p.name}: {_write(p.type)}" for p in parameters)


def _body(body: Body) -> str:
    lines = [f"    {', '.join(assign.targets)} = {_write(assign.value)}" for assign in body.assigns]
    items = [f"{item.name}={_write(item.value)}" if item.name else _write(item.value) for item in body.returns.items]
    return "\n".join([*lines, f"    return {', '.join(items)}", ""])


def _join(trees: Iterable[Any]) -> str:
    return ", ".join(map(_write, trees))
