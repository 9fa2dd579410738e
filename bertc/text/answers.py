"""Answers to a question, as spans of a passage.

A long passage is read in windows, each `stride` tokens behind the one before. The score of a span is the logit of its
first token as a start and that of its last as an end; a span counts in the window where its first token has most around
it. Probabilities are a softmax over the best spans. Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, 4.2,
and run_squad.py of https://github.com/google-research/bert; the text of an answer is cut from the passage by the spans
of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bertc.errors import error
from bertc.ops import Array
from bertc.text.model import TextModel, softmax
from bertc.text.tokenizer import Encoding, Pieces, framed, room_of


@dataclass(frozen=True)
class Answer:
    text: str
    score: float
    """Its probability among the best."""
    start: int
    end: int
    """`passage[start:end]` is the answer."""


@dataclass(frozen=True)
class Reading:
    """How a passage is read; lengths are in tokens, and the defaults are the original's."""

    window: int = 384
    """Of question and passage together, with the tokens around them."""
    stride: int = 128
    longest_question: int = 64
    longest_answer: int = 30
    candidates: int = 20
    """Starts and ends that are looked at in a window, and the answers that share the probability."""


USUAL = Reading()


def ask(model: TextModel, question: str, passage: str, *, best: int = 1, reading: Reading = USUAL) -> list[Answer]:
    """The `best` answers that a passage has, the likeliest first, no two of one text; there may be none.

    Raises B0901 for an empty question or passage, B0904 where the engine has no room for both, B0905 for a network that
    gives no starts and ends.
    """
    model.require("ask")
    asked = replace(model, name_of="the question".format).pieces([question])[0][: reading.longest_question]
    context = replace(model, name_of="the passage".format).pieces([passage])[0]
    room = room_of(model.tokenizer.pair, min(reading.window, model.longest)) - len(asked)
    if room < 1:
        message = f"expected room for the passage, but the question takes all of the {model.longest} tokens there are"
        raise error("B0904", message, None, "ask less, or build with larger `shapes`")
    parts = windows(len(context), room, reading.stride)
    sequences = [framed(model.tokenizer.pair, asked, context[part.start : part.stop]) for part in parts]
    spans: list[list[_Span]] = [[] for _ in parts]
    homes = _homes(parts)
    for index, results in model.run(sequences):
        places = _places(sequences[index], parts[index])
        found = _spans(results["start_logits"], results["end_logits"], places, reading)
        spans[index] = [span for span in found if homes[span.first] == index]
    return _answers([span for window in spans for span in window], context, passage, reading.candidates)[:best]


def windows(tokens: int, room: int, stride: int) -> list[range]:
    """The tokens of each window: as many as there is room for, `stride` behind the last ones, to the end."""
    step = min(stride, room)
    starts = range(0, max(1, tokens - room + step), step)
    return [range(start, min(start + room, tokens)) for start in starts]


@dataclass(frozen=True)
class _Span:
    """Of the tokens of a passage, the last one included."""

    score: float
    first: int
    last: int


def _homes(parts: Sequence[range]) -> dict[int, int]:
    """For each token of the passage the window that has most around it, on its poorer side; else the first."""
    homes: dict[int, int] = {}
    most: dict[int, int] = {}
    for index, part in enumerate(parts):
        for token in part:
            around = min(token - part.start, part.stop - 1 - token)
            if around > most.get(token, -1):
                homes[token], most[token] = index, around
    return homes


def _places(sequence: Encoding, part: range) -> dict[int, int]:
    """Where in a sequence the tokens of the passage stand."""
    there = (place for place, text in enumerate(sequence.texts) if text == 1)
    return dict(zip(there, part, strict=True))


def _spans(starts: Array, ends: Array, places: dict[int, int], reading: Reading) -> Iterator[_Span]:
    for start in _highest(starts, reading.candidates):
        for end in _highest(ends, reading.candidates):
            if start in places and end in places and 0 <= end - start < reading.longest_answer:
                yield _Span(float(starts[start]) + float(ends[end]), places[start], places[end])


def _highest(logits: Array, count: int) -> list[int]:
    return np.argsort(-logits, kind="stable")[:count].tolist()


def _answers(found: Sequence[_Span], context: Pieces, passage: str, count: int) -> list[Answer]:
    best: dict[str, tuple[float, int, int]] = {}
    for span in sorted(found, key=lambda span: -span.score):
        start, end = context.spans[span.first][0], context.spans[span.last][1]
        best.setdefault(passage[start:end], (span.score, start, end))
    kept = list(best.items())[:count]
    if not kept:
        return []
    scores = softmax(np.array([score for _, (score, _, _) in kept]))
    return [Answer(text, float(score), start, end) for (text, (_, start, end)), score in zip(kept, scores, strict=True)]
