"""What stands where in a text: neighbouring tokens of one label as one entity.

Labels may say whether an entity starts (`B-PER`) or goes on (`I-PER`); `O` is none. The score of an entity is the mean
of its tokens'. Source: transformers' TokenClassificationPipeline with aggregation "simple".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertc.ops import Array
from bertc.text.model import TextModel, softmax
from bertc.text.tokenizer import Encoding

NOTHING = "O"


@dataclass(frozen=True)
class Entity:
    label: str
    score: float
    start: int
    end: int
    """`text[start:end]` is the entity."""
    text: str


@dataclass(frozen=True)
class _Token:
    label: str
    score: float
    span: tuple[int, int]

    @property
    def starts(self) -> bool:
        return self.label.startswith("B-")

    @property
    def kind(self) -> str:
        return self.label[2:] if self.label.startswith(("B-", "I-")) else self.label


def find_entities(model: TextModel, texts: Sequence[str], *, truncate: bool = False) -> list[list[Entity]]:
    """The entities of each text, in their order.

    Raises B0901 for an empty text, B0904 for one that is too long and not to be cut, B0905 for a network without labels
    of tokens.
    """
    model.require("tokens")
    sequences = model.encodings(texts, cut=truncate)
    answers: list[list[Entity]] = [[] for _ in texts]
    for index, results in model.run(sequences):
        scores = softmax(results["logits"].astype(np.float64))
        groups = _grouped(_tokens(sequences[index], scores, model.settings.labels))
        entities = [_entity(group, texts[index]) for group in groups]
        answers[index] = [entity for entity in entities if entity.label != NOTHING]
    return answers


def _tokens(sequence: Encoding, scores: Array, labels: Sequence[str]) -> Iterator[_Token]:
    for text, span, row in zip(sequence.texts, sequence.spans, scores, strict=True):
        if text is not None:
            yield _Token(labels[int(row.argmax())], float(row.max()), span)


def _grouped(tokens: Iterator[_Token]) -> Iterator[list[_Token]]:
    group: list[_Token] = []
    for token in tokens:
        if group and (token.starts or token.kind != group[-1].kind):
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _entity(group: Sequence[_Token], text: str) -> Entity:
    start, end = group[0].span[0], group[-1].span[1]
    score = sum(token.score for token in group) / len(group)
    return Entity(group[0].label.split("-", 1)[-1], score, start, end, text[start:end])
