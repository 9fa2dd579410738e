"""Text of the notation to its trees; the grammar is notation.lark.

lark parses (LALR, indentation as in Python), `_Build` makes the trees of `bertc.notation`. A file may be anyone's: its
size and depth are bounded before lark sees it, and every fault is a BertcError with its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import lark
from lark import Lark, Token, UnexpectedInput
from lark.exceptions import UnexpectedToken, VisitError
from lark.indenter import DedentError, Indenter
from lark.visitors import Transformer_NonRecursive

from bertc.errors import BertcError, Source, Span, error
from bertc.notation import (
    Assign,
    Block,
    Body,
    Call,
    Expression,
    GraphTree,
    Item,
    List,
    Name,
    Number,
    Parameter,
    Return,
    Returned,
    Rewrite,
    RuleTree,
    Star,
    TypeDim,
    TypeTree,
    Weight,
)
from bertc.tree import read_source

MAXIMUM_BYTES = 1 << 20
MAXIMUM_DEPTH = 64
"""Bounds of a file: far above any network, far below what exhausts memory or the stack."""


def parse(text: str, name: str = "<text>") -> tuple[Item, ...]:
    """Read a file of the notation.

    Raises BertcError: B0101 for what the grammar does not allow, B0102 past the bounds, B0104 for a name defined twice.
    """
    source = Source(name, text)
    if len(text) > MAXIMUM_BYTES:
        raise error("B0102", f"{name} has {len(text)} characters, but a file may have at most {MAXIMUM_BYTES}")
    _refuse_depth(source)
    try:
        tree = _parser().parse(text + "\n")
    except UnexpectedInput as problem:
        raise _syntax_error(source, problem) from None
    except DedentError:
        raise error("B0101", f"{name}: a line is indented less than its body, but matches no line above it") from None
    try:
        items: tuple[Item, ...] = _Build(source).transform(tree)
    except VisitError as wrapped:
        raise wrapped.orig_exc from None
    _refuse_twice(((item.name, item.span) for item in items if isinstance(item, Block | RuleTree)), "defined")
    return items


def read(path: Path) -> tuple[Item, ...]:
    """`parse` a file. Raises BertcError as `read_source` does when it cannot be read."""
    return parse(read_source(path).text, str(path))


def parse_graph(text: str, name: str = "<text>") -> GraphTree:
    """Read a file that holds one graph."""
    items = parse(text, name)
    if len(items) != 1 or not isinstance(items[0], GraphTree):
        raise error("B0101", f"{name}: one `graph(...)` was expected, but {len(items)} items stand here")
    return items[0]


_INDENTATION: dict[str, Any] = {
    "NL_type": "_NEWLINE",
    "OPEN_PAREN_types": ["LPAR", "LSQB"],
    "CLOSE_PAREN_types": ["RPAR", "RSQB"],
    "INDENT_type": "_INDENT",
    "DEDENT_type": "_DEDENT",
    "tab_len": 8,
}
"""What lark's Indenter wants as class attributes."""


_with_places: Any = cast(Any, lark).v_args(meta=True)


@cache
def _parser() -> Any:
    indentation = type("Indentation", (Indenter,), _INDENTATION)
    grammar = files("bertc").joinpath("notation.lark").read_text("utf-8")
    return Lark(grammar, start="file", parser="lalr", postlex=indentation(), propagate_positions=True)


def _refuse_depth(source: Source) -> None:
    """Brackets nested past the bound are refused before the parser sees them."""
    depth = 0
    for number, line in enumerate(source.text.split("\n"), 1):
        for match in re.finditer(r"[(\[]|[)\]]|#.*", line):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(match[0], 0)
            if depth > MAXIMUM_DEPTH:
                span = Span(source, number, match.start() + 1)
                raise error("B0102", f"brackets are nested more than {MAXIMUM_DEPTH} deep", span, "name inner values")


def _refuse_twice(names: Iterable[tuple[str, Span | None]], verb: str) -> None:
    seen: set[str] = set()
    for name, span in names:
        if name in seen:
            raise error("B0104", f"`{name}` is {verb} twice", span, "rename one of them")
        seen.add(name)


_TERMINALS = {
    "PATH": "a name",
    "NUMBER": "a number",
    "_NEWLINE": "the end of the line",
    "_INDENT": "an indented line",
    "_DEDENT": "the end of the body",
    "$END": "the end of the file",
    "ELEMENT": "an element type",
    "KIND": "`weight`, `number` or `broadcast`",
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "COMMA": "`,`", "COLON": "`:`", "EQUAL": "`=`",
    "PLUS": "`+`", "MINUS": "`-`", "STAR": "`*`", "SLASH": "`/`", "__ANON_0": "`=>`",
    "BLOCK": "`block`", "RULE": "`rule`", "GRAPH": "`graph`", "RETURN": "`return`",
}  # fmt: skip


def _syntax_error(source: Source, problem: UnexpectedInput) -> BertcError:
    if not isinstance(problem, UnexpectedToken):
        span = Span(source, problem.line, problem.column)
        if source.line(problem.line).lstrip(" ").startswith("\t"):
            return error("B0101", "lines are indented with spaces, but a tab stands here", span, "use four spaces")
        return error("B0101", f"{source.line(problem.line)[problem.column - 1]!r} is not part of the notation", span)
    token: Token = cast(Any, problem).token
    expected = sorted(_TERMINALS[name] for name in problem.accepts or problem.expected)
    shown = _TERMINALS[token.type] if token.type.startswith(("_", "$")) and token.type != "__ANON_0" else f"`{token}`"
    last = source.text.rstrip()
    if token.type == "$END" or (token.type in ("_NEWLINE", "_DEDENT") and (token.end_pos or 0) >= len(last)):
        shown = "the end of the file"
    line, column = (token.line or 0), (token.column or 0)
    if token.type == "$END" or line < 1:
        line, column = last.count("\n") + 1, len(last) - last.rfind("\n")
    span = Span(source, line, column, len(token) if shown.startswith("`") else 1)
    return error("B0101", f"expected {_or(expected)}, but found {shown}", span)


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


@_with_places
class _Build(Transformer_NonRecursive[Token, Any]):
    """Lark's tree to ours; one method for each rule of the grammar."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def _span(self, meta: Any) -> Span:
        width = meta.end_column - meta.column if meta.end_line == meta.line else 1
        return Span(self.source, meta.line, meta.column, max(1, width))

    def file(self, _: Any, items: list[Item]) -> tuple[Item, ...]:
        return tuple(item for item in items if not isinstance(item, Token))

    def block(self, meta: Any, parts: list[Any]) -> Block:
        return Block(str(parts[0]), parts[1], parts[2], self._span(meta))

    def rule(self, meta: Any, parts: list[Any]) -> RuleTree:
        return RuleTree(str(parts[0]), parts[1], parts[2], parts[3], self._span(meta))

    def graph(self, meta: Any, parts: list[Any]) -> GraphTree:
        return GraphTree(parts[0], parts[1], self._span(meta))

    def rewrite(self, _: Any, parts: list[Any]) -> Rewrite:
        before, after = (part for part in parts if isinstance(part, GraphTree))
        return Rewrite(before, after)

    def parameters(self, _: Any, parts: list[Parameter | None]) -> tuple[Parameter, ...]:
        parameters = tuple(part for part in parts if part is not None)
        _refuse_twice(((parameter.name, parameter.span) for parameter in parameters), "a parameter")
        return parameters

    def parameter(self, meta: Any, parts: list[Any]) -> Parameter:
        return Parameter(str(parts[0]), parts[1], self._span(meta))

    def kind_type(self, meta: Any, parts: list[Any]) -> TypeTree:
        return TypeTree(str(parts[0]), _text(parts[1]), parts[2], self._span(meta))

    def value_type(self, meta: Any, parts: list[Any]) -> TypeTree:
        return TypeTree("value", str(parts[0]), parts[1], self._span(meta))

    def any_type(self, meta: Any, parts: list[Any]) -> TypeTree:
        return TypeTree("value", None, parts[0], self._span(meta))

    def dims(self, _: Any, parts: list[Any]) -> tuple[TypeDim, ...]:
        return tuple(part for part in parts if part is not None)

    def star(self, _: Any, __: list[Any]) -> Star:
        return Star()

    def body(self, _: Any, statements: list[Assign | Return]) -> Body:
        *before, last = statements
        assigns: list[Assign] = []
        for statement in before:
            if not isinstance(statement, Assign):
                raise error("B0101", "only the last line of a body returns", statement.span, "remove what follows it")
            assigns.append(statement)
        if not isinstance(last, Return):
            raise error("B0101", "a body ends with what it returns", last.span, "add a `return` line")
        return Body(tuple(assigns), last)

    def assign(self, meta: Any, parts: list[Any]) -> Assign:
        targets = tuple(map(str, parts[:-1]))
        _refuse_twice(((target, self._span(meta)) for target in targets if target != "_"), "assigned")
        return Assign(targets, parts[-1], self._span(meta))

    def result(self, meta: Any, parts: list[Expression]) -> Return:
        return Return((Returned(parts[0]),), self._span(meta))

    def returned_statement(self, meta: Any, parts: list[Returned]) -> Return:
        return Return(tuple(parts), self._span(meta))

    def unnamed(self, _: Any, parts: list[Expression]) -> Returned:
        return Returned(parts[0])

    def named(self, _: Any, parts: list[Any]) -> Returned:
        return Returned(parts[1], str(parts[0]))

    def _infix(self, name: str, meta: Any, parts: list[Expression]) -> Call:
        depth = 1 + max(part.depth if isinstance(part, Call) else 0 for part in parts)
        if depth > MAXIMUM_DEPTH:
            raise error("B0102", f"more than {MAXIMUM_DEPTH} operators are chained", parts[1].span, "name a part of it")
        return Call(name, tuple(parts), (), self._span(meta), depth)

    def add(self, meta: Any, parts: list[Expression]) -> Call:
        return self._infix("add", meta, parts)

    def subtract(self, meta: Any, parts: list[Expression]) -> Call:
        return self._infix("subtract", meta, parts)

    def multiply(self, meta: Any, parts: list[Expression]) -> Call:
        return self._infix("multiply", meta, parts)

    def divide(self, meta: Any, parts: list[Expression]) -> Call:
        return self._infix("divide", meta, parts)

    def number(self, meta: Any, parts: list[Token]) -> Number:
        text = str(parts[0])
        value = int(text) if text.isdigit() else float(text)
        if abs(value) > 1e308:
            raise error("B0101", "this number does not fit a float64", self._span(meta))
        return Number(value, self._span(meta))

    def negative(self, meta: Any, parts: list[Expression]) -> Expression:
        if isinstance(parts[0], Number):
            return Number(-parts[0].value, self._span(meta))
        return self._infix("subtract", meta, [Number(0), parts[0]])

    def name(self, meta: Any, parts: list[Token]) -> Name:
        return Name(str(parts[0]), self._span(meta))

    def weight(self, meta: Any, parts: list[Any]) -> Weight:
        return Weight(str(parts[0]), _text(parts[1]), parts[2], self._span(meta))

    def call(self, meta: Any, parts: list[Any]) -> Call:
        name, *arguments = (part for part in parts if part is not None)
        keywords: list[tuple[str, Expression]] = [argument for argument in arguments if isinstance(argument, tuple)]
        positional = tuple(argument for argument in arguments if not isinstance(argument, tuple))
        _refuse_twice(((keyword, self._span(meta)) for keyword, _ in keywords), "given")
        return Call(str(name), positional, tuple(sorted(keywords, key=lambda item: item[0])), self._span(meta))

    def keyword(self, _: Any, parts: list[Any]) -> tuple[str, Expression]:
        return str(parts[0]), parts[1]

    def list(self, meta: Any, parts: list[Expression | None]) -> List:
        return List(tuple(part for part in parts if part is not None), self._span(meta))


def _text(token: Token | None) -> str | None:
    return None if token is None else str(token)
