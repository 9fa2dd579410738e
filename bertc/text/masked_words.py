"""Words for the gaps in a text. Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertc.errors import error
from bertc.text.model import TextModel, softmax

GAP = "[MASK]"
"""How a gap is written, whatever the model's own token for it."""

TOKENS = 1024
"""That run together: each has a logit for every word of the vocabulary."""


@dataclass(frozen=True)
class Word:
    word: str
    score: float
    id: int


def fill(model: TextModel, texts: Sequence[str], *, best: int = 5, truncate: bool = False) -> list[list[list[Word]]]:
    """For each text and each of its gaps the `best` words, the likeliest first.

    Raises B0901 for a text without a gap, B0902 for a tokenizer without a token for it, B0904 for a text that is too
    long and not to be cut, B0905 for a network that gives no words.
    """
    model.require("fill")
    mask, written = model.tokenizer.mask, model.tokenizer.written
    if mask is None:
        raise error("B0902", f"expected a token for gaps, but the tokenizer of `{model.name}` has none")
    sequences = model.encodings([text.replace(GAP, written(mask)) for text in texts], cut=truncate)
    gaps = [np.flatnonzero(np.equal(sequence.ids, mask)) for sequence in sequences]
    for index, places in enumerate(gaps):
        if not places.size:
            message = f"expected a gap, but {model.name_of(index)} has none"
            raise error("B0901", message, None, f"write {GAP} where a word is wanted")
    answers: list[list[list[Word]]] = [[] for _ in texts]
    for index, results in model.run(sequences, TOKENS):
        for scores in softmax(results["logits"][gaps[index]].astype(np.float64)):
            ids = np.argsort(-scores, kind="stable")[:best].tolist()
            answers[index].append([Word(written(id), float(scores[id]), id) for id in ids])
    return answers
