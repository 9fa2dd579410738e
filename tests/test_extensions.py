"""Somebody's own ops and passes: skeletons work as they are, files run only when named, faults are readable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import small_spec, weights_of
from documents import blocks
from test_cuda_families import agree

import bertc
from bertc import extensions
from bertc.cli import run
from bertc.compiler import explain_pass
from bertc.errors import BertcError
from bertc.new import new
from bertc.plugins import OPS

OP = '''
from bertc.ops import Array, op

@op("[*, n], [n] -> [*, n]")
def doubled_sum(x: Array, bias: Array) -> Array:
    """y = 2 (x + bias)."""
    return 2 * (x + bias)
'''

PASS = '''
from bertc import graph_pass

@graph_pass
def leave_alone(graph):
    """Nothing is done."""
    return {returned}
'''

RULE = "rule fuse(x: [*, n], bias: weight[n]):\n    (x + bias) * 2\n=>\n    doubled_sum(x, bias)\n"


@pytest.fixture(autouse=True)
def folder(forgetful: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> Path:
    Path(name).write_text(text, "utf-8")
    return Path(name)


def refused(path: Path) -> str:
    with pytest.raises(BertcError) as caught:
        bertc.extend(path)
    assert caught.value.diagnostics[0].code == "B0304"
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ skeletons


@pytest.mark.parametrize("kind", ["fusion", "family"])
def test_a_skeleton_passes_its_own_test(kind: str, folder: Path) -> None:
    written = new(kind, "something_else", folder / "mine")
    assert sorted(written) == sorted((folder / "mine").iterdir())
    assert not [path for path in written if f"my_{kind}" in path.read_text() + path.name]
    (test,) = (path for path in written if path.name.startswith("test_"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    environment = {**os.environ, "PYTHONPATH": str(Path(bertc.__file__).parent.parent)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout


def test_a_skeleton_never_takes_the_place_of_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("mine_kernel.py", "precious")
    assert run(["new", "fusion", "mine"]) == 2
    assert "`mine_kernel.py` exists" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["mine_kernel.py"]
    assert Path("mine_kernel.py").read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    write("test_mine.py", "precious")
    with pytest.raises(BertcError, match="exists"):
        new("fusion", "mine", folder)
    assert [path.name for path in folder.iterdir()] == ["test_mine.py"]


@pytest.mark.parametrize("name", ["gelu", "Mine", "1st", "class", "a-b", "../x", ""])
def test_names_that_cannot_be(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "fusion", name]) == 2
    assert f"`{name}`" in capsys.readouterr().err
    assert not list(folder.iterdir())


# ----------------------------------------------------------------------------------------------------------------- ops


def test_an_op_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.py", OP)
    write("mine.net", RULE)
    assert run(["check", "mine.net"]) == 1
    assert "an op of your own comes with `--extensions FILE.py`" in capsys.readouterr().out
    assert run(["check", "mine.net", "--extensions", "mine.py"]) == 0
    bertc.extend("mine.py")  # twice does no harm
    assert OPS["doubled_sum"].equation == "y = 2 (x + bias)."


def test_a_spec_alone_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.py", OP + "open('ran', 'w').close()\n")
    write("mine.yaml", "base: bert-base\nextensions: [./mine.py]\n")
    for verb in (["inspect"], ["check"], ["build", "--target", "onnx", "--random-weights", "0"]):
        assert run([verb[0], "mine.yaml", *verb[1:]]) == 2
        said = capsys.readouterr().err
        assert "error[B0305]" in said
        assert "mine.yaml:2:14" in said
        assert "--extensions mine.py" in said
    assert not Path("ran").exists()
    assert run(["inspect", "mine.yaml", "--passes", "--extensions", "mine.py"]) == 0
    assert Path("ran").exists()


def test_an_op_without_a_kernel_is_its_definition() -> None:
    write("mine.net", RULE.replace("(x + bias) * 2", "relu(x + bias)"))
    bertc.extend(write("mine.py", OP))
    spec = small_spec(activation="relu", passes="[./mine.net, default]")
    assert sum(node.op == "doubled_sum" for node in bertc.compile(spec)) == 2
    for target in ("onnx", "cuda", "rtx"):
        graph = bertc.compile(spec, target)
        assert not [node for node in graph if node.op == "doubled_sum"]
        assert sum(node.op == "relu" for node in graph) == 2


def test_what_a_file_imports_is_not_its_own() -> None:
    bertc.extend(write("mine.py", "from bertc.plugins.skip_norm import skip_norm\n" + OP))
    assert OPS["doubled_sum"].name == "doubled_sum"


def test_an_installed_package_is_taken_in_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    write("installed_elsewhere.py", OP)
    monkeypatch.syspath_prepend(".")
    entry = SimpleNamespace(value="installed_elsewhere", dist=None, load=lambda: __import__("installed_elsewhere"))
    monkeypatch.setattr(extensions, "entry_points", lambda group: [entry] if group == "bertc.plugins" else [])
    write("mine.net", RULE)
    assert run(["check", "mine.net"]) == 0


def test_an_installed_package_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> Any:
        raise ImportError("no module named x")

    entry = SimpleNamespace(value="theirs.ops", dist=SimpleNamespace(name="their-package"), load=load)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [entry])
    assert run(["inspect", "bert-base"]) == 3
    assert "`theirs.ops` of the installed package their-package failed: ImportError" in capsys.readouterr().err


def test_files_that_are_no_extension(folder: Path) -> None:
    assert "declares no op and no pass" in refused(write("empty.py", "x = 1\n"))
    assert "ZeroDivisionError" in refused(write("fails.py", "1 / 0\n"))
    assert "`leaves.py` failed: SystemExit: 0" in refused(write("leaves.py", "raise SystemExit(0)\n")).replace(
        f"{Path.cwd()}/", ""
    )
    assert "SyntaxError" in refused(write("syntax.py", "def\n"))
    assert "`gelu`, which exists already" in refused(write("taken.py", OP.replace("doubled_sum", "gelu")))
    assert "`fuse_attention`, which exists" in refused(
        write("taken_pass.py", PASS.format(returned="graph, 0").replace("leave_alone", "fuse_attention"))
    )
    assert not used_now()
    (folder / "other").mkdir()
    bertc.extend(write("mine.py", OP))
    assert "have the same name" in refused(write("other/mine.py", OP))
    with pytest.raises(BertcError, match=r"expected a Python file at `nowhere\.py`"):
        bertc.extend("nowhere.py")


def used_now() -> set[str]:
    return {path.name for path in extensions.used()}


KERNEL = """
import triton
import triton.language as tl

@triton.jit
def doubled_sum(x, y):
    tl.store(y, tl.load(x))

{lower}
"""


@pytest.mark.parametrize(
    ("lower", "said"),
    [
        ("", "has no function `lower"),
        (
            "def lower(lowering, node):\n    lowering.launch(__name__, 'doubled_sum', [], 4, [])\n",
            "has no parameter PDL",
        ),
    ],
)
def test_kernels_that_cannot_be_used(lower: str, said: str) -> None:
    from bertc.targets.cuda.lower import Lowering

    write("mine_kernel.py", KERNEL.format(lower=lower))
    bertc.extend(write("mine.py", OP))
    write("mine.net", RULE.replace("(x + bias) * 2", "relu(x + bias)"))
    spec = small_spec(activation="relu", passes="[./mine.net, default]", without="[fuse_attention]")
    weights = weights_of(next(bertc.stages(spec)).graph)
    with pytest.raises(BertcError, match=said):
        Lowering(bertc.compile(spec, "cuda"), weights, "f32", architecture="sm_80").run()


def test_the_tutorials_kernel_in_a_whole_plan(padded_batch: Mapping[str, Any]) -> None:
    for block in blocks("docs/tutorial.md"):
        if block.file is not None:
            write(block.file, block.text)
    bertc.extend("deep_norm.py")
    spec = bertc.load("deepnet.yaml")
    assert sum(node.op == "deep_norm" for node in bertc.compile(spec, "cuda")) == 8
    agree(spec, padded_batch)


def test_attributes_are_annotated_with_what_there_is() -> None:
    text = OP.replace("bias: Array)", "bias: Array, *, {name}: {kind})")
    bertc.extend(write("mine.py", text.format(name="scale", kind="float")))
    assert OPS["doubled_sum"].attributes["scale"].annotation == "float"
    said = refused(write("theirs.py", text.replace("doubled_sum", "other").format(name="scale", kind="complex")))
    assert "attribute `scale` of other" in said
    assert "found complex" in said


def test_explaining_a_rule_that_comes_too_late() -> None:
    write("mine.net", "rule fuse(x: [*, n]):\n    tanh(gelu(x))\n=>\n    gelu(x)\n")
    write("late.net", "rule fuse(x: [*, n]):\n    relu(softmax(x))\n=>\n    softmax(x)\n")
    write("gelu.net", "rule fuse(x: [*, n], y: weight[n]):\n    gelu(x + y)\n=>\n    gelu(y + x)\n")
    spec = small_spec(passes="[default, ./mine.net, ./late.net, ./gelu.net]", network="{head: hidden_states}")
    missed = {name: explain_pass(spec, name)[0]["miss"] for name in ("mine.net", "./late.net", "gelu.net")}
    assert missed["mine.net"] == "the network has no `tanh`, which its left side ends with"
    assert missed["./late.net"] == "the network has no `relu`, which its left side ends with"
    assert "no `gelu` is left, which its left side ends with: fuse_bias_gelu took the last one" in missed["gelu.net"]


# -------------------------------------------------------------------------------------------------------------- passes


def test_a_pass_of_a_file() -> None:
    bertc.extend(write("mine.py", PASS.format(returned="graph, 3")))
    fired = {stage.name: stage.fired for stage in bertc.stages(small_spec(passes="[default, leave_alone]"))}
    assert list(fired)[9] == "leave_alone"
    assert fired["leave_alone"] == 3


@pytest.mark.parametrize(("returned", "kind"), [("graph", "Graph"), ("None", "NoneType"), ("(graph, None)", "tuple")])
def test_a_pass_that_returns_something_else(returned: str, kind: str) -> None:
    bertc.extend(write("mine.py", PASS.format(returned=returned)))
    with pytest.raises(BertcError, match=f"but found {kind}"):
        bertc.compile(small_spec(passes="[leave_alone]"))


def test_explaining_a_pass_of_a_file_says_that_it_has_no_rules() -> None:
    bertc.extend(write("mine.py", PASS.format(returned="graph, 0")))
    with pytest.raises(BertcError, match="`leave_alone` is no pass of rules"):
        explain_pass(small_spec(passes="[leave_alone]"), "leave_alone")
