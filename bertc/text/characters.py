"""BERT's basic tokenizer: a text to words, each character of which knows where it comes from.

Cleaned of control characters, Chinese characters apart, accents stripped, in small letters, then cut at white space and
around punctuation. Source: BasicTokenizer of https://github.com/google-research/bert/blob/master/tokenization.py, and
for each code point the `tokenizers` library, whose classes of characters are in characters.toml.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Any, NamedTuple
from unicodedata import combining, normalize

BLANK = " "


@dataclass(frozen=True)
class Casing:
    """What a model was trained to see of a text."""

    lower: bool = True
    strip_accents: bool = True
    chinese: bool = True
    """Whether each Chinese character is a word."""


class Character(NamedTuple):
    """A character of the normalised text, and the place in the original text that it comes from."""

    text: str
    place: int


def words(text: str, casing: Casing) -> Iterator[Sequence[Character]]:
    """The words of a text, each of its punctuation marks as one."""
    word: list[Character] = []
    for character in normalised(text, casing):
        kind = _kind(character.text)
        if kind is None:
            word.append(character)
            continue
        if word:
            yield word
            word = []
        if kind == "punctuation":
            yield [character]
    if word:
        yield word


def normalised(text: str, casing: Casing) -> Iterator[Character]:
    """The text as the model sees it: white space as blanks, and the rest as `casing` says."""
    characters = map(Character, text, range(len(text)))
    if casing.strip_accents and not text.isascii() and any(_is("ordered", character) for character in text):
        characters = _decomposed(text)
    for character, place in characters:
        for part in _seen(character, casing):
            yield Character(part, place)


@lru_cache(maxsize=1 << 14)
def _seen(character: str, casing: Casing) -> str:
    """What is left of one character: nothing, itself, its base or its small letter, or itself between blanks."""
    if character in "\t\n\r":
        return BLANK
    if _is("removed", character):
        return ""
    if character.isspace():
        return BLANK
    seen = character
    if casing.strip_accents:
        seen = "".join(part for part in _decomposition(character) if not _is("marks", part))
    if casing.lower:
        seen = "".join(map(_small, seen))
    return f"{BLANK}{seen}{BLANK}" if casing.chinese and _is("chinese", character) else seen


def _decomposed(text: str) -> Iterator[Character]:
    """Canonical decomposition (NFD, Unicode's UAX 15), for characters that are not stripped and yet ordered as marks.

    Places stay where they are when characters change theirs, as in `tokenizers`.
    """
    kept = [(place, character) for place, character in enumerate(text) if not _is("removed", character)]
    parts = [(part, index == 0) for _, character in kept for index, part in enumerate(_decomposition(character))]
    places = (place for place, _ in kept)
    place = 0
    for has_order, run in groupby(parts, key=lambda part: _order(part[0]) > 0):
        for character, is_first in sorted(run, key=lambda part: _order(part[0])) if has_order else run:
            place = next(places) if is_first else place
            yield Character(character, place)


def _decomposition(character: str) -> str:
    return character if _is("whole", character) else normalize("NFD", character)


@lru_cache(maxsize=1 << 14)
def _order(character: str) -> int:
    return combining(character) if _is("marks", character) or _is("ordered", character) else 0


@lru_cache(maxsize=1 << 14)
def _kind(character: str) -> str | None:
    """What ends a word: a blank or punctuation."""
    if character == BLANK:
        return "blank"
    return "punctuation" if _is("punctuation", character) else None


def _small(character: str) -> str:
    return _new_capitals().get(character) or character.lower()


@cache
def _new_capitals() -> dict[str, str]:
    by_distance = {int(distance): _ranges(capitals) for distance, capitals in _table()["small"].items()}
    return {
        chr(point): chr(point + distance)
        for distance, ranges in by_distance.items()
        for first, last in ranges
        for point in range(first, last + 1)
    }


def _is(kind: str, character: str) -> bool:
    firsts, lasts = _class(kind)
    point = ord(character)
    place = bisect_right(firsts, point) - 1
    return place >= 0 and point <= lasts[place]


@cache
def _class(kind: str) -> tuple[Sequence[int], Sequence[int]]:
    """The first and the last code point of each range of a class."""
    ranges = _ranges(_table()[kind])
    return [first for first, _ in ranges], [last for _, last in ranges]


def _ranges(text: str) -> list[tuple[int, int]]:
    """Those of `21-2f 3a-40 a1`."""
    ends = (part.partition("-") for part in text.split())
    return [(int(first, 16), int(last or first, 16)) for first, _, last in ends]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("bertc").joinpath("text/characters.toml").read_text("utf-8"))
