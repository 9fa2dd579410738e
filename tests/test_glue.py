"""`bertc eval BUNDLE glue TASK`: metrics by their formulas, and each task's table, as it is published, read by them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import correlation
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig

import bertc
from bertc.cli import run
from bertc.engine import Engine
from bertc.evaluation.glue import GLUE, evaluate_glue
from bertc.evaluation.metrics import accuracy, f1, matthews, pearson, spearman
from bertc.ops import Array
from bertc.task_arguments import GLUE_TASKS
from bertc.text.classification import classify
from bertc.text.lines import BLOCK
from bertc.text.model import Results, TextModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat", "dog", "in", "two", "red")

HEADERS = {
    "cola": "",
    "sst-2": "sentence label",
    "mrpc": "\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String",
    "qqp": "id qid1 qid2 question1 question2 is_duplicate",
    "sts-b": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "mnli": "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 label1 gold_label",
    "qnli": "index question sentence label",
    "rte": "index sentence1 sentence2 label",
    "wnli": "index sentence1 sentence2 label",
}
"""The first line of each dev.tsv; CoLA's has none, and its columns are source, label, original's label, sentence."""
TEXTS = {"sentence", "sentence1", "#1 String", "question1", "question"}
GOLD = {"label", "gold_label", "Quality", "is_duplicate", "score"}
LABELS = {"mnli": ("contradiction", "entailment", "neutral"), "qnli": ("entailment", "not_entailment")}
LABELS["rte"] = LABELS["qnli"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Engine]:
    """Random networks of 1, 2 and 3 labels, of which transformers says no names."""
    found: dict[int, Engine] = {}
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    for labels in (1, 2, 3):
        folder = tmp_path_factory.mktemp("glue")
        config = BertConfig(
            vocab_size=len(WORDS),
            max_position_embeddings=16,
            architectures=["BertForSequenceClassification"],
            num_labels=labels,
            **sizes,
        )
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(config.to_json_string())
        (folder / "model" / "vocab.txt").write_text("\n".join(WORDS))
        bertc.build(bertc.load(str(folder / "model")), folder / "x", "onnx", random_seed=labels)
        found[labels] = bertc.open(folder / "x")
    return found


def scripted(engine: Engine) -> TextModel:
    """Logits that hang on the ids alone, and differ from text to text."""

    def answers(ids: Sequence[Array], types: Sequence[Array], tokens: int | None) -> Iterator[tuple[int, Results]]:
        del types, tokens
        for index in reversed(range(len(ids))):
            yield index, {"logits": np.random.default_rng(ids[index].tolist()).normal(size=len(settings.labels))}

    settings = replace(engine.text.settings, problem="regression")
    return replace(engine.text, answers=answers, settings=settings)


def table(task: str, rows: int) -> tuple[str, list[tuple[str, ...]], list[str]]:
    """A table of a task as it is published, its texts and its labels."""
    draw = random.Random(task)
    names = HEADERS[task].split("|" if "|" in HEADERS[task] else " ") if HEADERS[task] else []
    lines = ["\t".join(names)] if names else []
    texts: list[tuple[str, ...]] = []
    gold: list[str] = []
    for _ in range(rows):
        first, second = (
            " ".join(draw.choices(WORDS[5:], k=draw.randint(1, 12))) + draw.choice(["", ' "']) for _ in "ab"
        )
        label = f"{draw.random() * 5:.3f}" if task == "sts-b" else draw.choice(LABELS.get(task, ("0", "1")))
        if not names:
            lines.append("\t".join(("gj04", label, "*", first)))
        else:
            cells = [first if name in TEXTS else label if name.strip("\ufeff") in GOLD else "7" for name in names]
            pair = [index for index, name in enumerate(names) if name in {"sentence2", "#2 String", "question2"}]
            pair += [names.index("sentence")] if task == "qnli" else []
            if task == "qnli":
                cells[names.index("question")] = first
            for index in pair:
                cells[index] = second
            lines.append("\t".join(cells))
        gold.append(label)
        texts.append((first,) if task in ("cola", "sst-2") else (first, second))
    return "\n".join(lines) + "\n", texts, gold


# ------------------------------------------------------------------------------------------------- formulas, again


def share(found: list[Any], gold: list[Any]) -> float:
    return sum(x == y for x, y in zip(found, gold, strict=True)) / len(gold)


def f1_by_precision(found: list[Any], gold: list[Any]) -> float:
    hits = sum(x == y == 1 for x, y in zip(found, gold, strict=True))
    if hits == 0:
        return 0.0
    precision, recall = hits / found.count(1), hits / gold.count(1)
    return 2 / (1 / precision + 1 / recall)


def phi(found: list[Any], gold: list[Any]) -> float:
    """Of two labels, Matthews' coefficient is the correlation of the labels as numbers."""
    return correlation(found, gold) if len(set(found)) == len(set(gold)) == 2 else 0.0


def by_ranks(found: list[Any], gold: list[Any]) -> float:
    ranks = ([sum(y < x for y in values) + sum(y == x for y in values) / 2 for x in values] for values in (found, gold))
    return correlation(*ranks)


BY_HAND: dict[str, Callable[[list[Any], list[Any]], float]] = {
    "accuracy": share,
    "f1": f1_by_precision,
    "matthews": phi,
    "pearson": correlation,
    "spearman": by_ranks,
}
OURS = {"accuracy": accuracy, "f1": f1, "matthews": matthews, "pearson": pearson, "spearman": spearman}


@pytest.mark.parametrize("name", BY_HAND)
def test_metrics(name: str) -> None:
    generator = np.random.default_rng(0)
    met: set[float] = set()
    for _ in range(200):
        size = int(generator.integers(2, 30))
        numbers = name in ("pearson", "spearman")
        found, gold = generator.integers(0, 6 if numbers else 2, (2, size)).astype(float)
        found[0], gold[0] = (7, 9) if numbers else (found[0], gold[0])
        expected = BY_HAND[name](found.tolist(), gold.tolist())
        assert OURS[name](found, gold) == pytest.approx(expected, abs=1e-12)
        met.add(round(expected, 2))
    assert len(met) > 20


def test_metrics_without_a_denominator() -> None:
    same, other = np.zeros(3), np.array([0.0, 1.0, 1.0])
    assert [metric(same, other) for metric in (f1, matthews, pearson, spearman)] == [0.0] * 4
    assert (f1(same, same), matthews(other, other), matthews(other, 1 - other)) == (0.0, 1.0, -1.0)


# ------------------------------------------------------------------------------------------------------------- tasks


def test_the_command_line_knows_the_tasks() -> None:
    assert set(GLUE_TASKS) == set(GLUE) == set(HEADERS)


@pytest.mark.parametrize("task", HEADERS)
def test_a_task(task: str, engines: Mapping[int, Engine], tmp_path: Path) -> None:
    text, texts, gold = table(task, BLOCK + 9)
    path = tmp_path / "dev.tsv"
    path.write_text(text, "utf-8")
    names = LABELS.get(task, ("0", "1"))
    model = scripted(engines[1 if task == "sts-b" else len(names)])
    first, *pairs = ([row[part] for row in texts] for part in range(len(texts[0])))
    best = [labels[0] for labels in classify(model, first, *pairs, truncate=True)]
    if task == "sts-b":
        found, right = [label.score for label in best], [float(label) for label in gold]
    else:
        found = [int(label.label[-1]) for label in best]
        right = [names.index(label) for label in gold]
        assert len(set(found)) == len(names)
    labels = names if task == "mnli" else None
    told: list[tuple[str, int, int]] = []
    scores = evaluate_glue(model, task, path, labels, progress=lambda *report: told.append(report))
    first_block = BLOCK if task == "cola" else BLOCK - 1  # the names of columns are a line too
    assert told == [("rows", done, BLOCK + 9) for done in (first_block, BLOCK + 9)]
    expected = {name: BY_HAND[name](found, right) for name in GLUE[task].metrics}
    assert scores == {**{name: pytest.approx(value, abs=1e-12) for name, value in expected.items()}, "total": BLOCK + 9}
    assert all(math.isfinite(value) and value != 0 for value in scores.values())


def labelled(model: TextModel, *names: str) -> TextModel:
    return replace(model, settings=replace(model.settings, labels=names))


def test_labels_count_by_what_they_mean(engines: Mapping[int, Engine], tmp_path: Path) -> None:
    model = scripted(engines[2])
    path = tmp_path / "dev.tsv"
    path.write_text(table("sst-2", 50)[0])
    usual = evaluate_glue(model, "sst-2", path)
    assert evaluate_glue(labelled(model, "NEGATIVE", "Positive"), "sst-2", path) == usual
    swapped = evaluate_glue(labelled(model, "positive", "negative"), "sst-2", path)
    assert swapped == evaluate_glue(model, "sst-2", path, ["1", "0"])
    assert swapped["accuracy"] == pytest.approx(1 - usual["accuracy"], abs=1e-12)
    assert usual["accuracy"] != 0.5


# -------------------------------------------------------------------------------------------------- the command line


def test_what_is_printed(engines: Mapping[int, Engine], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text(table("rte", 20)[0])
    expected = evaluate_glue(engines[2].text, "rte", path)
    arguments = ["eval", str(engines[2].bundle.path), "glue", "rte", str(path)]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": "bertc-eval-glue/1", "scores": expected}
    assert run([*arguments, "--labels", "not_entailment,entailment"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["accuracy", f"{1 - expected['accuracy']:.4f}"], ["total", "20"]]


WRONG = {
    "sst-2": {
        "": "expected rows, but it has none",
        "sentence\tlabel\n": "expected rows, but it has none",
        "text\tlabel\na cat\t1\n": "expected a column `sentence`, but it has `text`, `label`",
        "sentence\tlabel\na cat\n": "expected 2 columns, as in line 1, but line 2 has 1",
        "sentence\tlabel\na cat\t1\na\tdog\t0\n": "expected 2 columns, as in line 1, but line 3 has 3",
        "sentence\tlabel\na cat\tgood\n": "expected `0` or `1` as the label in line 2, but found `good`",
        "sentence\tlabel\n\t1\n": "expected a text, but line 2 of",
    },
    "cola": {"a cat\t1\n": "expected 4 columns, but line 1 has 2", "x\t1\t*\ta\nx\t-\t*\ta\n": "line 2, but found `-`"},
    "sts-b": {"sentence1\tsentence2\tscore\na\ta\tnan\n": "expected a number as the label in line 2, but found `nan`"},
    "mnli": {"": "expected the labels `contradiction`, `entailment`, `neutral` of `mnli` as the network's 3, but"},
}


@pytest.mark.parametrize(("task", "text"), [(task, text) for task, texts in WRONG.items() for text in texts])
def test_what_is_wrong_is_said(
    task: str, text: str, engines: Mapping[int, Engine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text(text)
    bundle = engines[{"sts-b": 1, "mnli": 3}.get(task, 2)].bundle.path
    assert run(["eval", str(bundle), "glue", task, str(path)]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error[B090")
    assert WRONG[task][text] in output.err
    assert output.err.count("\n") == 2


def test_a_network_for_another_task(engines: Mapping[int, Engine], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(engines[2].bundle.path), "glue", "sts-b", "dev.tsv"]) == 3
    assert "expected a network that gives one number" in capsys.readouterr().err
    assert run(["eval", str(engines[2].bundle.path), "glue", "rte", "dev.tsv", "--labels", "yes,no"]) == 3
    assert "as the network's 2, but `--labels` says `yes`, `no`" in capsys.readouterr().err
