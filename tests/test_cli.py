"""The command line: what users see, and the documented exit code for everything that can go wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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
    from bertc.parser import parse_graph

    assert run(["inspect", spec, "--after", "fuse_skip_norm"]) == 0
    text = capsys.readouterr().out
    assert read_graph(parse_graph(text)).to_text() == text
    assert run(["inspect", spec, "--passes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "bertc-passes/1"
    assert [row["pass"] for row in document["passes"]] == ["elaborate", *FUSIONS, *FINISH]


def test_inspect_for_other_programs(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", spec, "--format", "dot", "--after", "fuse_attention"]) == 0
    dot = capsys.readouterr().out
    boxes = set(re.findall(r'^  ("[^"]*") \[label', dot, re.MULTILINE))
    edges = re.findall(r'^  ("[^"]*") -> ("[^"]*")', dot, re.MULTILINE)
    assert {end for edge in edges for end in edge} == boxes
    assert sum("attention\\n" in line for line in dot.splitlines()) == 2
    assert run(["inspect", spec, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    known = {name for node in document["nodes"] for name in node["results"]}
    assert all(value in known for node in document["nodes"] for value in node["inputs"] if isinstance(value, str))
    assert set(document["outputs"].values()) <= known


def test_explain_names_the_nearest_miss(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", spec, "fuse_bias_gelu"]) == 0
    text = capsys.readouterr().out
    assert "fuse_bias_gelu: 2 fired\n  encoder.0.gelu\n  encoder.1.gelu\n" in text
    assert run(["explain", "B0103"]) == 0


def test_explain_takes_the_passes_it_is_told(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of rules before the others, or after one that leaves nothing to it, or one left out."""
    path = tmp_path / "mine.net"
    path.write_text("rule mine(x: [*, n], bias: weight[n]):\n    gelu(x + bias)\n=>\n    bias_gelu(x, bias)\n")
    told = {
        ("--passes", f"{path},default"): "mine: 2 fired",
        ("--passes", f"default,{path}"): "mine: 0 fired",
        ("--passes", f"default,{path}", "--without", "fuse_bias_gelu"): "mine: 2 fired",
    }
    for flags, said in told.items():
        assert run(["explain", spec, str(path), *flags]) == 0
        assert capsys.readouterr().out.startswith(said)


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


@pytest.mark.parametrize(
    ("verb", "says"), [("inspct", "did you mean `inspect`?"), ("zzz", "there are: `bench`, `build`, `check`, ")]
)
def test_a_misspelt_verb_is_answered_with_the_nearest(verb: str, says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        run([verb, "bert-base"])
    assert caught.value.code == 2
    error, see = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: there is no verb `{verb}`; {says}")
    assert see == "See `bertc --help`."


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--precision", "fp61"), "did you mean `fp16`?"),
        (("--precision", "zzz"), "`precision`: of weights and products; norms and softmax stay fp32"),
    ],
)
def test_what_is_possible_is_said_once(flags: tuple[str, str], said: str, capsys: Any) -> None:
    assert run(["inspect", "bert-base", *flags]) == 2
    message, *_, help = capsys.readouterr().err.splitlines()
    assert message == f"error[B0212]: expected `precision` to be one of `fp32`, `fp16`, `bf16`, but found `{flags[1]}`"
    assert help == f"  = help: {said}"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from bertc.arguments import make_parser; make_parser(); print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in modules for name in ("numpy", "networkx", "lark", "yaml", "onnx", "tensorrt_rtx"))


def test_flags_stand_in_the_environment(spec: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("BERTC_WITHOUT", "fuse_attention")
    monkeypatch.setenv("BERTC_JSON", "1")
    assert run(["inspect", spec, "--passes"]) == 0
    passes = [row["pass"] for row in json.loads(capsys.readouterr().out)["passes"]]
    assert "fuse_skip_norm" in passes
    assert "fuse_attention" not in passes
    monkeypatch.setenv("BERTC_JSON", "yes")
    with pytest.raises(SystemExit) as caught:
        run(["inspect", spec])
    assert caught.value.code == 2
    wrong = "error: BERTC_JSON is one of 0, 1, but `yes` was found\nSee `bertc inspect --help`.\n"
    assert capsys.readouterr().err.endswith(wrong)
    assert run(["completion", "bash"]) == 0  # which has no such flag


@pytest.mark.parametrize(
    ("variable", "value", "arguments", "says"),
    [
        ("BERTC_DEVICE", "one", ["run", "x"], "expected a whole number from 0 to 999999999, but `one` was found"),
        ("BERTC_DEVICE", "one", ["run", "x", "embed"], "expected a whole number from 0 to 999999999, but `one` was"),
        ("BERTC_BATCH", "1,0", ["bench", "x"], "expected a whole number from 1 to 999999999, but `0` was found"),
    ],
)
def test_a_variable_that_a_flag_does_not_take(
    variable: str, value: str, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {variable}: {says}")


def test_trtexec_names_and_several_profiles(spec: str, tmp_path: Path) -> None:
    shapes = ["--minShapes=input_ids:1x4", "--optShapes=input_ids:2x8", "--maxShapes=input_ids:[3,16]"]
    common = ["build", spec, "--target", "onnx", "--random-weights", "0"]
    assert run([*common, f"--saveEngine={tmp_path / 'a'}", "--fp16", *shapes]) == 0
    two = ["--shapes", "batch=1:2:3,seq=4:8:16", "--shapes", "batch=1,seq=32"]
    assert run([*common, "-o", str(tmp_path / "b"), *two]) == 0
    one, other = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab")
    assert one["precision"] == "fp16"
    assert one["profiles"] == other["profiles"][:1]
    assert other["profiles"][1]["seq"] == {"smallest": 32, "usual": 32, "largest": 32}


def test_a_flag_of_another_target_is_refused(spec: str, tmp_path: Path, capfd: Any) -> None:
    bundle = tmp_path / "x"
    assert run(["build", spec, "--target", "onnx", "--arch", "sm_86", "--random-weights", "0", "-o", str(bundle)]) == 2
    assert "--target rtx" in capfd.readouterr().err
    assert not bundle.exists()


def test_demobert_names_of_inputs(spec: str, tmp_path: Path, padded_batch: Mapping[str, Any]) -> None:
    Path(spec).write_text(SMALL + "input_names: demobert\n")
    batch = dict(padded_batch)
    renamed = {
        "input_ids": batch["input_ids"],
        "segment_ids": batch["token_type_ids"],
        "input_mask": batch["attention_mask"],
    }
    bundle, given, outputs = (str(tmp_path / name) for name in ("x", "in.npz", "out.npz"))
    assert run(["build", spec, "--target", "onnx", "--random-weights", "0", "-o", bundle]) == 0
    answers = []
    for inputs in (batch, renamed):
        np.savez(given, **inputs)
        assert run(["run", bundle, "--inputs", given, "--outputs", outputs]) == 0
        answers.append(np.load(outputs)["last_hidden_state"])
    assert np.array_equal(*answers)


def test_outputs_that_cannot_be_written_leave_nothing(spec: str, tmp_path: Path, padded_batch: Any, capfd: Any) -> None:
    np.savez(tmp_path / "in.npz", **padded_batch)
    assert run(["build", spec, "--target", "onnx", "--random-weights", "0", "-o", str(tmp_path / "x")]) == 0
    before = sorted(tmp_path.rglob("*"))
    outputs = tmp_path / "in.npz" / "out.npz"
    assert run(["run", str(tmp_path / "x"), "--inputs", str(tmp_path / "in.npz"), "--outputs", str(outputs)]) == 3
    assert "in.npz/out.npz` cannot be written: Not a directory" in capfd.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_build_leaves_nothing(sent: signal.Signals, tmp_path: Path) -> None:
    """A signal while TensorRT builds: the hidden folder beside the output goes too."""
    command = [sys.executable, "-m", "bertc", "build", "bert-base", "--random-weights", "0", "--target", "rtx"]
    process = subprocess.Popen([*command, "-o", str(tmp_path / "x")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "drop_unused" not in (line := process.stderr.readline()):
        assert line, "the build ended before it was stopped"
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
    process.send_signal(sent)
    assert process.wait(60) == 130
    assert list(tmp_path.iterdir()) == []


SCRIPT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["scripts"]["bertc"]

STARTS = {
    "python -m bertc": "runpy.run_module('bertc', run_name='__main__')",
    "bertc": "getattr(importlib.import_module('{}'), '{}')()".format(*SCRIPT.split(":")),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_ctrl_c_while_python_imports(start: str) -> None:
    """As the terminal sends it, when the module of all verbs looks for one of those that it needs."""
    program = f"""
import importlib, os, runpy, signal, sys
class Interrupting:
    def find_spec(name, *_):
        if name == "bertc.spec_verbs":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
{start}
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_a_module_drops_leaves_nothing(sent: str, spec: str, tmp_path: Path) -> None:
    """As Cython's modules do, which catch whatever is raised while they are imported."""
    program = f"""
import os, runpy, signal, sys
class Dropping:
    def find_spec(name, *_):
        if name == "bertc.targets.onnx":
            try:
                os.kill(os.getpid(), signal.{sent})
            except KeyboardInterrupt:
                print("dropped")
sys.meta_path.insert(0, Dropping)
runpy.run_module('bertc', run_name='__main__')
"""
    output = tmp_path / "out" / "x"
    command = [sys.executable, "-c", program, "build", spec, "--target", "onnx", "--random-weights", "0", "-o", output]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (130, "dropped\n")
    assert found.stderr.endswith("interrupted; nothing was left behind\n")
    assert not output.parent.exists()


def test_a_warning_is_one_line() -> None:
    program = """
import warnings
from bertc import cli
cli.VERBS["doctor"] = lambda options: warnings.warn("it is late") or 0
cli.main(["doctor"])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stderr == "warning: it is late\n"


@pytest.mark.parametrize(
    ("streams", "code", "out", "err"),
    [
        (">/dev/full", 3, "", "error[B0605]: standard output cannot be written: No space left on device"),
        (">/dev/full 2>&1", 3, "", ""),
        ("2>/dev/full --aftr x", 2, "", ""),
        (">&-", 0, "", ""),
        ("2>&-", 0, "graph(", ""),
        ("<&- >&- 2>&-", 0, "", ""),
    ],
)
def test_streams_that_cannot_be_used(streams: str, code: int, out: str, err: str, spec: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m bertc inspect {spec} {streams}"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == code
    assert found.stdout[: len("graph(")] == out
    assert found.stderr.splitlines()[:1] == [err][: bool(err)]


def test_a_file_does_not_take_the_number_of_a_closed_stream(spec: str, tmp_path: Path) -> None:
    """Otherwise what a library writes to its standard error would go into it."""
    program = "import os, sys, bertc.cli as cli; cli._open_closed_streams(); print(os.open(sys.argv[1], os.O_RDONLY))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} {spec} <&- 2>&-"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert int(found.stdout) > 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "x", "y", "--seed", "-1"], "expected a whole number from 0 to 999999999, but `-1` was found"),
        (["bench", "x", "--seed", "1.5"], "expected a whole number from 0 to 999999999, but `1.5` was found"),
        (["bench", "x", "--runs", "1" * 10], "from 1 to 999999999, but `1111111111` was found"),
        (["build", "x", "--random-weights", "-1"], "expected a whole number from 0 to 999999999, but `-1` was found"),
        (["run", "x", "--device", "one"], "expected a whole number from 0 to 999999999, but `one` was found"),
        (["eval", "x", "squad", "y", "--null-threshold", "nan"], "expected a number, but `nan` was found"),
        (["eval", "x", "squad", "y", "--null-threshold=-inf"], "expected a number, but `-inf` was found"),
        (["eval", "x", "squad", "y", "--null-threshold", "x"], "expected a number, but `x` was found"),
    ],
)
def test_numbers_that_a_flag_does_not_take(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a pipe"])
def test_rules_that_are_no_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    {"nothing": lambda path: None, "a folder": os.mkdir, "a pipe": os.mkfifo}[kind]("x.net")
    assert run(["check", "x.net"]) == 3
    assert capsys.readouterr().err.startswith("error[B0002]: expected a file at `x.net`, but there is none\n")


@pytest.mark.parametrize("name", ["B9999", "b0103"])
def test_a_code_that_does_not_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", name]) == 2
    assert capsys.readouterr().err.startswith(f"error[B0001]: there is no error code `{name}`\n  = help: ")


def test_weights_are_listed_and_converted(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint with Hugging Face's names, one unknown, a bf16 one: converted bit for bit under canonical names."""
    from safetensors.torch import load_file, save_file

    tensors = {
        "bert.embeddings.LayerNorm.gamma": torch.arange(24, dtype=torch.float32),
        "bert.pooler.dense.weight": torch.randn(24, 24).bfloat16(),
        "something.else": torch.zeros(3, dtype=torch.float16),
        "\x1b[2Jhidden": torch.zeros(3),
    }
    save_file(tensors, tmp_path / "in.safetensors")
    assert run(["weights", str(tmp_path / "in.safetensors"), "--spec", spec, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = {entry["name"]: entry["canonical"] for entry in document["tensors"]}
    assert names["bert.pooler.dense.weight"] == ["pooler.weight"]
    assert names["something.else"] == []
    assert "embeddings.norm.bias" in document["missing"]
    assert run(["weights", str(tmp_path / "in.safetensors")]) == 0
    assert "\n\N{REPLACEMENT CHARACTER}[2Jhidden  f32[3]  12 bytes  -> ?\n" in "\n" + capsys.readouterr().out
    output = tmp_path / "out.safetensors"
    assert run(["weights", str(tmp_path / "in.safetensors"), "--convert", str(output)]) == 0
    assert "left out, not a known name: something.else\n" in capsys.readouterr().err
    converted = load_file(output)
    assert converted.keys() == {"embeddings.norm.weight", "pooler.weight"}
    assert torch.equal(converted["pooler.weight"], tensors["bert.pooler.dense.weight"])
    assert converted["pooler.weight"].dtype == torch.bfloat16
    assert run(["weights", str(tmp_path / "in.safetensors"), "--convert", str(output)]) == 2
    assert run(["weights", str(tmp_path / "in.safetensors"), "--convert", str(tmp_path / "b"), "--spec", spec]) == 3
    assert not (tmp_path / "b").exists()
