"""Every diagnostic: a stable code, where, what was expected, what was found, what to try.

A diagnostic prints in the manner of rustc:

    error[B0203]: `hiden` is not a size
      --> my-bert.yaml:2:23
       |
     2 | sizes: {layers: 2, hiden: 64}
       |                    ^^^^^
       = help: did you mean `hidden`?

bertc.codes is the one table of codes: each fixes its exit code and the longer text of `bertc explain CODE`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from bertc.codes import CODES


@dataclass(frozen=True)
class Source:
    """A text and the name it is reported under."""

    name: str
    text: str

    def line(self, number: int) -> str:
        lines = self.text.splitlines()
        return lines[number - 1] if 0 < number <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """A stretch of one line of a source; line and column count from 1."""

    source: Source
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Diagnostic:
    code: str
    message: str
    span: Span | None = None
    help: str | None = None

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        margin = " "
        if self.span is not None:
            margin = " " * len(str(self.span.line))
            shown, column, length = _window(self.span)
            lines += [
                f"{margin}--> {self.span}",
                f"{margin} |",
                f"{self.span.line} | {shown}",
                f"{margin} | {' ' * (column - 1)}{'^' * length}",
            ]
        if self.help is not None:
            lines.append(f"{margin} = help: {self.help}")
        return "\n".join(lines)


class BertcError(Exception):
    """One or more diagnostics; what every bertc function raises for bad input."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        assert diagnostics, "an error says something"
        super().__init__("\n\n".join(map(str, diagnostics)))
        self.diagnostics = diagnostics

    @property
    def exit_code(self) -> int:
        return CODES[self.diagnostics[0].code].exit_code


def error(code: str, message: str, span: Span | None = None, help: str | None = None) -> BertcError:
    """`raise error("B0103", ...)`: a BertcError of one diagnostic."""
    return BertcError(Diagnostic(code, message, span, help))


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A help line for a misspelt `name`: the nearest candidate, else all of them."""
    known = sorted(candidates)
    if near := nearest(name, known):
        return near
    if not known:
        return "none is defined here"
    return "there are: " + ", ".join(f"`{candidate}`" for candidate in known)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """A help line with the candidate that is like a misspelt `name`, or None where none is."""
    near = get_close_matches(name, sorted(candidates), n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _window(span: Span, width: int = 110) -> tuple[str, int, int]:
    """The part of the line that is worth printing, with the caret's column and length in it."""
    text = span.source.line(span.line).replace("\t", " ")
    start = max(0, span.column - 1 - width // 2) if len(text) > width else 0
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[start : start + width])
    column = span.column - start
    return shown, column, max(1, min(span.length, len(shown) - column + 1))
