"""Labels, entities, words and answers: what transformers gives with the same weights.

The heads are random, over the real layers of MiniLM, and so large that their answers differ from text to text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from text_peers import BOUND, original, theirs

import bertc
from bertc.engine import Engine
from bertc.text.answers import Reading, windows
from bertc.text.classification import classify

TEXTS = (
    "Angela Merkel met Tim Cook in Cupertino.",
    "Das Wetter in Zürich, sagte er, sei schön.",
    "unaffable naïve 你好 tokenisation!",
    "x",
)
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "I-LOC", 4: "MISC"}


def built(minilm: Path, folder: Path, head: str, **config: Any) -> tuple[Any, Engine]:
    """MiniLM with a head of transformers, random and large: transformers' model and ours."""
    torch.manual_seed(0)
    kind = getattr(transformers, f"BertFor{head}")
    model = kind.from_pretrained(minilm, **config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier", "qa_outputs", "cls.predictions.transform.dense")):
                parameter.normal_(0, 0.2)
    return model, saved(model, minilm, folder)


def saved(model: Any, minilm: Path, folder: Path) -> Engine:
    """A model of transformers, saved with MiniLM's vocabulary and built."""
    model.save_pretrained(folder / "model")
    for file in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / "model" / file).write_bytes((minilm / file).read_bytes())
    bertc.build(bertc.load(str(folder / "model")), folder / "x", "onnx")
    return bertc.open(folder / "x")


@pytest.fixture(scope="module")
def labelled(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Engine]:
    folder = tmp_path_factory.mktemp("labels")
    problem = "multi_label_classification"
    return built(minilm, folder, "SequenceClassification", problem_type=problem, id2label=LABELS)


def test_a_bundle_keeps_what_its_labels_mean(labelled: tuple[Any, Engine]) -> None:
    _, engine = labelled
    assert engine.text.settings.problem == "multi_label_classification"
    assert engine.text.settings.labels == tuple(LABELS.values())
    assert engine.classify(TEXTS) == classify(engine.text, TEXTS)
    assert sum(label.score for label in engine.classify(TEXTS[:1])[0]) > 1.1


@pytest.mark.parametrize("problem", ["", "single_label_classification", "multi_label_classification", "regression"])
def test_labels(problem: str, labelled: tuple[Any, Engine], minilm: Path) -> None:
    model, engine = labelled
    model.config.problem_type = problem or None
    ours = replace(engine.text, settings=replace(engine.text.settings, problem=problem))
    library = theirs("text-classification", model, minilm, top_k=None)
    pairs = TEXTS[::-1]
    for found, expected in (
        (classify(ours, TEXTS), library(list(TEXTS))),
        (
            classify(ours, TEXTS, pairs),
            library([{"text": text, "text_pair": pair} for text, pair in zip(TEXTS, pairs, strict=True)]),
        ),
    ):
        for labels, wanted in zip(found, expected, strict=True):
            assert [label.label for label in labels] == [label["label"] for label in wanted]
            scale = max(1, *(abs(label["score"]) for label in wanted))
            assert all(abs(x.score - y["score"]) < BOUND * scale for x, y in zip(labels, wanted, strict=True))
    assert np.ptp([labels[0].score for labels in classify(ours, TEXTS)]) > 0.01


def test_one_label_is_a_probability(minilm: Path, tmp_path: Path) -> None:
    model, engine = built(minilm, tmp_path, "SequenceClassification", num_labels=1)
    expected = theirs("text-classification", model, minilm)(TEXTS[0])[0]
    ((found,),) = engine.classify(TEXTS[:1])
    assert found.label == expected["label"] == "LABEL_0"
    assert abs(found.score - expected["score"]) < BOUND


def test_a_pair_for_a_network_without_types(minilm: Path, tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(
        dim=24, n_layers=1, n_heads=3, hidden_dim=40, architectures=["DistilBertForSequenceClassification"]
    )
    model = transformers.DistilBertForSequenceClassification(config).eval()
    engine = saved(model, minilm, tmp_path)
    (labels,) = engine.classify(TEXTS[:1], TEXTS[1:2])
    ids = theirs("text-classification", model, minilm).tokenizer(*TEXTS[:2], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits.softmax(-1).max()
    assert abs(labels[0].score - float(expected)) < BOUND


def test_entities(minilm: Path, tmp_path: Path) -> None:
    model, engine = built(minilm, tmp_path, "TokenClassification", id2label=LABELS)
    library = theirs("token-classification", model, minilm, aggregation_strategy="simple")
    groups = 0
    for text, found in zip(TEXTS, engine.entities(TEXTS), strict=True):
        expected = library(text)
        spans = [(entity["entity_group"], entity["start"], entity["end"]) for entity in expected]
        assert [(entity.label, entity.start, entity.end) for entity in found] == spans
        assert all(abs(x.score - y["score"]) < BOUND for x, y in zip(found, expected, strict=True))
        assert all(entity.text == text[entity.start : entity.end] for entity in found)
        groups += sum(" " in entity.text for entity in found)
    assert groups > 0


def test_words(minilm: Path, tmp_path: Path) -> None:
    model, engine = built(minilm, tmp_path, "MaskedLM", tie_word_embeddings=True)
    library = theirs("fill-mask", model, minilm, top_k=7)
    texts = ("the capital of [MASK] is Paris", "[MASK] and [MASK].")
    for text, found in zip(texts, engine.fill(texts, best=7), strict=True):
        expected = library(text)
        for gap, wanted in zip(found, expected if text.count("[MASK]") > 1 else [expected], strict=True):
            assert [(word.word, word.id) for word in gap] == [(word["token_str"], word["token"]) for word in wanted]
            assert all(abs(x.score - y["score"]) < BOUND for x, y in zip(gap, wanted, strict=True))


PASSAGE = " ".join(f"In {1900 + year} the naïve physicist no. {year} moved to Zürich." for year in range(32))


@pytest.fixture(scope="module")
def asked(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Engine]:
    return built(minilm, tmp_path_factory.mktemp("ask"), "QuestionAnswering")


@pytest.mark.parametrize("reading", [Reading(), Reading(48, 16), Reading(64, 40, 3, 5, 9)], ids=str)
@pytest.mark.parametrize("question", ["Who moved to Zürich in 1931?", "Why?"])
def test_answers(question: str, reading: Reading, asked: tuple[Any, Engine], minilm: Path) -> None:
    model, engine = asked
    found = engine.ask(question, PASSAGE, best=20, reading=reading)
    shortened = "Who moved to" if question != "Why?" and reading.longest_question == 3 else question
    expected = original(model, minilm, shortened, PASSAGE, reading)
    assert len(found) > 2
    assert [(answer.text, answer.start) for answer in found] == [(text, start) for text, _, start in expected]
    assert all(abs(answer.score - score) < BOUND for answer, (_, score, _) in zip(found, expected, strict=True))
    assert all(PASSAGE[answer.start : answer.end] == answer.text for answer in found)
    assert engine.ask(question, PASSAGE, reading=reading) == found[:1]


def test_windows_are_those_of_run_squad() -> None:
    def by_hand(tokens: int, room: int, stride: int) -> Iterator[range]:
        start = 0
        while start < tokens:
            length = min(room, tokens - start)
            yield range(start, start + length)
            if start + length == tokens:
                break
            start += min(length, stride)

    for tokens in range(1, 40):
        for room in range(1, 20):
            for stride in range(1, 24):
                assert windows(tokens, room, stride) == list(by_hand(tokens, room, stride))
