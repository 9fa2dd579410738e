"""Heads that have learned, over the real layers of MiniLM: labels and spans mean something, and are transformers'.

The heads are those of examples/train_heads.py, and the texts those that it did not see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from text_peers import BOUND, original, theirs
from train_heads import TASKS, UNSEEN, gaps, questions, reviews, sentences, train

import bertc
from bertc.engine import Engine
from bertc.text.answers import Reading

LEARNED, RIGHT = 0.98, 0.7
"""The share of right answers to what was seen, and to the rest: of spans by chance it is below 0.05."""


@pytest.fixture
def trained(request: pytest.FixtureRequest, minilm: Path, tmp_path: Path) -> tuple[Any, Engine]:
    """The head of a task as transformers' model and as ours."""
    seen, unseen = train(request.param, minilm, tmp_path / "model")
    assert seen > LEARNED
    assert unseen > RIGHT
    bertc.build(bertc.load(str(tmp_path / "model")), tmp_path / "x", "onnx")
    kind = getattr(transformers, f"BertFor{TASKS[request.param].kind}")
    return kind.from_pretrained(tmp_path / "model").eval(), bertc.open(tmp_path / "x")


@pytest.mark.parametrize("trained", ["classify"], indirect=True)
def test_labels(trained: tuple[Any, Engine], minilm: Path) -> None:
    model, engine = trained
    texts, labels = zip(*list(reviews(UNSEEN))[:40], strict=True)
    found, expected = engine.classify(texts), theirs("text-classification", model, minilm, top_k=None)(list(texts))
    assert [ranked[0].label for ranked in found] == list(labels)
    for ranked, wanted in zip(found, expected, strict=True):
        assert [label.label for label in ranked] == [label["label"] for label in wanted]
        assert all(abs(x.score - y["score"]) < BOUND for x, y in zip(ranked, wanted, strict=True))


@pytest.mark.parametrize("trained", ["tokens"], indirect=True)
def test_entities(trained: tuple[Any, Engine], minilm: Path) -> None:
    model, engine = trained
    texts, names = zip(*list(sentences(UNSEEN))[:40], strict=True)
    library = theirs("token-classification", model, minilm, aggregation_strategy="simple")
    for text, kinds, found in zip(texts, names, engine.entities(texts), strict=True):
        assert [(entity.text, entity.label) for entity in found] == list(kinds.items())
        expected = [(one["entity_group"], one["start"], one["end"]) for one in library(text)]
        assert [(entity.label, entity.start, entity.end) for entity in found] == expected
        assert all(abs(x.score - y["score"]) < BOUND for x, y in zip(found, library(text), strict=True))


@pytest.mark.parametrize("trained", ["fill"], indirect=True)
def test_words(trained: tuple[Any, Engine], minilm: Path) -> None:
    model, engine = trained
    texts, words = zip(*gaps(UNSEEN), strict=True)
    library = theirs("fill-mask", model, minilm, top_k=5)
    for text, word, (found,) in zip(texts, words, engine.fill(texts), strict=True):
        assert found[0].word == word
        expected = library(text)
        assert [(one.word, one.id) for one in found] == [(one["token_str"], one["token"]) for one in expected]
        assert all(abs(x.score - y["score"]) < BOUND for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("trained", ["ask"], indirect=True)
def test_answers(trained: tuple[Any, Engine], minilm: Path) -> None:
    model, engine = trained
    asked = list(questions(UNSEEN))[:40]
    best = [engine.ask(question, passage, best=5) for question, passage, _ in asked]
    right = [found[0].text == answer for found, (_, _, answer) in zip(best, asked, strict=True)]
    assert sum(right) > RIGHT * len(asked)
    for found, (question, passage, _) in zip(best, asked, strict=True):
        expected = original(model, minilm, question, passage, Reading())[:5]
        assert [(answer.text, answer.start) for answer in found] == [(text, start) for text, _, start in expected]
        assert all(abs(answer.score - score) < BOUND for answer, (_, score, _) in zip(found, expected, strict=True))
