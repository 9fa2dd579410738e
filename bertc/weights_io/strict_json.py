"""JSON from untrusted files: exactly RFC 8259, within limits that are checked before anything is built."""

from __future__ import annotations

import json
import re

from bertc.weights_io.budget import MAX_PUNCTUATION, Budget
from bertc.weights_io.tensor import quoted

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_DEPTH = 16
MAX_DIGITS = 19
"""Of an integer: enough for every file offset, and arithmetic on what is read stays quick."""

_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[][{}]', re.DOTALL)
"""The closing quote is optional, so that a string without one is passed once and not from each quote inside it."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """Why a text is refused, as the end of a sentence that starts with its name."""


def parse_json(text: bytes, punctuation: int = MAX_PUNCTUATION) -> Json:
    """The value of a JSON text. Raises JsonError also for duplicate keys, NaN, lone surrogates and excess; more than
    so much `punctuation` is that."""
    if not Budget(punctuation).spend(_punctuation(text)):
        raise JsonError(f"has more than {punctuation} quotes, commas, colons and brackets")
    return _parse(text)


def parse_json_within(text: bytes, punctuation: Budget) -> Json:
    """The same for one text of several, which share their `punctuation`, the MAX_PUNCTUATION of a checkpoint."""
    if not punctuation.spend(_punctuation(text)):
        found = "more quotes, commas, colons and brackets than"
        raise JsonError(f"has {found} the {MAX_PUNCTUATION} that are read of a checkpoint")
    return _parse(text)


def _parse(text: bytes) -> Json:
    _check_depth(text)
    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_no_constant
        )
    except UnicodeDecodeError as problem:
        raise JsonError(f"is not UTF-8 at byte {problem.start}") from None
    except json.JSONDecodeError as problem:
        raise JsonError(f"is not JSON: {problem.msg.lower()} at character {problem.pos}") from None


def _punctuation(text: bytes) -> int:
    return sum(text.count(mark) for mark in b'",:[]{}')


def _check_depth(text: bytes) -> None:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        mark = text[token.start()]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth > MAX_DEPTH:
            raise JsonError(f"nests brackets more than {MAX_DEPTH} deep")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members: dict[str, Json] = {}
    for key, value in pairs:
        if key in members:
            raise JsonError(f"has the key {quoted(key)} twice")
        if not (_is_text(key) and (not isinstance(value, str) or _is_text(value))):
            raise JsonError(f"has half a surrogate pair in or under the key {quoted(key)}")
        members[key] = value
    return members


def _is_text(string: str) -> bool:
    return string.isascii() or not _SURROGATE.search(string)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonError(f"has an integer of {len(digits)} digits")
    return int(digits)


def _no_constant(constant: str) -> Json:
    raise JsonError(f"has {constant}, which is not JSON")
