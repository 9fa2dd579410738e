"""SQuAD's files: articles of paragraphs, each with questions and the answers that people gave.

    {"version": "v2.0", "data": [{"title", "paragraphs": [{"context", "qas": [
        {"id", "question", "answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}

1.1 has no `is_impossible`, and an answer to each question. Source: https://rajpurkar.github.io/SQuAD-explorer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertc.errors import BertcError, error
from bertc.tree import read_source, shown
from bertc.weights_io.strict_json import Json, JsonError, parse_json

LARGEST = 1 << 26
"""Bytes of a file; SQuAD's largest has 42 million."""

PUNCTUATION = 1 << 23
"""Marks of JSON in it, as `parse_json` counts them; SQuAD's largest has some 4 million."""


@dataclass(frozen=True)
class Question:
    id: str
    text: str
    passage: str
    answers: tuple[str, ...]
    """That people gave; none where the passage has no answer."""
    may_lack_answer: bool
    """Whether it is of version 2, where that is said of each."""


@dataclass(frozen=True)
class Squad:
    questions: tuple[Question, ...]
    has_unanswerable: bool
    """Version 2: whether there is an answer at all is part of the question."""


def read_squad(path: Path) -> Squad:
    """The questions of a file, in its order.

    Raises B0002, B0201 and B0202 as `read_source` does, and B0907 for what is no file of SQuAD's: not JSON, without
    questions, with an id given twice, or in 1.1 with a question without an answer.
    """
    try:
        content = parse_json(read_source(path, largest=LARGEST).text.encode(), PUNCTUATION)
    except JsonError as problem:
        raise _refusal(path, f"expected JSON, but it {problem}") from None
    try:
        questions = tuple(_questions(content))
        _check(questions)
    except _Misfit as problem:
        raise _refusal(path, str(problem)) from None
    return Squad(questions, any(question.may_lack_answer for question in questions))


class _Misfit(Exception):
    """What is wrong, in words."""


def _refusal(path: Path, reason: str) -> BertcError:
    help = "SQuAD's files are at https://rajpurkar.github.io/SQuAD-explorer"
    return error("B0907", f"`{shown(str(path))}` is no file of SQuAD's: {reason}", None, help)


def _questions(content: Json) -> Iterator[Question]:
    for article, place in _list(content, "data", ""):
        for paragraph, within in _list(article, "paragraphs", place):
            passage = _text(paragraph, "context", within)
            for asked, where in _list(paragraph, "qas", within):
                yield _question(asked, where, passage)


def _question(asked: Json, place: str, passage: str) -> Question:
    answers = tuple(_text(answer, "text", where) for answer, where in _list(asked, "answers", place))
    id, text = _text(asked, "id", place), _text(asked, "question", place)
    return Question(id, text, passage, answers, "is_impossible" in _mapping(asked, place))


def _check(questions: tuple[Question, ...]) -> None:
    if not questions:
        raise _Misfit("expected questions, but it has none")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise _Misfit(f"expected an id for each question, but `{shown(question.id)}` is given twice")
        if not (question.answers or question.may_lack_answer):
            raise _Misfit(f"expected an answer to `{shown(question.id)}`, but found none, nor `is_impossible`")
        seen.add(question.id)


def _list(parent: Json, key: str, place: str) -> Iterator[tuple[Json, str]]:
    """The items of a list, each with its place."""
    where = f"{place}.{key}" if place else key
    found = _mapping(parent, place).get(key)
    if not isinstance(found, list):
        raise _Misfit(f"expected a list at `{where}`, but found {_kind(found)}")
    return ((item, f"{where}[{index}]") for index, item in enumerate(found))


def _text(parent: Json, key: str, place: str) -> str:
    found = _mapping(parent, place).get(key)
    if not isinstance(found, str):
        raise _Misfit(f"expected a text at `{place}.{key}`, but found {_kind(found)}")
    return found


def _mapping(found: Json, place: str) -> dict[str, Json]:
    if not isinstance(found, dict):
        raise _Misfit(f"expected a mapping at {f'`{place}`' if place else 'the top'}, but found {_kind(found)}")
    return found


def _kind(found: Json) -> str:
    match found:
        case None:
            return "nothing"
        case str():
            return f"`{shown(found)}`"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return f"`{found}`"
