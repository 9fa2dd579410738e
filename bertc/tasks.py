"""`bertc run BUNDLE TASK`: texts from the command line or a file, answers as lines or as JSON."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertc.engine import open
from bertc.errors import BertcError, error
from bertc.output import document
from bertc.text.answers import Reading, ask
from bertc.text.classification import classify
from bertc.text.embeddings import embed
from bertc.text.entities import find_entities
from bertc.text.lines import blocks_of_lines
from bertc.text.masked_words import fill
from bertc.text.model import TextModel
from bertc.tree import read_source, shown

Row = tuple[str, ...]
"""A text, or a text and its pair."""

Answer = Mapping[str, Any]
"""What was asked and what was answered, as plain data."""

LARGEST_PASSAGE = 1 << 24
"""Bytes."""


def run_task(options: Namespace) -> int:
    """Answer the texts that the options name, and print the answers. Raises what the functions of the tasks do."""
    task = TASKS[options.task]
    with open(options.bundle, device=options.device) as engine:
        answers = task.answers(engine.text, options)
        if options.json:
            return document(f"run-{options.task}", answers=list(answers))
        for answer in answers:
            lines = [json.dumps(answer, ensure_ascii=False)] if options.json_lines else task.lines(answer)
            print(*lines, sep="\n", flush=True)
    return 0


# -------------------------------------------------------------------------------------------------- texts and lines


def texts_of(model: TextModel, options: Namespace) -> Iterator[tuple[TextModel, list[str]]]:
    """Texts that are answered together, and the model that calls them by where they are from."""
    if bool(options.texts) == (options.input is not None):
        options.parser.error("expected texts, or --input with a file of them")
    if options.input is None:
        yield model, options.texts
        return
    for first, lines in blocks_of_lines(options.input):
        yield model.of_lines(options.input, first), lines


def _embeddings(model: TextModel, options: Namespace) -> Iterator[Answer]:
    asked = {"pooling": options.pooling, "normalise": options.normalise, "limit": options.limit}
    for named, texts in texts_of(model, options):
        for text, vector in zip(texts, embed(named, texts, **asked), strict=True):
            yield {"text": text, "embedding": vector.tolist()}


def _labels(model: TextModel, options: Namespace) -> Iterator[Answer]:
    """Two texts on the command line are one pair; in a file, a tab stands between those of a pair."""
    for named, texts in texts_of(model, options):
        rows = [tuple(line.split("\t", 1)) for line in texts] if options.input else [tuple(texts)]
        first, *others = zip(*_same_length(rows, named, options), strict=True)
        found = classify(named, first, *others, truncate=options.truncate)
        for row, labels in zip(rows, found, strict=True):
            yield {**dict(zip(("text", "pair"), row, strict=False)), "labels": [asdict(label) for label in labels]}


def _same_length(rows: Sequence[Row], model: TextModel, options: Namespace) -> Sequence[Row]:
    for index, row in enumerate(rows):
        if len(row) > 2:
            options.parser.error(f"expected a text, or a text and its pair, but found {len(row)} texts")
        if len(row) != len(rows[0]):
            wanted, found = ("a pair", "has none") if len(row) == 1 else ("no pair", "has one")
            message = f"expected {wanted}, as before, but {model.name_of(index)} {found}"
            raise error("B0901", message, None, "write all lines as `text`, or all as `text<tab>pair`")
    return rows


def _entities(model: TextModel, options: Namespace) -> Iterator[Answer]:
    for named, texts in texts_of(model, options):
        for text, entities in zip(texts, find_entities(named, texts, truncate=options.truncate), strict=True):
            yield {"text": text, "entities": [asdict(entity) for entity in entities]}


def _words(model: TextModel, options: Namespace) -> Iterator[Answer]:
    for named, texts in texts_of(model, options):
        for text, gaps in zip(texts, fill(named, texts, best=options.best, truncate=options.truncate), strict=True):
            yield {"text": text, "gaps": [[asdict(word) for word in words] for words in gaps]}


# ------------------------------------------------------------------------------------------------------------ questions


def _answers(model: TextModel, options: Namespace) -> Iterator[Answer]:
    model.require("ask")
    passage = _passage(options.passage)
    reading = Reading(options.window, options.stride, options.longest_question, options.longest_answer)
    for question in [options.question] if options.question is not None else _questions():
        try:
            found = ask(model, question, passage, best=options.best, reading=reading)
        except BertcError as problem:
            if options.question is not None or not sys.stdin.isatty():
                raise
            print(problem, file=sys.stderr)
        else:
            yield {"question": question, "answers": [asdict(answer) for answer in found]}


def _passage(given: str) -> str:
    """The text of a file, or what was typed."""
    if os.path.isfile(given):
        return read_source(Path(given), largest=LARGEST_PASSAGE).text
    if len(given.split()) == 1:
        message = f"expected a passage or a file of one, but `{shown(given)}` is neither"
        raise error("B0002", message, None, "check the path")
    return given


def _questions() -> Iterator[str]:
    """What is typed, until the end of the input; empty lines are passed over."""
    while True:
        print("question: " if sys.stdin.isatty() else "", end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline()):
            return
        if line.strip():
            yield line.strip()


# ---------------------------------------------------------------------------------------------------------- for people


def _shown_scores(found: Sequence[Mapping[str, Any]], name: str) -> str:
    return "  ".join(f"{one[name]} {one['score']:.4f}" for one in found)


def _shown_spans(spans: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for span in spans:
        label = f"{span['label']}  " if "label" in span else ""
        yield f"{label}{span['score']:.4f}  {span['start']}-{span['end']}  {span['text']}"


@dataclass(frozen=True)
class Task:
    answers: Callable[[TextModel, Namespace], Iterator[Answer]]
    lines: Callable[[Answer], Sequence[str]]
    """An answer for people."""


TASKS = {
    "embed": Task(_embeddings, lambda answer: [" ".join(f"{value:.6g}" for value in answer["embedding"])]),
    "classify": Task(_labels, lambda answer: [_shown_scores(answer["labels"], "label")]),
    "tokens": Task(_entities, lambda answer: list(_shown_spans(answer["entities"])) or ["no entities"]),
    "fill": Task(_words, lambda answer: [_shown_scores(gap, "word") for gap in answer["gaps"]]),
    "ask": Task(_answers, lambda answer: list(_shown_spans(answer["answers"])) or ["no answer"]),
}
