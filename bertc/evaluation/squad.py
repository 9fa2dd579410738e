"""A bundle on SQuAD: the answers it gives to each question, as run_squad.py of BERT writes them, and their scores.

Source: https://github.com/google-research/bert/blob/master/run_squad.py, write_predictions. In version 2 the empty
answer stands among the best ones with its own score, and is the prediction where it is above the best other one by
more than the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertc.evaluation.squad_file import Question, Squad
from bertc.evaluation.squad_scores import squad_scores
from bertc.text.answers import Asked, Candidate, Reading, find_answers, probabilities
from bertc.text.model import TextModel
from bertc.tree import shown

BLOCK = 64
"""Questions that are read together: enough that windows of one length find each other."""


@dataclass(frozen=True)
class SquadResult:
    scores: Mapping[str, float]
    """By the names of evaluate-v2.0.py, in percent; `total` and thresholds are what they are."""
    predictions: Mapping[str, str]
    """Each by the id of its question, as all below."""
    nbest: Mapping[str, Sequence[Mapping[str, Any]]]
    """`text`, `probability`, `start_logit`, `end_logit`, the likeliest first."""
    null_odds: Mapping[str, float]
    """The score of no answer less that of the best answer; empty in version 1.1."""


def evaluate_squad(
    model: TextModel,
    squad: Squad,
    reading: Reading,
    null_threshold: float = 0.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SquadResult:
    """Answer all questions, and score the answers.

    Raises B0901 for a question or passage without anything to read, B0904 for a question that leaves no room for its
    passage, B0905 for a network that gives no starts and ends.
    """
    model.require("ask")
    predictions: dict[str, str] = {}
    best: dict[str, str] = {}
    odds: dict[str, float] = {}
    nbest: dict[str, Sequence[Mapping[str, Any]]] = {}
    for question, candidates, null in _found(model, squad.questions, reading, progress):
        first = candidates[0] if candidates else Candidate("", 0, 0, 0.0, 0.0)
        best[question.id] = predictions[question.id] = first.text
        ranked = candidates or [first]
        if squad.has_unanswerable:
            odds[question.id] = null.score - first.score
            ranked = with_null(candidates, null, reading.candidates)
            if odds[question.id] > null_threshold:
                predictions[question.id] = ""
        nbest[question.id] = list(_rows(ranked))
    return SquadResult(squad_scores(squad, predictions, best, odds), predictions, nbest, odds)


def with_null(candidates: Sequence[Candidate], null: Candidate, count: int) -> list[Candidate]:
    """The `count` best, no answer among them; where it is worse than those, it stands behind them."""
    ranked = sorted([*candidates, null], key=lambda one: -one.score)[:count]
    return ranked if null in ranked else [*ranked, null]


def _rows(candidates: Sequence[Candidate]) -> Iterator[Mapping[str, Any]]:
    for one, probability in zip(candidates, probabilities(candidates), strict=True):
        logits = {"start_logit": one.start_logit, "end_logit": one.end_logit}
        yield {"text": one.text, "probability": probability, **logits}


def _found(
    model: TextModel,
    questions: Sequence[Question],
    reading: Reading,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[tuple[Question, list[Candidate], Candidate]]:
    for start in range(0, len(questions), BLOCK):
        block = questions[start : start + BLOCK]
        for question, (candidates, null) in zip(block, find_answers(model, _asked(model, block), reading), strict=True):
            yield question, candidates, null
        if progress is not None:
            progress("questions", start + len(block), len(questions))


def _asked(model: TextModel, questions: Sequence[Question]) -> list[Asked]:
    """Neighbours have one passage, which is cut into tokens once."""
    firsts = list({question.passage: question for question in reversed(questions)}.values())

    def name_of(index: int) -> str:
        return f"question `{shown(questions[index].id)}`"

    def name_of_passage(index: int) -> str:
        return f"the passage of question `{shown(firsts[index].id)}`"

    cut = replace(model, name_of=name_of).pieces([question.text for question in questions])
    passages = replace(model, name_of=name_of_passage).pieces([question.passage for question in firsts])
    contexts = {first.passage: pieces for first, pieces in zip(firsts, passages, strict=True)}
    return [
        Asked(name_of(index), cut[index], contexts[question.passage], question.passage)
        for index, question in enumerate(questions)
    ]
