"""The command line: what users see, and the documented exit code for everything that can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertc.cli import run
from bertc.passes import FINISH, FUSIONS

SMALL = """base: bert-base
sizes: {layers: 2, hidden: 24, heads: 3, inner: 40, vocab: 53, positions: 32}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def test_build_then_run(spec: str, tmp_path: Path, padded_batch: Mapping[str, Any]) -> None:
    bundle, inputs, outputs = tmp_path / "x", tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(inputs, **padded_batch)
    assert run(["build", spec, "--target", "onnx", "--random-weights", "0", "-o", str(bundle)]) == 0
    assert run(["run", str(bundle), "--inputs", str(inputs), "--outputs", str(outputs)]) == 0
    assert np.load(outputs)["last_hidden_state"].shape == (3, 11, 24)
    assert run(["build", spec, "--target", "onnx", "--random-weights", "0", "-o", str(bundle)]) == 2
    (bundle / "model.onnx").write_bytes(b"altered")
    assert run(["run", str(bundle), "--inputs", str(inputs), "--outputs", str(outputs)]) == 3


def test_inspect_prints_what_reads_back(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bertc.elaborate import read_graph
    from bertc.notation import parse_graph

    assert run(["inspect", spec, "--after", "fuse_skip_norm"]) == 0
    text = capsys.readouterr().out
    assert read_graph(parse_graph(text)).to_text() == text
    assert run(["inspect", spec, "--stages", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "bertc-passes/1"
    assert [row["pass"] for row in document["passes"]] == ["elaborate", *FUSIONS, *FINISH]


def test_explain_names_the_nearest_miss(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", spec, "fuse_bias_gelu"]) == 0
    text = capsys.readouterr().out
    assert "fuse_bias_gelu: 2 fired\n  encoder.0.gelu\n  encoder.1.gelu\n" in text
    assert run(["explain", "B0103"]) == 0


def test_check_says_no_to_a_wrong_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.net"
    path.write_text("rule wrong(x: [*, n], bias: weight[n]):\n    gelu_tanh(x + bias)\n=>\n    bias_gelu(x, bias)\n")
    assert run(["check", str(path)]) == 1
    assert "FAIL wrong: both sides agree in float64" in capsys.readouterr().out


BAD = {
    "no such name": (["inspect", "bert-bas"], 2, "did you mean `bert-base`"),
    "no such spec": (["inspect", "nowhere.yaml"], 3, "nowhere.yaml"),
    "no such pass": (["inspect", "bert-base", "--without", "fuse_atention"], 2, "fuse_attention"),
    "no such file": (["check", "nowhere.net"], 3, "nowhere.net"),
    "no weights": (["build", "bert-base", "--target", "onnx", "-o", "x"], 2, "--random-weights"),
    "no such checkpoint": (["build", "bert-base", "--target", "onnx", "--weights", "nowhere", "-o", "x"], 3, "nowhere"),
    "no bundle": (["run", "nowhere", "--inputs", "a", "--outputs", "b"], 3, "a"),
}


@pytest.mark.parametrize(("arguments", "code", "says"), BAD.values(), ids=BAD)
def test_bad_input_gives_one_error(
    arguments: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    message = capfd.readouterr().err
    assert message.count("error[") == 1
    assert says in message
    assert list(tmp_path.iterdir()) == []


def test_unknown_flag_is_answered_with_the_nearest(capfd: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["inspect", "bert-base", "--afer", "x"])
    assert caught.value.code == 2
    assert "did you mean" in capfd.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from bertc.cli import _parser; _parser(); print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in modules for name in ("numpy", "networkx", "lark", "yaml", "onnx", "tensorrt_rtx"))
