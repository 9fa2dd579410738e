"""What users see for bad input: one error, its exit code, and nothing left behind. The texts are in golden/errors.

Set BERTC_GOLDEN=write to write the texts anew; then read what changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertc.cli import run

GOLDEN = Path(__file__).parent / "golden" / "errors"
DEEP = 40_000
BUILD = ["--target", "onnx", "--random-weights", "0", "-o", "x"]

SPEC = "base: bert-base\nsizes: {layers: 1, hidden: 24, heads: 3, inner: 40, vocab: 53, positions: 19}\n"
RULE = "rule mine(x: [*, n], bias: weight[n]):\n    relu(x + bias)\n=>\n    relu(bias + x)\n"


def spec(text: str) -> Callable[[], list[str]]:
    def case() -> list[str]:
        Path("my.yaml").write_text(text)
        return ["build", "my.yaml", *BUILD]

    return case


def rules(text: str) -> Callable[[], list[str]]:
    def case() -> list[str]:
        Path("mine.net").write_text(text)
        return ["check", "mine.net"]

    return case


def config(text: str) -> Callable[[], list[str]]:
    def case() -> list[str]:
        Path("model").mkdir()
        Path("model/config.json").write_text(text)
        return ["build", "model", *BUILD]

    return case


def checkpoint(content: bytes) -> Callable[[], list[str]]:
    def case() -> list[str]:
        Path("my.yaml").write_text(SPEC)
        Path("model.safetensors").write_bytes(content)
        return ["build", "my.yaml", "--target", "onnx", "--weights", "model.safetensors", "-o", "x"]

    return case


CASES: dict[str, Callable[[], list[str]]] = {
    "unknown_key": spec("base: bert-base\nnetwrok: {head: pooled}\n"),
    "bad_size": spec("base: bert-base\nsizes: {hidden: -768, layers: two}\n"),
    "heads_do_not_divide": spec("base: bert-base\nsizes: {hidden: 768, heads: 7}\n"),
    "unknown_block": spec("base: bert-base\nnetwork: {head: question_answring}\n"),
    "no_such_spec": lambda: ["build", "nowhere.yaml", *BUILD],
    "no_such_weights": lambda: ["build", "bert-base", "--target", "onnx", "--weights", "nowhere", "-o", "x"],
    "yaml_brackets": spec("sizes: " + "[" * DEEP),
    "yaml_braces": spec("sizes: " + "{a: " * DEEP),
    "json_brackets": config('{"model_type": ' + "[" * DEEP),
    "net_brackets": rules("rule mine(x: [*]):\n    " + "gelu(" * DEEP + "x" + ")" * DEEP + "\n=>\n    x\n"),
    "net_list_brackets": rules("rule mine(x: [*]):\n    reshape(x, shape=" + "[" * DEEP + "\n=>\n    x\n"),
    "net_unknown_op": rules(RULE.replace("relu(x", "rleu(x")),
    "net_unbound_name": rules(RULE.replace("relu(bias + x)", "relu(bais + x)")),
    "net_cut": rules(RULE[: RULE.index("=>") + 1]),
    "net_empty": rules(""),
    "safetensors_cut": checkpoint((100).to_bytes(8, "little") + b'{"a": '),
    "safetensors_empty": checkpoint(b""),
    "not_a_checkpoint": checkpoint(b"PK is not what this starts with"),
}


def refused(case: Callable[[], list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> str:
    """The error that a command prints, after its exit code and the folder have been looked at."""
    monkeypatch.chdir(folder)
    arguments = case()
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    assert run(arguments) == 3
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == before
    printed = capfd.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize("name", CASES)
def test_says_what_is_wrong(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    message = refused(CASES[name], tmp_path, monkeypatch, capfd)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("BERTC_GOLDEN") == "write":
        golden.write_text(message)
    assert message == golden.read_text()


def test_every_golden_error_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == CASES.keys()


def test_a_rule_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    for cut in range(len(RULE) - 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        assert refused(rules(RULE[:cut]), folder, monkeypatch, capfd).count("error[") == 1


def test_a_checkpoint_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.float16)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for cut in range(len(whole)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        message = refused(checkpoint(whole[:cut]), folder, monkeypatch, capfd)
        assert message.count("error[") == 1
        assert "model.safetensors" in message
