"""SQuAD's scores: exact match and F1, and how sure a model must be that there is no answer.

    exact(found, gold) = normalised(found) = normalised(gold)
    F1(found, gold)    = 2 * common words / (words found + words of gold)

Each answer counts with the gold answer that is nearest to it; a score is the mean over questions, in percent. What is
normal: small letters, no punctuation, no articles, single blanks. In version 2 a question without an answer has the
empty answer for gold, and the empty answer is right or wrong as a whole.
Source: evaluate-v1.1.py and evaluate-v2.0.py of https://rajpurkar.github.io/SQuAD-explorer.

The best threshold is that of the predictions themselves: those made with it have the score that is said. The script's
differs where that does not follow. It takes predictions as they come, of which some may be empty already, and this the
best that are not empty; it parts questions of equal odds; it starts at 0 where no answer at all is best, which
is below probabilities and not below odds; and it gives nothing for an empty answer to a gold one without words.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from bertc.evaluation.squad_file import Question, Squad

Scorer = Callable[[str, Sequence[str]], float]
"""The answer found and all gold ones -> from 0 to 1."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact(found: str, gold: Sequence[str]) -> float:
    return float(max(normalised(found) == normalised(one) for one in gold))


def f1(found: str, gold: Sequence[str]) -> float:
    """As of version 1.1: no word in common is 0, also where there are no words."""
    return max(_overlap(found, one, both_empty=0.0) for one in gold)


def f1_or_empty(found: str, gold: Sequence[str]) -> float:
    """As of version 2.0: no words at all is the right answer to one without words."""
    return max(_overlap(found, one, both_empty=1.0) for one in gold)


def _overlap(found: str, gold: str, both_empty: float) -> float:
    ours, theirs = normalised(found).split(), normalised(gold).split()
    if not ours and not theirs:
        return both_empty
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def gold_answers(question: Question) -> Sequence[str]:
    """Of version 2: those with words in them, else the empty one."""
    return [answer for answer in question.answers if normalised(answer)] or [""]


def squad_scores(
    squad: Squad, predictions: Mapping[str, str], best: Mapping[str, str], odds: Mapping[str, float]
) -> dict[str, float]:
    """The scores by the names that evaluate-v2.0.py gives them, in percent.

    `predictions` are by id, as `best`, the best answers that are not empty, and `odds`, the score of no answer less
    that of `best`; these two count in version 2 alone.
    """
    questions = squad.questions
    if not squad.has_unanswerable:
        return _means(questions, {"exact": exact, "f1": f1}, predictions, "", lambda question: question.answers)
    scorers: dict[str, Scorer] = {"exact": exact, "f1": f1_or_empty}
    answerable = [question for question in questions if question.answers]
    unanswerable = [question for question in questions if not question.answers]
    found = _means(questions, scorers, predictions, "", gold_answers)
    for some, prefix in ((answerable, "HasAns_"), (unanswerable, "NoAns_")):
        if some:
            found |= _means(some, scorers, predictions, prefix, gold_answers)
    for name, score in scorers.items():
        answered = {one.id: score(best[one.id], gold_answers(one)) for one in questions}
        empty = {one.id: score("", gold_answers(one)) for one in questions}
        found[f"best_{name}"], found[f"best_{name}_thresh"] = best_threshold(answered, empty, odds)
    return found


def _means(
    questions: Sequence[Question],
    scorers: Mapping[str, Scorer],
    predictions: Mapping[str, str],
    prefix: str,
    gold: Callable[[Question], Sequence[str]],
) -> dict[str, float]:
    means = {
        f"{prefix}{name}": 100 * sum(score(predictions[one.id], gold(one)) for one in questions) / len(questions)
        for name, score in scorers.items()
    }
    return {**means, f"{prefix}total": len(questions)}


def best_threshold(
    answered: Mapping[str, float], empty: Mapping[str, float], odds: Mapping[str, float]
) -> tuple[float, float]:
    """The highest score, in percent, and the threshold that gives it: a question of odds above it is left unanswered.

    All are by id: what the answer to a question scores, and what the empty answer does.
    """
    order = sorted(answered, key=lambda id: odds[id])
    score = best = sum(empty.values())
    threshold = math.nextafter(odds[order[0]], -math.inf)
    for value, group in groupby(order, key=lambda id: odds[id]):
        score += sum(answered[id] - empty[id] for id in group)
        if score > best:
            best, threshold = score, value
    return 100 * best / len(answered), threshold
