"""`bertc run BUNDLE TASK`: what is printed, in each form, and what is said when it cannot be done.

The texts of errors are in golden/text_errors; BERTC_GOLDEN=write writes them anew.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig

import bertc
from bertc.cli import run
from bertc.errors import BertcError
from bertc.text.lines import BLOCK, LONGEST_LINE

GOLDEN = Path(__file__).parent / "golden" / "text_errors"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat", "dog", "in")
CLASSES = {
    "hidden": "BertModel",
    "labels": "BertForSequenceClassification",
    "names": "BertForTokenClassification",
    "words": "BertForMaskedLM",
    "answers": "BertForQuestionAnswering",
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles, one for each head, with random weights and at most 16 tokens; one without a vocabulary."""
    folder = tmp_path_factory.mktemp("bundles")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    for name, kind in {**CLASSES, "bare": "BertModel"}.items():
        labels = {0: "O", 1: "B-CAT", 2: "I-CAT"}
        config = BertConfig(
            vocab_size=len(WORDS), max_position_embeddings=16, architectures=[kind], id2label=labels, **sizes
        )
        model = folder / f"{name}-model"
        model.mkdir()
        (model / "config.json").write_text(config.to_json_string())
        if name != "bare":
            (model / "vocab.txt").write_text("\n".join(WORDS))
        bertc.build(bertc.load(str(model)), folder / name, "onnx", random_seed=1)
    return folder


@pytest.fixture(autouse=True)
def in_bundles(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundles)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["run", *arguments]) == 0
    return capsys.readouterr().out


def json_lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    return [json.loads(line) for line in printed(capsys, *arguments, "--json-lines").splitlines()]


def test_embed(capsys: pytest.CaptureFixture[str]) -> None:
    expected = bertc.open("hidden").embed(["a cat", "the dog"])
    rows = printed(capsys, "hidden", "embed", "a cat", "the dog").splitlines()
    assert [[float(value) for value in row.split()] for row in rows] == [
        [float(f"{value:.6g}") for value in row] for row in expected
    ]
    document = json.loads(printed(capsys, "hidden", "embed", "a cat", "the dog", "--json"))
    assert document["schema"] == "bertc-run-embed/1"
    assert [answer["text"] for answer in document["answers"]] == ["a cat", "the dog"]
    assert [answer["embedding"] for answer in document["answers"]] == expected.tolist()
    assert document == json.loads(printed(capsys, "hidden", "--json", "embed", "a cat", "the dog"))
    flags = ("--pooling", "cls", "--normalise", "--limit", "4")
    (answer,) = json.loads(printed(capsys, "hidden", "embed", "a cat sat", "--json", *flags))["answers"]
    cut = bertc.open("hidden").embed(["a cat"], pooling="cls", normalise=True)
    assert answer["embedding"] == cut[0].tolist()


def test_every_task_prints_what_its_function_returns(capsys: pytest.CaptureFixture[str]) -> None:
    (labels,) = bertc.open("labels").classify(["a cat"], ["the dog"])
    shown = "  ".join(f"{label.label} {label.score:.4f}" for label in labels)
    assert printed(capsys, "labels", "classify", "a cat", "the dog") == f"{shown}\n"
    (found,) = bertc.open("names").entities(["a cat in london"])
    spans = [f"{e.label}  {e.score:.4f}  {e.start}-{e.end}  {e.text}" for e in found]
    assert printed(capsys, "names", "tokens", "a cat in london").splitlines() == (spans or ["no entities"])
    ((gap,),) = bertc.open("words").fill(["a [MASK] sat"], best=2)
    assert printed(capsys, "words", "fill", "a [MASK] sat", "--best", "2").split() == [
        part for word in gap for part in (word.word, f"{word.score:.4f}")
    ]
    answers = bertc.open("answers").ask("a dog", "the cat sat on the mat", best=3)
    assert [
        line.split("  ")[-1]
        for line in printed(
            capsys, "answers", "ask", "--passage", "the cat sat on the mat", "--question", "a dog", "--best", "3"
        ).splitlines()
    ] == [answer.text for answer in answers]


def test_a_file_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"the cat sat {'on ' * (index % 9)}mat" for index in range(2 * BLOCK + 3)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    rows = json_lines(capsys, "hidden", "embed", "--input", str(path))
    assert [row["text"] for row in rows] == texts
    found = np.array([row["embedding"] for row in rows])
    assert np.abs(found - bertc.open("hidden").embed(texts)).max() < 2e-6  # float32, in batches of other sizes
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("a cat\tthe dog\nthe mat\ta cat\n")
    answers = json_lines(capsys, "labels", "classify", "--input", str(pairs))
    assert [(answer["text"], answer["pair"]) for answer in answers] == [("a cat", "the dog"), ("the mat", "a cat")]


class Slow(io.StringIO):
    """Standard input that looks at the output when its second block is asked for."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__("a cat\n" * (BLOCK + 1))
        self.look, self.read_lines = look, 0

    def readline(self, size: Any = -1, /) -> str:
        self.read_lines += 1
        if self.read_lines == BLOCK + 1:
            self.look()
        return super().readline(size)


def test_answers_come_before_the_whole_file_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    early: list[int] = []
    monkeypatch.setattr(sys, "stdin", Slow(lambda: early.append(len(capsys.readouterr().out.splitlines()))))
    assert run(["run", "hidden", "embed", "--input", "-"]) == 0
    assert early == [BLOCK]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_questions_are_read_until_the_input_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passage = tmp_path / "passage.txt"
    passage.write_text("the cat sat on the mat")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a dog\n\nthe cat\n"))
    answers = json_lines(capsys, "answers", "ask", "--passage", str(passage))
    assert [answer["question"] for answer in answers] == ["a dog", "the cat"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bad_question_is_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\u200b\nthe cat\n"))
    assert run(["run", "answers", "ask", "--passage", "a mat on the cat"]) == 0
    output = capsys.readouterr()
    assert output.err.count("question: ") == 3
    assert "error[B0901]" in output.err
    assert output.out


LONG = "the cat sat on " * 4

CASES: dict[str, tuple[list[str], int]] = {
    "empty_text": (["hidden", "embed", "a cat", ""], 3),
    "empty_pair": (["labels", "classify", "a cat", ""], 3),
    "blank_line": (["hidden", "embed", "--input", "blank.txt"], 3),
    "not_utf8": (["hidden", "embed", "--input", "latin.txt"], 3),
    "endless_line": (["hidden", "embed", "--input", "endless.txt"], 3),
    "no_such_file": (["hidden", "embed", "--input", "nowhere.txt"], 3),
    "text_too_long": (["labels", "classify", LONG], 3),
    "pair_too_long": (["labels", "classify", "a cat", LONG], 3),
    "entities_too_long": (["names", "tokens", LONG], 3),
    "limit_too_long": (["hidden", "embed", "a cat", "--limit", "17"], 3),
    "no_vocabulary": (["bare", "embed", "a cat"], 3),
    "no_labels": (["hidden", "classify", "a cat"], 4),
    "no_vectors": (["labels", "embed", "a cat"], 4),
    "no_words": (["names", "fill", "a [MASK]"], 4),
    "no_answers": (["words", "ask", "--passage", "the cat sat", "--question", "who?"], 4),
    "no_gap": (["words", "fill", "a cat"], 3),
    "no_room": (["answers", "ask", "--passage", "the cat sat", "--question", LONG], 3),
    "empty_passage": (["answers", "ask", "--passage", "", "--question", "who?"], 3),
    "no_such_passage": (["answers", "ask", "--passage", "nowhere.txt", "--question", "who?"], 3),
    "odd_pair": (["labels", "classify", "--input", "pairs.txt"], 3),
    "no_such_device": (["hidden", "embed", "a cat", "--device", "9"], 4),
    "no_such_device_before": (["hidden", "--device", "9", "embed", "a cat"], 4),
    "nothing_to_do": (["hidden"], 2),
}


@pytest.mark.parametrize("name", CASES)
def test_says_what_is_wrong(name: str, bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundles / "blank.txt").write_text("a cat\n\nthe dog\n")
    (bundles / "latin.txt").write_bytes(b"a cat\nna\xefve\n")
    (bundles / "endless.txt").write_text("a " * LONGEST_LINE)
    (bundles / "pairs.txt").write_text("a cat\tthe dog\nthe mat\n")
    arguments, code = CASES[name]
    assert run(["run", *arguments]) == code
    output = capsys.readouterr()
    assert output.out == ""
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("BERTC_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(output.err)
    assert output.err == golden.read_text()


def test_every_golden_error_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == CASES.keys()


@pytest.mark.parametrize("arguments", [["labels", "classify", "a", "b", "c"], ["hidden", "embed"], ["hidden", "sing"]])
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["run", *arguments])
    assert caught.value.code == 2


def test_as_many_pairs_as_texts() -> None:
    with pytest.raises(BertcError, match="expected pairs of 2 texts, but found 1") as caught:
        bertc.open("labels").classify(["a cat", "a dog"], ["the mat"])
    assert caught.value.exit_code == 3


def test_texts_that_are_too_long_are_cut_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    cut = " ".join(LONG.split()[:14])
    assert printed(capsys, "labels", "classify", LONG, "--truncate") == printed(capsys, "labels", "classify", cut)
