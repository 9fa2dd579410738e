"""What every tokenizer gives, and how one text or two become the tokens of one sequence.

A tokenizer cuts texts into pieces, each with its id and the span of the original text it stands for. A frame says what
stands around one text, and around two: BERT's are `[CLS] first [SEP]` and `[CLS] first [SEP] second [SEP]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Range = tuple[int, int]
"""Of the characters of a text: the first, and the one behind the last."""


@dataclass(frozen=True)
class Pieces:
    """The tokens of one text."""

    ids: Sequence[int]
    spans: Sequence[Range]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Pieces:
        return Pieces(self.ids[part], self.spans[part])


@dataclass(frozen=True)
class Special:
    """A token of the frame."""

    id: int
    type: int


@dataclass(frozen=True)
class Place:
    """Where a text stands in a frame: 0 is the first, 1 the second."""

    text: int
    type: int


Frame = tuple[Special | Place, ...]


@dataclass(frozen=True)
class Encoding:
    """One sequence as an engine takes it, and for each of its tokens which text it is of and which part of that."""

    ids: Sequence[int]
    types: Sequence[int]
    texts: Sequence[int | None]
    """0 or 1; None for tokens of the frame."""
    spans: Sequence[Range]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tokenizer:
    cut: Callable[[Sequence[str]], list[Pieces]]
    """Texts to their pieces, without any frame, padding or limit."""
    single: Frame
    pair: Frame
    mask: int | None
    """The id of the token that stands for a word left out, where there is one."""
    written: Callable[[int], str]
    """How a piece is written in a text, without what marks the start or the middle of a word."""


def room_of(frame: Frame, limit: int) -> int:
    """How many pieces fit into a frame of `limit` tokens."""
    return max(0, limit - sum(isinstance(part, Special) for part in frame))


def framed(frame: Frame, *texts: Pieces) -> Encoding:
    """One sequence of a text, or of two."""
    ids: list[int] = []
    types: list[int] = []
    of: list[int | None] = []
    spans: list[Range] = []
    for part in frame:
        match part:
            case Special(id, type):
                pieces, text = Pieces((id,), ((0, 0),)), None
            case Place(text, type):
                pieces = texts[text]
        ids += pieces.ids
        spans += pieces.spans
        types += [type] * len(pieces)
        of += [text] * len(pieces)
    return Encoding(ids, types, of, spans)


def cut_longest_first(texts: Sequence[Pieces], room: int) -> Sequence[Pieces]:
    """A text or a pair that fits into `room`: the longer loses its end until both are as long, then both."""
    if sum(map(len, texts)) <= room:
        return texts
    if len(texts) == 1:
        return [texts[0][:room]]
    first, second = texts
    kept = min(len(first), len(second), room // 2)
    if len(first) > len(second):
        return [first[: room - kept], second[:kept]]
    return [first[:kept], second[: room - kept]]
