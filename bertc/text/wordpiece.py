"""WordPiece: a word is the longest piece that the vocabulary has, again and again.

Source: Wu et al. 2016, https://arxiv.org/abs/1609.08144, and WordpieceTokenizer of BERT's tokenization.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from bertc.text.characters import Casing, words
from bertc.text.tokenizer import Pieces, Range

LONGEST_WORD = 100
"""In characters; a longer word is unknown."""

INSIDE = "##"
"""What stands before a piece that does not start its word."""

REMEMBERED, REMEMBERED_LENGTH = 1 << 16, 32
"""How many parts of texts are cut but once, and how long they may be."""


@dataclass(frozen=True)
class WordPiece:
    vocabulary: Mapping[str, int]
    unknown: int
    casing: Casing
    whole: Mapping[str, int]
    """Tokens that stand for themselves wherever they are in a text, such as `[MASK]`, and their ids."""

    def cut(self, texts: Sequence[str]) -> list[Pieces]:
        """The pieces of each text, with their spans in it."""
        return [self._cut(text) for text in texts]

    def _cut(self, text: str) -> Pieces:
        ids: list[int] = []
        spans: list[Range] = []
        for start, part in self._parts(text):
            if part in self.whole:
                found = [(self.whole[part], 0, len(part))]
            else:
                found = self._remembered(part) if len(part) <= REMEMBERED_LENGTH else self._pieces(part)
            ids += [id for id, _, _ in found]
            spans += [(start + first, start + end) for _, first, end in found]
        return Pieces(ids, spans)

    def _parts(self, text: str) -> Iterator[tuple[int, str]]:
        """Tokens that stand for themselves, and what is between them and blanks, each with its place."""
        start = 0
        for match in self._borders.finditer(text):
            yield start, text[start : match.start()]
            yield match.start(), match[0]
            start = match.end()
        yield start, text[start:]

    @cached_property
    def _borders(self) -> re.Pattern[str]:
        longest_first = sorted(self.whole, key=len, reverse=True)
        return re.compile("|".join([*map(re.escape, longest_first), " +"]))

    @cached_property
    def _remembered(self) -> Callable[[str], Sequence[tuple[int, int, int]]]:
        return lru_cache(REMEMBERED)(self._pieces)

    def _pieces(self, part: str) -> Sequence[tuple[int, int, int]]:
        """The id of each piece, its start and its end."""
        pieces: list[tuple[int, int, int]] = []
        for word in words(part, self.casing):
            first = 0
            for id, length in self._split("".join(character.text for character in word)):
                pieces.append((id, word[first].place, word[first + length - 1].place + 1))
                first += length
        return pieces

    def _split(self, word: str) -> Sequence[tuple[int, int]]:
        """The id and the number of characters of each piece of a word."""
        pieces: list[tuple[int, int]] = []
        start = 0
        while start < len(word) <= LONGEST_WORD:
            prefix = INSIDE if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.vocabulary), None)
            if end is None:
                break
            pieces.append((self.vocabulary[prefix + word[start:end]], end - start))
            start = end
        return pieces if start == len(word) else [(self.unknown, len(word))]
