"""Texts, or pairs of texts, to labels.

    one of several: softmax(logits)        any of several, or one: 1 / (1 + exp(-logits))        a number: logits

Source: transformers' TextClassificationPipeline; which of the three it is, config.json says as `problem_type`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertc.ops import Array
from bertc.text.model import TextModel, softmax


@dataclass(frozen=True)
class Label:
    label: str
    score: float
    """A probability; of a regression, the number itself."""


def classify(
    model: TextModel, texts: Sequence[str], pairs: Sequence[str] | None = None, *, truncate: bool = False
) -> list[list[Label]]:
    """The labels of each text, or of each with its pair, the likeliest first.

    Raises B0901 for an empty text, B0904 for one that is too long and not to be cut, B0905 for a network that gives no
    labels.
    """
    answers: list[list[Label]] = []
    for row in logits(model, texts, pairs, truncate=truncate):
        scores = _scores(row, model.settings.problem)
        labels = [Label(label, float(score)) for label, score in zip(model.settings.labels, scores, strict=True)]
        answers.append(sorted(labels, key=lambda label: -label.score))
    return answers


def logits(
    model: TextModel, texts: Sequence[str], pairs: Sequence[str] | None = None, *, truncate: bool = False
) -> list[Array]:
    """What the network gives for each text, [labels] float64. Raises as `classify` does."""
    model.require("classify")
    found: list[Array] = [np.empty(0) for _ in texts]
    for index, results in model.run(model.encodings(texts, pairs, cut=truncate)):
        found[index] = results["logits"].astype(np.float64)
    return found


def _scores(logits: Array, problem: str) -> Array:
    if problem == "regression":
        return logits
    if problem == "multi_label_classification" or len(logits) == 1:
        return 1 / (1 + np.exp(-logits))
    return softmax(logits)
