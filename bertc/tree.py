"""Trees of values that know their places: what the YAML and JSON readers give, and what a spec is read from.

Plain scalars are resolved by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), which has all
of JSON's numbers and words. The bounds are far above any spec and far below what exhausts memory, time or the stack.
"""

from __future__ import annotations

import codecs
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from bertc.errors import BertcError, Diagnostic, Source, Span, error

MAXIMUM_BYTES = 1 << 20
MAXIMUM_DEPTH = 32
MAXIMUM_NODES = 25_000
MAXIMUM_DIGITS = 40
"""transformers writes `model_max_length` with 31 where there is no limit."""
MAXIMUM_ERRORS = 20

Value = None | bool | int | float | str


@dataclass(frozen=True)
class ScalarNode:
    value: Value
    span: Span


@dataclass(frozen=True)
class SequenceNode:
    items: tuple[Node, ...]
    span: Span


@dataclass(frozen=True)
class Entry:
    """`key: node`; the span is the key's."""

    key: str
    node: Node
    span: Span


@dataclass(frozen=True)
class MappingNode:
    entries: tuple[Entry, ...]
    span: Span

    def get(self, key: str) -> Node | None:
        return next((entry.node for entry in self.entries if entry.key == key), None)


Node = ScalarNode | SequenceNode | MappingNode


def read_source(path: Path, asked: Span | None = None, name: str | None = None, largest: int = MAXIMUM_BYTES) -> Source:
    """The text of a file, reported under `name` or its path; `asked` is where another file names it.

    Raises B0002 when there is no such regular file, B0202 when it is over `largest` bytes, B0201 when it is not UTF-8.
    """
    name = name or str(path)
    if not os.path.isfile(path):  # Path.is_file raises for names the system cannot hold; this does not
        raise error("B0002", f"expected a file at `{shown(name)}`, but there is none", asked, "check the path")
    try:
        with open(path, "rb") as file:
            raw = file.read(largest + 1)
    except OSError as problem:
        reason = problem.strerror or "no reason is given"
        raise error("B0002", f"`{shown(name)}` cannot be read: {reason}", asked, "check its permissions") from None
    if len(raw) > largest:
        message = f"expected `{shown(name)}` to have at most {largest} bytes, but it has more"
        raise error("B0202", message, asked, "check that it is the file you mean")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return Source(name, raw.decode())
    except UnicodeDecodeError as problem:
        before = raw[: problem.start].decode()
        place = Places(Source(name, raw.decode(errors="replace"))).span(len(before))
        raise error("B0201", "expected UTF-8 text, but found other bytes", place, "save the file as UTF-8") from None


def shown(text: str, longest: int = 60) -> str:
    """A text from a file, or a path, fit for an error message: short, and with nothing that steers a terminal.

    What is too long is cut in the middle, nearer to its beginning: paths differ at their ends.
    """
    front = longest // 3
    cut = text if len(text) <= longest else f"{text[:front]}…{text[front + 1 - longest :]}"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)


def all_of(problems: Sequence[Diagnostic]) -> BertcError:
    """One error of many diagnostics, of which the first MAXIMUM_ERRORS are spelt out."""
    told = tuple(problems[:MAXIMUM_ERRORS])
    if left := len(problems) - len(told):
        told += (Diagnostic(told[0].code, f"and {left} more in this file"),)
    return BertcError(*told)


class Places:
    """From an offset in a text to line and column, with the line breaks that Source.line knows."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._starts = [0, *accumulate(map(len, source.text.splitlines(keepends=True)))]

    def span(self, offset: int, length: int = 1) -> Span:
        line = bisect_right(self._starts, offset)
        return Span(self._source, line, offset - self._starts[line - 1] + 1, length)


_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((sign + word for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def resolve(text: str, span: Span) -> Value:
    """The value of a plain scalar in YAML 1.2's core schema; B0202 for a number of more than MAXIMUM_DIGITS."""
    if text in _WORDS:
        return _WORDS[text]
    forms = (_DECIMAL, _OCTAL, _HEXADECIMAL, _REAL)
    form = next((form for form in forms if form.fullmatch(text)), None)
    if form is None:
        return text
    if len(text) > MAXIMUM_DIGITS:
        message = f"expected a number of at most {MAXIMUM_DIGITS} digits, but this has {len(text)}"
        raise error("B0202", message, span, "a text of digits stands in quotes")
    if form is _REAL:
        return float(text)
    return int(text) if form is _DECIMAL else int(text, 0)


@dataclass
class _Frame:
    """A mapping or list that is still open; `key` is the key that waits for its value."""

    span: Span
    is_mapping: bool
    key: tuple[str, Span] | None = None
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    items: list[Node] = field(default_factory=list[Node])


class TreeBuilder:
    """Assembles one tree from what a reader meets in order, within the bounds; gathers what is refused."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frames: list[_Frame] = []
        self._root: Node | None = None
        self._count = 0
        self._problems: list[Diagnostic] = []

    def refuse(self, code: str, message: str, span: Span, help: str) -> None:
        self._problems.append(Diagnostic(code, message, span, help))

    def open(self, span: Span, is_mapping: bool) -> None:
        if len(self._frames) == MAXIMUM_DEPTH:
            raise too_deep(span)
        if self._expects_key():
            raise error("B0205", "expected a word as the key, but found brackets", span, "write `key: value`")
        self._frames.append(_Frame(span, is_mapping))

    def close(self, end: Span) -> None:
        frame = self._frames.pop()
        span = frame.span
        if end.line == span.line:
            span = replace(span, length=end.column + end.length - span.column)
        if frame.is_mapping:
            self._place(MappingNode(tuple(frame.entries.values()), span))
        else:
            self._place(SequenceNode(tuple(frame.items), span))

    def add(self, text: str, value: Value, span: Span) -> None:
        """A scalar, written as `text`: a key is its text (`1: x` has the key `1`), any other its value."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.refuse("B0201", "expected a character, but found half of one", span, "write the character itself")
        if self._expects_key():
            self._frames[-1].key = (text, span)
        else:
            self._place(ScalarNode(value, span))

    def finish(self) -> Node:
        if self._problems:
            raise all_of(self._problems)
        if self._root is None:
            message = f"expected a mapping of keys to values, but `{shown(self._source.name)}` is empty"
            raise error("B0201", message, None, "docs/spec.md shows how a spec is written")
        return self._root

    def _expects_key(self) -> bool:
        return bool(self._frames) and self._frames[-1].is_mapping and self._frames[-1].key is None

    def _place(self, node: Node) -> None:
        self._count += 1
        if self._count > MAXIMUM_NODES:
            message = f"expected at most {MAXIMUM_NODES} values, but there are more"
            raise error("B0202", message, node.span, "check that it is the file you mean")
        if not self._frames:
            self._root = node
            return
        frame = self._frames[-1]
        if frame.key is None:
            frame.items.append(node)
            return
        name, span = frame.key
        frame.key = None
        if first := frame.entries.get(name):
            self.refuse(
                "B0204", f"`{shown(name)}` is given twice", span, f"line {first.span.line} has it already; keep one"
            )
        else:
            frame.entries[name] = Entry(name, node, span)


def too_deep(span: Span) -> BertcError:
    message = f"expected at most {MAXIMUM_DEPTH} levels of brackets or indentation, but there are more"
    return error("B0202", message, span, "check that it is the file you mean")
