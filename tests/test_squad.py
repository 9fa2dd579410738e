"""`bertc eval BUNDLE squad`, on made-up articles: predictions and scores by the definitions, written out once more.

fixtures/squad/articles.json has what the definitions have corners for: questions without an answer, passages of many
windows, several gold answers, some of them without a word, and letters of many scripts. Its answerable part is the
set of version 1.1. The network is random, and so are its answers; the threshold is where they differ.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig

import bertc
from bertc.cli import run
from bertc.engine import Engine
from bertc.errors import BertcError
from bertc.evaluation.squad import BLOCK, SquadResult, evaluate_squad
from bertc.evaluation.squad_file import Squad, read_squad
from bertc.evaluation.squad_scores import best_threshold, exact, f1, f1_or_empty, gold_answers
from bertc.text.answers import Reading

FILE = Path(__file__).parent / "fixtures" / "squad" / "articles.json"
READING = Reading(window=40, stride=9, longest_question=12, longest_answer=7, candidates=6)
THRESHOLD = -0.05
"""At which some questions with and some without an answer get the empty one."""


@pytest.fixture(scope="module")
def bundle(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of one layer with MiniLM's vocabulary, and logits of size 1."""
    folder = tmp_path_factory.mktemp("squad")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    config = BertConfig(
        vocab_size=30522, max_position_embeddings=64, architectures=["BertForQuestionAnswering"], **sizes
    )
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(config.to_json_string())
    for file in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / "model" / file).write_bytes((minilm / file).read_bytes())
    bertc.build(bertc.load(str(folder / "model")), folder / "x", "onnx", random_seed=3)
    return folder / "x"


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with bertc.open(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def answerable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set as version 1.1 has it."""
    content = json.loads(FILE.read_text("utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            kept = [asked for asked in paragraph["qas"] if asked.pop("is_impossible") is False]
            paragraph["qas"] = kept
    path = tmp_path_factory.mktemp("sets") / "articles-v1.1.json"
    path.write_text(json.dumps({"version": "1.1", "data": content["data"]}))
    return path


# ------------------------------------------------------------------------------------------------- the definitions


def plain(text: str) -> str:
    """normalize_answer of both scripts."""
    without = "".join(letter for letter in text.lower() if letter not in r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without, flags=re.UNICODE).split())


def f1_of_v1(found: str, gold: str) -> float:
    ours, theirs = plain(found).split(), plain(gold).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def f1_of_v2(found: str, gold: str) -> float:
    ours, theirs = plain(found).split(), plain(gold).split()
    return float(ours == theirs) if not ours or not theirs else f1_of_v1(found, gold)


def exact_match(found: str, gold: str) -> float:
    return float(plain(found) == plain(gold))


Definition = Callable[[str, str], float]


def mean(definition: Definition, predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]]) -> float:
    return 100.0 * sum(max(definition(predictions[id], gold) for gold in golds[id]) for id in golds) / len(golds)


def golds_of(content: Any, *, empty: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                texts = [answer["text"] for answer in asked["answers"]]
                found[asked["id"]] = ([text for text in texts if plain(text)] or [""]) if empty else texts
    return found


WORDS = (
    "the",
    "The",
    "a",
    "an",
    "cat",
    "cat,",
    "Cat!",
    "dog",
    "",
    "-",
    "naïve",
    "über",
    "theatre",
    "42",
    "北京",
    "\u00a0",
)


def test_scores_are_the_scripts() -> None:
    generator = np.random.default_rng(0)
    met: set[float] = set()
    for _ in range(3000):
        found, *golds = (" ".join(generator.choice(WORDS, generator.integers(0, 5))) for _ in range(3))
        assert exact(found, golds) == max(exact_match(found, gold) for gold in golds)
        for ours, theirs in ((f1, f1_of_v1), (f1_or_empty, f1_of_v2)):
            expected = max(theirs(found, gold) for gold in golds)
            assert ours(found, golds) == pytest.approx(expected, abs=1e-15)
            met.add(round(expected, 3))
    assert len(met) > 8


# -------------------------------------------------------------------------------------------------- the predictions


def by_definition(engine: Engine, passage: str, question: str, threshold: float | None) -> tuple[Any, list[Any], float]:
    """run_squad's write_predictions for one question, each window run by itself: prediction, n best, odds of none."""
    model = engine.text
    asked = list(model.pieces([question])[0].ids)[: READING.longest_question]
    context = model.pieces([passage])[0]
    room = READING.window - len(asked) - 3
    starts: list[int] = [0]
    while starts[-1] + room < len(context):
        starts.append(starts[-1] + min(room, READING.stride))
    windows = [range(start, min(start + room, len(context))) for start in starts]
    found: list[tuple[float, float, float, str]] = []
    null = (math.inf, 0.0, 0.0)
    for number, window in enumerate(windows):
        ids = [101, *asked, 102, *context.ids[window.start : window.stop], 102]
        offset = len(asked) + 2
        output = engine.run({"input_ids": [ids], "token_type_ids": [[0] * offset + [1] * (len(ids) - offset)]})
        first, last = output["start_logits"][0], output["end_logits"][0]
        null = min(null, (float(first[0]) + float(last[0]), float(first[0]), float(last[0])))
        for start in sorted(range(len(ids)), key=lambda place: -first[place])[: READING.candidates]:
            for end in sorted(range(len(ids)), key=lambda place: -last[place])[: READING.candidates]:
                if not (offset <= start <= end < len(ids) - 1 and end - start + 1 <= READING.longest_answer):
                    continue
                token = window[start - offset]
                around = [
                    min(token - other.start, other.stop - 1 - token) + 0.01 * len(other) if token in other else -1.0
                    for other in windows
                ]
                if around.index(max(around)) == number:
                    text = passage[context.spans[token][0] : context.spans[window[end - offset]][1]]
                    found.append((float(first[start]) + float(last[end]), float(first[start]), float(last[end]), text))
    if threshold is not None:
        found.append((*null, ""))
    rows: list[tuple[float, float, float, str]] = []
    for row in sorted(found, key=lambda row: -row[0]):
        if len(rows) < READING.candidates and row[3] not in [seen[3] for seen in rows]:
            rows.append(row)
    if threshold is not None and "" not in [row[3] for row in rows]:
        rows.append((*null, ""))
    rows = rows or [(0.0, 0.0, 0.0, "")]
    others = [row for row in rows if row[3]] or [(0.0, 0.0, 0.0, "")]
    total = sum(math.exp(row[0]) for row in rows)
    best = [(row[3], math.exp(row[0]) / total, row[1], row[2]) for row in rows]
    odds = null[0] - others[0][0]
    return "" if threshold is not None and odds > threshold else others[0][3], best, odds


def expect_predictions(engine: Engine, squad: Squad, result: SquadResult, threshold: float | None) -> None:
    for question in squad.questions:
        prediction, best, odds = by_definition(engine, question.passage, question.text, threshold)
        assert result.predictions[question.id] == prediction
        rows = result.nbest[question.id]
        assert [row["text"] for row in rows] == [row[0] for row in best]
        found = [(row["probability"], row["start_logit"], row["end_logit"]) for row in rows]
        assert np.abs(np.array(found) - np.array([row[1:] for row in best])).max() < 2e-5  # float32, in other batches
        if threshold is not None:
            assert abs(result.null_odds[question.id] - odds) < 2e-5


def test_version_2(engine: Engine) -> None:
    squad = read_squad(FILE)
    result = evaluate_squad(engine.text, squad, READING, THRESHOLD)
    expect_predictions(engine, squad, result, THRESHOLD)
    empty = [not text for text in result.predictions.values()]
    assert 10 < sum(empty) < len(empty) - 10
    golds = golds_of(json.loads(FILE.read_text("utf-8")), empty=True)
    scores = dict(result.scores)
    has = {question.id for question in squad.questions if question.answers}
    for name, definition in (("exact", exact_match), ("f1", f1_of_v2)):
        for prefix, ids in (("", set(golds)), ("HasAns_", has), ("NoAns_", set(golds) - has)):
            some = {id: golds[id] for id in ids}
            assert scores[f"{prefix}{name}"] == pytest.approx(mean(definition, result.predictions, some), abs=1e-10)
            assert scores[f"{prefix}total"] == len(some)
        best, threshold = scores[f"best_{name}"], scores[f"best_{name}_thresh"]
        above = evaluate_squad(engine.text, squad, READING, threshold).scores[name]
        assert above == pytest.approx(best, abs=1e-10)
        assert best > scores[name]
    assert 0 < scores["f1"] < 100


def test_version_1(engine: Engine, answerable: Path) -> None:
    squad = read_squad(answerable)
    told: list[tuple[str, int, int]] = []
    result = evaluate_squad(engine.text, squad, READING, progress=lambda *report: told.append(report))
    assert told == [("questions", done, len(squad.questions)) for done in (BLOCK, len(squad.questions))]
    expect_predictions(engine, squad, result, None)
    golds = golds_of(json.loads(answerable.read_text()), empty=False)
    assert result.scores == {
        "exact": pytest.approx(mean(exact_match, result.predictions, golds), abs=1e-10),
        "f1": pytest.approx(mean(f1_of_v1, result.predictions, golds), abs=1e-10),
        "total": len(golds),
    }
    assert result.null_odds == {}
    assert result.scores["f1"] > result.scores["exact"]


def test_the_set_has_the_corners() -> None:
    squad = read_squad(FILE)
    assert len({question.passage for question in squad.questions}) > 30
    assert sum(not question.answers for question in squad.questions) > 20
    assert sum(len(question.answers) > 1 for question in squad.questions) > 40
    assert any(len(question.passage) > 3000 for question in squad.questions)
    assert any(question.answers and gold_answers(question) == [""] for question in squad.questions)
    content = json.loads(FILE.read_text("utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for answer in (answer for asked in paragraph["qas"] for answer in asked["answers"]):
                assert paragraph["context"].startswith(answer["text"], answer["answer_start"])


def test_the_best_threshold_is_the_best_of_all() -> None:
    ids = [str(index) for index in range(40)]
    generator = np.random.default_rng(1)
    for lift in (-1.0, -0.3, 0.0, 0.7):
        odds = {id: float(np.round(generator.normal(), 1)) for id in ids}
        empty = {id: float(generator.random() < 0.4) for id in ids}
        answered = {id: float(np.clip(generator.random() + lift, 0, 1)) for id in ids}
        totals = {
            threshold: sum(empty[id] if odds[id] > threshold else answered[id] for id in ids)
            for threshold in (-9.0, *odds.values())
        }
        found, threshold = best_threshold(answered, empty, odds)
        assert found == pytest.approx(2.5 * max(totals.values()), abs=1e-10)
        assert found == pytest.approx(2.5 * totals.get(threshold, totals[-9.0]), abs=1e-10)


# -------------------------------------------------------------------------------------------------- the command line


def test_files_and_the_bar(bundle: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--window", "40", "--stride=9", "--longest-question=12", "--longest-answer=7", "--null-threshold=-0.05"]
    arguments = ["eval", str(bundle), "squad", str(FILE), *flags, "--output-folder", str(tmp_path / "new"), "--json"]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    expected = evaluate_squad(engine.text, read_squad(FILE), Reading(40, 9, 12, 7), -0.05)
    assert document == {"schema": "bertc-eval-squad/1", "scores": expected.scores}
    for name in ("predictions", "nbest", "null_odds"):
        assert json.loads((tmp_path / "new" / f"{name}.json").read_text("utf-8")) == getattr(expected, name)
    assert run([*arguments, "--min-f1", "99.9"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out) == document
    assert output.err == f"error[B0908]: expected an F1 of at least 99.9, but it is {expected.scores['f1']:.2f}\n"
    assert run([*arguments[:-1], "--min-f1", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["f1", f"{expected.scores['f1']:.4f}"]


def test_a_folder_that_cannot_be_written_in_is_said_before_the_work(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worked: list[str] = []
    monkeypatch.setattr("bertc.scores.evaluate_squad", lambda *_: worked.append("questions were answered"))
    (tmp_path / "file").write_text("kept")
    assert run(["eval", str(bundle), "squad", str(FILE), "--output-folder", str(tmp_path / "file")]) == 3
    assert capsys.readouterr().err.startswith("error[B0605]: ")
    assert not worked
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "kept")]


def test_an_evaluation_that_fails_leaves_no_files(tmp_path: Path, minilm_engine: Engine) -> None:
    bundle = str(minilm_engine.bundle.path)
    assert run(["eval", bundle, "squad", str(FILE), "--output-folder", str(tmp_path / "new")]) == 4
    assert not list(tmp_path.iterdir())


GOOD = '{"data": [{"paragraphs": [{"context": "a b", "qas": [%s]}]}]}'
ASKED = '{"id": "x", "question": "q", "answers": [%s]}'

MALFORMED = {
    "": "expected JSON, but it is not JSON",
    "{": "expected JSON",
    "[" * 5000: "nests brackets more than 16 deep",
    '{"data": NaN}': "NaN",
    "[]": "expected a mapping at the top, but found a list",
    "{}": "expected a list at `data`, but found nothing",
    '{"data": {}}': "expected a list at `data`, but found a mapping",
    '{"data": []}': "expected questions, but it has none",
    '{"data": [7]}': "expected a mapping at `data[0]`, but found `7`",
    '{"data": [{"paragraphs": [{"qas": []}]}]}': "expected a text at `data[0].paragraphs[0].context`",
    GOOD % '{"answers": []}': "expected a text at `data[0].paragraphs[0].qas[0].id`, but found nothing",
    GOOD % ASKED % '{"text": 3}': "expected a text at `data[0].paragraphs[0].qas[0].answers[0].text`, but found `3`",
    GOOD % ASKED % "": "expected an answer to `x`, but found none, nor `is_impossible`",
    GOOD % ", ".join(2 * [ASKED % '{"text": "a"}']): "expected an id for each question, but `x` is given twice",
}


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_files(text: str, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dev.json"
    path.write_text(text)
    assert run(["eval", str(bundle), "squad", str(path)]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error[B0907]: `")
    assert "/dev.json` is no file of SQuAD's: " in output.err
    assert MALFORMED[text] in output.err
    assert output.err.count("\n") == 2


def test_what_cannot_be_asked(engine: Engine, minilm_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BertcError, match="`ask` needs logits of an answer's start and end"):
        evaluate_squad(minilm_engine.text, read_squad(FILE), READING)
    path = tmp_path / "dev.json"
    path.write_text(GOOD % (ASKED % '{"text": "a"}').replace('"q"', '" "'))
    with pytest.raises(BertcError, match="expected a text, but question `x`"):
        evaluate_squad(engine.text, read_squad(path), READING)
    path.write_text(GOOD.replace("a b", " ") % ASKED % '{"text": "a"}')
    with pytest.raises(BertcError, match="expected a text, but the passage of question `x`"):
        evaluate_squad(engine.text, read_squad(path), READING)
    path.write_text(GOOD % (ASKED % '{"text": "a"}').replace('"q"', '"' + "q " * 70 + '"'))
    with pytest.raises(BertcError, match="question `x` takes all of the 64 tokens"):
        evaluate_squad(engine.text, read_squad(path), Reading(longest_question=64))
