"""GLUE: the columns and labels of each task's table, and what is measured of it.

A table has a line of column names, but CoLA's, and a tab between values; nothing is quoted. The labels of a task stand
in the order of its data set, each with the names that models have for it.
Source: Wang et al. 2018, https://arxiv.org/abs/1804.07461, https://gluebenchmark.com/tasks, its dev.tsv files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertc.errors import BertcError, error
from bertc.evaluation.metrics import accuracy, f1, matthews, pearson, spearman
from bertc.ops import Array
from bertc.text.classification import logits
from bertc.text.lines import blocks_of_lines
from bertc.text.model import TextModel
from bertc.tree import shown

Metric = Callable[[Array, Array], float]
"""What was found and what is right, [texts] each: numbers of labels, or the numbers themselves."""


@dataclass(frozen=True)
class GlueTask:
    texts: tuple[str | int, ...]
    """The columns of a text, or of a text and its pair: by name, or by number where the table has no names."""
    gold: str | int
    metrics: Mapping[str, Metric]
    labels: tuple[tuple[str, ...], ...] = ()
    """The names of each; none where the task is a number."""


_ACCURACY: Mapping[str, Metric] = {"accuracy": accuracy}
_BOTH: Mapping[str, Metric] = {"accuracy": accuracy, "f1": f1}
_SENTENCES = ("sentence1", "sentence2")
_ENTAILS = (("entailment",), ("not_entailment",))

GLUE = {
    "cola": GlueTask((3,), 1, {"matthews": matthews}, (("0", "unacceptable"), ("1", "acceptable"))),
    "sst-2": GlueTask(("sentence",), "label", _ACCURACY, (("0", "negative"), ("1", "positive"))),
    "mrpc": GlueTask(("#1 String", "#2 String"), "Quality", _BOTH, (("0", "not_equivalent"), ("1", "equivalent"))),
    "qqp": GlueTask(("question1", "question2"), "is_duplicate", _BOTH, (("0", "not_duplicate"), ("1", "duplicate"))),
    "sts-b": GlueTask(_SENTENCES, "score", {"pearson": pearson, "spearman": spearman}),
    "mnli": GlueTask(_SENTENCES, "gold_label", _ACCURACY, (("contradiction",), ("entailment",), ("neutral",))),
    "qnli": GlueTask(("question", "sentence"), "label", _ACCURACY, _ENTAILS),
    "rte": GlueTask(_SENTENCES, "label", _ACCURACY, _ENTAILS),
    "wnli": GlueTask(_SENTENCES, "label", _ACCURACY, (("0", "not_entailment"), ("1", "entailment"))),
}
"""Task -> its table."""

MNLI = "mnli"
"""Its labels have two orders in use, so that labels without names say nothing."""


def evaluate_glue(
    model: TextModel,
    name: str,
    path: Path,
    labels: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, float]:
    """The metrics of a task by name, and the `total` of rows. Texts that are too long are cut.

    `labels` are what the network's labels mean, in its order; the names in its configuration unless they are given.
    Raises B0002 when the file cannot be read, B0901 for an empty text, B0905 for a network that gives no labels, B0907
    for a table without the task's columns, with a row of other length or an unknown label, and for a network whose
    labels are not the task's.
    """
    model.require("classify")
    task = GLUE[name]
    meaning = _meaning(name, task, model, labels)
    blocks = list(_rows(task, path))
    gold = [value for _, rows in blocks for _, value in rows]
    if not gold:
        raise _refusal(path, "expected rows, but it has none")
    found: list[float] = []
    for first, rows in blocks:
        columns = [list(texts) for texts in zip(*(texts for texts, _ in rows), strict=True)]
        for values in logits(model.of_lines(path, first), *columns, truncate=True):
            found.append(float(values[0]) if meaning is None else meaning[int(np.argmax(values))])
        if progress is not None:
            progress("rows", len(found), len(gold))
    results = np.array(found), np.array(gold)
    return {**{metric: measure(*results) for metric, measure in task.metrics.items()}, "total": len(gold)}


def _meaning(name: str, task: GlueTask, model: TextModel, given: Sequence[str] | None) -> list[int] | None:
    """For each label of the network the task's; None where the task is a number."""
    count = len(model.settings.labels)
    if not task.labels:
        if count != 1:
            message = f"expected a network that gives one number, but `{model.name}` gives {count}"
            raise error("B0907", message, None, f"`{name}` needs one that was trained on numbers")
        return None
    names = [label.lower() for label in given or model.settings.labels]
    if not given and names == [f"label_{index}" for index in range(len(task.labels))] and name != MNLI:
        return list(range(count))
    numbers = {one: number for number, known in enumerate(task.labels) for one in known}
    meaning = [numbers.get(label, -1) for label in names]
    if sorted(meaning) != list(range(len(task.labels))) or len(names) != count:
        wanted = ", ".join(f"`{known[-1]}`" for known in task.labels)
        found = ", ".join(f"`{shown(label)}`" for label in given or model.settings.labels)
        said = "`--labels` says" if given else "they are"
        message = f"expected the labels {wanted} of `{name}` as the network's {count}, but {said} {found}"
        raise error("B0907", message, None, "say what they mean, in the network's order: `--labels NAME,NAME`")
    return meaning


def _refusal(path: Path, reason: str) -> BertcError:
    return error("B0907", f"`{shown(str(path))}` is no table of the task's: {reason}", None, "it is a dev.tsv of GLUE")


# --------------------------------------------------------------------------------------------------------------- tables

Row = tuple[tuple[str, ...], float]
"""A text, or a text and its pair; and the number of its label, or the number itself."""


def _rows(task: GlueTask, path: Path) -> Iterator[tuple[int, list[Row]]]:
    """Rows that are answered together, and the number of the first one's line."""
    columns: list[int] | None = None
    width = 0
    for first, lines in blocks_of_lines(path):
        cells = [line.split("\t") for line in lines]
        if columns is None:
            width, columns = len(cells[0]), _columns(task, cells[0], path)
            has_names = isinstance(task.gold, str)
            cells, first = cells[has_names:], first + has_names
        rows = [_row(task, row, columns, width, path, first + index) for index, row in enumerate(cells)]
        if rows:
            yield first, rows


def _columns(task: GlueTask, names: Sequence[str], path: Path) -> list[int]:
    """Where the texts and the label stand in a row."""
    plain = [name.strip("\ufeff \r") for name in names]
    for column in (*task.texts, task.gold):
        if isinstance(column, str) and column not in plain:
            raise _refusal(
                path, f"expected a column `{column}`, but it has {', '.join(f'`{shown(n)}`' for n in plain)}"
            )
        if isinstance(column, int) and column >= len(plain):
            raise _refusal(path, f"expected {max(3, column) + 1} columns, but line 1 has {len(plain)}")
    return [plain.index(column) if isinstance(column, str) else column for column in (*task.texts, task.gold)]


def _row(task: GlueTask, cells: Sequence[str], columns: Sequence[int], width: int, path: Path, line: int) -> Row:
    if len(cells) != width:
        raise _refusal(path, f"expected {width} columns, as in line 1, but line {line} has {len(cells)}")
    *texts, gold = (cells[column] for column in columns)
    return tuple(texts), _gold(task, gold.strip(), path, line)


def _gold(task: GlueTask, text: str, path: Path, line: int) -> float:
    if task.labels:
        found = next((number for number, names in enumerate(task.labels) if text == names[0]), None)
        wanted = " or ".join(f"`{names[0]}`" for names in task.labels)
    else:
        found, wanted = _number(text), "a number"
    if found is None:
        raise _refusal(path, f"expected {wanted} as the label in line {line}, but found `{shown(text)}`")
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
