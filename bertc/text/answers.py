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
    asked = replace(model, name_of="the question".format).pieces([question])[0]
    context = replace(model, name_of="the passage".format).pieces([passage])[0]
    ((found, _),) = find_answers(model, [Asked("the question", asked, context, passage)], reading)
    scores = probabilities(found)
    return [Answer(one.text, score, one.start, one.end) for one, score in list(zip(found, scores, strict=True))[:best]]


@dataclass(frozen=True)
class Asked:
    """A question to a passage, both cut into tokens."""

    name: str
    """What the question is called in errors."""
    question: Pieces
    context: Pieces
    passage: str


@dataclass(frozen=True)
class Candidate:
    """A span of a passage; that there is no answer is a candidate without text."""

    text: str
    start: int
    end: int
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


def probabilities(candidates: Sequence[Candidate]) -> list[float]:
    """Of each among them all."""
    return softmax(np.array([one.score for one in candidates])).tolist() if candidates else []


def find_answers(model: TextModel, asked: Sequence[Asked], reading: Reading) -> list[tuple[list[Candidate], Candidate]]:
    """For each question its best candidates, the highest score first, no two of one text; and that there is no answer.

    Questions are read together. Raises B0904 where the engine has no room for one and its passage.
    """
    parts = [_parts(model, one, reading) for one in asked]
    homes = [_homes(windows) for windows in parts]
    places = [(index, window) for index, windows in enumerate(parts) for window in range(len(windows))]
    sequences = [
        framed(
            model.tokenizer.pair,
            asked[index].question[: reading.longest_question],
            asked[index].context[parts[index][window].start : parts[index][window].stop],
        )
        for index, window in places
    ]
    spans: list[dict[int, list[_Span]]] = [{} for _ in asked]
    nulls: list[list[_Span]] = [[] for _ in asked]
    for place, results in model.run(sequences):
        index, window = places[place]
        starts, ends = results["start_logits"], results["end_logits"]
        found = _spans(starts, ends, _places(sequences[place], parts[index][window]), reading)
        spans[index][window] = [span for span in found if homes[index][span.first] == window]
        nulls[index].append(_Span(float(starts[0]), float(ends[0]), 0, 0))
    return [
        (
            _candidates([span for window in sorted(windows) for span in windows[window]], one, reading.candidates),
            _no_answer(null),
        )
        for one, windows, null in zip(asked, spans, nulls, strict=True)
    ]


def _parts(model: TextModel, asked: Asked, reading: Reading) -> list[range]:
    question, window = min(len(asked.question), reading.longest_question), min(reading.window, model.longest)
    room = room_of(model.tokenizer.pair, window) - question
    if room < 1:
        message = f"expected room for the passage, but {asked.name} takes all of the {window} tokens there are"
        raise error("B0904", message, None, "ask less, choose a larger window, or build with larger `shapes`")
    return windows(len(asked.context), room, reading.stride)


def windows(tokens: int, room: int, stride: int) -> list[range]:
    """The tokens of each window: as many as there is room for, `stride` behind the last ones, to the end."""
    step = min(stride, room)
    starts = range(0, max(1, tokens - room + step), step)
    return [range(start, min(start + room, tokens)) for start in starts]


@dataclass(frozen=True)
class _Span:
    """Of the tokens of a passage, the last one included."""

    start_logit: float
    end_logit: float
    first: int
    last: int

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


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
                yield _Span(float(starts[start]), float(ends[end]), places[start], places[end])


def _highest(logits: Array, count: int) -> list[int]:
    return np.argsort(-logits, kind="stable")[:count].tolist()


def _candidates(found: Sequence[_Span], asked: Asked, count: int) -> list[Candidate]:
    best: dict[str, Candidate] = {}
    for span in sorted(found, key=lambda span: -span.score):
        start, end = asked.context.spans[span.first][0], asked.context.spans[span.last][1]
        text = asked.passage[start:end]
        best.setdefault(text, Candidate(text, start, end, span.start_logit, span.end_logit))
    return list(best.values())[:count]


def _no_answer(nulls: Sequence[_Span]) -> Candidate:
    least = min(nulls, key=lambda span: span.score)
    return Candidate("", 0, 0, least.start_logit, least.end_logit)
